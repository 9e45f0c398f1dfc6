"""The bridge that sandboxes with a network join (layer 4, docker).

One bridge for all of this library on an engine, with inter-container communication off, so that a sandbox reaches the world and
no neighbour. It is made at first need and kept: removing it while another process is about to use it would fail that one.

On every network but its default one an engine sets up a name server inside each container, which makes the start of a container
60 of 250 ms longer (Docker 20.10). It leaves that out where the network's name does not look like one that a user chose
(`NetworkMode.IsUserDefined` of the Docker Engine's API types: a name that begins with ``container:`` does not). Sandboxes look up
no neighbour by name, so their network has such a name, and containers ask for it by its id. Everything else is as on any bridge,
the isolation above all. An engine that refuses the name gets a network with an ordinary one.

The bridge device's name is fixed. An engine lets two networks have one name when they are created at the same moment, and
from then on refuses every container that asks for that name; two networks with one bridge device it never allows.
(Seen with Docker 20.10 and eight processes.)
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from attrs import frozen

from enclave.errors import EngineError, EngineUnavailableError
from enclave.sandboxes.docker.engine import Engine

logger = logging.getLogger(__name__)

NETWORK_LABEL = 'enclave.network'

_BRIDGE_OPTION = 'com.docker.network.bridge.name'
_ICC_OPTION = 'com.docker.network.bridge.enable_icc'
_ATTEMPTS = 40
_RETRY_INTERVAL = 0.1
_REFUSED = 'network:refused'


@frozen
class Bridge:
    """A network of this library."""

    name: str
    """Its name on the engine."""
    device: str
    """The name of its bridge device, at most 15 bytes."""


QUICK = Bridge('container:enclave', 'enclave1')
"""Without a name server in each container."""
PLAIN = Bridge('enclave', 'enclave0')
"""For engines that refuse the other."""


def ensure_network(engine: Engine, *, quick: Bridge = QUICK, plain: Bridge = PLAIN) -> str:
    """Return the id of our bridge network, creating it if the engine has none. Safe from many processes at once.

    The answer is remembered for the engine client's life; `forget_network` forgets it.

    Raises:
        EngineError: The name or the bridge device is taken by a network that is not ours, or the engine cannot make it.
    """
    key = f'network:{quick.name}'
    found: str | None = engine.memory.get(key)
    if found is not None:
        return found
    if _REFUSED not in engine.memory:
        try:
            found = _ensure(engine, quick)
        except EngineUnavailableError:
            raise
        except EngineError as error:
            logger.info('the engine makes no network called %r (%s); using %r', quick.name, error.message, plain.name)
            engine.memory[_REFUSED] = True
    if found is None:
        found = _ensure(engine, plain)
    engine.memory[key] = found
    return found


def forget_network(engine: Engine, network: str, *, quick: Bridge = QUICK) -> None:
    """Look again next time: the engine could not put a container on this network, which `ensure_network` had returned.

    It may have been removed between two requests, and is made again then. If it is still there, the engine has another reason,
    and gets a network with an ordinary name.
    """
    key = f'network:{quick.name}'
    if engine.memory.get(key) == network:
        engine.memory.pop(key, None)
    if _find(engine, quick.name) == network:
        engine.memory[_REFUSED] = True


def _ensure(engine: Engine, bridge: Bridge) -> str:
    refusal: EngineError | None = None
    pause = threading.Event()
    for _ in range(_ATTEMPTS):
        found = _find(engine, bridge.name)
        if found is not None:
            return found
        try:
            _create(engine, bridge)
        except EngineError as error:
            # 403 (the bridge is taken) and 409 (the name is) mean that somebody else was first; theirs shows up presently.
            if error.details.get('status') not in (403, 409):
                raise
            refusal = error
            pause.wait(_RETRY_INTERVAL)
    raise EngineError(
        f'Could not create the network {bridge.name!r} for sandboxes. If another network uses the bridge {bridge.device!r}, '
        f'remove it with `docker network rm`, or name a network of your own in the configuration. {refusal}',
        details=refusal.details if refusal else None,
    )


def _find(engine: Engine, name: str) -> str | None:
    """Return the id of our network of this name, None if there is none."""
    with engine.translate(f'look for the network {name!r}'):
        # The filter matches parts of names, so the exact one is picked here.
        found = [each for each in engine.api.networks(names=[name]) if each.get('Name') == name]
    if not found:
        return None
    network: dict[str, Any] = found[0]
    if (
        NETWORK_LABEL not in (network.get('Labels') or {})
        and (network.get('Options') or {}).get(_ICC_OPTION) != 'false'
    ):
        raise EngineError(
            f'The engine has a network named {name!r} that is not ours and lets neighbours talk to each other. Remove it with '
            f'`docker network rm {name}`, or name a network of your own in the configuration (network=...).'
        )
    identity: str = network['Id']
    return identity


def _create(engine: Engine, bridge: Bridge) -> None:
    with engine.translate(f'create the network {bridge.name!r} for sandboxes'):
        engine.api.create_network(
            bridge.name,
            driver='bridge',
            options={_BRIDGE_OPTION: bridge.device, _ICC_OPTION: 'false'},
            labels={NETWORK_LABEL: '1'},
            check_duplicate=True,
        )
