"""Asks a server through the package ``sandbox-fusion``; prints a JSON object a line. Runs in an environment of its own."""

import asyncio
import base64
import json
import sys

import sandbox_fusion
from sandbox_fusion import RunCodeRequest, RunJupyterRequest, SummaryMapping

MAPPING = SummaryMapping(
    CompileFailed='compile-failed',
    CompileTimeout='compile-timeout',
    RunFailed='run-failed',
    RunTimeout='run-timeout',
)
PROGRAMS = {
    'right': {'code': 'print(input())', 'stdin': 'hello', 'language': 'python'},
    'crash': {'code': 'raise SystemExit(1)', 'language': 'python'},
    'slow': {'code': 'while True: pass', 'language': 'python', 'run_timeout': 1},
    'asleep': {'code': 'sleep 60', 'language': 'bash', 'run_timeout': 1},
    'cpp': {'code': '#include <iostream>\nint main() { std::cout << 42; }', 'language': 'cpp'},
    'cpp-wrong': {'code': 'int main( {', 'language': 'cpp'},
    'files': {
        'code': 'data = open("a/in.bin", "rb").read(); open("out.bin", "wb").write(data[::-1])',
        'language': 'python',
        'files': {'a/in.bin': base64.b64encode(b'\x00\xff').decode()},
        'fetch_files': ['out.bin'],
    },
}


def report(name, response):
    summary = sandbox_fusion.summary_run_code_result(response, MAPPING)
    run = response.run_result
    print(
        json.dumps(
            {
                'name': name,
                'summary': str(getattr(summary, 'value', summary)),
                'stdout': run.stdout if run else None,
                'files': response.files,
            }
        )
    )


def run_sync(name, fields):
    report(name, sandbox_fusion.run_code(RunCodeRequest(**fields), max_attempts=1, client_timeout=120))


async def run_async(name, fields):
    report(name, await sandbox_fusion.run_code_async(RunCodeRequest(**fields), max_attempts=1, client_timeout=120))


def main():
    sandbox_fusion.set_endpoint(sys.argv[1])
    for name, fields in PROGRAMS.items():
        if 'no-compiler' not in sys.argv or not name.startswith('cpp'):
            run_sync(name, fields)
            asyncio.run(run_async(name + '-async', fields))
    requests = [{'request': RunCodeRequest(code=f'print({n})', language='python')} for n in range(60)]
    answers = sandbox_fusion.run_concurrent(sandbox_fusion.run_code, kwargs=requests, concurrency=20)
    print(json.dumps({'name': 'concurrent', 'stdout': [each.run_result.stdout for each in answers]}))
    cells = sandbox_fusion.run_jupyter(
        RunJupyterRequest(cells=['a = 1', 'a', 'print(a)', 'raise ValueError(1)']), max_attempts=1
    )
    print(
        json.dumps(
            {
                'name': 'jupyter',
                'status': cells.status.value,
                'stdout': [each.stdout for each in cells.cells],
                'display': [each.display for each in cells.cells],
                'error': [[error['ename'] for error in each.error] for each in cells.cells],
            }
        )
    )


main()
