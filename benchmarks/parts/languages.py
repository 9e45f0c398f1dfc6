"""Programs in other languages: compiled and run in a sandbox and by this host, batches over HTTP, verdicts under load."""

from __future__ import annotations

import collections
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.table import Table
from enclave.languages.table import get_language
from enclave.languages.values import CodeRequest
from enclave.managers.http import HttpSandboxManager
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.languages.programs import PROGRAMS

CPP = (
    '#include <algorithm>\n#include <iostream>\n#include <map>\n#include <vector>\n'
    + PROGRAMS['cpp']['add'].partition('\n')[2]
)
JAVA = PROGRAMS['java']['add']
WANTED = ('python', 'bash', 'c', 'cpp', 'nodejs', 'perl', 'ruby', 'lua')


COMMANDS = {'python': 'python3', 'c': 'gcc', 'cpp': 'g++', 'nodejs': 'node'}
"""What a language needs of this host, where that is not its name."""
_SERVER = """
import sys
from enclave.server.serve import create_server

server = create_server(sandbox_type=sys.argv[1])
print(server.start(port=0), flush=True)
sys.stdin.read()
server.stop()
"""
OPTIONS: dict[str, Any] = {'memory_limit': '1g', 'cpu_limit': 2.0, 'timeout': 120}


def measure(kinds: list[str], scale: float) -> list[Table]:
    """Measure, on bubblewrap where it is there."""
    kind = 'bubblewrap' if 'bubblewrap' in kinds else kinds[0]
    table = Table(f'Languages, {kind}')
    measure_native(table, kind, max(1, round(9 * scale)))
    measure_server(table, kind, scale)
    return [table]


def measure_native(table: Table, kind: str, rounds: int) -> None:
    """Compile and run in a sandbox and natively, in turn; the ratio of the medians, by the clock and by processor time.

    Processor time is that of the programs, here and there.
    """
    with SandboxFactory.create_sandbox(kind, OPTIONS) as sandbox:
        for name, source in (('cpp', CPP), ('java', JAVA)):
            plan = get_language(name).plan(source, '.')
            assert plan is not None
            if shutil.which(plan.compile[0][0]) is None:
                table.row(f'{name}, compiled and run', '', f'this host has no {plan.compile[0][0]}')
                continue
            inside, outside, used_inside, used_outside = [], [], [], []
            sandbox.run_code(source, name, stdin='19 23\n')
            for _ in range(rounds):
                started = time.perf_counter()
                result = sandbox.run_code(source, name, stdin='19 23\n', expected_output='42')
                inside.append(time.perf_counter() - started)
                assert str(result.verdict) == 'accepted', result
                used_inside.append(
                    sum(step.cpu_time or 0.0 for step in (result.compile, result.run) if step is not None)
                )
                before = children_seconds()
                with tempfile.TemporaryDirectory() as folder:
                    started = time.perf_counter()
                    (Path(folder) / plan.file).write_text(source)
                    for command in plan.compile:
                        subprocess.run(command, cwd=folder, check=True)
                    subprocess.run(plan.run, cwd=folder, check=True, input=b'19 23\n', stdout=subprocess.DEVNULL)
                    outside.append(time.perf_counter() - started)
                used_outside.append(children_seconds() - before)
            by_processor = statistics.median(used_inside) / statistics.median(used_outside)
            ours, native = statistics.median(inside), statistics.median(outside)
            table.row(
                f'{name}, compiled and run',
                'at most 1.1 of native',
                f'{ours / native:.2f} ({ours * 1e3:.0f} of {native * 1e3:.0f} ms); by processor time {by_processor:.2f}',
                met=ours <= 1.1 * native,
            )


def children_seconds() -> float:
    """Return the processor time of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_server(table: Table, kind: str, scale: float) -> None:
    """Batches and verdicts over HTTP, with a server in a process of its own and four sandboxes.

    Compared are single calls of one caller (`run_code_in_pool('print(1)')`, one after another) and one `run_many`, both with
    the options that they have by default.
    """
    command = [sys.executable, '-c', _SERVER, kind]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        with HttpSandboxManager(base_url=server.stdout.readline().strip()) as manager:
            manager.initialize_pool(4, kind, OPTIONS)
            list(manager.run_many(['print(1)'] * 16))
            singles, batches = [], []
            for _ in range(max(1, round(3 * scale))):
                started = time.perf_counter()
                for _ in range(30):
                    manager.run_code_in_pool('print(1)')
                singles.append(30 / (time.perf_counter() - started))
                started = time.perf_counter()
                for outcome in manager.run_many(['print(1)'] * 120):
                    assert outcome.unwrap().stdout == '1\n'
                batches.append(120 / (time.perf_counter() - started))
            one, many = statistics.median(singles), statistics.median(batches)
            table.row(
                '`print(1)` over HTTP, in a batch instead of one by one',
                'at least 3 times as many',
                f'{many / one:.2f} ({many:.0f} instead of {one:.0f} a second)',
                met=many >= 3 * one,
            )
            for callers in (1, 32):
                table.row(*verdicts(manager, callers, max(20, round(100 * scale))))
    finally:
        server.stdin.close()
        server.wait()


def verdicts(manager: HttpSandboxManager, callers: int, count: int) -> tuple[str, str, str]:
    """Judge programs with known verdicts, in the languages that this host has."""
    todo, wrong, lock = collections.deque(programs(count)), [], threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not todo:
                    return
                expected, request = todo.popleft()
            verdict = str(manager.run_code_in_pool(request).verdict)
            if verdict != expected:
                with lock:
                    wrong.append(f'{request.language}: {verdict} instead of {expected}')

    took = in_threads(callers, work)
    text = f'{len(wrong)} wrong, {count / took:.1f} a second'
    return f'{count} programs with known verdicts, callers: {callers}', 'none wrong', text


def programs(count: int) -> Iterator[tuple[str, CodeRequest]]:
    """Yield programs with their verdicts, always the same ones in the same order."""
    chance = random.Random(5)
    there = [name for name in WANTED if shutil.which(COMMANDS.get(name, name))]
    for _ in range(count):
        language = chance.choice(there)
        entry = get_language(language)
        kind = chance.choices(('accepted', 'wrong_answer', 'runtime_error', 'broken', 'time_limit'), (70, 12, 8, 6, 4))[
            0
        ]
        a, b = chance.randrange(1000), chance.randrange(1000)
        limits: dict[str, Any] = {'timeout': 10, 'cpu_time_limit': 5, 'compile_timeout': 60}
        if kind == 'accepted':
            request = CodeRequest(
                code=PROGRAMS[language]['add'],
                language=language,
                stdin=f'{a} {b}\n',
                expected_output=str(a + b),
                **limits,
            )
        elif kind == 'wrong_answer':
            request = CodeRequest(
                code=PROGRAMS[language]['add'],
                language=language,
                stdin=f'{a} {b}\n',
                expected_output=str(a + b + 1),
                **limits,
            )
        elif kind == 'runtime_error':
            request = CodeRequest(code=PROGRAMS[language]['crash'], language=language, expected_output='', **limits)
        elif kind == 'broken':
            kind = 'compile_error' if entry.is_compiled else 'runtime_error'
            request = CodeRequest(code=PROGRAMS[language]['broken'], language=language, expected_output='', **limits)
        else:
            limits.update(cpu_time_limit=0.5)
            request = CodeRequest(code=PROGRAMS[language]['loop'], language=language, **limits)
        yield kind, request


def in_threads(count: int, work: Callable[[], object]) -> float:
    """Do something on so many threads at once; return how many seconds that took."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started
