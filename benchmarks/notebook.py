"""What a notebook sandbox costs, beside jupyter_client and a kernel on this machine. Prints a table of goals and figures.

Run with: python benchmarks/notebook.py [--rounds N] [--python PATH]. Needs a Docker engine, the image jupyter-kernel-gateway,
bubblewrap, and a Python of this machine that has ipykernel, best of the image's own version. All figures are medians of rounds in
which our way and the bare way alternate, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from enclave import BubblewrapNotebookSandbox, DockerNotebookSandbox, NotebookSandbox
from enclave.sandboxes.docker.engine import get_engine
from enclave.sandboxes.docker.notebook_config import NOTEBOOK_IMAGE

OPTIONS: dict[str, Any] = {'network_enabled': False, 'tools_config': ['notebook_executor'], 'timeout': 120}
LINES = 10_000
PRINTS = f'for i in range({LINES}): print(i)'


class Client:
    """A jupyter_client that runs cells as we do: until the kernel is idle again and has replied."""

    def __init__(self, file: str) -> None:
        self._client = BlockingKernelClient(connection_file=file)
        self._client.load_connection_file()
        self._client.start_channels()

    def wait_ready(self) -> None:
        """Return when the kernel answers. The client's own way gives up when a heartbeat is late, as on a busy machine."""
        for _ in range(120):
            self._client.kernel_info()
            with contextlib.suppress(queue.Empty):
                self._client.get_shell_msg(timeout=1)
                self._client.get_iopub_msg(timeout=1)
                return
        raise TimeoutError('the kernel does not answer')

    def cell(self, code: str) -> str:
        """Run a cell and return what it printed and its value."""
        request = self._client.execute(code, allow_stdin=False)
        text = []
        while True:
            message = self._client.get_iopub_msg(timeout=120)
            if message['parent_header'].get('msg_id') != request:
                continue
            kind, content = message['msg_type'], message['content']
            if kind == 'stream':
                text.append(content['text'])
            elif kind == 'execute_result':
                text.append(content['data']['text/plain'])
            elif kind == 'status' and content['execution_state'] == 'idle':
                break
        while self._client.get_shell_msg(timeout=120)['parent_header'].get('msg_id') != request:
            pass
        return ''.join(text)

    def close(self) -> None:
        self._client.stop_channels()


