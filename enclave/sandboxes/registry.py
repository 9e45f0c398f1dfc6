"""The former path of `enclave.sandboxes.sandbox_factory`: programs that import from here keep working."""

from enclave.sandboxes.sandbox_factory import SandboxFactory, register_sandbox

__all__ = ['SandboxFactory', 'register_sandbox']
