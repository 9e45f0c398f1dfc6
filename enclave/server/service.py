"""What stands behind the routes (layer 6): an tenant for each key, each with a manager of its own, and what all share.

A key sees only its own sandboxes because it has its own manager: there is no table in which it could find another's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
from attrs import define, field, frozen

import enclave
from enclave import wire
from enclave.config import DEFAULT_OUTPUT_BYTES, SandboxConfig
from enclave.deadline import Deadline
from enclave.errors import (
    ConfigurationError,
    ConflictError,
    EnclaveError,
    ManagerStoppedError,
    PolicyError,
    UnsupportedError,
)
from enclave.managers.base import SandboxManager
from enclave.records import HealthCheckResult
from enclave.rulings import host_paths_in
from enclave.sandboxes.choice import choose_for, fit_for
from enclave.sandboxes.kinds import get_kind
from enclave.server.audit import Audit
from enclave.server.auth import ANONYMOUS, ApiKey, Authenticator, HostGuard
from enclave.server.cells import Cells
from enclave.server.idempotency import Repeats
from enclave.server.lanes import Lanes
from enclave.server.metrics import Metrics
from enclave.server.policy import Policy
from enclave.server.processes import Processes
from enclave.server.running import RunningCalls
from enclave.tools.budget import KEPT_OUTPUT_BYTES

logger = logging.getLogger(__name__)

_PATHS = 1000
"""How many paths of the host are remembered as a client called them."""
HEALTH_SECONDS = 1.0
"""How long an answer about health is good for others who ask."""


@define(eq=False)
class Tenant:
    """A key and what is its. Lives as long as the server."""

    name: str
    manager: SandboxManager
    processes: Processes
    cells: Cells
    max_sandboxes: int | None
    max_calls: int | None
    host_paths: dict[str, str] = field(factory=dict)  # as the policy resolved them: as they were asked for
    calls: RunningCalls = field(factory=RunningCalls, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    _creating: int = field(default=0, init=False)  # sandboxes being made for it; guarded by _lock

    @contextlib.contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Hold room for sandboxes to be made in the block.

        A manager that counts them itself refuses what is too much whichever way it comes; here that is said before any is made.

        Raises:
            PolicyError: The tenant has as many as it may.
        """
        if self.max_sandboxes is None:
            yield
            return
        with self._lock:
            if self.manager.config.max_sandboxes is not None:
                there, kept = self.manager.get_stats()['total_sandboxes'], 0
            else:
                there, kept = self._count_promised() + self._creating, count
            if there + count > self.max_sandboxes:
                raise PolicyError(
                    f"the server's policy refuses this: {self.name!r} may have {self.max_sandboxes} sandboxes at once and "
                    f'has {there}; delete some (rule max_sandboxes)',
                    details={'rule': 'max_sandboxes', 'max_sandboxes': self.max_sandboxes},
                )
            self._creating += kept
        try:
            yield
        finally:
            with self._lock:
                self._creating -= kept

    def _count_promised(self) -> int:
        """Return how many sandboxes there are, and may become by what pools do by themselves."""
        stats = self.manager.get_stats()
        pools = stats['pools'].values()
        others: int = stats['total_sandboxes'] - stats['status_counts'].get('initializing', 0)
        others -= sum(numbers['size'] for numbers in pools)
        promised: int = sum(max(numbers['size'], numbers['max_size']) for numbers in pools)
        return max(0, others) + promised

    def forget(self, sandbox_id: str) -> None:
        """End and forget what runs in a sandbox that is gone."""
        self.processes.drop(sandbox_id)
        self.cells.drop(sandbox_id)

    def forget_all(self) -> None:
        """End and forget what runs in all sandboxes."""
        self.processes.close()
        self.cells.close()


@frozen
class Asked:
    """What a client wants made, within the policy. ``why`` says why it is this kind, where that was chosen here."""

    kind: str
    config: SandboxConfig
    why: str | None = None

    def note(self, tenant: Tenant, ids: Iterable[str]) -> None:
        """Put into the metadata of what was made why it is of this kind."""
        for sandbox_id in ids if self.why else ():
            sandbox = tenant.manager.get_sandbox(sandbox_id)
            if sandbox is not None:
                sandbox.metadata['chosen_because'] = self.why


