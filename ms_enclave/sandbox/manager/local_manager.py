"""The same names as in `ms_enclave.sandbox.manager.base`."""

from __future__ import annotations

from ms_enclave.sandbox.manager.base import *  # noqa: F403
