"""The former path of `enclave.ray.ray_options`: programs that import from here keep working."""

from enclave.ray.ray_options import RayOptions

__all__ = ['RayOptions']
