"""What the adapter remembers of sandboxes while they live (layer 6): templates, logs, watches, what was attached to files.

All of it is bounded, and goes with its sandbox.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import datetime, timedelta
from typing import Any

from attrs import define, field, frozen

from enclave.enums import SandboxStatus
from enclave.errors import ConflictError, EnclaveError
from enclave.records import SandboxInfo, utc_now
from enclave.sandboxes.base import USABLE, Sandbox
from enclave.sandboxes.watching import Watch
from enclave.server.adapters.e2b.faults import NoSandboxError
from enclave.server.adapters.e2b.identity import Tokens
from enclave.server.adapters.e2b.metrics import Samples
from enclave.server.adapters.e2b.settings import E2BSettings
from enclave.server.auth import ANONYMOUS
from enclave.server.service import Service, Tenant

ENVD_VERSION = '0.6.7'
"""The version of E2B's daemon whose interface is answered; the SDK asks it what it may ask."""
DEBUG_ID = 'debug_sandbox_id'
"""What the SDK calls its one sandbox under ``E2B_DEBUG``, which it never creates."""
LOG_ENTRIES = 1000
FILE_CHARACTERS = 1 << 20
"""How much may be remembered of what was attached to the files of one sandbox; the oldest makes room."""
NAMES_SECONDS = 30.0


@frozen
class LogEntry:
    """One line of a sandbox's log: what this interface did in it."""

    at: datetime
    message: str
    fields: dict[str, str]


def _weight(attached: tuple[str, dict[str, str]]) -> int:
    path, attributes = attached
    return 200 + len(path) + sum(len(name) + len(text) + 100 for name, text in attributes.items())


@define(eq=False)
class SandboxState:
    """What is remembered of one sandbox. Any thread may use it."""

    tenant: str
    sandbox_id: str
    template: str = ''
    lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)  # guards all below
    log: deque[LogEntry] = field(factory=lambda: deque(maxlen=LOG_ENTRIES), init=False, repr=False)
    attributes: dict[str, dict[str, str]] = field(factory=dict, init=False, repr=False)  # by absolute path
    names: tuple[float, dict[int, str], dict[int, str]] | None = field(default=None, init=False, repr=False)
    watches: dict[str, tuple[Watch, bool]] = field(factory=dict, init=False, repr=False)
    contexts: dict[str, str] = field(factory=dict, init=False, repr=False)  # the directory of each kernel
    prepared: dict[str, datetime] = field(factory=dict, init=False, repr=False)  # which life of each kernel
    turns: dict[str, threading.Lock] = field(factory=dict, init=False, repr=False)  # by kernel
    resumes: bool = field(default=False, init=False)  # what reaches it while it is paused resumes it
    samples: Samples = field(factory=Samples, init=False, repr=False)

    def note(self, message: str, **fields: Any) -> None:
        """Add a line to the log."""
        entry = LogEntry(utc_now(), message, {name: str(value)[:1000] for name, value in fields.items()})
        with self.lock:
            self.log.append(entry)

    def attach(self, path: str, attributes: dict[str, str]) -> None:
        """Remember what was attached to a file, in the place of what was before."""
        with self.lock:
            self.attributes.pop(path, None)
            if attributes:
                self.attributes[path] = attributes
            size = sum(map(_weight, self.attributes.items()))
            while size > FILE_CHARACTERS:
                oldest = next(iter(self.attributes))
                size -= _weight((oldest, self.attributes.pop(oldest)))

    def attached(self, path: str) -> dict[str, str]:
        """Return what is attached to a file."""
        with self.lock:
            return dict(self.attributes.get(path, {}))

    def move(self, source: str, target: str | None) -> None:
        """Follow a file or a directory to where it is now; None is nowhere."""
        with self.lock:
            moved = {path for path in self.attributes if path == source or path.startswith(f'{source}/')}
            for path in moved:
                attributes = self.attributes.pop(path)
                if target is not None:
                    self.attributes[target + path[len(source) :]] = attributes

    def turn(self, kernel: str) -> threading.Lock:
        """Return what is held by the one whose cells run in a kernel."""
        with self.lock:
            return self.turns.setdefault(kernel, threading.Lock())

    def close(self) -> None:
        """Let go of what is held for it."""
        with self.lock:
            watches, self.watches = dict(self.watches), {}
        for watch, _ in watches.values():
            watch.close()
        self.samples.close()