@contextlib.contextmanager
def local_kernel(python: str) -> Iterator[Client]:
    """A kernel on this machine, over TCP, as Jupyter starts one."""
    with tempfile.TemporaryDirectory() as folder:
        file, _ = write_connection_file(str(Path(folder) / 'kernel.json'))
        process = subprocess.Popen(
            [python, '-m', 'ipykernel_launcher', '-f', file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            client = Client(file)
            client.wait_ready()
            yield client
            client.close()
        finally:
            process.kill()
            process.wait()


def bare_first_cell() -> float:
    """Return the seconds from creating a container whose own process is a kernel to its first cell's result.

    The channels are Unix sockets in a directory that is mounted into the container: the shortest way there is.
    """
    engine = get_engine()
    folder = tempfile.mkdtemp(prefix='enclave-bench-')
    ports = {f'{name}_port': number for number, name in enumerate(('shell', 'iopub', 'stdin', 'control', 'hb'), 1)}
    file, _ = write_connection_file(f'{folder}/kernel.json', transport='ipc', ip=f'{folder}/k', **ports)
    started = time.perf_counter()
    made = engine.api.create_container(
        NOTEBOOK_IMAGE,
        ['python3', '-m', 'ipykernel_launcher', '-f', file],
        name=f'enclave-bench-{uuid.uuid4().hex[:8]}',
        host_config=engine.api.create_host_config(network_mode='none', binds=[f'{folder}:{folder}']),
    )
    try:
        engine.api.start(made['Id'])
        client = Client(file)
        client.wait_ready()
        client.cell('1+1')
        seconds = time.perf_counter() - started
        client.close()
        return seconds
    finally:
        engine.api.remove_container(made['Id'], force=True)
        shutil.rmtree(folder, ignore_errors=True)


def local_first_cell(python: str) -> float:
    """Return the seconds from starting a kernel on this machine to its first cell's result."""
    started = time.perf_counter()
    with local_kernel(python) as client:
        client.cell('1+1')
        return time.perf_counter() - started


def our_first_cell(kind: type[NotebookSandbox], **options: Any) -> float:
    """Return the seconds from creating a notebook sandbox to its first cell's result."""
    started = time.perf_counter()
    with kind({**OPTIONS, **options}) as sandbox:
        sandbox.execute_tool('notebook_executor', {'code': '1+1'})
        return time.perf_counter() - started


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def four_at_once() -> tuple[float, bool, int]:
    """Return (seconds until four sandboxes have given a result, whether all were right, how many ports are published)."""

    def one(number: int) -> tuple[bool, int]:
        with DockerNotebookSandbox(OPTIONS) as sandbox:
            result = sandbox.execute_tool('notebook_executor', {'code': f'{number} * {number}'})
            return result.output == str(number * number), len(sandbox.get_published_ports())

    started = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(4)))
    return time.perf_counter() - started, all(right for right, _ in found), sum(ports for _, ports in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--python', default=sys.executable, help='A Python of this machine that has ipykernel.')
    arguments = parser.parse_args()
    if subprocess.run([arguments.python, '-c', 'import ipykernel'], capture_output=True).returncode:
        sys.exit(f'{arguments.python} has no ipykernel; install it, or name another with --python')

    rows: list[tuple[str, str, str, str, bool]] = []
    ours, bare, ours_without, local = [], [], [], []
    # The first of a process also imports what the later ones find imported.
    our_first_cell(DockerNotebookSandbox)
    our_first_cell(BubblewrapNotebookSandbox, python=arguments.python)
    for _ in range(arguments.rounds):
        bare.append(bare_first_cell())
        ours.append(our_first_cell(DockerNotebookSandbox))
        local.append(local_first_cell(arguments.python))
        ours_without.append(our_first_cell(BubblewrapNotebookSandbox, python=arguments.python))
    start_ours, start_bare = statistics.median(ours), statistics.median(bare)
    start_without, start_local = statistics.median(ours_without), statistics.median(local)

    cells, local_cells, prints, local_prints = [], [], [], []
    with local_kernel(arguments.python) as client, DockerNotebookSandbox(OPTIONS) as sandbox:
        for _ in range(50):
            client.cell('1+1')
            sandbox.execute_cell('1+1')
        for _ in range(arguments.rounds * 60):
            local_cells.append(seconds(lambda: client.cell('1+1')))
            cells.append(seconds(lambda: sandbox.execute_tool('notebook_executor', {'code': '1+1'})))
        complete = True
        for _ in range(arguments.rounds):
            local_prints.append(seconds(lambda: client.cell(PRINTS)))
            started = time.perf_counter()
            result = sandbox.execute_tool('notebook_executor', {'code': PRINTS})
            prints.append(time.perf_counter() - started)
            complete = complete and result.output == ''.join(f'{i}\n' for i in range(LINES))
    cell, local_cell = statistics.median(cells) * 1e3, statistics.median(local_cells) * 1e3
    line, local_line = statistics.median(prints), statistics.median(local_prints)
    four_seconds, all_right, ports = four_at_once()

    rows.append(
        (
            'cell 1+1, warm',
            'at most 1.3 of a local kernel, and 6 ms',
            f'{cell:.2f} ms',
            f'{local_cell:.2f} ms, {cell / local_cell:.2f}',
            cell <= 1.3 * local_cell and cell <= 6,
        )
    )
    rows.append(
        (
            "create to first cell's result",
            'at most 1.25 of bare container and kernel',
            f'{start_ours * 1e3:.0f} ms',
            f'{start_bare * 1e3:.0f} ms, {start_ours / start_bare:.2f}',
            start_ours <= 1.25 * start_bare,
        )
    )
    rows.append(
        (
            'the same without Docker',
            'at most 1.5 of a local kernel',
            f'{start_without * 1e3:.0f} ms',
            f'{start_local * 1e3:.0f} ms, {start_without / start_local:.2f}',
            start_without <= 1.5 * start_local,
        )
    )
    rows.append(
        (
            'four sandboxes at once',
            'all work, no port published',
            f'{four_seconds:.2f} s',
            f'{"all right" if all_right else "WRONG"}, {ports} ports',
            all_right and ports == 0,
        )
    )
    rows.append(
        (
            f'{LINES} lines of print',
            "at least half of a local kernel's speed, nothing lost",
            f'{LINES / line:,.0f} lines/s',
            f'{LINES / local_line:,.0f} lines/s, {local_line / line:.2f}{"" if complete else ", LOST"}',
            complete and local_line / line >= 0.5,
        )
    )
    for name, goal, figure, beside, met in rows:
        print(f'{name:30}  {figure:>16}  beside {beside:28}  {goal:55}  {"met" if met else "MISSED"}')
    if not all(met for *_, met in rows):
        sys.exit(1)


if __name__ == '__main__':
    main()
