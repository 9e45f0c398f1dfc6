"""The suite's fixtures, as a plug-in of pytest: ``-p enclave.testing.plugin`` (layer 6). See `enclave.testing`.

Fixtures:
    backend: The kind under test, a `KindUnderTest`. A project with several kinds overrides it with one that has parameters.
    sandbox: A running sandbox that tests share and leave no trace in. One that a test has broken is replaced.
    start: Makes and starts a sandbox with options of the test's own.
    place: A directory of the test's own in the shared sandbox.

Markers, of what a kind may lack:
    isolation: The guest attacks what is around it, or looks for it.
    limits: The guest goes over a limit on memory or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import pytest

pytest.register_assert_rewrite('enclave.testing.suite')

from enclave.sandboxes.agent_backed import AgentBackedSandbox  # noqa: E402
from enclave.sandboxes.base import Sandbox  # noqa: E402
from enclave.testing.kinds import KindUnderTest, starting, wait_until  # noqa: E402

S = TypeVar('S', bound=Sandbox)

GROUPS = {
    'isolation': 'the guest attacks what is around its sandbox, or looks for it',
    'limits': 'the guest goes over a limit on memory or processes',
}
TOOLS = ('python_executor', 'shell_executor', 'file_operation')
ENDING_SECONDS = 10.0
"""How long what a test left may take to end, until the sandbox is replaced."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup('enclave')
    group.addoption(
        '--enclave-kind', metavar='NAME', help='the kind of sandbox that the suite of enclave.testing runs over'
    )
    group.addoption(
        '--enclave-lacks',
        metavar='GROUPS',
        default='',
        help=f'what this kind does not do, with commas; the tests of these are not run: {", ".join(GROUPS)}',
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the options and register the markers."""
    for name, meaning in GROUPS.items():
        config.addinivalue_line('markers', f'{name}: {meaning}')
    unknown = _lacking(config) - GROUPS.keys()
    if unknown:
        raise pytest.UsageError(f'--enclave-lacks: {", ".join(sorted(unknown))} is none of {", ".join(GROUPS)}')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the kind lacks, so that nothing of it is run by any other choice of tests."""
    lacking = _lacking(config)
    left_out = [item for item in items if any(item.get_closest_marker(each) for each in lacking)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def _lacking(config: pytest.Config) -> frozenset[str]:
    given = str(config.getoption('--enclave-lacks', '') or '')
    return frozenset(filter(None, (each.strip() for each in given.split(','))))


class SharedSandbox(Generic[S]):
    """A sandbox for many tests. One that does not answer any more, or in which something continues that an earlier test left, is
    replaced, so that no test pays for another's failure.

    Args:
        make: Makes one, which need not run yet.
    """

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self._made: S | None = None

    def get(self) -> S:
        """Return one that works."""
        if self._made is not None and not (self._made.is_alive() and self._is_idle(self._made)):
            self.close()
        if self._made is None:
            made = self._make()
            made.start()
            self._made = made
        return self._made

    @staticmethod
    def _is_idle(made: S) -> bool:
        return not made.active_calls or wait_until(lambda: not made.active_calls, ENDING_SECONDS)

    def close(self) -> None:
        """Take it away."""
        made, self._made = self._made, None
        if made is not None:
            made.cleanup()


@pytest.fixture(scope='session')
def backend(request: pytest.FixtureRequest) -> KindUnderTest:
    """The kind under test."""
    name = request.config.getoption('--enclave-kind')
    if not name:
        pytest.fail('name the kind of sandbox to be tested: --enclave-kind NAME', pytrace=False)
    return KindUnderTest(str(name), _lacking(request.config))


@pytest.fixture(scope='session')
def shared_sandbox(backend: KindUnderTest) -> Iterator[SharedSandbox[AgentBackedSandbox]]:
    """What `sandbox` is taken from."""
    made = SharedSandbox(lambda: backend.make(tools_config=list(TOOLS), memory_limit='512m', cpu_limit=2.0))
    yield made
    made.close()


@pytest.fixture
def sandbox(shared_sandbox: SharedSandbox[AgentBackedSandbox]) -> AgentBackedSandbox:
    """One running sandbox, for tests that leave no trace in it."""
    return shared_sandbox.get()


@pytest.fixture
def start(backend: KindUnderTest) -> Iterator[Callable[..., AgentBackedSandbox]]:
    """Start a sandbox of one's own; stopped at the end of the test."""
    with starting(backend.make) as start:
        yield start


@pytest.fixture
def place(sandbox: AgentBackedSandbox, request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory of the test's own in the shared sandbox."""
    path = f'/sandbox/{abs(hash(request.node.nodeid))}'
    sandbox.make_dir(path)
    yield path
    if sandbox.is_alive():
        sandbox.remove_path(path, recursive=True, missing_ok=True)
