"""Things by name, for one process (layer 0): ours, which are imported when they are first asked for, and users' own."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from attrs import define, field

T = TypeVar('T')

Home = tuple[str, str]
"""Where something is defined: its module, and its name there."""


@define(eq=False)
class Registry(Generic[T]):
    """Lives as long as the process. Any thread may use it.

    Args:
        built_in: ``{name: home}`` of this library.
    """

    _built_in: Mapping[str, Home]
    registered: dict[str, T] = field(factory=dict, init=False)  # guarded by _lock; ours too, once they were asked for
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def register(self, name: str, thing: T, *, check: Callable[[Home | None], None] | None = None) -> None:
        """Put something under a name, in the place of what is there.

        Args:
            check: Is given the home of what is there, if anything is, and raises if it is to stay.
        """
        with self._lock:
            if check is not None:
                known: Any = self.registered.get(name)
                check((known.__module__, known.__qualname__) if known is not None else self._built_in.get(name))
            self.registered[name] = thing

    def find(self, name: str) -> T | None:
        """Return what has a name, or None."""
        with self._lock:
            found = self.registered.get(name)
        if found is None and name in self._built_in:
            module, attribute = self._built_in[name]
            loaded: T = getattr(importlib.import_module(module), attribute)
            with self._lock:
                found = self.registered.setdefault(name, loaded)
        return found

    def names(self) -> list[str]:
        """Return all names, sorted."""
        with self._lock:
            return sorted({*self._built_in, *self.registered})
