"""Where the client commands work (layer 6): the engine of this machine, or a server.

Locally a sandbox lives and dies with the process that made it, so the sandboxes that other processes own are reached through
the engine: listed by their labels, stopped and removed as containers, used by an agent of our own (`attach_sandbox`).
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from enclave.cli.output import progress, visible
from enclave.errors import InvalidArgumentError, SandboxNotFoundError
from enclave.records import SandboxInfo, Usage

if TYPE_CHECKING:
    from enclave.managers.base import SandboxManager
    from enclave.sandboxes.choice import Choice
    from enclave.sandboxes.kinds import Inventory, SandboxKind

P = TypeVar('P', bound='Place')

REMOTE_IDLE_SECONDS = 600.0
"""How long a server keeps a sandbox of this library that nothing runs in: our process may die without a word."""


class Place(ABC):
    """Sandboxes, by the verbs of the command line. Use it in a ``with`` block.

    The sandboxes that `open` and `attach` give are used by the verbs of `enclave.sandboxes.agent_backed`; a remote one has the
    same. Their type is left open for that.
    """

    is_remote: bool

    @abstractmethod
    def open(
        self, sandbox_type: str | None, config: Mapping[str, Any], *, quiet: bool = False
    ) -> contextlib.AbstractContextManager[Any]:
        """Return a fresh sandbox for a ``with`` block, after which it is gone. ``quiet`` reports no pull and no choice.

        Without a kind, the place chooses one.
        """

    @abstractmethod
    def attach(self, sandbox_id: str) -> contextlib.AbstractContextManager[Any]:
        """Return a running sandbox for a ``with`` block, after which it continues."""

    @abstractmethod
    def list_sandboxes(self) -> list[SandboxInfo]:
        """Return all sandboxes, oldest first."""

    @abstractmethod
    def get_info(self, sandbox_id: str) -> SandboxInfo:
        """Return what is known of a sandbox."""

    @abstractmethod
    def stop(self, sandbox_id: str) -> None:
        """Stop a sandbox."""

    @abstractmethod
    def pause(self, sandbox_id: str) -> None:
        """Pause a sandbox."""

    @abstractmethod
    def resume(self, sandbox_id: str) -> None:
        """Resume a sandbox."""

    @abstractmethod
    def remove(self, sandbox_id: str) -> None:
        """Take a sandbox away."""

    def find_id(self, start: str) -> str:
        """Return the id of the one sandbox whose id is, or begins with, ``start``.

        Raises:
            SandboxNotFoundError: There is none.
            InvalidArgumentError: There are several.
        """
        ids = [info.id for info in self.list_sandboxes()]
        if start in ids:
            return start
        found = [each for each in ids if start and each.startswith(start)]
        if len(found) > 1:
            raise InvalidArgumentError(f'{start!r} begins the ids of {len(found)} sandboxes: {", ".join(found)}')
        if not found:
            raise SandboxNotFoundError(
                f'no sandbox {start!r} is {self.where}; `ms-enclave ps` lists those that are{self.unseen}'
            )
        return found[0]

    def longest_timeout(self) -> float:
        """Return the longest time limit that a call may have here, in seconds; 0 is no limit, as everywhere."""
        return 0.0

    @property
    @abstractmethod
    def where(self) -> str:
        """The place as a text that fits after "is"."""

    @property
    def unseen(self) -> str:
        """What a message adds of sandboxes that are not seen from here; nothing where all are."""
        return ''

    def close(self) -> None:  # noqa: B027 - the engine's client is the process's
        """Let go of what was opened."""

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def choose_kind(config: Mapping[str, Any], *, quiet: bool, notebook: bool = False) -> Choice:
    """Return the kind of sandbox to make on this machine; one that is not the usual is reported with the reason, unless
    ``quiet``."""
    from enclave.sandboxes.choice import choose_for, default_type, notebook_type

    choice = choose_for(config, notebook=notebook)
    if choice.sandbox_type not in (default_type(), notebook_type(default_type())) and not quiet:
        click.echo(
            f'ms-enclave: a {choice.sandbox_type} sandbox, since {visible(choice.brief or choice.reason)}', err=True
        )
    return choice


def fetch_missing(kind: SandboxKind, config: Mapping[str, Any], *, quiet: bool) -> None:
    """Fetch or build what is missing on this machine to make a sandbox, with progress shown."""
    missing = kind.look_for_missing(config)
    if missing is not None:
        with progress(missing.title, quiet=quiet) as report:
            missing.get(report)


def report_kind(sandbox: Any) -> dict[str, Any]:
    """Return what a record says of a sandbox's kind; ``chosen_because`` is None where the kind was named."""
    return {'sandbox_type': str(sandbox.sandbox_type), 'chosen_because': sandbox.metadata.get('chosen_because')}


