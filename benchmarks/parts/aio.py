"""What the asynchronous proxies cost, beside the same calls made blocking, and how long they hold the event loop.

While anything is measured but the cost of a call, a task ticks on the event loop, and its longest pause is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.table import Table
from enclave import aio

OPTIONS: dict[str, Any] = {
    'tools_config': ['python_executor', 'shell_executor', 'file_operation'],
}
TICK_SECONDS = 0.001


def kept_waiting() -> float:
    """Return for how long, in seconds, this thread was ready to run and other programs had the processors; 0 if unknown.

    Source: Linux, Documentation/scheduler/sched-stats.rst, the second field of ``/proc/<pid>/schedstat``.
    """
    try:
        return int(Path('/proc/thread-self/schedstat').read_bytes().split()[1]) / 1e9
    except OSError:
        return 0.0


class Ticking:
    """A task that ticks; ``longest`` is the longest time, in seconds, that the loop did not come round to it.

    What the system gave to other programs meanwhile does not count; it is reported by ``crowded``.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.longest = self.crowded = 0.0

    async def tick(self) -> None:
        last, waited = time.perf_counter(), kept_waiting()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now, waits = time.perf_counter(), kept_waiting()
            self.longest = max(self.longest, now - last - TICK_SECONDS - (waits - waited))
            self.crowded = max(self.crowded, waits - waited)
            last, waited = now, waits


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[Ticking]:
    """Let a task tick during the block."""
    ticks = Ticking()
    task = asyncio.ensure_future(ticks.tick())
    await asyncio.sleep(0.01)
    ticks.reset()
    try:
        yield ticks
    finally:
        task.cancel()


async def timed(action: Awaitable[Any]) -> float:
    started = time.perf_counter()
    await action
    return time.perf_counter() - started


async def measure_overhead(rounds: int) -> tuple[float, float, float]:
    """Return medians in seconds: a blocking call, an awaited one, and a hand-over that does nothing."""
    from enclave.aio.proxies import run

    parameters = {'operation': 'exists', 'file_path': '/etc/passwd'}
    async with aio.SandboxFactory.create_sandbox('docker', OPTIONS) as sandbox:
        blocking = sandbox._blocking
        call: Callable[[], Any] = lambda: blocking.execute_tool('file_operation', parameters)  # noqa: E731
        plain, awaited, empty = [], [], []
        for _ in range(20):
            call()
            await sandbox.execute_tool('file_operation', parameters)
        gc.disable()
        for _ in range(rounds):
            for _ in range(10):
                started = time.perf_counter()
                call()
                plain.append(time.perf_counter() - started)
            for _ in range(10):
                awaited.append(await timed(sandbox.execute_tool('file_operation', parameters)))
            for _ in range(10):
                empty.append(await timed(run(int)))
        gc.enable()
    return statistics.median(plain), statistics.median(awaited), statistics.median(empty)


async def measure_sleeps(count: int) -> tuple[float, float]:
    """Return the seconds that so many awaited sleeps of a second take on as many sandboxes, and the longest pause."""
    async with aio.LocalSandboxManager(stop_grace=0) as manager:
        ids = await asyncio.gather(*(manager.create_sandbox('docker', OPTIONS) for _ in range(count)))
        async with ticking() as ticks:
            sleeps = (manager.execute_tool(each, 'shell_executor', {'command': 'sleep 1'}) for each in ids)
            seconds = await timed(asyncio.gather(*sleeps))
    return seconds, ticks.longest


async def measure_pauses() -> dict[str, float]:
    """Return the longest pauses of the loop, in seconds, by what continued."""
    pauses = {}
    async with ticking() as ticks:
        manager = aio.LocalSandboxManager(stop_grace=0)
        ids = await asyncio.gather(*(manager.create_sandbox('docker', OPTIONS) for _ in range(8)))
    pauses['creating 8 sandboxes'] = ticks.longest
    async with ticking() as ticks:
        for _ in range(20):
            calls = (manager.execute_tool(each, 'python_executor', {'code': 'print(1)'}) for each in ids)
            await asyncio.gather(*calls)
    pauses['160 executions'] = ticks.longest
    data = bytes(range(256)) * (4096 * 32)  # 32 MiB
    with tempfile.TemporaryDirectory() as folder:
        for number in range(200):
            Path(folder, f'{number}.bin').write_bytes(data[: 64 * 1024])
        async with ticking() as ticks:
            await asyncio.gather(*(manager.put_file(each, io.BytesIO(data), 'big.bin') for each in ids[:4]))
            await asyncio.gather(*(manager.put_dir(each, folder, 'tree') for each in ids[4:]))
        pauses['uploading 4 x 32 MiB and 4 x 200 files'] = ticks.longest
    async with ticking() as ticks:
        await asyncio.gather(*(manager.get_file(each, 'big.bin') for each in ids[:4]))
    pauses['downloading 4 x 32 MiB'] = ticks.longest
    async with ticking() as ticks:
        calls = [asyncio.ensure_future(manager.execute_command(each, 'sleep 60')) for each in ids]
        await asyncio.sleep(0.2)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    pauses['cancelling 8 calls'] = ticks.longest
    async with ticking() as ticks:
        await manager.stop()
    pauses['stopping 8 sandboxes'] = ticks.longest
    return pauses


def measure(kinds: list[str], scale: float) -> list[Table]:
    """Measure, on Docker."""
    if 'docker' not in kinds:
        return []
    table = Table('Awaited calls')
    asyncio.run(_measure(table, scale))
    return [table]


async def _measure(table: Table, scale: float) -> None:
    pauses = await measure_pauses()
    plain, awaited, empty = await measure_overhead(max(5, round(40 * scale)))
    count = 64 if scale >= 0.5 else 16
    took, pause = await measure_sleeps(count)
    pauses[f'{count} sleeps'] = pause
    over = (awaited - plain) * 1000
    table.row(
        'an awaited `execute_tool` over the blocking one',
        'at most 0.3 ms',
        f'{over:.3f} ms ({plain * 1000:.3f} blocking; an empty hand-over {empty * 1000:.3f})',
        met=over <= 0.3,
    )
    table.row(f'{count} awaited `sleep 1` at once', 'at most 1.6 s', f'{took:.2f} s', met=took <= 1.6)
    for what, longest in pauses.items():
        pause_ms = longest * 1000
        table.row(f'longest pause of the loop, {what}', 'at most 20 ms', f'{pause_ms:.1f} ms', met=pause_ms <= 20)
