"""The manager of sandboxes on a Ray cluster (layer 6): every verb of `LocalSandboxManager`, on whichever shard it concerns.

A sandbox's id ends with the id of its shard, so any manager of the cluster finds it without a table. A name of the caller's own
does not; where it is, is asked of the shards once.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import attrs

import enclave
from enclave.deadline import Deadline, check_timeout
from enclave.enums import SandboxManagerType, SandboxStatus, SandboxType
from enclave.errors import (
    ConflictError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    PolicyError,
    PoolError,
    PoolExhaustedError,
    SandboxGoneError,
    SandboxNotFoundError,
    ServerUnavailableError,
)
from enclave.labels import check_labels
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.base import Config, SandboxManager, check_pool_name
from enclave.managers.http import kind_to_send, options_to_send
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.options import Lifetime
from enclave.managers.remote import as_parameters
from enclave.parallel import MOST_AT_ONCE, Outcomes
from enclave.ray import cluster
from enclave.ray.batches import ShardedBatch
from enclave.ray.claims import SIGN_SECONDS, PoolClaims
from enclave.ray.pools import ShardedPool, ShardedPools
from enclave.ray.ray_options import RayOptions
from enclave.ray.shard import FULL
from enclave.ray.shards import ShardRecord, Shards, end_all
from enclave.ray.transport import ShardClient
from enclave.records import HealthCheckResult, SandboxInfo, ToolResult
from enclave.sandboxes.base import check_sandbox_id
from enclave.sandboxes.verbs import FullSandbox
from enclave.threads import Workers, thread_pool, wait_for
from enclave.tools.budget import check_max_chars

if TYPE_CHECKING:
    from enclave.managers.options import ManagerOptions

logger = logging.getLogger(__name__)

T = TypeVar('T')

ASKED_AT_ONCE = 64
"""How many shards are asked at once of what concerns them all."""
REMEMBERED_IDS = 10_000
"""Of how many sandboxes it is remembered that their ids say truly which shard has them."""
_OPTIONS = frozenset(attrs.fields_dict(RayOptions))
_GONE = (SandboxGoneError, ServerUnavailableError, ManagerStoppedError)
"""What a call on a shard raises that is no more, or is just ending."""


class RaySandboxManager(SandboxManager):
    """Sandboxes on the nodes of a Ray cluster; see `SandboxManager` for the verbs. Any thread may use it, many at once.

    Its *shards* are actors of Ray, which hold resources of a node and own up to ``shard_size`` sandboxes there. More are made
    when all are full, and given back when they are empty. `stop` ends them with all that is in them, and so does the end of
    this program, unless they are detached. What ran on a shard that is lost raises `SandboxGoneError`; nothing is run twice.
    """

    manager_type: ClassVar[SandboxManagerType] = SandboxManagerType.RAY
    _starts_early: ClassVar[bool] = True  # there are `min_shards` to make, and others who look for them

    def __init__(self, config: SandboxManagerConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        """Check the configuration; nothing is asked of Ray yet.

        Args:
            config: A configuration of the manager, a dict of its options, or None for the defaults.
            options: Options of `SandboxManagerConfig`, and those of `enclave.ray.ray_options.RayOptions`, above all
                ``shard_size``, ``num_cpus``, ``memory``, ``strategy``, ``name`` and ``lifetime``.

        Raises:
            ConfigurationError: An option is wrong; the message names it.
            UnsupportedError: Ray is not installed.
        """
        own = {name: options.pop(name) for name in list(options) if name in _OPTIONS}
        super().__init__(config, **_as_manager_options(options))
        self.options = RayOptions(**own)
        cluster.load_ray()
        self._shards = Shards(
            self.id,
            self.config,
            self.options,
            # A manager that nobody refers to any more can so be found out, although a thread looks after its shards.
            on_report=_weakly(self._take_report),
            on_lost=_weakly(self._replace_lost),
            on_tend=_weakly(self._tend_pools),
            cancel_later=_cancels(self._control),
        )
        self._pools = ShardedPools()
        # Without a name nobody else has these shards; a manager with `attach` makes nothing anew.
        is_shared = self.options.name is not None and not self.options.attach
        self._claims = PoolClaims(self._shards.cluster, self.id) if is_shared else None
        self._lock = threading.RLock()  # guards all below
        self._state = 'new'
        self._places: dict[str, str] = {}  # which shard has a sandbox whose id does not say it
        self._seen: collections.OrderedDict[str, None] = collections.OrderedDict()  # ids that are known to say it
        self._making: set[str] = set()  # names of the caller's own of which one is being made
        self._leases: dict[str, tuple[ShardedPool, ShardRecord]] = {}
        self._lease_ends: dict[str, float] = {}  # when those with a time limit are over, on the monotonic clock
        self._stopped = threading.Event()
        self._cleared_at = 0.0
        self._pool_lock = threading.Lock()  # held while a pool is made or changes its size

    # Life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect to the cluster and find or ask for the first shards; does nothing the second time.

        Raises:
            ManagerStoppedError: It was stopped already.
            EngineUnavailableError: The cluster does not answer.
        """
        with self._lock:
            self._check_open()
            if self._state == 'running':
                return
            cluster.connect(self.options.address)
            self._shards.start()
            self._state = 'running'
        if not self.options.lifetime and not self.options.attach:
            self._watch(_ender(self._shards))

    def _check_open(self) -> None:
        if self._state in ('stopping', 'stopped'):
            raise ManagerStoppedError(
                f'manager {self.id} is {self._state} and takes no new work; make a new one',
                details={'manager_id': self.id},
            )
        if os.getpid() != self._pid:
            raise ManagerStoppedError(
                f'manager {self.id} belongs to process {self._pid}, of which this is a fork; make a new one here',
                details={'manager_id': self.id},
            )

    def stop(self) -> None:
        """End: refuse new work, wake all who wait, and end the shards with everything that is in them.

        A manager with ``attach`` lets go of the shards and ends none; so does `detach`. May be called twice.
        """
        self._end(are_kept=self.options.attach)

    def detach(self) -> None:
        """Let go of detached shards, which continue with all that is in them until they are taken over or nobody asks for them.

        Raises:
            InvalidArgumentError: The shards are not detached, and end with this program.
        """
        if self.options.lifetime is None and not self.options.attach:
            raise InvalidArgumentError(
                "the shards of this manager end with its program; make it with lifetime='detached'"
            )
        self._end(are_kept=True)

    def _end(self, *, are_kept: bool) -> None:
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._state in ('stopping', 'stopped'):
                is_second = True
            else:
                is_second, was_new, self._state = False, self._state == 'new', 'stopping'
        if is_second:
            self._stopped.wait(self.config.stop_timeout)
            return
        try:
            error = ManagerStoppedError(
                f'manager {self.id} is stopped and takes no new work; make a new one', details={'manager_id': self.id}
            )
            for pool in self._pools.clear():
                pool.close(error)
            shards = self._shards.close(error)
            if self._claims is not None:
                self._claims.let_go()
            if not was_new and not are_kept:
                deadline = Deadline.after(self.config.stop_timeout)
                end_all(shards, deadline)
            for shard in shards:
                if shard.client is not None:
                    shard.client.stop()
            self._calls.shutdown(wait=False, cancel_futures=True)
            self._control.shutdown(wait=False)
        finally:
            self._state = 'stopped'
            self._stopped.set()
            self._unwatch()

    def _take_report(self, shard: ShardRecord, report: dict[str, Any]) -> None:
        self._end_leases()
        if self.options.name is None or shard.reported_at <= self._cleared_at:
            return
        self._pools.follow(shard, report['pools'], shard.reported_at)

    # Shards -----------------------------------------------------------------------------------------------------------

    def _client_of(self, sandbox_id: str) -> ShardClient:
        """Return the client of the shard that has a sandbox.

        Raises:
            SandboxNotFoundError: None has.
            SandboxGoneError: Its shard was lost.
            ManagerStoppedError: The manager is stopped.
        """
        return self._shard_of(sandbox_id).the_client()

    def _shard_of(self, sandbox_id: str) -> ShardRecord:
        self._check_open()
        if isinstance(sandbox_id, str):
            with self._lock:
                place = self._places.get(sandbox_id)
                is_sure = place is not None or sandbox_id in self._seen
            shard_id = place or sandbox_id.rpartition('-')[2]
            try:
                found = self._shards.find(shard_id)
            except SandboxGoneError:
                # A name of the caller's own may end like an id by chance.
                found = None if is_sure else self._ask_for(sandbox_id)
                if found is None:
                    raise
                return found
            if found is None and self._state == 'running':
                found = self._look_for(sandbox_id, shard_id)
            elif found is not None and not is_sure:
                found = self._confirmed(sandbox_id, found)
            if found is not None:
                return found
        raise SandboxNotFoundError(
            f'no sandbox has the id {sandbox_id!r}; it was never made here, or it was deleted',
            details={'sandbox_id': str(sandbox_id)},
        )

    def _look_for(self, sandbox_id: str, shard_id: str) -> ShardRecord | None:
        """Return the shard of a sandbox that nothing is known of here."""
        if self.options.name is not None:
            self._shards.discover()
            found = self._shards.find(shard_id)
            if found is not None:
                return found
        return self._ask_for(sandbox_id)

    def _confirmed(self, sandbox_id: str, named: ShardRecord) -> ShardRecord:
        """Return the shard that an id names, unless that does not know it and another one does."""
        try:
            named.the_client().get_sandbox_info(sandbox_id)
        except SandboxNotFoundError:
            return self._ask_for(sandbox_id) or named
        except SandboxGoneError:
            found = self._ask_for(sandbox_id)
            if found is None:
                raise
            return found
        self._see(sandbox_id)
        return named

    def _see(self, sandbox_id: str) -> None:
        """Remember that an id says truly which shard has its sandbox."""
        with self._lock:
            self._seen[sandbox_id] = None
            if len(self._seen) > REMEMBERED_IDS:
                self._seen.popitem(last=False)

    def _ask_for(self, sandbox_id: str) -> ShardRecord | None:
        """Ask every shard for a sandbox; return the one that has it."""

        def has(shard: ShardRecord) -> bool:
            try:
                shard.the_client().get_sandbox_info(sandbox_id)
            except (SandboxNotFoundError, *_GONE):
                return False
            return True

        for shard, found in self._each(has).items():
            if found:
                with self._lock:
                    self._places[sandbox_id] = shard.id
                return shard
        return None

    def _each(self, call: Callable[[ShardRecord], T]) -> dict[ShardRecord, T]:
        """Call something for every shard that serves, at once; those that are lost meanwhile are left out."""
        found: dict[ShardRecord, T] = {}
        shards = self._shards.up()
        for start in range(0, len(shards), ASKED_AT_ONCE):
            part = shards[start : start + ASKED_AT_ONCE]
            # The last is asked on this thread, which would only wait.
            jobs = {shard: _begun(call, shard) for shard in part[:-1]}
            jobs[part[-1]] = _called(call, part[-1])
            for shard, future in jobs.items():
                wait_for(future)
                try:
                    found[shard] = future.result()
                except _GONE as error:
                    self._check_open()
                    logger.debug('shard %s gave no answer: %s', shard.id, error)
        return found

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
        """Make and start a sandbox where there is room, waiting for that, and return its id.

        See `SandboxManager.create_sandbox`.

        Raises:
            OperationTimeoutError: There was no room within ``capacity_timeout``.
        """
        self._check_open()
        check_sandbox_id(sandbox_id)
        check_labels(labels)
        for name, lifetime in (('ttl', ttl), ('idle_timeout', idle_timeout)):
            if lifetime != 'default':
                check_timeout(lifetime, name)
        kind_to_send(self.config, sandbox_type, config)
        self.start()
        deadline = Deadline.after(self.options.capacity_timeout)
        is_first = False
        with self._named(sandbox_id):
            while True:
                (shard,) = self._shards.reserve(1, deadline, is_first=is_first)
                try:
                    made = shard.the_client().create_sandbox(
                        sandbox_type, config, sandbox_id, ttl=ttl, idle_timeout=idle_timeout, labels=labels
                    )
                except (PolicyError, *_GONE) as error:
                    is_full = _is_full(error)
                    self._shards.settle(shard, reserved=1, is_full=is_full)
                    if not is_full and not _is_over(shard, error):
                        raise
                    self._check_open()
                    is_first = True  # nothing was made, or it went with its shard, and nothing ran in it
                    continue
                except BaseException:
                    self._shards.settle(shard, reserved=1)
                    raise
                self._shards.settle(shard, reserved=1, used=1)
                if made.endswith(f'-{shard.id}'):
                    self._see(made)
                else:
                    with self._lock:
                        self._places[made] = shard.id
                return made

    @contextlib.contextmanager
    def _named(self, sandbox_id: str | None) -> Iterator[None]:
        """Hold a name of the caller's own while a sandbox of it is made."""
        if sandbox_id is None:
            yield
            return
        taken = ConflictError(
            f'the sandbox id {sandbox_id!r} is taken; choose another or delete that sandbox first',
            details={'sandbox_id': str(sandbox_id)},
        )
        with self._lock:
            if sandbox_id in self._making:
                raise taken
            self._making.add(sandbox_id)
        try:
            if self.get_sandbox(sandbox_id) is not None:
                raise taken
            yield
        finally:
            with self._lock:
                self._making.discard(sandbox_id)

    def get_sandbox(self, sandbox_id: str) -> FullSandbox | None:
        """Return the sandbox of an id, a `RemoteSandbox`, or None if there is none, or its shard was lost."""
        try:
            client = self._client_of(sandbox_id)
            return client.get_sandbox(sandbox_id)
        except (SandboxNotFoundError, SandboxGoneError):
            return None

    def get_sandbox_info(self, sandbox_id: str) -> SandboxInfo:
        """Return what can be said of a sandbox; see `SandboxManager.get_sandbox_info`."""
        return self._client_of(sandbox_id).get_sandbox_info(sandbox_id)

    def list_sandboxes(
        self, status_filter: SandboxStatus | str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[SandboxInfo]:
        """Return what can be said of all sandboxes, oldest first; see `SandboxManager.list_sandboxes`."""
        self._check_open()
        check_labels(labels)
        if status_filter is not None:
            try:
                SandboxStatus(status_filter)
            except ValueError:
                known = ', '.join(repr(str(each)) for each in SandboxStatus)
                raise InvalidArgumentError(f'status_filter must be one of {known}, not {status_filter!r}') from None
        found = self._each(lambda shard: shard.the_client().list_sandboxes(status_filter, labels=labels))
        return sorted((info for infos in found.values() for info in infos), key=lambda info: info.created_at)

    def stop_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox, which stays in the list as ``stopped``; see `SandboxManager.stop_sandbox`."""
        return self._client_of(sandbox_id).stop_sandbox(sandbox_id)

    def delete_sandbox(self, sandbox_id: str) -> bool:
        """Take a sandbox away; see `SandboxManager.delete_sandbox`."""
        shard = self._shard_of(sandbox_id)
        shard.the_client().delete_sandbox(sandbox_id)
        with self._lock:
            self._places.pop(sandbox_id, None)
            self._seen.pop(sandbox_id, None)
        if not self._end_lease(sandbox_id):
            self._shards.settle(shard, used=-1)
        return True

    def cleanup_all_sandboxes(self) -> list[str]:
        """Delete all sandboxes and dissolve the pools; see `SandboxManager.cleanup_all_sandboxes`."""
        self._check_open()
        error = PoolError('the pool was dissolved by cleanup_all_sandboxes')
        for pool in self._pools.clear():
            pool.close(error)

        def clean(shard: ShardRecord) -> list[str]:
            ids = shard.the_client().cleanup_all_sandboxes()
            self._shards.settle(shard, used=-shard.used)
            return ids

        found = [each for ids in self._each(clean).values() for each in ids]
        with self._lock:
            self._places.clear()
            self._seen.clear()
            self._leases.clear()
            self._lease_ends.clear()
            self._cleared_at = time.monotonic()
        return found

    def pause_sandbox(self, sandbox_id: str, *, ttl: Lifetime = 'default') -> datetime | None:
        """Keep all that is in a sandbox from running; see `SandboxManager.pause_sandbox`."""
        return self._client_of(sandbox_id).pause_sandbox(sandbox_id, ttl=ttl)

    def resume_sandbox(self, sandbox_id: str) -> datetime | None:
        """Let a paused sandbox continue; see `SandboxManager.resume_sandbox`."""
        return self._client_of(sandbox_id).resume_sandbox(sandbox_id)

    def renew(
        self, sandbox_id: str, ttl: Lifetime = 'default', *, on_expiry: Literal['remove', 'pause'] | None = None
    ) -> datetime | None:
        """Let a sandbox live ``ttl`` seconds from now, and return that moment; see `SandboxManager.renew`."""
        return self._client_of(sandbox_id).renew(sandbox_id, ttl, on_expiry=on_expiry)

    # Tools and commands -----------------------------------------------------------------------------------------------

    def execute_tool(
        self,
        sandbox_id: str,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        max_chars: int | None = None,
    ) -> ToolResult:
        """Run a tool in a sandbox; see `SandboxManager.execute_tool`."""
        check_max_chars(max_chars)
        as_parameters(parameters)
        return self._client_of(sandbox_id).execute_tool(sandbox_id, tool_name, parameters, max_chars=max_chars)

    def get_sandbox_tools(self, sandbox_id: str) -> dict[str, Any]:
        """Return a sandbox's tools as ``{name: OpenAI-style function schema}``; see `SandboxManager.get_sandbox_tools`."""
        return self._client_of(sandbox_id).get_sandbox_tools(sandbox_id)

    def _using(self, sandbox_id: str) -> AbstractContextManager[Any]:
        return self._client_of(sandbox_id)._using(sandbox_id)

    def _run_code(self, sandbox_id: str, request: CodeRequest) -> CodeResult:
        return self._client_of(sandbox_id)._run_code(sandbox_id, request)

    # Pools ------------------------------------------------------------------------------------------------------------

    def initialize_pool(
        self,
        pool_size: int | None = None,
        sandbox_type: SandboxType | str | None = None,
        config: Config = None,
        *,
        name: str | None = None,
    ) -> list[str]:
        """Make a pool of warm sandboxes on the shards and return their ids; see `SandboxManager.initialize_pool`."""
        self._check_open()
        size = self.config.pool_size if pool_size is None else pool_size
        check_pool_name(name)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise PoolError(
                f'pool_size must be a whole number, at least 1, not {size!r}; '
                'give it to initialize_pool or in the configuration of the manager'
            )
        kind, options = kind_to_send(self.config, sandbox_type, config), options_to_send(self.config, config)
        self.start()
        deadline = Deadline.after(self.options.capacity_timeout)
        with self._pool_lock:
            pool, is_new = self._pools.match(name, kind, options)
            missing, before = pool.missing, (pool.size, pool.most)
            # So that what comes first is not above its size, and what is lost meanwhile is made anew.
            pool.size, pool.most = max(size, pool.size), max(size, pool.most)
            pool.miss(-missing)  # what was lost is made with the rest
            try:
                if self._claims is not None:
                    self._claims.take(pool.name)
                self._resize(pool, size, deadline)
            except BaseException:
                pool.miss(missing)
                pool.size, pool.most = before
                if is_new:
                    self._pools.drop(pool)
                raise
            pool.size, pool.most, pool.is_followed = size, self.config.max_size_for(size), False
            return self._pool_ids(pool)

    def _pool_ids(self, pool: ShardedPool) -> list[str]:
        found = self._each(lambda shard: shard.the_client().list_sandboxes())
        return [info.id for infos in found.values() for info in infos if info.metadata.get('pool') == pool.name]

    def _resize(self, pool: ShardedPool, size: int, deadline: Deadline) -> None:
        """Make a pool larger or smaller; if not all of it can be started, it is as it was before."""
        missing = size - pool.total
        if missing > 0:
            self._place(pool, missing, deadline)
        elif missing < 0:
            self._take_off(pool, -missing)

    def _place(self, pool: ShardedPool, count: int, deadline: Deadline) -> None:
        """Add so many sandboxes to a pool, wherever there is room."""
        placed: dict[ShardRecord, int] = {}
        left, is_first = count, False
        try:
            while left:
                shards = self._shards.reserve(left, deadline, is_first=is_first)
                wanted: dict[ShardRecord, int] = {}
                for shard in shards:
                    wanted[shard] = wanted.get(shard, 0) + 1
                jobs = {
                    shard: _begun(functools.partial(self._enlarge, pool, more), shard) for shard, more in wanted.items()
                }
                failure: BaseException | None = None
                for shard, job in jobs.items():
                    wait_for(job)
                    try:
                        job.result()
                        left -= wanted[shard]
                        placed[shard] = placed.get(shard, 0) + wanted[shard]
                    except (PolicyError, *_GONE) as error:
                        if not _is_full(error) and not _is_over(shard, error):
                            failure = failure or error
                    except BaseException as error:
                        failure = failure or error
                if failure is not None:
                    raise failure
                is_first = True
        except BaseException:
            for shard, more in placed.items():
                with contextlib.suppress(EnclaveError):
                    self._lessen(pool, shard, more)
            raise

    def _enlarge(self, pool: ShardedPool, count: int, shard: ShardRecord) -> None:
        with pool.changing(shard) as before:
            size = before + count
            try:
                cluster.ask(shard.handle, 'note_pool', pool.name, pool.sandbox_type, pool.config)
                shard.the_client().initialize_pool(size, pool.sandbox_type, pool.config, name=pool.name)
            except BaseException as error:
                self._shards.settle(shard, reserved=count, is_full=isinstance(error, PolicyError) and _is_full(error))
                raise
            self._shards.settle(shard, reserved=count, used=count)
            pool.set_part(shard, size)
        if shard.loss is not None:  # meanwhile, when it was not yet counted
            self._replace_lost(shard)

    def _take_off(self, pool: ShardedPool, count: int) -> None:
        """Take so many sandboxes from a pool, those of its largest parts first."""
        for shard, size in sorted(pool.parts().values(), key=lambda each: -each[1]):
            less = min(count, size)
            if less:
                self._lessen(pool, shard, less)
                count -= less

    def _lessen(self, pool: ShardedPool, shard: ShardRecord, count: int, *, only_free: bool = False) -> int:
        """Take so many sandboxes from a shard's part of a pool, as far as it has them; return how many were taken."""
        with pool.changing(shard) as before:
            size = pool.lessen(shard, count, only_free=only_free)
            if size == before:
                return 0
            try:
                if size:
                    shard.the_client().initialize_pool(size, pool.sandbox_type, pool.config, name=pool.name)
                elif cluster.get(cluster.ask(shard.handle, 'drop_pool', pool.name, only_free), timeout=30.0) is False:
                    pool.set_part(shard, before)  # another manager uses it
                    return 0
            except _GONE:
                return before - size
            except Exception as error:
                logger.warning(
                    'the part of the pool %s on shard %s could not be made smaller: %s', pool.name, shard.id, error
                )
            self._shards.settle(shard, used=size - before)
            return before - size

    def _tend_pools(self) -> bool:
        """Make anew what was lost and let go what was idle for too long; return whether somebody waits for a pool.

        Runs on the monitor's thread, and leaves what takes time to others.
        """
        now = time.monotonic()
        pools = self._pools.all()
        if self._claims is not None and pools:
            with contextlib.suppress(Exception):  # the cluster's head may be away for a moment, and is asked again
                self._claims.show_life()
        for pool in pools:
            count = pool.begin_replacing(now)
            if count:
                thread_pool.submit(functools.partial(self._replace, pool, count))
            timeout = self.config.pool_idle_timeout
            surplus = 0 if timeout is None or self.options.attach else pool.surplus(now, timeout)
            if surplus and self._begins_to_change(pool):
                thread_pool.submit(functools.partial(self._shrink, pool, surplus))
        return any(pool.waiting for pool in pools)

    def _begins_to_change(self, pool: ShardedPool) -> bool:
        """Whether a pool is to grow or shrink now, which it does not do yet."""
        with self._lock:
            begins, pool.is_changing = not pool.is_changing, True
        return begins

    def _shrink(self, pool: ShardedPool, count: int) -> None:
        """Let go so many sandboxes of a pool that are free, those of its smallest parts first, so that shards get empty."""
        try:
            for shard, _ in sorted(pool.parts().values(), key=lambda each: each[1]):
                if count > 0:
                    count -= self._lessen(pool, shard, count, only_free=True)
        finally:
            pool.is_changing = False

    def _replace(self, pool: ShardedPool, count: int) -> None:
        """Make so many sandboxes of a pool anew that were lost; if that cannot be done, it is tried again later."""
        try:
            if self._claims is not None and not self._claims.has(pool.name):
                pool.leave_to_others(SIGN_SECONDS)
                return
            self._place(pool, count, Deadline.after(self.options.capacity_timeout))
        except Exception as error:
            logger.warning('%d lost sandboxes of the pool %s could not be made anew: %s', count, pool.name, error)
            pool.could_not_replace(count, error)
            return
        self._take_off(pool, pool.replaced(count))
        self._take_off_dissolved(pool)

    def _take_off_dissolved(self, pool: ShardedPool) -> None:
        """Take away what was made for a pool that was dissolved meanwhile."""
        if pool not in self._pools.all():
            self._take_off(pool, pool.total)

    def _replace_lost(self, shard: ShardRecord) -> None:
        """Make anew elsewhere what pools had on a shard that was lost."""
        for pool in self._pools.all():
            lost = pool.forget_part(shard.id)
            if lost and not self.options.attach:
                pool.miss(lost)
        self._tend_pools()

    def _grow_later(self, pool: ShardedPool, count: int) -> None:
        def work() -> None:
            try:
                self._place(pool, count, Deadline.after(self.options.capacity_timeout))
                self._take_off_dissolved(pool)
            except EnclaveError as error:
                logger.warning('%d sandboxes of the pool %s could not be made: %s', count, pool.name, error)
                pool.fail(error)
            finally:
                pool.is_changing = False

        thread_pool.submit(work)

    @property
    def _pool_initialized(self) -> bool:
        return bool(self._pools.all())

    @contextlib.contextmanager
    def _part_of(self, pool: ShardedPool, deadline: Deadline) -> Iterator[ShardRecord]:
        """Hold a place in a part of a pool for the block."""
        shard = self._take_part(pool, deadline)
        try:
            yield shard
        finally:
            pool.give(shard)

    def _take_part(self, pool: ShardedPool, deadline: Deadline) -> ShardRecord:
        return self._take_some(pool, 1, deadline)[0]

    def _take_some(self, pool: ShardedPool, most: int, deadline: Deadline) -> tuple[ShardRecord, int]:
        """Hold places in one part of a pool: at least one, and at most so many; returns the shard and how many."""
        policy = self.config.pool_when_empty
        if policy == 'grow':
            with contextlib.suppress(PoolExhaustedError):
                return pool.take_some(most, deadline, fails=True)
            if pool.total + pool.missing < pool.most and self._begins_to_change(pool):
                self._grow_later(pool, 1)
        return pool.take_some(most, deadline, fails=policy == 'fail')

    def _lost_part(self, pool: ShardedPool, shard: ShardRecord, error: EnclaveError) -> None:
        """Count a part as gone that a shard knows nothing of any more, since nobody used it for too long."""
        pool.forget_part(shard.id)
        if not pool.total:
            gone = PoolError(f'the pool {pool.name!r} was dissolved: {error.message}')
            pool.close(gone)
            self._pools.drop(pool)

    def acquire_sandbox(
        self, timeout: float | None = None, *, pool: str | None = None, ttl: float | None = None
    ) -> str:
        """Lease a sandbox of a pool and return its id; see `SandboxManager.acquire_sandbox`."""
        deadline = Deadline.after(timeout)
        seconds = check_timeout(ttl, 'ttl')
        self._check_open()
        self._end_leases()
        chosen = self._pools.get(pool)
        while True:
            shard = self._take_part(chosen, deadline)
            try:
                sandbox_id = shard.the_client().acquire_sandbox(deadline.as_timeout(), pool=chosen.name, ttl=ttl)
            except BaseException as error:
                chosen.give(shard)
                if not self._may_try_again(chosen, shard, error):
                    raise
                continue
            self._see(sandbox_id)
            with self._lock:
                self._leases[sandbox_id] = (chosen, shard)
                if seconds is not None:
                    self._lease_ends[sandbox_id] = time.monotonic() + seconds
            return sandbox_id

    def _end_lease(self, sandbox_id: str) -> bool:
        """Count a lease as ended whose sandbox is gone, or goes; return whether there was one."""
        with self._lock:
            lease = self._leases.pop(sandbox_id, None)
            self._lease_ends.pop(sandbox_id, None)
        if lease is not None:
            lease[0].give(lease[1])
        return lease is not None

    def _end_leases(self) -> None:
        """Count leases as ended whose time is over: shards remove their sandboxes, and replace them in the pool."""
        if not self._lease_ends:
            return  # without the lock, which `start` holds while it waits for reports
        now = time.monotonic()
        with self._lock:
            over = [each for each, at in self._lease_ends.items() if at <= now]
        for each in over:
            self._end_lease(each)

    def _may_try_again(self, pool: ShardedPool, shard: ShardRecord, error: BaseException) -> bool:
        """Whether a lease that failed is to be tried on another shard: nothing has run yet."""
        if type(error) is PoolError:
            self._lost_part(pool, shard, error)
            return True
        return isinstance(error, _GONE) and _is_over(shard, error) and self._state == 'running'

    def release_sandbox(self, sandbox_id: str) -> None:
        """Give a leased sandbox back; see `SandboxManager.release_sandbox`."""
        if self._state in ('stopping', 'stopped'):
            return
        with self._lock:
            lease = self._leases.pop(sandbox_id, None)
            self._lease_ends.pop(sandbox_id, None)
        try:
            client = lease[1].the_client() if lease is not None else self._client_of(sandbox_id)
            client.release_sandbox(sandbox_id)
        except (SandboxNotFoundError, SandboxGoneError):
            return  # it went away meanwhile
        finally:
            if lease is not None:
                lease[0].give(lease[1])

    def execute_tool_in_pool(
        self,
        tool_name: str,
        parameters: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        pool: str | None = None,
        max_chars: int | None = None,
    ) -> ToolResult:
        """Run a tool in whichever sandbox of a pool is free, in one request; see `SandboxManager.execute_tool_in_pool`."""
        check_max_chars(max_chars)
        as_parameters(parameters)
        return self._in_pool(
            pool,
            timeout,
            lambda client, left, name: client.execute_tool_in_pool(
                tool_name, parameters, left, pool=name, max_chars=max_chars
            ),
        )

    def _run_code_in_pool(self, request: CodeRequest, timeout: float | None, pool: str | None) -> CodeResult:
        return self._in_pool(pool, timeout, lambda client, left, name: client._run_code_in_pool(request, left, name))

    def _run_in_batch(self, request: CodeRequest, timeout: float | None, pool: str | None) -> CodeResult:
        return self._in_pool(pool, timeout, lambda client, left, name: client._run_in_batch(request, left, name))

    def _run_many(
        self,
        items: Iterable[Any],
        make: Callable[[Any], CodeRequest],
        pool: str | None,
        concurrency: int | None,
        in_order: bool,
        wait_timeout: float | None,
    ) -> Outcomes[CodeResult]:
        if concurrency is None:
            concurrency = min(MOST_AT_ONCE, self._pool_size(pool))

        def take(most: int, deadline: Deadline) -> tuple[ShardedPool, ShardRecord, int]:
            self._check_open()
            chosen = self._pools.get(pool)
            return (chosen, *self._take_some(chosen, most, deadline))

        return ShardedBatch(
            items,
            make,
            take=take,
            lost_part=self._lost_part,
            is_over=_is_over,
            concurrency=concurrency,
            is_ordered=in_order,
            wait_timeout=wait_timeout,
        )

    def _in_pool(
        self, name: str | None, timeout: float | None, call: Callable[[ShardClient, float | None, str], T]
    ) -> T:
        """Make a call in a part of a pool. What may have run is not tried again."""
        deadline = Deadline.after(timeout)
        self._check_open()
        pool = self._pools.get(name)
        while True:
            with self._part_of(pool, deadline) as shard:
                try:
                    return call(shard.the_client(), deadline.as_timeout(), pool.name)
                except PoolError as error:
                    if type(error) is not PoolError:
                        raise
                    self._lost_part(pool, shard, error)

    # Reply ------------------------------------------------------------------------------------------------------------

    def get_stats(self) -> dict[str, Any]:
        """Return numbers of all shards together, and of each in ``shards``; see `SandboxManager.get_stats`."""
        found = self._each(lambda shard: shard.the_client().get_stats()) if self._state == 'running' else {}
        merged: dict[str, Any] = {
            'manager_type': str(self.manager_type),
            'manager_id': self.id,
            'running': self._state == 'running',
            'total_sandboxes': sum(each['total_sandboxes'] for each in found.values()),
            'status_counts': _sum(each['status_counts'] for each in found.values()),
            'sandbox_types': _sum(each['sandbox_types'] for each in found.values()),
            'active_calls': sum(each['active_calls'] for each in found.values()),
            'cleanup_interval': self.config.cleanup_interval,
            'pool_size': 0,
            'pools': {},
            'cluster': self._shards.cluster,
            'shards': self._shards.describe(),
        }
        for pool in self._pools.all():
            numbers = merged['pools'][pool.name] = self._pool_stats(pool, [each['pools'] for each in found.values()])
            merged['pool_size'] += numbers['size']
        return merged

    def _pool_stats(self, pool: ShardedPool, parts: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = [part[pool.name] for part in parts if pool.name in part]
        summed = {
            key: sum(each[key] for each in numbers)
            for key in ('size', 'idle', 'leased', 'starting', 'waiting', 'created', 'replaced', 'leases')
        }
        summed['waiting'] += pool.waiting
        return {
            **summed,
            'min_size': pool.size,
            'max_size': max(pool.most, pool.size),
            'policy': self.config.pool_policy,
            'wait_seconds_mean': pool.wait_seconds / pool.leases if pool.leases else 0.0,
            'wait_seconds_max': pool.longest_wait,
        }

    def health_check(self) -> HealthCheckResult:
        """Return whether the manager takes work and its shards are well; see `SandboxManager.health_check`."""
        backends: dict[str, str] = {}
        sandboxes = 0
        shards: dict[str, str] = {}
        is_running = self._state in ('new', 'running')
        if self._state == 'running':
            with contextlib.suppress(EnclaveError):
                for shard, each in self._each(lambda shard: shard.the_client().health_check()).items():
                    shards[shard.id] = 'ok' if each.healthy else str(each.details.get('error', 'ill'))
                    sandboxes += each.details.get('sandboxes', 0)
                    for kind, word in each.details.get('backends', {}).items():
                        if backends.get(kind, 'ok') == 'ok':
                            backends[kind] = word
        is_healthy = is_running and all(word == 'ok' for word in (*backends.values(), *shards.values()))
        return HealthCheckResult(
            healthy=is_healthy,
            version=enclave.__version__,
            details={'running': is_running, 'sandboxes': sandboxes, 'backends': backends, 'shards': shards},
        )

    def __repr__(self) -> str:
        return f'<RaySandboxManager {self.id} {self._shards.cluster}>'


def _weakly(method: Callable[..., T]) -> Callable[..., T | None]:
    """Return a function that calls a method while its object is there."""
    found = weakref.WeakMethod(method)

    def call(*args: Any) -> T | None:
        bound = found()
        return None if bound is None else bound(*args)

    return call


def _cancels(control: Workers) -> Callable[[Callable[[], None]], None]:
    """Return what has something done on another thread, also after the manager was stopped."""

    def later(action: Callable[[], None]) -> None:
        try:
            control.submit(action)
        except ManagerStoppedError:
            thread_pool.submit(action)

    return later


def _as_manager_options(options: dict[str, Any]) -> ManagerOptions:
    return options  # type: ignore[return-value]


def _ender(shards: Shards) -> Callable[[], None]:
    """Return what ends the shards of a manager that was forgotten; it does not refer to the manager."""

    def end() -> None:
        end_all(shards.close(ManagerStoppedError('the manager was forgotten')), Deadline.after(60.0))

    return end


def _is_full(error: BaseException) -> bool:
    return isinstance(error, PolicyError) and error.details.get('rule') == FULL


def _is_over(shard: ShardRecord, error: BaseException) -> bool:
    """Whether a shard is no more, or is ending, so that what it was asked can be asked of another."""
    if isinstance(error, ManagerStoppedError):
        return True
    return shard.loss is not None or shard.state in ('lost', 'ended', 'retiring')


def _sum(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _begun(call: Callable[[ShardRecord], T], shard: ShardRecord) -> Future[T]:
    """Return the future of a call on another thread, under the caller's cancellation."""
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result = context.run(call, shard)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    thread_pool.submit(work)
    return future


def _called(call: Callable[[ShardRecord], T], shard: ShardRecord) -> Future[T]:
    future: Future[T] = Future()
    try:
        future.set_result(call(shard))
    except Exception as error:
        future.set_exception(error)
    return future
