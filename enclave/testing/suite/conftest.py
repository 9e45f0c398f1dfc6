"""The suite's fixtures, so that they come before any of the same names that other plug-ins have."""

from enclave.testing.plugin import backend, place, sandbox, shared_sandbox, start

__all__ = ['backend', 'place', 'sandbox', 'shared_sandbox', 'start']
