"""A pytest plug-in (layer: entries): the fixture ``sandbox`` is a fresh sandbox for each test that asks for it.

::

    def test_it_prints(sandbox):
        assert sandbox.run_code('print(6 * 7)').stdout == '42\\n'

    @pytest.mark.sandbox('docker', memory_limit='64m')
    def test_under_little_memory(sandbox): ...

It is found by pytest wherever this package is installed. The kind is that of the marker, else of ``--sandbox-type``, of
``sandbox_type`` in pytest's configuration, of ``ENCLAVE_TYPE``, else the one that works. Where none works here the test is
skipped, and fails if ``--sandbox-required`` is given or ``CI`` is ``true``: in CI a test that did not run is no success.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from enclave.sandboxes.verbs import FullSandbox

MARKER = 'sandbox'


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plug-in's options."""
    group = parser.getgroup('enclave', 'sandboxes')
    group.addoption(
        '--sandbox-type', metavar='KIND', help='the kind of the fixture "sandbox", like docker or bubblewrap'
    )
    group.addoption(
        '--sandbox-required',
        action='store_true',
        help='fail tests that need a sandbox where none can be started, instead of skipping them (as with CI=true)',
    )
    parser.addini('sandbox_type', 'the kind of the fixture "sandbox" where --sandbox-type does not say it', default='')


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        'markers',
        f'{MARKER}(sandbox_type=None, **options): the kind and the options of the test\'s fixture "sandbox"',
    )


@pytest.fixture(name='sandbox')
def _sandbox(request: pytest.FixtureRequest) -> Iterator[FullSandbox]:
    """A running sandbox of the test's own, which is gone when the test has ended."""
    from enclave.errors import EnclaveError, EngineUnavailableError, ServerUnavailableError, UnsupportedError
    from enclave.shortcuts import open_sandbox

    kind, options = _wanted(request)
    try:
        opened = open_sandbox(kind, **options)
    except (EngineUnavailableError, ServerUnavailableError, UnsupportedError) as error:
        if request.config.getoption('--sandbox-required') or os.environ.get('CI') == 'true':
            pytest.fail(f'no sandbox could be started: {error}', pytrace=False)
        pytest.skip(f'no sandbox could be started: {error}')
    except EnclaveError as error:  # a wrong option, an unknown kind, a missing image: its message says all
        pytest.fail(f'no sandbox could be started: {error}', pytrace=False)
    with opened:
        yield opened


def _wanted(request: pytest.FixtureRequest) -> tuple[str | None, dict[str, Any]]:
    """Return the kind and the options for a test; markers that are nearer to it count more."""
    kind: str | None = None
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers(MARKER):
        if len(marker.args) > 1:
            raise pytest.UsageError(f'the marker {MARKER!r} takes a kind and options as keywords, not {marker.args!r}')
        given = dict(marker.kwargs)
        kind = kind or given.pop('sandbox_type', None) or (marker.args[0] if marker.args else None)
        given.pop('sandbox_type', None)
        options = {**given, **options}
    configured = request.config.getoption('--sandbox-type') or request.config.getini('sandbox_type')
    return str(kind) if kind else configured or None, options
