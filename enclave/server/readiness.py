"""Which of waitress's sockets are ready (layer 6): found by the kernel's own table, where it has one.

waitress's loop asks each of its channels what it waits for, and registers all of them anew, each time one of them is ready or a
request has ended. With 256 clients that is a thousand calls of functions a round, two rounds a request, all of it while threads
with work to do wait for the interpreter's lock. Here a socket stays registered, and is looked at again when something was done to
it. Once a second all are looked at, by which waitress's own maintenance takes place, as before.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import sys
import time
from typing import Any

from waitress import wasyncore

LOOK_SECONDS = 1.0
"""How often everything is looked at."""


class Readiness:
    """Waits until sockets of a map of waitress's are ready, and has them handled. Lives as long as the server.

    `wait` is for the thread of the server's loop, everything else for any thread.
    """

    def __init__(self, sockets: dict[int, Any]) -> None:
        self._map = sockets
        self._epoll = select.epoll() if sys.platform == 'linux' else None
        self._process = os.getpid()  # a forked process shares the kernel's table, and must change nothing in it
        self._registered: dict[int, tuple[Any, int]] = {}  # by the loop's thread; others read it
        self._changed: collections.deque[int] = collections.deque()
        self._look_at = 0.0
        self._looks_at_all = True  # a single write or read needs no lock

    @property
    def is_kept(self) -> bool:
        """Whether sockets stay registered, so that waking the loop is cheap where nothing has changed."""
        return self._epoll is not None

    def look_at_all(self) -> None:
        """Have everything looked at in the next round."""
        self._looks_at_all = True

    def look_at(self, descriptor: int) -> None:
        """Have one socket looked at in the next round."""
        if self._epoll is not None:
            self._changed.append(descriptor)

    def forget(self, descriptor: int | None) -> None:
        """Wait no longer for a socket that is about to be closed: closing is not enough where a forked process has it too."""
        if self._epoll is not None and descriptor is not None and os.getpid() == self._process:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(descriptor)

    def has_changed(self, descriptor: int | None, channel: Any) -> bool:
        """Have a channel looked at, if it waits for something else now; return whether the loop has to be woken for that."""
        if self._epoll is None:
            return True
        if descriptor is None or self._registered.get(descriptor) == (channel, _interest(channel)):
            return False
        self._changed.append(descriptor)
        return True

    def wait(self, timeout: float) -> None:
        """Wait until something is ready, and handle it."""
        if self._epoll is None:
            wasyncore.loop(timeout=timeout, use_poll=True, map=self._map, count=1)
            return
        now = time.monotonic()
        if self._looks_at_all or now >= self._look_at:
            self._looks_at_all, self._look_at = False, now + LOOK_SECONDS
            self._changed.clear()
            for descriptor in {*self._map, *self._registered}:
                self._update(descriptor)
        while self._changed:
            self._update(self._changed.popleft())
        for descriptor, flags in self._epoll.poll(timeout):
            ready = self._map.get(descriptor)
            if ready is not None:
                wasyncore.readwrite(ready, flags)
            self._update(descriptor)

    def _update(self, descriptor: int) -> None:
        """Wait for what a socket waits for now."""
        assert self._epoll is not None
        while True:
            found, (known, old) = self._map.get(descriptor), self._registered.get(descriptor, (None, 0))
            if found is None:
                if known is not None:
                    self._registered.pop(descriptor)
                    self._looks_at_all = True  # there may be room for another connection
                    with contextlib.suppress(OSError, ValueError):  # closed, by which the kernel has forgotten it
                        self._epoll.unregister(descriptor)
                return
            if known is found and getattr(found, 'is_sending', False):
                found.was_passed_over = True
                return  # what it waits for then is looked at when that is done
            new = _interest(found)
            if known is found and new == old:
                return
            # Said before it is done, and looked at once more afterwards: a thread that changes it in between compares with this.
            self._registered[descriptor] = (found, new)
            self._set(descriptor, new, is_known=known is found and old != 0)

    def _set(self, descriptor: int, flags: int, *, is_known: bool) -> None:
        assert self._epoll is not None
        if not flags:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(descriptor)
            return
        steps = (self._epoll.modify, self._epoll.register)
        for step in steps if is_known else reversed(steps):
            try:
                step(descriptor, flags)
                return
            except (FileNotFoundError, FileExistsError):  # another connection under the number of one that was closed
                continue
            except (OSError, ValueError):  # closed meanwhile
                return

    def close(self) -> None:
        """Let go of the table."""
        if self._epoll is not None:
            self._epoll.close()


def _interest(channel: Any) -> int:
    """Return what a channel waits for, as waitress's loop would ask it."""
    flags = 0
    if channel.readable():
        flags = select.EPOLLIN | select.EPOLLPRI
    if channel.writable() and not channel.accepting:
        flags |= select.EPOLLOUT
    return flags


class NearServer:
    """A server as one of its channels sees it: waking its loop says which channel it is for."""

    def __init__(self, server: Any, channel: Any) -> None:
        self._server = server
        self._channel = channel
        self.add_task = server.add_task
        self.adj = server.adj
        self.application = server.application
        self.server_name = server.server_name
        self.effective_port = server.effective_port
        self.active_channels = server.active_channels

    def pull_trigger(self) -> None:
        """Wake the loop, if the channel waits for something else than it did."""
        server = self._server
        if server.readiness.has_changed(self._channel._fileno, self._channel):
            server.trigger.pull_trigger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)
