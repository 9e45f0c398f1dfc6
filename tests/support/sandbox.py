"""The fake sandbox, which `enclave.testing` ships."""

from enclave.testing.sandbox import PATIENCE, USABLE, FakeBackend, FakeSandbox, SandboxStartError, fake_config

__all__ = ['PATIENCE', 'USABLE', 'FakeBackend', 'FakeSandbox', 'SandboxStartError', 'fake_config']
