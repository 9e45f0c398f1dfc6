"""For those that write a kind of sandbox, or test what uses sandboxes (layer 6).

The suite that every kind of this library passes runs over a kind of your own::

    pytest -p enclave.testing.plugin -p my_package.kind --pyargs enclave.testing.suite --enclave-kind mine

where importing ``my_package.kind`` registers it. Its guests are hostile: they kill every process that they can reach, fork
without end and take all memory. A kind that isolates nothing says so, ``--enclave-lacks isolation,limits``, and those tests are
not run; try a new one in a container or on a machine that may be lost. `enclave.testing.plugin` has the fixtures, for tests of
your own.

`FakeSandbox` is a sandbox in this process, with a directory for a file system and no wall, for tests of what owns sandboxes.
Nothing here is imported by ``import enclave``; the plug-in and the suite need pytest.
"""

from __future__ import annotations

from enclave.testing.sandbox import FakeBackend, FakeSandbox
from enclave.testing.workspace import FakeWorkspace

__all__ = ['FakeBackend', 'FakeSandbox', 'FakeWorkspace']
