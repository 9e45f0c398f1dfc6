"""The former path of `enclave.sandboxes.bubblewrap.bubblewrap_config`: programs that import from here keep working."""

from enclave.sandboxes.bubblewrap.bubblewrap_config import BubblewrapSandboxConfig

__all__ = ['BubblewrapSandboxConfig']
