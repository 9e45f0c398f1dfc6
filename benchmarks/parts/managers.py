"""What a manager costs: leases of a pool, many creations at once, its own share of a call."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.measure import seconds
from benchmarks.table import Table
from benchmarks.ways.bare import EngineFirst
from enclave import LocalSandboxManager, Tool, ToolFactory
from enclave.managers.pool import TRUSTED_SECONDS

OPTIONS: dict[str, Any] = {'tools_config': ['python_executor', 'shell_executor', 'nothing']}
PARALLEL = 16
SLEEPERS = 64


class Nothing(Tool):
    """Do nothing, so that only the way to a tool is measured."""

    def run(self, workspace: Any, arguments: Any) -> str:
        return ''


def new_manager(**options: Any) -> LocalSandboxManager:
    return LocalSandboxManager(sandbox_config=OPTIONS, sweep=False, **options)


def measure_lease(table: Table, rounds: int) -> None:
    """How long until a warm sandbox is there: in steady use, after a short rest, and when it is asked whether it answers."""
    with new_manager() as manager:
        manager.initialize_pool(4)
        steady, rested, asked = [], [], []

        def lease() -> float:
            started = time.perf_counter()
            with manager.lease():
                return time.perf_counter() - started

        for _ in range(rounds * 10):
            steady.append(lease())
        for _ in range(rounds):
            time.sleep(0.25)
            rested.append(lease())
        for _ in range(2):
            time.sleep(TRUSTED_SECONDS)
            asked.append(lease())
    worst = max(statistics.median(steady), statistics.median(rested))
    table.row(
        'lease of a warm sandbox',
        '<= 1 ms',
        f'{statistics.median(steady) * 1e3:.3f} ms; {statistics.median(rested) * 1e3:.3f} after a rest of 0.25 s',
        met=worst <= 1e-3,
    )
    asking = f'{statistics.median(asked) * 1e3:.2f} ms'
    table.row('', f'(idle for {TRUSTED_SECONDS:g} s: it is asked first)', asking)


def measure_parallel_life(table: Table, rounds: int) -> None:
    """16 creations in parallel, then 16 deletions, beside the engine's own calls from 16 threads."""
    template = EngineFirst()
    template.prepare()
    times: dict[str, list[float]] = {'ours': [], 'bare': []}
    with new_manager() as manager, ThreadPoolExecutor(PARALLEL) as threads:

        def ours() -> None:
            up = [manager.submit('create_sandbox') for _ in range(PARALLEL)]
            for each in [manager.submit('delete_sandbox', each.result()) for each in up]:
                each.result()

        def bare() -> None:
            ways = [EngineFirst() for _ in range(PARALLEL)]
            for each in ways:
                each.body = template.body
            list(threads.map(lambda way: way.start(), ways))
            list(threads.map(lambda way: way.stop(), ways))

        for number in range(rounds + 1):
            for name, action in (('ours', ours), ('bare', bare)):
                took = seconds(action)
                if number:
                    times[name].append(took)
                time.sleep(0.5)  # the engine still tidies up
    a, b = (statistics.median(each) for each in times.values())
    table.row(
        f'{PARALLEL} creations in parallel, and as many deletions',
        "at most 1.15 of the engine's calls",
        f'{a / b:.2f} ({a:.2f} of {b:.2f} s)',
        met=a <= 1.15 * b,
    )


def measure_overhead(table: Table, rounds: int) -> None:
    """A tool through the manager, beside the same tool of the sandbox itself."""
    with new_manager() as manager:
        sandbox_id = manager.create_sandbox()
        sandbox = manager.get_sandbox(sandbox_id)
        assert sandbox is not None
        pairs: dict[str, tuple[float, float]] = {}
        for tool, parameters in (('nothing', {}), ('shell_executor', {'command': 'true'})):
            through, direct = [], []
            for _ in range(rounds * 10):
                through.append(seconds(lambda: manager.execute_tool(sandbox_id, tool, parameters)))  # noqa: B023
                direct.append(seconds(lambda: sandbox.execute_tool(tool, parameters)))  # noqa: B023
            pairs[tool] = statistics.median(through), statistics.median(direct)
    over = max(through - direct for through, direct in pairs.values())
    figures = ', '.join(
        f'{(through - direct) * 1e3:.3f} ms over {direct * 1e3:.2f}' for through, direct in pairs.values()
    )
    table.row("manager's overhead on execute_tool", '<= 0.1 ms', figures, met=over <= 1e-4)


def measure_sleepers(table: Table, rounds: int, count: int) -> None:
    """Sandboxes that each run `sleep 1` at once."""
    with new_manager() as manager:
        ids = manager.initialize_pool(count)

        def sleep(command: str) -> None:
            calls = [manager.submit('execute_tool', each, 'shell_executor', {'command': command}) for each in ids]
            assert all(call.result().success for call in calls)

        sleep('true')
        times = [seconds(lambda: sleep('sleep 1')) for _ in range(max(3, rounds // 5))]
    median = statistics.median(times)
    table.row(f'{count} sandboxes, each `sleep 1`', '<= 1.5 s', f'{median:.2f} s', met=median <= 1.5)


def measure(kinds: list[str], scale: float) -> list[Table]:
    """Measure, on Docker."""
    if 'docker' not in kinds:
        return []
    ToolFactory.register_tool('nothing', Nothing, replace=True)
    table, rounds = Table('Managers and pools, Docker'), max(2, round(10 * scale))
    measure_lease(table, rounds)
    measure_overhead(table, rounds)
    measure_parallel_life(table, max(1, round(3 * scale)))
    measure_sleepers(table, rounds, SLEEPERS if scale >= 0.5 else 16)
    return [table]
