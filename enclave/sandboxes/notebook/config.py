"""The former path of `enclave.sandboxes.notebook.notebook_config`: programs that import from here keep working."""

from enclave.sandboxes.notebook.notebook_config import NotebookConfig

__all__ = ['NotebookConfig']
