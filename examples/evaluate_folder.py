"""Evaluate a folder of small programs over a warm pool, with a progress bar.

Run with: python examples/evaluate_folder.py [FOLDER] [--pool N] [--timeout SECONDS]

Each program is a file like `double.py`. Beside it may be `double.in`, its input, and `double.out`, what it should print. Every
program runs in a sandbox that no other program has been in.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from enclave import EnclaveError, LocalSandboxManager, ToolResult

PROGRAMS = Path(__file__).parent / 'programs'
SANDBOX = {'network_enabled': False, 'memory_limit': '256m', 'tools_config': ['python_executor']}


def verdict(result: ToolResult, expected: str | None) -> str:
    """Return what is to be said of a program's end, in a word or two."""
    if result.status == 'timeout':
        return 'too slow'
    if result.metadata.get('oom_killed'):
        return 'too much memory'
    if not result.success:
        lines = (result.error or '').strip().splitlines()
        return f'failed: {lines[-1]}' if lines else f'failed with exit code {result.exit_code}'
    if expected is not None and result.output.strip() != expected.strip():
        return 'wrong output'
    return 'right' if expected is not None else 'ran'


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument('folder', nargs='?', type=Path, default=PROGRAMS)
    arguments.add_argument('--pool', type=int, default=4)
    arguments.add_argument('--timeout', type=float, default=5.0)
    given = arguments.parse_args()
    programs = sorted(given.folder.glob('*.py'))
    if not programs:
        arguments.error(f'there are no .py files in {given.folder}')

    console = Console()
    verdicts: dict[str, tuple[str, float]] = {}
    started = time.perf_counter()
    with LocalSandboxManager(sandbox_config=SANDBOX, pool_policy='fresh') as manager:
        manager.initialize_pool(min(given.pool, len(programs)))
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task('evaluating', total=len(programs))
            calls = {}
            for program in programs:
                given_input = program.with_suffix('.in')
                parameters = {
                    'code': program.read_text(),
                    'stdin': given_input.read_text() if given_input.exists() else '',
                    'timeout': given.timeout,
                }
                calls[manager.submit('execute_tool_in_pool', 'python_executor', parameters)] = program
            for call in as_completed(calls):
                program, expected = calls[call], calls[call].with_suffix('.out')
                result = call.result()
                words = verdict(result, expected.read_text() if expected.exists() else None)
                verdicts[program.name] = words, result.execution_time or 0.0
                progress.advance(task)
        numbers = manager.get_stats()['pools']['default']

    table = Table('program', 'verdict', 'seconds')
    for name, (words, seconds) in sorted(verdicts.items()):
        table.add_row(name, words, f'{seconds:.2f}')
    console.print(table)
    right = sum(words in ('right', 'ran') for words, _ in verdicts.values())
    console.print(
        f'{right} of {len(programs)} right in {time.perf_counter() - started:.1f} s; '
        f'a program waited {numbers["wait_seconds_mean"]:.2f} s for a sandbox on average'
    )
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except EnclaveError as error:
        sys.exit(f'{type(error).__name__}: {error}')
