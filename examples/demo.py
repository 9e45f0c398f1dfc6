"""What `make demo` shows: code nobody should trust, running in a sandbox of its own."""

from __future__ import annotations

import sys
import time

from enclave import EnclaveError, SandboxFactory

TOOLS = ['python_executor', 'shell_executor', 'file_operation']


def main() -> None:
    started = time.perf_counter()
    with SandboxFactory.create_sandbox(config={'tools_config': TOOLS, 'memory_limit': '256m'}) as sandbox:
        info = sandbox.get_info()
        print(f'sandbox {info.id} ({info.type}) is up after {time.perf_counter() - started:.2f} s')
        for name in ('chosen_because', 'image', 'container_name', 'limits'):
            if name in info.metadata:
                print(f'  {name}: {info.metadata[name]}')

        print('\n1. Write a file, then run Python that reads it.')
        sandbox.execute_tool(
            'file_operation',
            {'operation': 'write', 'file_path': '/sandbox/hello.txt', 'content': 'hi from enclave'},
        )
        code = "print('Hello from sandbox!')\nprint(open('/sandbox/hello.txt').read())"
        print(indented(sandbox.execute_tool('python_executor', {'code': code}).output))

        print('2. A program that fails says why.')
        result = sandbox.execute_tool('python_executor', {'code': 'print(1 / 0)'})
        print(indented(f'exit code {result.exit_code}\n{result.error}'))

        print('3. A program that hangs is killed with everything it started; what it had printed is kept.')
        command = 'echo started; (setsid sleep 1000 &); sleep 1000'
        result = sandbox.execute_tool('shell_executor', {'command': command, 'timeout': 0.5})
        print(indented(f'{result.status} after {result.execution_time:.2f} s, output {result.output!r}'))

        print('4. A program that wants too much memory does not get it.')
        result = sandbox.execute_tool('python_executor', {'code': 'len(bytearray(10**9))'})
        print(indented(f'{result.status}: {(result.error or "").strip().splitlines()[-1]}'))

        print('5. A hundred small calls.')
        started = time.perf_counter()
        for _ in range(100):
            sandbox.execute_tool('shell_executor', {'command': 'true'})
        print(indented(f'{(time.perf_counter() - started) * 10:.1f} ms each'))
        started = time.perf_counter()
    print(f'\nsandbox {info.id} is gone after {time.perf_counter() - started:.2f} s; nothing is left.')


def indented(text: str) -> str:
    return ''.join(f'     {line}\n' for line in text.rstrip().splitlines())


if __name__ == '__main__':
    try:
        main()
    except EnclaveError as error:
        sys.exit(f'{type(error).__name__}: {error}')
