"""The former path of `enclave.sandboxes.docker.docker_config`: programs that import from here keep working."""

from enclave.sandboxes.docker.docker_config import DockerSandboxConfig

__all__ = ['DockerSandboxConfig']
