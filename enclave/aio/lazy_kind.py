"""Sandboxes whose kind nobody has named (layer 6): looking at the machine waits until something is awaited.

The blocking factory asks the engine, and where none answers tries bubblewrap; on an event loop's thread that would hold up
everybody. So the asynchronous factories give a proxy of a `LazyKind`, which knows its configuration and its id, and becomes a
sandbox of the chosen kind on the thread of the first call that needs to know.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from enclave.config import GivenConfig
from enclave.sandboxes import choice, sandbox_factory
from enclave.sandboxes.base import Sandbox

_DECIDING = frozenset({'start', 'add_tool', 'get_tool', 'list_tools', 'get_available_tools', 'tool_schemas'})
"""The verbs that a sandbox has before it is started. The others say of one without a kind, too, that it is not."""


class LazyKind:
    """A blocking sandbox that is made of whichever kind is chosen, once that is needed. Any thread may use it.

    What it shows before is what all kinds agree on.

    Raises:
        ConfigurationError: The configuration is wrong for every kind.
    """

    _lock: threading.Lock  # guards _chosen

    def __init__(self, config: GivenConfig, sandbox_id: str | None) -> None:
        kind = choice.fit_for(choice.default_type(), config)
        self.__dict__.update(
            _lock=threading.Lock(),
            _given=config,
            _chosen=None,
            _provisional=sandbox_factory.SandboxFactory.create_sandbox(kind, config, sandbox_id),
        )

    @property
    def sandbox_type(self) -> Any:
        """Its kind; None until it is chosen."""
        return None if self._chosen is None else self._chosen.sandbox_type

    def _decide(self) -> Sandbox:
        with self._lock:
            if self._chosen is None:
                provisional = self._provisional
                chosen = sandbox_factory.SandboxFactory.create_sandbox(None, self._given, provisional.id)
                chosen.created_at = provisional.created_at
                chosen.metadata.update(provisional.metadata)
                self.__dict__['_chosen'] = chosen
            found: Sandbox = self._chosen
            return found

    def _decided_call(self, name: str, *args: Any, **options: Any) -> Any:
        return getattr(self._decide(), name)(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name in _DECIDING and self._chosen is None:
            return functools.partial(self._decided_call, name)
        return getattr(self._chosen or self._provisional, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._chosen or self._provisional, name, value)

    def __repr__(self) -> str:
        return f'<Sandbox {self.id}, its kind not chosen yet>' if self._chosen is None else repr(self._chosen)
