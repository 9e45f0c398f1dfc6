"""`import enclave` is cheap: nothing heavy comes with it, and it takes little processor time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    'attr', 'attrs', 'cattrs', 'click', 'docker', 'flask', 'requests', 'urllib3', 'rich', 'waitress', 'jupyter_client', 'zmq',
    'asyncio', 'ssl', 'socket', 'http', 'email', 'subprocess', 'multiprocessing', 'concurrent', 'dataclasses', 'inspect', 'json',
}  # fmt: skip
BUDGET_SECONDS = 0.06
MEASURE = """
import json, sys, time
before = set(sys.modules)
begun = time.process_time()
import enclave
took = time.process_time() - begun
print(json.dumps([took, sorted(name.partition('.')[0] for name in set(sys.modules) - before)]))
"""


def measure() -> tuple[float, set[str]]:
    # -S and -I: what an environment adds to every start, and imports by itself, is not ours.
    place = f'import sys; sys.path[:0] = {sys.path!r}\n'
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', place + MEASURE], capture_output=True, text=True, check=True
    )
    took, names = json.loads(done.stdout)
    return took, set(names)


@pytest.mark.processes
def test_nothing_heavy_comes_with_it() -> None:
    _, names = measure()

    assert names & HEAVY == set()


@pytest.mark.processes
def test_it_takes_less_than_60_ms_of_a_processor() -> None:
    # Of several: processor time too is longer on a loaded machine, whose caches are others'.
    best = min(measure()[0] for _ in range(5))

    assert best < BUDGET_SECONDS


@pytest.mark.parametrize(
    'name', ['run_code', 'open_sandbox', 'LocalSandboxManager', 'HttpSandboxManager', 'create_server']
)
def test_what_is_heavy_comes_with_the_name_that_needs_it(name: str) -> None:
    import enclave

    assert callable(getattr(enclave, name))
