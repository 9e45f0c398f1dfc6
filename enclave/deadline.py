"""Time limits that travel (layer 0).

A `Deadline` is made once, where a call enters, from the caller's ``timeout``; everything below asks it what remains. Nobody
restarts the clock half-way down. It reads the monotonic clock, so a change of the wall clock does not move it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import field, frozen

from enclave.errors import InvalidArgumentError, OperationTimeoutError
from enclave.quoting import quoted

FOREVER_SECONDS = 1e9
"""From here on (31 years) a time limit is no limit; the waits of the standard library overflow not far above."""
LEAST_SECONDS = 1e-6
"""The time limit of what begins when no time is left."""


def check_timeout(timeout: object, name: str = 'timeout') -> float | None:
    """Return a time limit in seconds, or None for no limit (``None``, ``0`` and infinity mean that).

    Raises:
        InvalidArgumentError: It is not a number, or negative.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidArgumentError(f'{name} must be a number of seconds or None, not {quoted(timeout)}')
    if timeout != timeout or timeout < 0:
        raise InvalidArgumentError(f'{name} must be 0 (no limit) or more seconds, not {quoted(timeout)}')
    if timeout == 0 or timeout >= FOREVER_SECONDS:
        return None
    return float(timeout)


@frozen
class Deadline:
    """A moment on the monotonic clock, or never (``at is None``)."""

    at: float | None = None
    _clock: Callable[[], float] = field(default=time.monotonic, repr=False, eq=False)

    @classmethod
    def after(cls, timeout: float | None, *, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """Return the deadline ``timeout`` seconds from now; ``None`` and ``0`` never expire."""
        seconds = check_timeout(timeout)
        return cls(None if seconds is None else clock() + seconds, clock)

    def remaining(self) -> float | None:
        """Return the seconds left, never below 0.0, or None when there is no limit."""
        return None if self.at is None else max(0.0, self.at - self._clock())

    def as_timeout(self) -> float | None:
        """Return the same as a time limit to hand on: where nothing is left it is next to nothing, since 0 would be no limit."""
        left = self.remaining()
        return None if left is None else max(left, LEAST_SECONDS)

    def has_expired(self) -> bool:
        """Return whether the moment has passed."""
        return self.at is not None and self._clock() >= self.at

    def earlier(self, timeout: float | None) -> Deadline:
        """Return whichever ends first: this one, or ``timeout`` seconds from now."""
        other = Deadline.after(timeout, clock=self._clock)
        if other.at is None or (self.at is not None and self.at <= other.at):
            return self
        return other

    def check(self, what: str) -> None:
        """Raise `OperationTimeoutError` naming ``what`` if the moment has passed."""
        if self.has_expired():
            raise OperationTimeoutError(f'{what} did not finish within its time limit')
