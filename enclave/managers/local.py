"""The manager of sandboxes on this machine (layer 5): every verb said once, over the table that owns the sandboxes."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import enclave
from enclave.cancellation import is_cancelled, on_cancel
from enclave.config import SandboxConfig
from enclave.deadline import Deadline, check_timeout
from enclave.enums import SandboxManagerType, SandboxStatus, SandboxType
from enclave.errors import (
    CallCancelledError,
    InvalidArgumentError,
    PoolError,
)
from enclave.labels import check_labels, has_labels
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.base import NO_POOL, Config, SandboxManager, check_on_expiry, check_pool_name
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.options import Lifetime
from enclave.managers.pool import SETTLE_SECONDS, TRUSTED_SECONDS, Pool
from enclave.managers.table import PoolSupply, Record, SandboxTable, try_all
from enclave.quoting import quoted
from enclave.records import HealthCheckResult, SandboxInfo
from enclave.sandboxes.base import Sandbox
from enclave.sandboxes.verbs import FullSandbox
from enclave.threads import wait_for

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from enclave.managers.options import ManagerOptions

logger = logging.getLogger(__name__)

HEALTH_SECONDS = 5.0
"""How long a backend may take to answer before it counts as ill."""


class LocalSandboxManager(SandboxManager):
    """Many sandboxes with one owner, in this process; see `SandboxManager` for its verbs and `SandboxManagerConfig`."""

    manager_type: ClassVar[SandboxManagerType] = SandboxManagerType.LOCAL
    _table_class: ClassVar[type[SandboxTable]] = SandboxTable

    def __init__(
        self, config: SandboxManagerConfig | Mapping[str, Any] | None = None, **options: Unpack[ManagerOptions]
    ) -> None:
        """Check the configuration; see `SandboxManager`."""
        super().__init__(config, **options)
        self._table = self._table_class(self.id, self.config, calls=self._calls, control=self._control)
        self._pools_changed = threading.Condition()  # guards the three below
        self._templates: dict[str, PoolSupply] = {}  # by the names of pools that are there or being made
        self._making: set[str | None] = set()
        self._is_watched = False

    # Life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; does nothing the second time. The first verb that needs it does it too.

        Raises:
            ManagerStoppedError: It was stopped already.
        """
        self._table.start()
        with self._pools_changed:
            if not self._is_watched:
                self._is_watched = True
                self._watch(self._table.stop)

    def stop(self) -> None:
        """End: refuse new work, wake all who wait, let running calls continue for ``stop_grace``, then take everything away.

        May be called twice, at any stage, from any thread, in a signal handler and while the interpreter exits. Takes at most
        ``stop_timeout``. A sandbox that could not be taken away is reported in the log and stays in `list_sandboxes`; calling
        again tries again. Sandboxes with ``remove_on_exit=False`` are stopped and kept.
        """
        self._table.stop()
        if self._table.state == 'stopped':
            self._unwatch()

    # Sandboxes --------------------------------------------------------------------------------------------------------

    def create_sandbox(
        self,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        sandbox_id: str | None = None,
        *,
        ttl: Lifetime = 'default',
        idle_timeout: Lifetime = 'default',
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Make and start a sandbox, and return its id; see `SandboxManager.create_sandbox`."""
        self._table.check_open()
        ttl = self._lifetime('ttl', ttl)
        idle_timeout = self._lifetime('idle_timeout', idle_timeout)
        kind, facts = self._table.find_kind(sandbox_type, config)
        given = check_labels(labels)
        sandbox = self._table.make(kind, config, sandbox_id)
        sandbox.labels = given
        sandbox.metadata.update(facts)
        self.start()
        record = self._table.begin(sandbox, kind=kind, ttl=ttl, idle_timeout=idle_timeout)
        return self._table.finish(record).id

    def _lifetime(self, name: str, value: Lifetime) -> float | None:
        """Return a lifetime in seconds or None for never, within what the configuration allows."""
        cap: float | None = getattr(self.config, f'max_{name}')
        if value == 'default':
            default: float | None = getattr(self.config, name)
            return cap if default is None else default
        seconds = check_timeout(value, name)
        if cap is not None and (seconds is None or seconds > cap):
            asked = 'never' if seconds is None else f'{seconds:g} s'
            raise InvalidArgumentError(f'{name} must be at most {cap:g} s (max_{name} of the manager), not {asked}')
        return seconds

    def get_sandbox(self, sandbox_id: str) -> FullSandbox | None:
        """Return the sandbox of an id, or None if there is none. What is called on it directly counts as use of it."""
        record = self._table.find(sandbox_id)
        return None if record is None else cast(FullSandbox, record.sandbox)  # a user's own kind may have less

    def get_sandbox_info(self, sandbox_id: str) -> SandboxInfo:
        """Return what can be said of a sandbox; see `SandboxManager.get_sandbox_info`."""
        return self._table.describe(self._table.get(sandbox_id))

    def list_sandboxes(
        self, status_filter: SandboxStatus | str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[SandboxInfo]:
        """Return what can be said of all sandboxes, oldest first; see `SandboxManager.list_sandboxes`."""
        status = None
        if status_filter is not None:
            try:
                status = SandboxStatus(status_filter)
            except ValueError:
                known = ', '.join(repr(str(each)) for each in SandboxStatus)
                raise InvalidArgumentError(
                    f'status_filter must be one of {known}, not {quoted(status_filter)}'
                ) from None
        wanted = check_labels(labels)
        records = [each for each in self._table.records() if has_labels(each.sandbox.labels, wanted)]
        infos = [self._table.describe(record) for record in records]
        return [info for info in infos if status is None or info.status is status]

    def stop_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox, which stays in the list as ``stopped``; see `SandboxManager.stop_sandbox`."""
        self._table.halt(self._table.get(sandbox_id))
        return True

    def delete_sandbox(self, sandbox_id: str) -> bool:
        """Take a sandbox away and forget it; see `SandboxManager.delete_sandbox`."""
        ending = self._table.end(self._table.get(sandbox_id))
        if not wait_for(ending):
            raise CallCancelledError(f'waiting for the removal of sandbox {sandbox_id} was cancelled; it continues')
        ending.result()
        return True

    def cleanup_all_sandboxes(self) -> list[str]:
        """Delete all sandboxes and dissolve the pools; see `SandboxManager.cleanup_all_sandboxes`."""
        self._table.check_open()
        self._table.remove_pools(PoolError('the pool was dissolved by cleanup_all_sandboxes'))
        with self._pools_changed:
            self._templates = {name: each for name, each in self._templates.items() if name in self._making}
        records = self._table.records()
        try_all([self._table.end(record) for record in records])
        return [record.id for record in records]

    def pause_sandbox(self, sandbox_id: str, *, ttl: Lifetime = 'default') -> datetime | None:
        """Keep all that is in a sandbox from running; see `SandboxManager.pause_sandbox`."""
        seconds = None if ttl == 'default' else self._lifetime('ttl', ttl)
        record = self._table.get(sandbox_id)
        self._table.pause(record)
        return record.expires_at if ttl == 'default' else self._table.set_ttl(record, seconds)

    def resume_sandbox(self, sandbox_id: str) -> datetime | None:
        """Let a paused sandbox continue; see `SandboxManager.resume_sandbox`."""
        record = self._table.get(sandbox_id)
        self._table.resume(record)
        return record.expires_at

    def renew(
        self, sandbox_id: str, ttl: Lifetime = 'default', *, on_expiry: Literal['remove', 'pause'] | None = None
    ) -> datetime | None:
        """Let a sandbox live ``ttl`` seconds from now, and return that moment; see `SandboxManager.renew`."""
        pauses = check_on_expiry(on_expiry)
        record = self._table.get(sandbox_id)
        seconds = record.ttl if ttl == 'default' else self._lifetime('ttl', ttl)
        return self._table.set_ttl(record, seconds, pauses=pauses)

    def _using(self, sandbox_id: str) -> AbstractContextManager[Sandbox]:
        return self._table.use(sandbox_id)

    # Pools ------------------------------------------------------------------------------------------------------------

    def initialize_pool(
        self,
        pool_size: int | None = None,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        *,
        name: str | None = None,
    ) -> list[str]:
        """Make a pool of warm sandboxes and return their ids; see `SandboxManager.initialize_pool`."""
        self._table.check_open()
        size = self.config.pool_size if pool_size is None else pool_size
        check_pool_name(name)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise PoolError(
                f'pool_size must be a whole number, at least 1, not {quoted(size)}; '
                'give it to initialize_pool or in the configuration of the manager'
            )
        template = PoolSupply(self._table, sandbox_type, config)
        self.start()
        with self._making_pool(template, name) as (template, pool_name):
            pool = self._table.pools().get(pool_name)
            is_new = pool is None
            if pool is None:
                pool = self._new_pool(pool_name, template, size)
            records = self._start_all(pool, template, size - pool.min_size)
            if is_new:
                self._table.add_pool(pool)
            for record in records:
                pool.join(record.sandbox)
            pool.resize(size, self.config.max_size_for(size))
            self._table.look_after_pools()
            return pool.sandbox_ids

    @contextlib.contextmanager
    def _making_pool(self, template: PoolSupply, name: str | None) -> Iterator[tuple[PoolSupply, str]]:
        """Be the only one who makes or resizes a pool, for the block; gives its template and name."""
        with self._pools_changed, on_cancel(self._wake_makers):
            self._pools_changed.wait_for(lambda: is_cancelled() or self._find_pool(template, name) not in self._making)
            if is_cancelled():
                raise CallCancelledError('the making of a pool was cancelled')
            known = self._find_pool(template, name)
            chosen = (
                known or name or ('default' if not self._templates else f'{template.kind}-{len(self._templates) + 1}')
            )
            template = self._templates.setdefault(chosen, template)
            self._making.add(chosen)
        try:
            yield template, chosen
        finally:
            with self._pools_changed:
                self._making.discard(chosen)
                if chosen not in self._table.pools():
                    self._templates.pop(chosen, None)
                self._pools_changed.notify_all()

    def _wake_makers(self) -> None:
        with self._pools_changed:
            self._pools_changed.notify_all()

    def _find_pool(self, template: PoolSupply, name: str | None) -> str | None:
        """Return the name of the pool that is meant, if it exists or is being made."""
        for dissolved in set(self._templates) - set(self._table.pools()) - self._making:
            del self._templates[dissolved]
        for known, its in self._templates.items():
            same = its.kind == template.kind and its.config == template.config
            if name == known and not same:
                raise PoolError(
                    f'the pool {quoted(name)} has another kind or configuration; choose another name',
                    details={'pool': name},
                )
            if same and name in (None, known):
                return known
        return None

    def _new_pool(self, name: str, template: PoolSupply, size: int) -> Pool:
        keeps = self.config.pool_clean == 'nothing'
        return Pool(
            name,
            template,
            min_size=0,  # until it has them
            max_size=self.config.max_size_for(size),
            policy=self.config.pool_policy,
            clean=None if keeps else lambda sandbox: sandbox._begin_clean(),
            # What runs on in a sandbox may take all the room for processes at any moment.
            trusted_seconds=0.0 if keeps else TRUSTED_SECONDS,
            when_empty=self.config.pool_when_empty,
            idle_timeout=self.config.pool_idle_timeout,
        )

    def _start_all(self, pool: Pool, template: PoolSupply, count: int) -> list[Record]:
        """Start so many sandboxes in parallel, and if one cannot be started take all away again and say why."""
        records: list[Record] = []
        try:
            for _ in range(count):
                records.append(template.create(pool))
            for record in records:
                self._table.finish(record)
        except BaseException as error:
            endings = [self._table.end(record) for record in records]
            if isinstance(error, Exception) and not isinstance(error, CallCancelledError):
                for ending in endings:
                    wait_for(ending)
            raise
        return records

    @property
    def _pool_initialized(self) -> bool:
        return bool(self._table.pools())

    def acquire_sandbox(
        self, timeout: float | None = None, *, pool: str | None = None, ttl: float | None = None
    ) -> str:
        """Lease a sandbox of a pool and return its id; see `SandboxManager.acquire_sandbox`."""
        deadline = Deadline.after(timeout)
        seconds = check_timeout(ttl, 'ttl')
        self._table.check_open()
        pools = self._table.pools()
        if not pools:
            raise PoolError(NO_POOL)
        chosen = next(iter(pools.values())) if pool is None else pools.get(pool)
        if chosen is None:
            raise PoolError(
                f'there is no pool {quoted(pool)}; there are: {", ".join(pools)}', details={'pool': str(pool)}
            )
        sandbox = chosen.acquire(deadline)
        try:
            record = self._table.take(sandbox.id, leases=True)
        except BaseException:
            self._give_back(chosen, sandbox.id)
            raise
        if seconds is not None:
            self._table.set_ttl(record, seconds)
        return sandbox.id

    def release_sandbox(self, sandbox_id: str) -> None:
        """Give a leased sandbox back; see `SandboxManager.release_sandbox`."""
        record = self._table.find(sandbox_id)
        if record is None or record.pool is None:
            if self._table.state == 'running' and record is not None:
                raise PoolError(f'sandbox {sandbox_id} is not of a pool', details={'sandbox_id': sandbox_id})
            return
        self._table.end_lease(record)
        self._give_back(record.pool, sandbox_id)

    def _give_back(self, pool: Pool, sandbox_id: str) -> None:
        pool.release(sandbox_id)
        self._table.tend_by(time.monotonic() + SETTLE_SECONDS)

    def _find_pool_config(self, pool: str | None) -> SandboxConfig | None:
        name = next(iter(self._table.pools()), None) if pool is None else pool
        template = None if name is None else self._templates.get(name)
        return None if template is None else template.config

    # Reply ------------------------------------------------------------------------------------------------------------

    def _run_in_batch(self, request: CodeRequest, timeout: float | None, pool: str | None) -> CodeResult:
        with self.lease(timeout, pool=pool) as sandbox:
            return sandbox._run_in_batch(request)

    def get_stats(self) -> dict[str, Any]:
        """Return numbers about the manager; see `SandboxManager.get_stats` for their shape."""
        records = self._table.records()
        pools = {name: pool.stats() for name, pool in self._table.pools().items()}
        return {
            'manager_type': str(self.manager_type),
            'manager_id': self.id,
            'running': self._table.state == 'running',
            'total_sandboxes': len(records),
            'status_counts': dict(collections.Counter(str(record.sandbox.status) for record in records)),
            'sandbox_types': dict(collections.Counter(record.kind for record in records)),
            'active_calls': self._table.active_calls,
            'cleanup_interval': self.config.cleanup_interval,
            'pool_size': sum(numbers['size'] for numbers in pools.values()),
            'pools': pools,
        }

    def health_check(self) -> HealthCheckResult:
        """Return whether the manager takes work and its backends answer; see `SandboxManager.health_check`."""
        running = self._table.state in ('new', 'running')
        backends = self._table.check_backends(HEALTH_SECONDS) if running else {}
        return HealthCheckResult(
            healthy=running and all(answer == 'ok' for answer in backends.values()),
            version=enclave.__version__,
            details={'running': running, 'sandboxes': len(self._table.records()), 'backends': backends},
        )
