"""What every test has: the engine, if there is one, and the watch over what is left behind on it."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import hypothesis
import pytest

from enclave.errors import EnclaveError
from enclave.sandboxes.docker.engine import Engine, get_engine
from enclave.testing.kinds import PATIENCE_SECONDS
from tests.support import time_limit
from tests.support.backends import require_bubblewrap

LEFTOVER_TIMEOUT = 20.0

# No deadlines: a machine under load is no failure. In CI the same examples each time; on a laptop always others.
hypothesis.settings.register_profile('laptop', deadline=None)
hypothesis.settings.register_profile('ci', deadline=None, derandomize=True)
hypothesis.settings.load_profile('ci' if os.environ.get('CI') == 'true' else 'laptop')

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts in the background with Ctrl-C ignored, which every program under test would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


SLOW_SUITES = frozenset(
    {'browser', 'clients', 'compat_clients', 'cpython', 'e2b', 'languages', 'mcp', 'providers', 'pyright', 'ray', 'vm'}
)
"""Markers of suites that run only where ``-m`` names them; each has a target in the Makefile."""

SLOW_SECONDS = 1800.0
"""The limit of their tests, which install environments and run other projects' programs."""

ALL_PROCESSES = ('tests/agent/', 'tests/plugins/', 'tests/types/', 'tests/compat/test_types.py')
"""Where every test starts interpreters or other programs that take as long."""


def pytest_configure(config: pytest.Config) -> None:
    """Limit the time of every test, and give a slow machine more."""
    config.pluginmanager.register(time_limit)
    if 'ENCLAVE_TEST_PATIENCE' in os.environ:
        from enclave.sandboxes.bubblewrap import backend, launch

        # On such a machine, beside other work, a start takes longer than the library waits.
        backend.START_SECONDS = launch._COMPILE_SECONDS = PATIENCE_SECONDS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow suites, but for those that were asked for."""
    for item in items:
        if any(item.get_closest_marker(suite) for suite in SLOW_SUITES - {'vm'}):
            item.add_marker(pytest.mark.time_limit(SLOW_SECONDS))
        if any(each in item.path.as_posix() for each in ALL_PROCESSES):
            item.add_marker(pytest.mark.processes)
    unwanted = {suite for suite in SLOW_SUITES if suite not in str(config.option.markexpr)}
    left_out = [item for item in items if any(item.get_closest_marker(suite) for suite in unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


@functools.cache
def engine_trouble() -> str | None:
    """Return why the engine cannot be used, or None."""
    try:
        get_engine().ping()
    except EnclaveError as error:
        return str(error)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs what this machine has not, an engine or bubblewrap; in CI that is a failure."""
    require_bubblewrap(item)
    if item.get_closest_marker('docker') is None:
        return
    trouble = engine_trouble()
    if trouble is None:
        item.session.stash[_used_docker] = True
    elif os.environ.get('CI') == 'true':
        pytest.fail(f'CI needs a container engine: {trouble}', pytrace=False)
    else:
        pytest.skip(trouble)


_used_docker = pytest.StashKey[bool]()


# What belongs into `make unit` --------------------------------------------------------------------------------------------

_MAY_START_INTERPRETERS = frozenset({'processes', 'docker', 'bubblewrap', *SLOW_SUITES})
_interpreters: list[str] | None = None
"""The interpreters that the running test has started; None while a test runs that may."""


def _note_program(event: str, arguments: tuple[object, ...]) -> None:
    if event == 'subprocess.Popen' and _interpreters is not None:
        program = os.path.basename(os.fsdecode(arguments[0]))  # type: ignore[arg-type]
        if program.startswith('python'):
            _interpreters.append(program)


sys.addaudithook(_note_program)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Where ``processes`` are left out, fail a test that starts an interpreter all the same: `make unit` is to take a minute.

    What is asked once a process, as what a Python can do, may be asked by one test or by another, so all that ask are marked.
    """
    global _interpreters
    is_bound = 'not processes' in str(item.config.option.markexpr) and not any(
        item.get_closest_marker(marker) for marker in _MAY_START_INTERPRETERS
    )
    started: list[str] = []
    _interpreters = started if is_bound else None
    try:
        result = yield
    finally:
        _interpreters = None
    if started:
        pytest.fail(f'it started {", ".join(started)}: mark it with pytest.mark.processes', pytrace=False)
    return result


@pytest.fixture(scope='session')
def engine() -> Engine:
    """This process's engine."""
    return get_engine()


@pytest.fixture(scope='session', autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the session if a sandbox that this process started still has a container at the end."""
    yield
    if not request.session.stash.get(_used_docker, False):
        return
    labels = ['enclave.sandbox', f'enclave.owner.pid={os.getpid()}']
    pause, give_up_at = threading.Event(), time.monotonic() + LEFTOVER_TIMEOUT
    while True:
        # The engine removes an ended container a moment after its stream has closed.
        left = get_engine().api.containers(all=True, filters={'label': labels})
        if not left:
            return
        if time.monotonic() > give_up_at:
            names = ', '.join(f'{each["Names"]} {each["Status"]}' for each in left)
            pytest.fail(f'the tests left containers behind: {names}')
        pause.wait(0.2)
