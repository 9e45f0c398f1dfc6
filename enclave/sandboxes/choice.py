"""Which kind of sandbox, where the caller does not say (layer 4).

A configuration that is of one kind's class, or has an option of one kind only, decides by itself. Else it is the kind that the
environment variable ``ENCLAVE_TYPE`` names, else the first of the kinds with a rank (`enclave.sandboxes.kinds`) that works
here; where none does, the first, whose error then says what to install. Who wants a notebook gets the notebook kind that goes
with it. What was chosen and why is logged once, and stands in the sandbox's metadata.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from enclave.config import GivenConfig, SandboxConfig
from enclave.enums import SandboxType
from enclave.errors import ConfigurationError, EnclaveError
from enclave.records import as_sandbox_type
from enclave.sandboxes.kinds import KINDS, SandboxKind, load
from enclave.sandboxes.notebook.notebook_config import NotebookConfig

logger = logging.getLogger(__name__)

REMEMBER_SECONDS = 30.0
"""How long an answer holds: an engine may be started or stopped while this process runs."""
_NOTEBOOK_TOOL = 'notebook_executor'
TYPE_VARIABLE = 'ENCLAVE_TYPE'
"""The environment variable that names the kind of sandbox where nobody else does."""


@frozen
class Choice:
    """A kind of sandbox, and a clause that says why, for a person; ``brief`` is the clause where that has details."""

    sandbox_type: SandboxType | str
    reason: str
    brief: str = ''

    @property
    def facts(self) -> dict[str, str]:
        """What the ``metadata`` of a sandbox says of the choice of its kind."""
        return {'chosen_because': self.reason}

    def for_notebooks(self, why: str = '') -> Choice:
        """Return the notebook sandboxes of the same backend; ``why`` says what asks for a notebook, where that is not plain."""
        reason = f'{why}, and {self.reason}' if why else self.reason
        return Choice(as_sandbox_type(notebook_type(self.sandbox_type)), reason, self.brief)


def notebook_type(name: str) -> str:
    """Return the notebook kind that goes with the kind of a name; any other name, a notebook kind's too, stays."""
    kind = KINDS.find(name)
    return name if kind is None or kind.notebook is None else kind.notebook


def default_type() -> SandboxType | str:
    """Return the kind that is tried first."""
    return as_sandbox_type(KINDS.ranked()[0].name)


def choose(*checks: Callable[[], None]) -> Choice:
    """Look at this machine and choose. Takes a second and a bit at most.

    Args:
        checks: Instead of those of the kinds that have a rank, in their order.
    """
    failed: list[tuple[SandboxKind, str]] = []
    for number, kind in enumerate(KINDS.ranked()):
        check = checks[number] if number < len(checks) else load(kind.check)
        try:
            if check is not None:
                check()
        except EnclaveError as error:
            failed.append((kind, f'{kind.fails} ({_first_sentence(error)})'))
            continue
        reason = ', and '.join([', '.join(text for _, text in failed), kind.works] if failed else [kind.works])
        return Choice(as_sandbox_type(kind.name), reason, ', '.join(each.fails for each, _ in failed))
    return Choice(default_type(), ', but '.join(text for _, text in failed))


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


def is_settled(config: GivenConfig) -> bool:
    """Return whether `choose_for` would answer without looking at this machine."""
    return _find_backend(config) is not None or _from_environment() is not None or _remember() is not None


def choose_for(config: GivenConfig, *, notebook: bool = False) -> Choice:
    """Return the kind of sandbox for a configuration that comes without one.

    Args:
        notebook: The caller wants a notebook sandbox, whatever the configuration says.
    """
    choice = _find_backend(config) or _from_environment() or choose_backend()
    if notebook or isinstance(config, NotebookConfig):
        return choice.for_notebooks()
    sign = _find_notebook_sign(config)
    return choice.for_notebooks(sign) if sign else choice


def kind_of(config: GivenConfig) -> SandboxType | str | None:
    """Return the kind whose configuration this is by its class; None for one that fits several.

    Raises:
        ConfigurationError: No kind takes it.
    """
    choice = _find_backend(config) if isinstance(config, SandboxConfig) else None
    if choice is None:
        return None
    return choice.for_notebooks().sandbox_type if isinstance(config, NotebookConfig) else choice.sandbox_type


