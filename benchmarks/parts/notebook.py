"""What a notebook sandbox costs, beside a local kernel with jupyter_client, and a container whose own process is a kernel."""

from __future__ import annotations

import contextlib
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from benchmarks.measure import seconds
from benchmarks.table import Table
from benchmarks.ways.bare import run_cell
from enclave import BubblewrapNotebookSandbox, DockerNotebookSandbox, NotebookSandbox
from enclave.sandboxes.docker.docker_notebook_config import NOTEBOOK_IMAGE
from enclave.sandboxes.docker.engine import get_engine

OPTIONS: dict[str, Any] = {'tools_config': ['notebook_executor'], 'timeout': 120}
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
        return run_cell(self._client, code)

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
        host_config=engine.api.create_host_config(binds=[f'{folder}:{folder}']),
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


def measure(kinds: list[str], scale: float) -> list[Table]:
    """Measure what the side-by-side tables do not show."""
    if 'docker' not in kinds:
        return []
    table, rounds = Table('Notebooks'), max(1, round(4 * scale))
    # The first of a process also imports what the later ones find imported.
    our_first_cell(DockerNotebookSandbox)
    ours, bare = [], []
    for _ in range(rounds):
        bare.append(bare_first_cell())
        ours.append(our_first_cell(DockerNotebookSandbox))
    a, b = statistics.median(ours), statistics.median(bare)
    table.row(
        "create to the first cell's result, Docker",
        'at most 1.25 of a bare container with a kernel',
        f'{a / b:.2f} ({a * 1e3:.0f} of {b * 1e3:.0f} ms)',
        met=a <= 1.25 * b,
    )
    if 'bubblewrap' in kinds:
        our_first_cell(BubblewrapNotebookSandbox, python=sys.executable)
        ours, local = [], []
        for _ in range(rounds):
            local.append(local_first_cell(sys.executable))
            ours.append(our_first_cell(BubblewrapNotebookSandbox, python=sys.executable))
        a, b = statistics.median(ours), statistics.median(local)
        table.row(
            'the same, bubblewrap',
            'at most 1.5 of a local kernel',
            f'{a / b:.2f} ({a * 1e3:.0f} of {b * 1e3:.0f} ms)',
            met=a <= 1.5 * b,
        )
    prints, local_prints, complete = [], [], True
    with local_kernel(sys.executable) as client, DockerNotebookSandbox(OPTIONS) as sandbox:
        for _ in range(rounds + 1):
            local_prints.append(seconds(lambda: client.cell(PRINTS)))
            started = time.perf_counter()
            result = sandbox.execute_tool('notebook_executor', {'code': PRINTS})
            prints.append(time.perf_counter() - started)
            complete = complete and result.output == ''.join(f'{i}\n' for i in range(LINES))
    a, b = statistics.median(prints), statistics.median(local_prints)
    table.row(
        f'{LINES} lines of print',
        "at least half of a local kernel's speed, nothing lost",
        f'{b / a:.2f} ({LINES / a:,.0f} lines a second){"" if complete else ", LOST"}',
        met=complete and b / a >= 0.5,
    )
    took, right, ports = four_at_once()
    table.row(
        'four sandboxes at once',
        'all work, no port published',
        f'{took:.2f} s, {"all right" if right else "WRONG"}, {ports} ports',
        met=right and ports == 0,
    )
    return [table]
