"""The bridge that sandboxes with a network join (layer 4, docker).

One bridge for all of this library on an engine, with inter-container communication off, so that a sandbox reaches the world and
no neighbour. It is made at first need and kept: removing it while another process is about to use it would fail that one.

The bridge device's name is fixed. An engine lets two networks have one name when they are created at the same moment, and
from then on refuses every container that asks for that name; two networks with one bridge device it never allows.
(Seen with Docker 20.10 and eight processes.)
"""

from __future__ import annotations

import threading
from typing import Any

from enclave.errors import EngineError
from enclave.sandboxes.docker.engine import Engine

NETWORK_NAME = 'enclave'
BRIDGE_NAME = 'enclave0'
NETWORK_LABEL = 'enclave.network'

_BRIDGE_OPTION = 'com.docker.network.bridge.name'
_ICC_OPTION = 'com.docker.network.bridge.enable_icc'
_ATTEMPTS = 40
_RETRY_INTERVAL = 0.1


def ensure_network(engine: Engine, *, name: str = NETWORK_NAME, bridge: str = BRIDGE_NAME, fresh: bool = False) -> str:
    """Return the name of our bridge network, creating it if the engine has none. Safe from many processes at once.

    The answer is remembered for the engine client's life. If a container then fails because somebody removed the network,
    call again with ``fresh``.

    Args:
        fresh: Look again although it is remembered.

    Raises:
        EngineError: The name or the bridge device is taken by a network that is not ours, or the engine cannot make it.
    """
    key = f'network:{name}'
    if not fresh and engine.memory.get(key):
        return name
    refusal: EngineError | None = None
    pause = threading.Event()
    for _ in range(_ATTEMPTS):
        if _find(engine, name) is not None:
            engine.memory[key] = True
            return name
        try:
            _create(engine, name, bridge)
        except EngineError as error:
            # 403 (the bridge is taken) and 409 (the name is) mean that somebody else was first; theirs shows up presently.
            if error.details.get('status') not in (403, 409):
                raise
            refusal = error
            pause.wait(_RETRY_INTERVAL)
    raise EngineError(
        f'Could not create the network {name!r} for sandboxes. If another network uses the bridge {bridge!r}, remove it '
        f'with `docker network rm`, or name a network of your own in the configuration. {refusal}',
        details=refusal.details if refusal else None,
    )


def _find(engine: Engine, name: str) -> dict[str, Any] | None:
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
    return network


def _create(engine: Engine, name: str, bridge: str) -> None:
    with engine.translate(f'create the network {name!r} for sandboxes'):
        engine.api.create_network(
            name,
            driver='bridge',
            options={_BRIDGE_OPTION: bridge, _ICC_OPTION: 'false'},
            labels={NETWORK_LABEL: '1'},
            check_duplicate=True,
        )