def fit_for(kind: SandboxType | str, config: GivenConfig) -> str:
    """Return a kind that was set for callers who name none, as it is for a configuration.

    It is its notebook kind where a notebook is asked for, and the kind whose own class the configuration is of, whatever was set.

    Raises:
        ConfigurationError: No kind takes the configuration.
    """
    own = kind_of(config)
    return notebook_type(str(own or kind)) if is_for_notebooks(config) else str(own or kind)


def is_for_notebooks(config: GivenConfig) -> bool:
    """Return whether a configuration says by itself that it is a notebook's."""
    return isinstance(config, NotebookConfig) or bool(_find_notebook_sign(config))


def _find_backend(config: GivenConfig) -> Choice | None:
    """Return the general kind that a configuration can only be for; None if it can be for several.

    Raises:
        ConfigurationError: It is of a class that no kind takes.
    """
    if isinstance(config, Mapping):
        return _by_options(config)
    if not isinstance(config, SandboxConfig) or type(config) is SandboxConfig:
        return None
    found = _by_class(type(config), KINDS.all(installed=False)) or _by_class(type(config), KINDS.all())
    if found is None:
        raise ConfigurationError(
            f'no kind of sandbox that is registered takes a {type(config).__name__}; register the kind it is for, or name one'
        )
    return Choice(as_sandbox_type(_general(found)), f'its configuration is a {type(config).__name__}')


def _by_class(config_class: type[SandboxConfig], kinds: list[SandboxKind]) -> SandboxKind | None:
    """Return the kind whose configuration is of a class or of the nearest above it; of several the first in rank."""
    for cls in config_class.__mro__:
        if cls is SandboxConfig:
            return None
        found = [kind for kind in kinds if kind.config_class is cls]
        if found:
            return min(found, key=_order)
    return None


def _order(kind: SandboxKind) -> tuple[bool, int, str]:
    return (kind.rank is None and not kind.is_notebook, kind.rank or 0, kind.name)


def _general(kind: SandboxKind) -> str:
    """Return the name of the kind that a notebook kind goes with; any other's own."""
    return next((each.name for each in KINDS.all(installed=False) if each.notebook == kind.name), kind.name)


def _by_options(config: Mapping[str, Any]) -> Choice | None:
    names = set(config)
    families = _families(KINDS.all(installed=False))
    if names - set().union(*families.values()):
        families = _families(KINDS.all())
    known = names & set().union(*families.values())
    fitting = [name for name, options in families.items() if known <= options]
    if len(fitting) == len(families):
        return None
    kinds = [kind for kind in KINDS.ranked() if kind.name in fitting]
    if len(fitting) > 1 and len(kinds) != 1:
        return None
    if not fitting:  # options of several kinds: each is refused by the kind that is made
        return None
    chosen = kinds[0].name if kinds else fitting[0]
    own = sorted(name for name in known if any(name not in options for options in families.values()))
    return Choice(as_sandbox_type(chosen), f'its option {own[0]!r} is one of {chosen} alone')


def _families(kinds: list[SandboxKind]) -> dict[str, frozenset[str]]:
    """Return the options of each general kind, with those of the notebook kind that goes with it."""
    by_name = {kind.name: kind for kind in kinds}
    return {
        kind.name: kind.options | (by_name[kind.notebook].options if kind.notebook in by_name else frozenset())
        for kind in kinds
        if not kind.is_notebook
    }


def _find_notebook_sign(config: GivenConfig) -> str:
    """Return what says that a configuration is a notebook's, for a person; '' if nothing does."""
    if isinstance(config, Mapping):
        by_name = {kind.name: kind for kind in KINDS.all(installed=False)}
        own = sorted(
            name
            for name in config
            for kind in by_name.values()
            if kind.notebook in by_name and name in by_name[kind.notebook].options - kind.options
        )
        if own:
            return f'its option {own[0]!r} is one of notebooks alone'
    tools: Any = config.get('tools_config') if isinstance(config, Mapping) else getattr(config, 'tools_config', None)
    is_alone = isinstance(tools, (Mapping, list, tuple, set, frozenset)) and list(tools) == [_NOTEBOOK_TOOL]
    return f'its only tool is {_NOTEBOOK_TOOL}' if is_alone else ''