class State:
    """What the adapter remembers of a server. Lives as long as its service; any thread may use it."""

    def __init__(self, service: Service, settings: E2BSettings) -> None:
        self.settings = settings
        self.tokens = Tokens(service.authenticator)
        self._service = service
        self._lock = threading.Lock()  # guards the table
        self._table: dict[tuple[str, str], SandboxState] = {}
        self._making_debug = threading.Lock()  # held by the one that makes the one sandbox of E2B_DEBUG

    def of(self, tenant: Tenant, sandbox_id: str, template: str = '') -> SandboxState:
        """Return what is remembered of a sandbox."""
        with self._lock:
            found = self._table.get((tenant.name, sandbox_id))
            if found is None:
                found = self._table[tenant.name, sandbox_id] = SandboxState(tenant.name, sandbox_id)
                if template:
                    found.template = template
                self._forget_locked()
        return found

    def _forget_locked(self) -> None:
        """Forget sandboxes that are gone."""
        tenants = {tenant.name: tenant for tenant in self._service.tenants()}
        gone = [
            name
            for name in self._table
            if name[0] not in tenants or tenants[name[0]].manager.get_sandbox(name[1]) is None
        ]
        for name in gone:
            self._table.pop(name).close()

    def template(self, tenant: Tenant, sandbox_id: str) -> str:
        """Return the template that a sandbox was made from here; '' for one that was made otherwise."""
        with self._lock:
            found = self._table.get((tenant.name, sandbox_id))
        return '' if found is None else found.template

    def forget(self, tenant: Tenant, sandbox_id: str) -> None:
        """Forget a sandbox that was removed."""
        with self._lock:
            found = self._table.pop((tenant.name, sandbox_id), None)
        if found is not None:
            found.close()

    def sandbox(self, tenant: Tenant, sandbox_id: str) -> Sandbox:
        """Return a sandbox that runs.

        Raises:
            NoSandboxError: There is none of this id, or it runs no more.
        """
        found = tenant.manager.get_sandbox(sandbox_id)
        if found is None:
            raise NoSandboxError(sandbox_id, 'it was never made here, or it was removed')
        status = found.status
        if status is SandboxStatus.PAUSED and self.of(tenant, sandbox_id).resumes:
            tenant.manager.resume_sandbox(sandbox_id)
            status = found.status
        if status not in USABLE:
            hint = '; connect to it to resume it' if status is SandboxStatus.PAUSED else ''
            raise NoSandboxError(sandbox_id, f'it is {status}{hint}')
        return found

    def known(self) -> dict[str, list[str]]:
        """Return the ids of all sandboxes whose token was given out, by tenant."""
        found: dict[str, list[str]] = {}
        with self._lock:
            for tenant, sandbox_id in self._table:
                found.setdefault(tenant, []).append(sandbox_id)
        return found

    def count_watches(self, tenant: Tenant) -> int:
        """Return how many directories are watched for a tenant, by turns."""
        with self._lock:
            return sum(len(each.watches) for (name, _), each in self._table.items() if name == tenant.name)

    def token(self, tenant: Tenant, sandbox_id: str) -> str:
        """Return the access token of a sandbox, whose signatures are known from then on."""
        self.of(tenant, sandbox_id)
        return self.tokens.make(tenant.name, sandbox_id)

    def debug_sandbox(self, make: Any) -> str:
        """Return the id of the sandbox of ``E2B_DEBUG``, which is made when it is first asked for, and after it has ended."""
        tenant = self._service.tenant(None)
        with self._making_debug:
            found = tenant.manager.get_sandbox(DEBUG_ID)
            if found is not None and found.status in USABLE:
                return DEBUG_ID
            if found is not None:
                try:
                    tenant.manager.delete_sandbox(DEBUG_ID)
                except EnclaveError as error:
                    raise ConflictError(f'the last debug sandbox cannot be removed: {error.message}') from error
            make(tenant)
        return DEBUG_ID


def expiry(info: SandboxInfo) -> datetime:
    """Return when a sandbox will be removed; one that is not has a hundred years, since the interface knows no never."""
    text = info.metadata.get('expires_at')
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return (info.started_at or info.created_at) + timedelta(days=36500)


__all__ = ['ANONYMOUS', 'DEBUG_ID', 'ENVD_VERSION', 'SandboxState', 'State', 'expiry']
