"""What programs use beside sandboxes."""

from __future__ import annotations

from ms_enclave.utils.logger import get_logger

__all__ = ['get_logger']
