"""The former path of `enclave.sandboxes.docker.docker_notebook_config`: programs that import from here keep working."""

from enclave.sandboxes.docker.docker_notebook_config import DockerNotebookConfig

__all__ = ['DockerNotebookConfig']
