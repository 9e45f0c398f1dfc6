"""What a call through E2B's interface costs over the same call of the library's own HTTP client.

    python benchmarks/e2b.py [bubblewrap|docker] [rounds]

Both clients ask one server, in turns, for the same argv in sandboxes of the same kind, so that what the machine does besides
falls on both. E2B's SDK runs in an environment of its own (.envs/, made with pip if it is missing), since it brings libraries of
its own; so each round is a batch of calls there and a batch here. Read the difference and the ratio, not the milliseconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from enclave import HttpSandboxManager, create_server
from tests.support.environments import environment

BATCH = 40
ARGV = ['/bin/bash', '-l', '-c', 'true']
THERE = """
import json, sys, time
batch = int(sys.argv[1])
from e2b_code_interpreter import Sandbox
sandbox, plain = Sandbox.create(), Sandbox.create('base')
calls = {
    'command': lambda: plain.commands.run('true'),
    'file': lambda: plain.files.read('/etc/passwd'),
    'cell': lambda: sandbox.run_code('1'),
}
for call in calls.values():
    [call() for _ in range(5)]
for line in sys.stdin:
    call, took = calls[line.strip()], []
    for _ in range(batch):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    print(json.dumps(took), flush=True)
sandbox.kill(), plain.kill()
"""


def main(kind: str, rounds: int) -> None:
    python = environment('e2b-sdk', 'e2b>=2.63', 'e2b-code-interpreter>=2.11', 'httpx', with_enclave=False)
    with create_server(sandbox_type=kind).running() as url, HttpSandboxManager(base_url=url) as manager:
        base = f'{url}/e2b'
        env = {**os.environ, 'E2B_API_URL': base, 'E2B_SANDBOX_URL': base, 'E2B_API_KEY': 'none-is-needed-here'}
        with (
            manager.open(kind) as plain,
            manager.open(f'{kind}_notebook') as notebook,
            subprocess.Popen(
                [str(python), '-c', THERE, str(BATCH)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as there,
        ):
            calls = {
                'command': lambda: plain.execute_command(ARGV),
                'file': lambda: plain.read_file('/etc/passwd'),
                'cell': lambda: notebook.execute_cell('1'),
            }
            assert there.stdin is not None
            assert there.stdout is not None
            for name, call in calls.items():
                for _ in range(5):
                    call()
                theirs: list[float] = []
                ours: list[float] = []
                for _ in range(rounds):
                    there.stdin.write(f'{name}\n')
                    there.stdin.flush()
                    theirs += json.loads(there.stdout.readline())
                    for _ in range(BATCH):
                        begun = time.perf_counter()
                        call()
                        ours.append(time.perf_counter() - begun)
                a, b = statistics.median(theirs) * 1000, statistics.median(ours) * 1000
                print(f'{name:8} E2B {a:6.2f} ms   own client {b:6.2f} ms   more {a - b:+6.2f} ms   ratio {a / b:.2f}')


if __name__ == '__main__':
    main(*(sys.argv[1:2] or ['bubblewrap']), rounds=int(sys.argv[2]) if len(sys.argv) > 2 else 5)
