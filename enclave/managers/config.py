"""The former path of `enclave.managers.manager_config`: programs that import from here keep working."""

from enclave.managers.manager_config import SandboxManagerConfig

__all__ = ['SandboxManagerConfig']