class LocalPlace(Place):
    """This machine, and its engine."""

    is_remote = False

    @property
    def where(self) -> str:
        """The engine's address."""
        return ' and '.join(inventory.where for inventory in self._inventories())

    @property
    def unseen(self) -> str:
        """The kinds whose sandboxes are only their maker's."""
        from enclave.sandboxes.kinds import KINDS

        names = ', '.join(kind.name for kind in KINDS.all() if kind.inventory is None)
        return f'. Those of other kinds ({names}) can only be reached by the program that made them' if names else ''

    @staticmethod
    def _inventories() -> list[Inventory]:
        from enclave.sandboxes.kinds import KINDS, load

        # Kinds of one backend have one together.
        return [load(each)() for each in dict.fromkeys(kind.inventory for kind in KINDS.all()) if each is not None]

    def _inventory_of(self, sandbox_id: str) -> Inventory:
        """Return the inventory that has a sandbox; of several that do not, the first, which says so."""
        inventories = self._inventories()
        if len(inventories) > 1:
            for each in inventories:
                if any(info.id == sandbox_id for info in each.list()):
                    return each
        return inventories[0]

    @contextlib.contextmanager
    def open(self, sandbox_type: str | None, config: Mapping[str, Any], *, quiet: bool = False) -> Iterator[Any]:
        """See `Place.open`; what is missing on this machine is fetched first, with progress shown."""
        from enclave.sandboxes.kinds import get_kind
        from enclave.sandboxes.sandbox_factory import SandboxFactory

        choice = None
        if not sandbox_type:
            choice = choose_kind(config, quiet=quiet)
            sandbox_type = str(choice.sandbox_type)
        sandbox = SandboxFactory.create_sandbox(sandbox_type, config)
        if choice is not None:
            sandbox.metadata.update(choice.facts)
        fetch_missing(get_kind(sandbox_type), config, quiet=quiet)
        sandbox.start()
        try:
            yield sandbox
        finally:
            sandbox.stop()

    def attach(self, sandbox_id: str) -> contextlib.AbstractContextManager[Any]:
        """See `Place.attach`."""
        found = self.find_id(sandbox_id)
        return self._inventory_of(found).attach(found)

    def list_sandboxes(self) -> list[SandboxInfo]:
        """See `Place.list_sandboxes`; the sandboxes of all processes."""
        return [info for inventory in self._inventories() for info in inventory.list()]

    def measure(self) -> tuple[list[SandboxInfo], list[Usage]]:
        """Return the sandboxes of all processes, and what the running ones use."""
        pairs = [(inventory, inventory.list()) for inventory in self._inventories()]
        return (
            [info for _, infos in pairs for info in infos],
            [usage for inventory, infos in pairs for usage in inventory.measure(infos)],
        )

    def get_info(self, sandbox_id: str) -> SandboxInfo:
        """See `Place.get_info`."""
        found = self.find_id(sandbox_id)
        return self._inventory_of(found).describe(found)

    def stop(self, sandbox_id: str) -> None:
        """See `Place.stop`."""
        self._inventory_of(sandbox_id).stop(sandbox_id)

    def pause(self, sandbox_id: str) -> None:
        """See `Place.pause`."""
        self._inventory_of(sandbox_id).pause(sandbox_id)

    def resume(self, sandbox_id: str) -> None:
        """See `Place.resume`."""
        self._inventory_of(sandbox_id).resume(sandbox_id)

    def remove(self, sandbox_id: str) -> None:
        """See `Place.remove`."""
        self._inventory_of(sandbox_id).remove(sandbox_id)


