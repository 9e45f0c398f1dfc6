"""Kinds of sandbox (layer 4): one descriptor says all that the rest of the library has to know about one.

A kind has a folder of its own and is registered once: ours by their line in `_BUILT_IN`, a kind of somebody else by
`register_kind`, or by an entry point of the group ``enclave.kinds`` in the metadata of its package. Classes and functions may
be given as ``'package.module:name'``; they are imported when they are first needed.

The defaults are the safe ones. A kind that declares no rulings cannot be had from a server, is never chosen for a configuration
that does not say by itself that it is this kind's, and shows no facts about itself to the clients of a server.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from attrs import field, frozen

from enclave.config import SandboxConfig
from enclave.errors import InvalidArgumentError, NotRegisteredError
from enclave.quoting import quoted
from enclave.records import SandboxInfo, Usage
from enclave.rulings import Rulings
from enclave.suggest import suggest

if TYPE_CHECKING:
    from enclave.sandboxes.base import Sandbox
    from enclave.sandboxes.housekeeping import Housekeeper

logger = logging.getLogger(__name__)

_BUILT_IN = ('enclave.sandboxes.docker.kind', 'enclave.sandboxes.bubblewrap.kind')
"""Modules whose ``KINDS`` are registered."""
ENTRY_POINTS = 'enclave.kinds'


Report = Callable[[str, 'int | None', 'int | None'], None]
"""Is reported how something slow goes: what it does, and how many bytes of how many are done, None where nobody counts."""


@frozen
class Missing:
    """What has to be fetched or built before a sandbox can be made; ``get`` does it, which may take minutes."""

    title: str
    get: Callable[[Report], None]


class Inventory(Protocol):
    """The sandboxes of a kind on this machine that outlive a call of the command line: those of all processes."""

    @property
    def where(self) -> str:
        """Where they are, as a text, like ``'on the engine at unix:///var/run/docker.sock'``."""

    def attach(self, sandbox_id: str) -> contextlib.AbstractContextManager[Any]:
        """Use one for a ``with`` block."""

    def list(self) -> list[SandboxInfo]:
        """Return what can be said of all."""

    def describe(self, sandbox_id: str) -> SandboxInfo:
        """Return what can be said of one."""

    def stop(self, sandbox_id: str) -> None:
        """Stop one."""

    def pause(self, sandbox_id: str) -> None:
        """Keep what is in one from running."""

    def resume(self, sandbox_id: str) -> None:
        """Let what is in a paused one continue."""

    def remove(self, sandbox_id: str) -> None:
        """Take one away."""

    def measure(self, infos: Sequence[SandboxInfo]) -> Sequence[Usage]:
        """Return what the running ones of these use, in their order."""


@frozen(kw_only=True)
class SandboxKind:
    """A kind of sandbox.

    Attributes:
        name: What it is asked for by.
        sandbox: Its class.
        config: The class of its configuration; default is what the sandbox's class says.
        notebook: The name of the kind with Jupyter kernels that goes with it.
        is_notebook: It is such a kind.
        rank: Its place among the kinds that are tried where nobody names one, the smallest first; None is never tried.
        check: Returns if such sandboxes can be started on this machine, else raises; it should take a second at most.
        works: A clause that says so, like ``'a Docker engine answers'``.
        fails: A clause that says the opposite.
        housekeeper: Makes what looks after what dead owners left.
        doctor: Makes what looks at what it needs of a machine, an `enclave.checks.Examiner`.
        find_missing: Given the options of a sandbox, returns what is `Missing` on this machine to make it, or None.
        inventory: Makes an `Inventory`, where such sandboxes can be reached from other processes than the one that made them.
        rulings: A ruling for each option of its configuration that a client of a server may set.
        public_facts: Names in the sandbox's ``metadata`` that clients of a server may see.
    """

    name: str
    sandbox: type[Sandbox] | str
    config: type[SandboxConfig] | str | None = None
    notebook: str | None = None
    is_notebook: bool = False
    rank: int | None = None
    check: Callable[[], None] | str | None = None
    works: str = 'it works here'
    fails: str = 'it does not work here'
    housekeeper: Callable[[], Housekeeper] | str | None = None
    doctor: Callable[..., Any] | str | None = None
    find_missing: Callable[[Mapping[str, Any]], Missing | None] | str | None = None
    inventory: Callable[[], Inventory] | str | None = None
    rulings: Rulings | str | None = field(default=None, repr=False)
    public_facts: tuple[str, ...] = ()

    @property
    def sandbox_class(self) -> type[Sandbox]:
        """The class of its sandboxes."""
        found: type[Sandbox] = load(self.sandbox)
        return found

    @property
    def config_class(self) -> type[SandboxConfig]:
        """The class of its configuration."""
        found: type[SandboxConfig] = self.sandbox_class.config_class if self.config is None else load(self.config)
        return found

    @property
    def options(self) -> frozenset[str]:
        """The names of all options of its configuration."""
        return frozenset(attrs.fields_dict(self.config_class))

    def look_for_missing(self, options: Mapping[str, Any]) -> Missing | None:
        """Return what has to be fetched or built before a sandbox with these options can be made, or None."""
        find: Any = load(self.find_missing)
        found: Missing | None = None if find is None else find(options)
        return found

    def get_rulings(self) -> Rulings | None:
        """Return its rulings; None if it declares none."""
        found: Rulings | None = load(self.rulings)
        return found

    def find_unruled(self) -> list[str]:
        """Return the options that have no ruling, sorted."""
        return sorted(self.options - set(self.get_rulings() or ()))


def load(value: Any) -> Any:
    """Return what ``'package.module:name'`` refers to; anything else is itself."""
    if not isinstance(value, str):
        return value
    module, _, name = value.partition(':')
    return getattr(importlib.import_module(module), name)


class KindTable:
    """The kinds of this process. Lives as long as it does; any thread may use it.

    Attributes:
        registered: Those that are known so far, by name; guarded by the table's lock.
    """

    def __init__(self) -> None:
        self.registered: dict[str, SandboxKind] = {}
        self._lock = threading.RLock()  # guards all
        self._is_filled = False
        self._has_looked_around = False

    def register(self, kind: SandboxKind) -> None:
        """Put a kind in the place of any that has its name."""
        self._fill()
        with self._lock:
            self.registered[kind.name] = kind

    def unregister(self, name: str) -> None:
        """Forget a kind, if it is there."""
        self._fill()
        with self._lock:
            self.registered.pop(name, None)

    def find(self, name: str) -> SandboxKind | None:
        """Return the kind of a name, or None. Packages are asked for theirs at the first name that is not known."""
        self._fill()
        with self._lock:
            found = self.registered.get(name)
        if found is None:
            self._look_around()
            with self._lock:
                found = self.registered.get(name)
        return found

    def all(self, *, installed: bool = True) -> list[SandboxKind]:
        """Return all kinds, by name.

        Args:
            installed: Ask the packages that are installed for theirs, which takes some milliseconds the first time.
        """
        self._fill()
        if installed:
            self._look_around()
        with self._lock:
            return [self.registered[name] for name in sorted(self.registered)]

    def ranked(self) -> list[SandboxKind]:
        """Return the kinds that are tried where nobody names one, in their order."""
        return sorted(
            (kind for kind in self.all(installed=False) if kind.rank is not None),
            key=lambda kind: (kind.rank or 0, kind.name),
        )

    def _fill(self) -> None:
        """Register the built-in kinds, once."""
        if self._is_filled:
            return
        with self._lock:
            if not self._is_filled:
                for module in _BUILT_IN:
                    for kind in importlib.import_module(module).KINDS:
                        self.registered.setdefault(kind.name, kind)
                self._is_filled = True

    def _look_around(self) -> None:
        """Register the kinds that installed packages declare, once; what is registered already stays."""
        with self._lock:
            if self._has_looked_around:
                return
            self._has_looked_around = True
        from importlib import metadata

        for entry in metadata.entry_points(group=ENTRY_POINTS):
            try:
                found = attrs.evolve(entry.load(), name=entry.name)
            except Exception:
                logger.warning('the kind of sandbox %r (%s) cannot be loaded', entry.name, entry.value, exc_info=True)
                continue
            with self._lock:
                self.registered.setdefault(entry.name, found)


KINDS = KindTable()


def register_kind(kind: SandboxKind) -> SandboxKind:
    """Register a kind, in the place of any that has its name, and return it.

    Raises:
        InvalidArgumentError: Its name is empty, or its class is no sandbox's.
    """
    from enclave.sandboxes.base import Sandbox

    if not isinstance(kind, SandboxKind) or not isinstance(kind.name, str) or not kind.name:
        raise InvalidArgumentError(f'a kind is a SandboxKind with a name, not {kind!r}')
    if not isinstance(kind.sandbox, str) and not (isinstance(kind.sandbox, type) and issubclass(kind.sandbox, Sandbox)):
        raise InvalidArgumentError(f'{kind.sandbox!r} must be a subclass of Sandbox')
    KINDS.register(kind)
    return kind


def find_kind(name: str) -> SandboxKind | None:
    """Return the kind of a name, or None."""
    return KINDS.find(name)


def get_kind(name: str) -> SandboxKind:
    """Return the kind of a name.

    Raises:
        NotRegisteredError: There is none.
    """
    found = KINDS.find(name)
    if found is None:
        known = [kind.name for kind in KINDS.all()]
        near = suggest(name, known)
        hint = f'did you mean {near!r}? ' if near else ''
        raise NotRegisteredError(f'sandbox type {quoted(name)} is not registered; {hint}known: {", ".join(known)}')
    return found


def describe_class(name: str, sandbox_class: type[Sandbox]) -> SandboxKind:
    """Return the descriptor for a class that comes with nothing else.

    One that derives from the class of a kind is as that kind is, but for its name and its place in the choice; options that its
    configuration adds have no rulings. Any other declares nothing; under the name of a kind it has that kind's place in the
    choice.
    """
    from enclave.sandboxes.base import Sandbox

    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f'a sandbox type is a SandboxType or a name, not {name!r}')
    if not isinstance(sandbox_class, type) or not issubclass(sandbox_class, Sandbox):
        raise InvalidArgumentError(f'{sandbox_class!r} must be a subclass of Sandbox')
    homes = {_home(kind.sandbox): kind for kind in KINDS.all(installed=False)}
    for base in sandbox_class.__mro__[1:]:
        parent = homes.get(_home(base))
        if parent is not None:
            same = parent.name == name
            return attrs.evolve(
                parent,
                name=str(name),
                sandbox=sandbox_class,
                config=None,
                notebook=parent.notebook if same else None,
                rank=parent.rank if same else None,
            )
    known = KINDS.find(name)
    if known is None:
        return SandboxKind(name=str(name), sandbox=sandbox_class)
    return attrs.evolve(known, sandbox=sandbox_class, config=None, rulings=None, public_facts=(), doctor=None)


def _home(value: Any) -> str:
    return value if isinstance(value, str) else f'{value.__module__}:{value.__qualname__}'
