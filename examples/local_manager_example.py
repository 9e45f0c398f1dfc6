"""Many sandboxes with one owner: making, listing, using in parallel, lifetimes, a warm pool, and a complete end."""

from __future__ import annotations

import sys
import time

from enclave import DockerSandboxConfig, EnclaveError, LocalSandboxManager, SandboxType

CONFIG = DockerSandboxConfig(
    image='python:3.11-slim',
    memory_limit='256m',
    network_enabled=False,
    tools_config={'shell_executor': {}, 'python_executor': {}},
)


def main() -> None:
    with LocalSandboxManager(sandbox_config=CONFIG, pool_policy='fresh', cleanup_interval=60) as manager:
        print('1. Make a sandbox, use it, look at it.')
        sandbox_id = manager.create_sandbox(SandboxType.DOCKER, ttl=600, idle_timeout=120)
        result = manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'echo hello from $(uname -s)'})
        print('  ', result.output.strip())
        for info in manager.list_sandboxes():
            print(f'   {info.id} is {info.status} until {info.metadata["expires_at"]}')

        print('2. Three more at once; every verb can be submitted, and gives a future.')
        creations = [manager.submit('create_sandbox') for _ in range(3)]
        ids = [creation.result() for creation in creations]
        codes = [f'print(sum(range({number}000)))' for number in range(1, 4)]
        calls = [
            manager.submit('execute_tool', each, 'python_executor', {'code': code})
            for each, code in zip(ids, codes, strict=True)
        ]
        print('  ', [call.result().output.strip() for call in calls])

        print('3. Files both ways.')
        manager.put_file(sandbox_id, b'one\ntwo\n', 'words.txt')
        manager.execute_tool(sandbox_id, 'shell_executor', {'command': 'sort -r words.txt > sorted.txt'})
        print('  ', manager.get_file(sandbox_id, 'sorted.txt'))

        print('4. A call that takes too long is cancelled; its sandbox continues.')
        endless = manager.submit('execute_tool', sandbox_id, 'shell_executor', {'command': 'sleep 1000'})
        time.sleep(0.3)
        endless.cancel()
        print('  ', endless.result().status)

        print('5. Stop one (it stays in the list), delete another (it does not).')
        manager.stop_sandbox(ids[0])
        manager.delete_sandbox(ids[1])
        print('  ', {info.id: str(info.status) for info in manager.list_sandboxes()})

        print("6. A warm pool; its policy is 'fresh', so nobody meets what another has left.")
        manager.initialize_pool(pool_size=3)
        for number in range(2):
            started = time.perf_counter()
            with manager.lease() as sandbox:
                waited = (time.perf_counter() - started) * 1000
                seen = sandbox.execute_tool('shell_executor', {'command': f'ls; touch mine-{number}'}).output
                print(f'   leased {sandbox.id} in {waited:.1f} ms; files of others in it: {seen.split()}')
        print('  ', manager.execute_tool_in_pool('python_executor', {'code': "print('from the pool')"}).output.strip())

        stats = manager.get_stats()
        print(
            f'7. {stats["total_sandboxes"]} sandboxes, {stats["status_counts"]}; healthy: {manager.health_check().healthy}'
        )
        started = time.perf_counter()
    print(f'All gone after {time.perf_counter() - started:.2f} s.')


if __name__ == '__main__':
    try:
        main()
    except EnclaveError as error:
        sys.exit(f'{type(error).__name__}: {error}')
