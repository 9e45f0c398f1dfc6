"""Numbers that programs read."""

from __future__ import annotations

DEFAULT_POOL_EXECUTION_TIMEOUT = 3600
"""Seconds that a call waits for a sandbox of a pool, where neither it nor the configuration says."""