RAY_SCHEME = 'ray:'
"""What the address of the shards on a Ray cluster begins with; their name follows."""


class RemotePlace(Place):
    """A server, or the shards of a name on the Ray cluster that this machine is of."""

    is_remote = True

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url
        self._api_key = api_key
        self._manager: SandboxManager | None = None

    @property
    def manager(self) -> SandboxManager:
        """The manager that speaks to the server, or to the shards."""
        if self._manager is None and self.url.startswith(RAY_SCHEME):
            from enclave.ray.manager import RaySandboxManager

            name = self.url.removeprefix(RAY_SCHEME)
            found = RaySandboxManager(name=name, attach=True, address='auto', capacity_timeout=60.0)
            found.start()
            self._manager = found
        if self._manager is None:
            from enclave.managers.http import HttpSandboxManager
            from enclave.managers.keyfile import with_scheme

            self._manager = HttpSandboxManager(base_url=with_scheme(self.url), api_key=self._api_key)
        return self._manager

    @property
    def where(self) -> str:
        """The server's address."""
        if self.url.startswith(RAY_SCHEME):
            return f'on the shards {self.url.removeprefix(RAY_SCHEME)!r} of the Ray cluster'
        return f'on the server at {self.url}'

    def open(
        self, sandbox_type: str | None, config: Mapping[str, Any], *, quiet: bool = False
    ) -> contextlib.AbstractContextManager[Any]:
        """See `Place.open`."""
        # Without options the server's own defaults apply.
        return self.manager.open(sandbox_type, config or None, idle_timeout=REMOTE_IDLE_SECONDS)

    @contextlib.contextmanager
    def attach(self, sandbox_id: str) -> Iterator[Any]:
        """See `Place.attach`."""
        found = self.find_id(sandbox_id)
        sandbox = self.manager.get_sandbox(found)
        if sandbox is None:
            raise SandboxNotFoundError(f'sandbox {found!r} is gone from the server at {self.url}')
        yield sandbox

    def list_sandboxes(self) -> list[SandboxInfo]:
        """See `Place.list_sandboxes`; those that the key may see."""
        return self.manager.list_sandboxes()

    def get_info(self, sandbox_id: str) -> SandboxInfo:
        """See `Place.get_info`."""
        return self.manager.get_sandbox_info(self.find_id(sandbox_id))

    def stop(self, sandbox_id: str) -> None:
        """See `Place.stop`."""
        self.manager.stop_sandbox(sandbox_id)

    def pause(self, sandbox_id: str) -> None:
        """See `Place.pause`."""
        self.manager.pause_sandbox(sandbox_id)

    def resume(self, sandbox_id: str) -> None:
        """See `Place.resume`."""
        self.manager.resume_sandbox(sandbox_id)

    def remove(self, sandbox_id: str) -> None:
        """See `Place.remove`."""
        self.manager.delete_sandbox(sandbox_id)

    def longest_timeout(self) -> float:
        """See `Place.longest_timeout`; the server's policy says it."""
        find_limits = getattr(self.manager, 'get_limits', None)  # shards have none
        seconds = None if find_limits is None else find_limits().get('max_timeout')
        return float(seconds) if isinstance(seconds, (int, float)) else 0.0

    def close(self) -> None:
        """Close the connections to the server."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.stop()
