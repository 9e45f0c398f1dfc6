"""Which kind of sandbox, where the caller does not say (floor 4).

The one that the environment variable ``ENCLAVE_TYPE`` names; else Docker if its engine answers, else bubblewrap if it works
here, else Docker, whose error then says what to install. A configuration that has an option of one backend only decides by
itself. Whoever wants a notebook gets that backend's notebook
sandbox. What was chosen and why is logged once, and stands in the sandbox's metadata.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import frozen

from enclave.config import SandboxConfig
from enclave.enums import SandboxType
from enclave.errors import EnclaveError
from enclave.records import as_sandbox_type

logger = logging.getLogger(__name__)

PING_SECONDS = 1.0
"""How long an engine may take to answer before it counts as absent."""
REMEMBER_SECONDS = 30.0
"""How long an answer holds: an engine may be started or stopped while this process runs."""


_NOTEBOOK_OF = {
    SandboxType.DOCKER: SandboxType.DOCKER_NOTEBOOK,
    SandboxType.BUBBLEWRAP: SandboxType.BUBBLEWRAP_NOTEBOOK,
}
"""Each backend's general kind, and its kind with Jupyter kernels."""
_NOTEBOOK_TOOL = 'notebook_executor'
TYPE_VARIABLE = 'ENCLAVE_TYPE'
"""The environment variable that names the kind of sandbox where nobody else does."""


@frozen
class Choice:
    """A kind of sandbox, and a clause that says why, for a person; ``brief`` is the clause where that has details."""

    sandbox_type: SandboxType | str
    reason: str
    brief: str = ''

    def for_notebooks(self, why: str = '') -> Choice:
        """Return the notebook sandboxes of the same backend; ``why`` says what asks for a notebook, where that is not plain."""
        reason = f'{why}, and {self.reason}' if why else self.reason
        return Choice(as_sandbox_type(notebook_type(self.sandbox_type)), reason, self.brief)


def notebook_type(name: str) -> str:
    """Return the notebook kind for the name of a backend's general kind; any other name, a notebook kind's too, stays."""
    return next((str(kind) for general, kind in _NOTEBOOK_OF.items() if general == name), name)


def ping_engine() -> None:
    """Return if the engine answers within `PING_SECONDS`; else raise."""
    from enclave.sandboxes.docker.engine import Engine

    with Engine(timeout=PING_SECONDS) as engine:
        engine.ping()


def try_bubblewrap() -> None:
    """Return if a bubblewrap sandbox can be started; else raise."""
    from enclave.sandboxes.bubblewrap.sandbox import check_works

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
    reason = f'no Docker engine answers ({absent}), and bubblewrap works'
    return Choice(SandboxType.BUBBLEWRAP, reason, 'no Docker engine answers')


def _first_sentence(error: EnclaveError) -> str:
    return error.message.split('. ')[0].rstrip('.')


_lock = threading.Lock()  # guards _chosen
_chosen: tuple[float, Choice] | None = None


def choose_backend() -> Choice:
    """Return the kind of sandbox to use on this machine, looked at afresh every `REMEMBER_SECONDS`."""
    global _chosen
    known = _remember()
    if known is not None:
        return known
    choice = choose()
    with _lock:
        if _chosen is None or _chosen[1] != choice:
            logger.info('sandboxes without a named type are %s: %s', choice.sandbox_type, choice.reason)
        _chosen = (time.monotonic(), choice)
    return choice


def _remember() -> Choice | None:
    with _lock:
        return _chosen[1] if _chosen is not None and time.monotonic() - _chosen[0] < REMEMBER_SECONDS else None


def _from_environment() -> Choice | None:
    """Return the kind that the environment names, if it names one. Whether there is such a kind shows when it is made."""
    name = os.environ.get(TYPE_VARIABLE, '').strip()
    return Choice(as_sandbox_type(name), f'{TYPE_VARIABLE} names it') if name else None


def is_settled(config: SandboxConfig | Mapping[str, Any] | None) -> bool:
    """Return whether `choose_for` would answer without looking at this machine."""
    return _find_backend(config) is not None or _from_environment() is not None or _remember() is not None