class Service:
    """All of a server but its socket. Lives from `SandboxServer`'s making to its `stop`; any thread may use it.

    Args:
        make_manager: Makes a manager for a tenant, given its name and how many sandboxes it may have.
        adapters: What each adapter is to know, by its name.
    """

    def __init__(
        self,
        make_manager: Callable[[str, int | None], SandboxManager],
        *,
        policy: Policy,
        authenticator: Authenticator,
        guard: HostGuard,
        audit: Audit,
        adapters: Mapping[str, Any] | None = None,
    ) -> None:
        self.adapters = dict(adapters or {})
        self.policy = policy
        self.authenticator = authenticator
        self.guard = guard
        self.audit = audit
        self.metrics = Metrics()
        keys = max(1, len(authenticator.keys))
        self.lanes = Lanes(
            calls=policy.max_concurrent_calls,
            streams=policy.max_streams,
            memory=policy.max_output_memory,
            keys=keys,
            waiting=policy.max_waiting,
        )
        # So that as many calls as may continue have room for it.
        each = policy.max_output_memory // (2 * policy.max_concurrent_calls)
        self.kept_output_bytes = min(max(each, DEFAULT_OUTPUT_BYTES), policy.max_output_bytes or KEPT_OUTPUT_BYTES)
        self.repeats = Repeats(count=policy.max_repeats, size=policy.max_repeat_bytes, keys=keys)
        self.started_at = time.monotonic()
        self._make_manager = make_manager
        self._changed = threading.Condition()  # guards all below
        self._tenants: dict[str, Tenant] = {}
        self._claims: dict[str, tuple[str, int]] = {}  # ids of sandboxes being made: whose, and by how many requests
        self._draining = False
        self._health: dict[str, tuple[float, HealthCheckResult]] = {}
        self._asking: set[str] = set()

    # Tenants -----------------------------------------------------------------------------------------------------------

    def tenant(self, key: ApiKey | None) -> Tenant:
        """Return the tenant of a key; None is the only one of a server without keys."""
        name = ANONYMOUS if key is None else key.name
        found = self._tenants.get(name)  # they are added, and never taken away
        if found is not None:
            return found
        with self._changed:
            found = self._tenants.get(name)
            if found is None:
                quota = self.policy.max_sandboxes
                if key is not None and key.max_sandboxes is not None:
                    quota = key.max_sandboxes
                calls = None if key is None else key.max_concurrent_calls
                found = self._tenants[name] = Tenant(
                    name,
                    self._make_manager(name, quota),
                    Processes(self.policy.max_processes),
                    Cells(self.policy.max_processes),
                    quota,
                    self.policy.max_calls_per_key if calls is None else calls,
                )
            return found

    def tenants(self) -> list[Tenant]:
        """Return all tenants that have come so far."""
        with self._changed:
            return list(self._tenants.values())

    # Making -----------------------------------------------------------------------------------------------------------

    def checked(self, tenant: Tenant, kind: str | None, options: Any) -> Asked:
        """Return the kind and the configuration a client asks for, within the policy, which also holds for the server's own.

        Args:
            options: What the client sent; None asks for the server's own configuration.

        Raises:
            NotRegisteredError, ConfigurationError: The kind or an option is wrong.
            PolicyError: The policy refuses it.
        """
        own = tenant.manager.config
        is_own = options is None
        if is_own:
            options = own.sandbox_config
        elif len(wire.to_json(options)) > self.policy.max_config_bytes:
            raise PolicyError(
                f"the server's policy refuses this: the options of a sandbox may have {self.policy.max_config_bytes} bytes "
                'as JSON (rule max_config_bytes)',
                details={'rule': 'max_config_bytes'},
            )
        why: str | None = None
        if kind is None and own.sandbox_type is not None:
            kind = fit_for(own.sandbox_type, options)
        elif kind is None:
            choice = choose_for(options)
            kind, why = str(choice.sandbox_type), choice.reason
        if not is_own:
            self.policy.check_options(kind, options)
        config = self._validated(kind, options, is_own=is_own)
        checked = self.policy.check_sandbox(
            kind,
            config,
            own_image=_own_option(own.sandbox_config, 'image'),
            own_platform=_own_option(own.sandbox_config, 'platform'),
        )
        if not is_own:
            self._note_paths(tenant, kind, config, checked)
        return Asked(kind, checked, why)

    @staticmethod
    def _validated(kind: str, options: Any, *, is_own: bool) -> SandboxConfig:
        config_class = get_kind(kind).config_class
        try:
            if isinstance(options, SandboxConfig) and not isinstance(options, config_class):
                options = options.non_default_options()
            found: SandboxConfig = config_class.model_validate(options)
        except ConfigurationError as error:
            if not is_own:
                raise
            logger.warning('the configuration of the server does not fit the kind %s: %s', kind, error)
            raise ConfigurationError(
                f"the server's own configuration does not fit the kind {kind!r}; send options with the request"
            ) from None
        return found

    @staticmethod
    def _note_paths(tenant: Tenant, kind: str, config: SandboxConfig, checked: SandboxConfig) -> None:
        """Remember how a client called the paths of the host that it may use, which is all it gets to see of them."""
        rulings = get_kind(kind).get_rulings()
        pairs = zip(
            host_paths_in(rulings, attrs.asdict(config, recurse=False)),
            host_paths_in(rulings, attrs.asdict(checked, recurse=False)),
            strict=True,
        )
        for (_, asked), (_, real) in pairs:
            tenant.host_paths[real] = asked
        while len(tenant.host_paths) > _PATHS:
            tenant.host_paths.pop(next(iter(tenant.host_paths)), None)

    @contextlib.contextmanager
    def naming(self, tenant: Tenant, sandbox_id: str | None) -> Iterator[None]:
        """Hold an id for a tenant while a sandbox is made under it in the block; backends name what they make after it.

        Raises:
            ConflictError: Another tenant has it, or is just making one.
        """
        if sandbox_id is None:
            yield
            return
        others = [each for each in self.tenants() if each is not tenant]
        with self._changed:
            holder, count = self._claims.get(sandbox_id, (tenant.name, 0))
            if holder != tenant.name:
                raise _taken(sandbox_id)
            self._claims[sandbox_id] = (holder, count + 1)
        try:
            # After the claim: who had it before has the sandbox in its table by now, or nothing.
            if any(each.manager.get_sandbox(sandbox_id) is not None for each in others):
                raise _taken(sandbox_id)
            yield
        finally:
            with self._changed:
                holder, count = self._claims[sandbox_id]
                if count > 1:
                    self._claims[sandbox_id] = (holder, count - 1)
                else:
                    del self._claims[sandbox_id]

    def verb(self, tenant: Tenant, sandbox_id: str, name: str) -> Callable[..., Any]:
        """Return a method of a sandbox.

        Raises:
            SandboxNotFoundError: The tenant has no such sandbox.
            UnsupportedError: This kind of sandbox has no such verb.
        """
        sandbox = tenant.manager._existing(sandbox_id)
        method = getattr(sandbox, name, None)
        if method is None:
            raise UnsupportedError(
                f'sandbox {sandbox_id}, a {type(sandbox).__name__}, has no {name}', details={'sandbox_id': sandbox_id}
            )
        found: Callable[..., Any] = method
        return found

    # Reply ------------------------------------------------------------------------------------------------------------

    def health(self, tenant: Tenant) -> HealthCheckResult:
        """Return how the tenant's manager is; asked once for all who want to know within a second."""
        with self._changed:
            self._changed.wait_for(lambda: tenant.name not in self._asking, timeout=10.0)
            known = self._health.get(tenant.name)
            if known is not None and time.monotonic() - known[0] < HEALTH_SECONDS:
                return known[1]
            self._asking.add(tenant.name)
        try:
            found = tenant.manager.health_check()
            if self._draining:
                found = found.model_copy(update={'healthy': False, 'details': {**found.details, 'draining': True}})
        finally:
            with self._changed:
                self._asking.discard(tenant.name)
                self._changed.notify_all()
        with self._changed:
            self._health[tenant.name] = (time.monotonic(), found)
        return found

    def metrics_text(self) -> str:
        """Return the numbers of everything, of all tenants together."""
        stats = [tenant.manager.get_stats() for tenant in self.tenants()]
        return self.metrics.text(stats, self.lanes.counts(), self.lanes.refused, enclave.__version__)

    # End --------------------------------------------------------------------------------------------------------------

    @property
    def is_draining(self) -> bool:
        """Whether new work is refused."""
        return self._draining

    def check_open(self) -> None:
        """Return if new work is taken.

        Raises:
            ManagerStoppedError: The server is stopping.
        """
        if self._draining:
            raise ManagerStoppedError('the server is stopping and takes no new work', details={'retry_after': 5})

    def drain(self, grace: float) -> None:
        """Refuse new work, and wait for what continues."""
        self._draining = True
        if not self.lanes.wait_empty(grace):
            logger.info('the server stops although calls continue: %s', self.lanes.counts())

    def stop(self, timeout: float | None) -> None:
        """Destroy everything, of all tenants at once. May be called twice."""
        self._draining = True
        deadline = Deadline.after(timeout)
        threads = []
        for tenant in self.tenants():
            tenant.forget_all()
            thread = threading.Thread(
                target=_stop, args=(tenant.manager,), name=f'enclave-stop-{tenant.manager.id}', daemon=True
            )
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join(deadline.remaining())
        self.audit.close()


def _taken(sandbox_id: str) -> ConflictError:
    return ConflictError(f'the sandbox id {sandbox_id!r} is taken; choose another')


def _own_option(config: Any, name: str) -> str | None:
    """Return an option of the server's own configuration."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _stop(manager: SandboxManager) -> None:
    try:
        manager.stop()
    except EnclaveError:
        logger.exception('a manager could not be stopped')
