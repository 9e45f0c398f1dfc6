"""Sandboxes whose kind nobody has named (floor 6): looking at the machine waits until something is awaited.

The blocking factory asks the engine, and where none answers tries bubblewrap; on an event loop's thread that would hold up
everybody. So a factory of proxies gives a proxy that knows its configuration and its id, and that becomes one of the chosen
kind, class and all, at the first await that needs to know.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from enclave.aio.proxies import ProxyRegistry, run
from enclave.aio.sandboxes import AgentBackedSandbox, Sandbox
from enclave.config import SandboxConfig
from enclave.sandboxes import choice, registry

Config = SandboxConfig | Mapping[str, Any] | None


def create_undecided(proxy_registry: ProxyRegistry, config: Config, sandbox_id: str | None) -> Sandbox:
    """Return a proxy of whichever kind `enclave.sandboxes.choice` will choose; nothing is looked at yet.

    Raises:
        ConfigurationError: The configuration is wrong for every kind.
    """
    provisional = registry.SandboxFactory.create_sandbox(
        choice.fit_for(choice.default_type(), config), config, sandbox_id
    )
    general: Any = proxy_registry.find(AgentBackedSandbox._blocking_class()) or AgentBackedSandbox
    proxy: Sandbox = _undecided_class(general)._over(provisional)
    proxy.__dict__.update(_proxy_registry=proxy_registry, _given=config)
    return proxy


class _Undecided:
    """Mixed in before the general proxy until the kind is chosen. What it shows before is what all kinds agree on."""

    sandbox_type = None
    id: Any
    _given: Config
    _blocking: Any

    def __repr__(self: Any) -> str:
        return f'<aio Sandbox {self.id}, its kind not chosen yet>'


_deciding = threading.Lock()  # held while a proxy becomes one of a certain kind: two event loops may have one


async def _decide(proxy: Any) -> None:
    if not isinstance(proxy, _Undecided):
        return
    blocking = await run(lambda: registry.SandboxFactory.create_sandbox(None, proxy._given, proxy.id))
    with _deciding:
        if isinstance(proxy, _Undecided):  # nobody else has decided meanwhile
            provisional = proxy._blocking
            blocking.created_at = provisional.created_at
            blocking.metadata.update(provisional.metadata)
            chosen: Any = proxy
            chosen.__dict__.update(_blocking=blocking)
            chosen.__class__ = type(chosen._proxy_registry.present(blocking))


def _decided_first(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(getattr(Sandbox, name))
    async def verb(self: Any, *args: Any, **kwargs: Any) -> Any:
        await _decide(self)
        return await getattr(self, name)(*args, **kwargs)

    return verb


# The verbs that a sandbox has before it is started. The others say of an undecided one, too, that it is not.
for _name in ('start', 'add_tool', 'get_tool', 'list_tools', 'get_available_tools', 'tool_schemas'):
    setattr(_Undecided, _name, _decided_first(_name))


@functools.cache
def _undecided_class(general: type[Any]) -> type[Any]:
    return type('UndecidedSandbox', (_Undecided, general), {'_home': (__name__, 'UndecidedSandbox')})
