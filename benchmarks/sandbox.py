"""What one Docker sandbox costs, beside the same work done bare. Prints a table of goals and figures.

Run with: python benchmarks/sandbox.py [--rounds N]. Needs a Docker engine on this machine. All figures are medians of
rounds in which our way and the bare way alternate, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker

from enclave.sandboxes.docker.engine import Engine, get_engine
from enclave.sandboxes.docker.sandbox import DockerSandbox

OPTIONS: dict[str, Any] = {
    'network_enabled': False,
    'cpu_limit': 2.0,
    'tools_config': ['python_executor', 'shell_executor', 'file_operation'],
}
HUNDRED_MB = 100 * 1000 * 1000


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def alternate(
    rounds: int,
    *actions: Callable[[], object],
    batch: int = 5,
    settle: float = 0.05,
    prepare: Callable[[], object] | None = None,
) -> list[float]:
    """Return the median seconds of each action, the actions taking turns by batches.

    Between batches there is a short rest: an engine still tidies up after an exec when that has returned, and would be
    measured with whatever came next. ``prepare`` runs before each batch, untimed.
    """
    for action in actions:
        if prepare:
            prepare()
        action()
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for index, action in enumerate(actions):
            if prepare:
                prepare()
            time.sleep(settle)
            times[index] += [seconds(action) for _ in range(batch)]
    return [statistics.median(each) for each in times]


class Table:
    """Prints its rows as they are measured."""

    def __init__(self) -> None:
        print(f'{"what":34} {"goal":>34} {"measured":>42}')
        self.missed = 0

    def row(self, what: str, goal: str, measured: str, *, met: bool) -> None:
        """Print one row."""
        self.missed += not met
        print(f'{what:34} {goal:>34} {measured:>42} {"" if met else "  MISSED"}', flush=True)


def host_python() -> str:
    """Return the host's own python3: a version manager's wrapper would be measured with it."""
    for name in ('/usr/bin/python3', sys.executable, shutil.which('python3')):
        if name and os.access(name, os.X_OK):
            return name
    raise SystemExit('no python3 on this machine')


def measure_calls(table: Table, engine: Engine, rounds: int) -> None:
    """Commands, programs and small files in one warm sandbox."""
    native_python = host_python()
    with DockerSandbox(OPTIONS) as sandbox:
        container = sandbox.metadata['container_id']

        def engine_exec() -> None:
            made = engine.api.exec_create(container, ['sh', '-c', '--', 'true'])
            engine.api.exec_start(made['Id'])

        ours, native, bare = alternate(
            rounds,
            lambda: sandbox.execute_tool('shell_executor', {'command': 'true'}),
            lambda: subprocess.run(['sh', '-c', '--', 'true'], capture_output=True, check=True),
            engine_exec,
        )
        table.row(
            'shell_executor true',
            '<= 0.04 of the engine exec',
            f'{ours / bare:.3f} ({ours * 1e3:.2f} of {bare * 1e3:.1f} ms)',
            met=ours <= 0.04 * bare,
        )
        table.row(
            '',
            '<= 2 ms over native',
            f'{(ours - native) * 1e3:.2f} ms over {native * 1e3:.2f}',
            met=ours - native <= 2e-3,
        )
        ours, native = alternate(
            rounds,
            lambda: sandbox.execute_tool('python_executor', {'code': 'print(1)'}),
            lambda: subprocess.run([native_python, '-c', 'print(1)'], capture_output=True, check=True),
        )
        table.row(
            'python_executor print(1)',
            '<= 1.15 of native python3 -c',
            f'{ours / native:.2f} ({ours * 1e3:.1f} of {native * 1e3:.1f} ms)',
            met=ours <= 1.15 * native,
        )
        text = 'x' * 1024
        write, read = alternate(
            rounds,
            lambda: sandbox.execute_tool('file_operation', {'operation': 'write', 'file_path': 'f', 'content': text}),
            lambda: sandbox.execute_tool('file_operation', {'operation': 'read', 'file_path': 'f'}),
        )
        table.row('file_operation write, 1 KB', '<= 1.5 ms', f'{write * 1e3:.2f} ms', met=write <= 1.5e-3)
        table.row('file_operation read, 1 KB', '<= 1.5 ms', f'{read * 1e3:.2f} ms', met=read <= 1.5e-3)
        resident = agent_resident_mb(engine, container)
        table.row('agent in the sandbox', '<= 12 MB resident', f'{resident:.1f} MB', met=resident <= 12)


def measure_large_files(table: Table, engine: Engine, rounds: int) -> None:
    """100 MB in and out."""
    data = os.urandom(HUNDRED_MB)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode='w') as tar:
        member = tarfile.TarInfo('bare')
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    with DockerSandbox(OPTIONS) as sandbox:
        container = sandbox.metadata['container_id']

        def bare_out() -> None:
            stream, _ = engine.api.get_archive(container, '/sandbox/bare', chunk_size=1 << 18)
            whole = io.BytesIO(b''.join(stream))
            with tarfile.open(fileobj=whole) as tar:
                file = tar.extractfile('bare')
                assert file is not None
                assert len(file.read()) == len(data)

        ours, bare = alternate(
            rounds,
            lambda: sandbox.put_file(data, 'ours'),
            lambda: engine.api.put_archive(container, '/sandbox', archive.getvalue()),
            batch=1,
            prepare=lambda: sandbox.execute_command(['rm', '-f', 'ours', 'bare']),
        )
        table.row(
            '100 MB file in',
            "<= 1.00 of the engine's archive",
            f'{ours / bare:.2f} ({ours:.2f} of {bare:.2f} s)',
            met=ours <= bare,
        )
        sandbox.put_file(data, 'ours')
        sandbox.put_file(data, 'bare')
        ours, bare = alternate(rounds, lambda: sandbox.get_file('ours'), bare_out, batch=1)
        table.row(
            '100 MB file out',
            "<= 1.00 of the engine's archive",
            f'{ours / bare:.2f} ({ours:.2f} of {bare:.2f} s)',
            met=ours <= bare,
        )


def measure_life(table: Table, engine: Engine, rounds: int) -> None:
    """From nothing to the first result, and back to nothing; beside the engine's own calls with the same options."""
    started: list[DockerSandbox] = []
    bare_ids: list[str] = []

    def ours_up() -> None:
        sandbox = DockerSandbox(OPTIONS)
        sandbox.start()
        assert sandbox.execute_command(['true']).success
        started.append(sandbox)

    def bare_up() -> None:
        template = DockerSandbox(OPTIONS)
        program = ['python3', '-I', '-S', '-c', 'import os; os.write(1, b"1"); os.read(0, 1)']
        body = template.backend.container_body(engine, program)
        api: Any = engine.api
        container = api.create_container_from_config(body, template.container_name)['Id']
        stream = engine.attach_stream(container)
        engine.api.start(container)
        assert stream.read()
        bare_ids.append(container)
        streams.append(stream)

    def bare_down() -> None:
        container = bare_ids.pop()
        engine.api.kill(container)
        with contextlib.suppress(docker.errors.APIError):  # automatic removal may be quicker, as it may be for ours
            engine.api.remove_container(container, force=True)
        with contextlib.suppress(docker.errors.APIError):
            engine.api.wait(container, condition='removed')
        streams.pop().close()

    streams: list[Any] = []
    up: tuple[list[float], list[float]] = ([], [])
    down: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        up[0].append(seconds(ours_up))
        up[1].append(seconds(bare_up))
        down[0].append(seconds(lambda: started.pop().stop()))
        down[1].append(seconds(bare_down))
    for what, pair, goal in (('create to first result', up, 1.15), ('stop and remove', down, 1.3)):
        ours, bare = (statistics.median(each[1:]) for each in pair)
        measured = f'{ours / bare:.2f} ({ours * 1e3:.0f} of {bare * 1e3:.0f} ms)'
        table.row(what, f"<= {goal} of the engine's own", measured, met=ours <= goal * bare)


