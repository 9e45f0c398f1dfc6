"""A server and its clients: start one, use it like a local manager, stream, copy files, share a pool, and see what is refused.

Usually the server is a process on a host of its own, started with ``ms-enclave server --host 0.0.0.0 --port 8000``, and all that
a program needs is ``HttpSandboxManager(base_url='http://that-host:8000', api_key=...)``. Here both are in one program, so that it
can be run as it is; with an address as its argument it uses that server instead.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from enclave import (
    DockerSandboxConfig,
    EnclaveError,
    HttpSandboxManager,
    Policy,
    RemoteSandbox,
    SandboxType,
    create_server,
)

CONFIG = DockerSandboxConfig(
    image='python:3.11-slim',
    memory_limit='256m',
    network_enabled=False,
    tools_config={'shell_executor': {}, 'python_executor': {}},
)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Give the address of a server: the one named on the command line, or one of our own on a free port."""
    if len(sys.argv) > 1:
        yield sys.argv[1]
        return
    # What clients may ask for. Privileged containers, host directories and the host's network are refused by default.
    policy = Policy(images=('python:*',), max_memory='1g', max_sandboxes=8)
    with create_server(policy=policy, idle_timeout=600).running() as url:
        yield url


def main() -> None:
    with server() as url, HttpSandboxManager(base_url=url) as manager:
        print(f'1. A server at {url}: {manager.health_check().details}')

        print('2. The same verbs as a local manager.')
        sandbox_id = manager.create_sandbox(SandboxType.DOCKER, CONFIG)
        result = manager.execute_tool(sandbox_id, 'python_executor', {'code': 'print("Hello remote")'})
        print('  ', result.output.strip())
        print('  ', [(info.id, str(info.status)) for info in manager.list_sandboxes()])
        manager.delete_sandbox(sandbox_id)

        print('3. A remote sandbox used like a local one, for the length of a block.')
        with manager.open(SandboxType.DOCKER, CONFIG) as sandbox:
            assert isinstance(sandbox, RemoteSandbox)
            sandbox.put_file(b'3\n1\n2\n', 'numbers.txt')
            print('  ', sandbox.execute_command(['sort', 'numbers.txt']).stdout.split())

            print('4. Output as it comes; a broken connection would be taken up again where it was.')
            with sandbox.start_process('for n in 1 2 3; do echo step $n; sleep 0.2; done') as process:
                for chunk in process.chunks():
                    print('  ', chunk.text.strip())

        print('5. A warm pool at the server; each call is one request.')
        manager.initialize_pool(pool_size=2, sandbox_type=SandboxType.DOCKER, config=CONFIG)
        calls = [
            manager.submit('execute_tool_in_pool', 'python_executor', {'code': f'print({n} ** 2)'}) for n in range(6)
        ]
        print('  ', [call.result().output.strip() for call in calls])

        print('6. Errors are those of a local manager; refusals are those of the policy.')
        for options in ({'privileged': True}, {'image': 'unheard/of'}, {'memory_limit': '64g'}):
            try:
                manager.create_sandbox(SandboxType.DOCKER, options)
            except EnclaveError as error:
                print(f'   {type(error).__name__}: {error}')
        manager.cleanup_all_sandboxes()


if __name__ == '__main__':
    main()
