"""What a call through E2B's interface costs over the same call of the library's own HTTP client.

Both clients ask one server, in turns, for the same argv in sandboxes of the same kind. E2B's SDK runs in an environment of
its own, since it brings libraries of its own; so each round is a batch of calls there and a batch here.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time

from benchmarks.table import Table
from enclave import HttpSandboxManager, create_server
from tests.support.environments import environment

BATCH = 20
SDK = ('e2b-sdk', 'e2b>=2.63', 'e2b-code-interpreter>=2.11', 'httpx')
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


def measure(kinds: list[str], scale: float) -> list[Table]:
    """Measure on every kind that is there."""
    tables = []
    for kind in kinds:
        tables.append(Table(f"E2B's interface, {kind}"))
        _measure(tables[-1], kind, max(2, round(5 * scale)))
    return tables


def _measure(table: Table, kind: str, rounds: int) -> None:
    python = environment(*SDK, with_enclave=False)
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
                table.row(
                    name, '', f'{a:.2f} ms by the SDK, {b:.2f} by the own client: {a - b:+.2f} ms, ratio {a / b:.2f}'
                )
