"""The former path of `enclave.sandboxes.bubblewrap.bubblewrap_notebook_config`: programs that import from here keep working."""

from enclave.sandboxes.bubblewrap.bubblewrap_notebook_config import BubblewrapNotebookConfig

__all__ = ['BubblewrapNotebookConfig']
