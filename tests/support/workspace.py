"""The workspace of the fake sandbox, which `enclave.testing` ships."""

from enclave.testing.workspace import FakeWorkspace

__all__ = ['FakeWorkspace']