def measure_idle(table: Table, count: int, window: float = 5.0) -> None:
    """What sandboxes cost the host process while nothing happens."""
    sandboxes = [DockerSandbox(OPTIONS) for _ in range(count + 2)]
    try:
        for sandbox in sandboxes[:2]:
            sandbox.start()
        gc.collect()
        before = own_resident_kb()
        for sandbox in sandboxes[2:]:
            sandbox.start()
        gc.collect()
        each = (own_resident_kb() - before) / count
        busy = time.process_time()
        time.sleep(window)
        busy = time.process_time() - busy
    finally:
        for sandbox in sandboxes:
            sandbox.stop()
    table.row('one idle sandbox on the host', '<= 300 KB resident', f'{each:.0f} KB (of {count})', met=each <= 300)
    table.row('', 'no CPU', f'{busy / window:.2%} of a core for {count + 2}', met=busy / window < 0.002)


def own_resident_kb() -> int:
    """Return this process's resident memory."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def agent_resident_mb(engine: Engine, container: str) -> float:
    """Return the resident memory of a container's process 1, as the host sees it."""
    pid = engine.api.inspect_container(container)['State']['Pid']
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) / 1024
    raise SystemExit('the engine runs on another machine; its processes cannot be measured from here')


def main() -> int:
    """Measure everything; the exit code is 1 when a goal was missed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('--rounds', type=int, default=30)
    arguments.add_argument('--only', choices=('calls', 'files', 'life', 'idle'))
    given = arguments.parse_args()
    engine = get_engine()
    engine.ping()
    table = Table()
    if given.only in (None, 'calls'):
        measure_calls(table, engine, given.rounds)
    if given.only in (None, 'files'):
        measure_large_files(table, engine, max(3, given.rounds // 4))
    if given.only in (None, 'life'):
        measure_life(table, engine, max(3, given.rounds // 3))
    if given.only in (None, 'idle'):
        measure_idle(table, 20)
    print('all goals met' if not table.missed else f'{table.missed} goals missed')
    return 1 if table.missed else 0


if __name__ == '__main__':
    sys.exit(main())