def choose_for(config: SandboxConfig | Mapping[str, Any] | None, *, notebook: bool = False) -> Choice:
    """Return the kind of sandbox for a configuration that comes without one.

    Args:
        notebook: The caller wants a notebook sandbox, whatever the configuration says.
    """
    from enclave.sandboxes.notebook.config import NotebookConfig

    choice = _find_backend(config) or _from_environment() or choose_backend()
    if notebook or isinstance(config, NotebookConfig):
        return choice.for_notebooks()
    sign = _find_notebook_sign(config)
    return choice.for_notebooks(sign) if sign else choice


def kind_of(config: SandboxConfig | Mapping[str, Any] | None) -> SandboxType | str | None:
    """Return the kind whose configuration this is by its class; None for one that fits several."""
    from enclave.sandboxes.notebook.config import NotebookConfig

    choice = _find_backend(config) if isinstance(config, SandboxConfig) else None
    if choice is None:
        return None
    return choice.for_notebooks().sandbox_type if isinstance(config, NotebookConfig) else choice.sandbox_type


def fit_for(kind: SandboxType | str, config: SandboxConfig | Mapping[str, Any] | None) -> str:
    """Return a kind that was set for whoever names none: the notebook kind of its backend, where a notebook is asked for."""
    return notebook_type(str(kind)) if is_for_notebooks(config) else str(kind)


def is_for_notebooks(config: SandboxConfig | Mapping[str, Any] | None) -> bool:
    """Return whether a configuration says by itself that it is a notebook's."""
    from enclave.sandboxes.notebook.config import NotebookConfig

    return isinstance(config, NotebookConfig) or bool(_find_notebook_sign(config))


@functools.cache
def _words() -> dict[SandboxType, set[str]]:
    """Return the options of each of our kinds."""
    from enclave.sandboxes.bubblewrap.config import BubblewrapSandboxConfig
    from enclave.sandboxes.bubblewrap.notebook_config import BubblewrapNotebookConfig
    from enclave.sandboxes.docker.config import DockerSandboxConfig
    from enclave.sandboxes.docker.notebook_config import DockerNotebookConfig

    classes: dict[SandboxType, type[SandboxConfig]] = {
        SandboxType.DOCKER: DockerSandboxConfig,
        SandboxType.DOCKER_NOTEBOOK: DockerNotebookConfig,
        SandboxType.BUBBLEWRAP: BubblewrapSandboxConfig,
        SandboxType.BUBBLEWRAP_NOTEBOOK: BubblewrapNotebookConfig,
    }
    return {kind: {each.name for each in attrs.fields(config_class)} for kind, config_class in classes.items()}


def _find_backend(config: SandboxConfig | Mapping[str, Any] | None) -> Choice | None:
    """Return the general kind of the one backend that a configuration can be for; None if it can be for each."""
    from enclave.sandboxes.bubblewrap.config import BubblewrapSandboxConfig
    from enclave.sandboxes.docker.config import DockerSandboxConfig

    for kind, config_class in (
        (SandboxType.DOCKER, DockerSandboxConfig),
        (SandboxType.BUBBLEWRAP, BubblewrapSandboxConfig),
    ):
        if isinstance(config, config_class):
            return Choice(kind, f'its configuration is a {type(config).__name__}')
    if isinstance(config, Mapping):
        words = _words()
        for kind, other in ((SandboxType.DOCKER, SandboxType.BUBBLEWRAP), (SandboxType.BUBBLEWRAP, SandboxType.DOCKER)):
            own = sorted(set(config) & words[_NOTEBOOK_OF[kind]] - words[_NOTEBOOK_OF[other]])
            if own:
                return Choice(kind, f'its option {own[0]!r} is a word of {kind} alone')
    return None


def _find_notebook_sign(config: SandboxConfig | Mapping[str, Any] | None) -> str:
    """Return what says that a configuration is a notebook's, for a person; '' if nothing does."""
    if isinstance(config, Mapping):
        words = _words()
        own = sorted(
            name for name in config for kind in _NOTEBOOK_OF if name in words[_NOTEBOOK_OF[kind]] - words[kind]
        )
        if own:
            return f'its option {own[0]!r} is a word of notebooks alone'
    tools: Any = config.get('tools_config') if isinstance(config, Mapping) else getattr(config, 'tools_config', None)
    is_alone = isinstance(tools, (Mapping, list, tuple, set, frozenset)) and list(tools) == [_NOTEBOOK_TOOL]
    return f'its only tool is {_NOTEBOOK_TOOL}' if is_alone else ''
