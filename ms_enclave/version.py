"""The version of this package, under the names that programs read it by."""

from __future__ import annotations

from enclave import __version__

__release_date__ = '2026-11-28'

__all__ = ['__release_date__', '__version__']
