"""Which kind of sandbox, where the caller does not say (floor 4).

Docker if its engine answers, else bubblewrap if it works here, else Docker, whose error then says what to install. A
configuration that has a word of one kind only decides by itself. What was chosen and why is logged once, and stands in
the sandbox's metadata.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import frozen

from enclave.config import SandboxConfig
from enclave.enums import SandboxType
from enclave.errors import EnclaveError

logger = logging.getLogger(__name__)

PING_SECONDS = 1.0
"""How long an engine may take to answer before it counts as absent."""
REMEMBER_SECONDS = 30.0
"""How long an answer holds: an engine may be started or stopped while this process runs."""


@frozen
class Choice:
    """A kind of sandbox, and a clause that says why, for a person."""

    sandbox_type: SandboxType
    reason: str


def ping_engine() -> None:
    """Return if the engine answers within `PING_SECONDS`; else raise."""
    from enclave.sandboxes.docker.engine import Engine

    with Engine(timeout=PING_SECONDS) as engine:
        engine.ping()


def try_bubblewrap() -> None:
    """Return if a bubblewrap sandbox can be started; else raise."""
    from enclave.sandboxes.bubblewrap.program import check_works

    check_works()


def choose(ping: Callable[[], None] = ping_engine, try_other: Callable[[], None] = try_bubblewrap) -> Choice:
    """Look at this machine and choose. Takes a second and a bit at most."""
    try:
        ping()
    except EnclaveError as error:
        absent = _first_sentence(error)
    else:
        return Choice(SandboxType.DOCKER, 'a Docker engine answers')
    try:
        try_other()
    except EnclaveError as error:
        reason = f'no Docker engine answers ({absent}), but bubblewrap does not work either ({_first_sentence(error)})'
        return Choice(SandboxType.DOCKER, reason)
    return Choice(SandboxType.BUBBLEWRAP, f'no Docker engine answers ({absent}), and bubblewrap works')


def _first_sentence(error: EnclaveError) -> str:
    return error.message.split('. ')[0].rstrip('.')


_lock = threading.Lock()  # guards _chosen
_chosen: tuple[float, Choice] | None = None


def choose_backend() -> Choice:
    """Return the kind of sandbox to use on this machine, looked at afresh every `REMEMBER_SECONDS`."""
    global _chosen
    with _lock:
        if _chosen is not None and time.monotonic() - _chosen[0] < REMEMBER_SECONDS:
            return _chosen[1]
    choice = choose()
    with _lock:
        if _chosen is None or _chosen[1] != choice:
            logger.info('sandboxes without a named type are %s: %s', choice.sandbox_type, choice.reason)
        _chosen = (time.monotonic(), choice)
    return choice


def choose_for(config: SandboxConfig | Mapping[str, Any] | None) -> Choice:
    """Return the kind of sandbox for a configuration that comes without one."""
    from enclave.sandboxes.bubblewrap.config import BubblewrapSandboxConfig
    from enclave.sandboxes.docker.config import DockerSandboxConfig

    kinds = {SandboxType.DOCKER: DockerSandboxConfig, SandboxType.BUBBLEWRAP: BubblewrapSandboxConfig}
    for kind, config_class in kinds.items():
        if isinstance(config, config_class):
            return Choice(kind, f'its configuration is a {config_class.__name__}')
    if isinstance(config, Mapping):
        words = {kind: {each.name for each in attrs.fields(config_class)} for kind, config_class in kinds.items()}
        for kind, other in ((SandboxType.DOCKER, SandboxType.BUBBLEWRAP), (SandboxType.BUBBLEWRAP, SandboxType.DOCKER)):
            own = sorted(set(config) & words[kind] - words[other])
            if own:
                return Choice(kind, f'its configuration has {own[0]!r}, a word of that kind alone')
    return choose_backend()
