"""The former path of `enclave.managers.manager_factory`: programs that import from here keep working."""

from enclave.managers.manager_factory import SandboxManagerFactory, register_manager

__all__ = ['SandboxManagerFactory', 'register_manager']
