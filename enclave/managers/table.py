"""Keeps the sandboxes of one local manager (layer 5): the table of them, their starts and ends, their lifetimes, and the end.

Starting and ending always happen on threads of the table's own, and the caller waits: so a start whose caller gives up can
be rolled back, and a signal handler that comes while the main thread waits finds nothing half-done on that thread.

One lock guards the table; no request to a backend is ever made under it. It is reentrant because `stop` may be called by a
signal handler while its own thread holds it; what is done under it is short and leaves the table whole at every step.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from attrs import define, field

from enclave.cancellation import Cancellation, is_cancelled
from enclave.deadline import Deadline
from enclave.enums import SandboxStatus, SandboxType
from enclave.errors import (
    CallCancelledError,
    ConflictError,
    EnclaveError,
    EngineUnavailableError,
    InvalidArgumentError,
    ManagerStoppedError,
    PolicyError,
    PoolError,
    SandboxNotFoundError,
)
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.pool import Pool, again
from enclave.managers.reaper import Reaper
from enclave.quoting import quoted
from enclave.records import SandboxInfo, utc_now
from enclave.sandboxes.base import Sandbox
from enclave.sandboxes.choice import choose_for, fit_for
from enclave.sandboxes.housekeeping import find_housekeeper
from enclave.sandboxes.kinds import KINDS
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.threads import Workers, thread_pool, wait_for

logger = logging.getLogger(__name__)

T = TypeVar('T')

RETRY_SECONDS = 5.0
"""How soon the reaper tries again to remove what could not be removed."""
BUSY_SECONDS = 0.25
UNDO_SECONDS = 10.0
"""How long one waits for a sandbox to go that somebody has given up; it goes all the same."""
JOIN_SECONDS = 2.0
"""How long `stop` waits for idle threads to leave after all work is done."""

State = Literal['new', 'running', 'stopping', 'stopped']


@define(eq=False)
class Record:
    """A sandbox in the table. Its fields are guarded by the table's lock, but for those set once."""

    sandbox: Sandbox
    kind: str
    ttl: float | None
    idle_timeout: float | None
    pool: Pool | None
    started: Future[None] = field(factory=Future)  # its start, on the threads for that
    is_up: bool = False
    is_doomed: bool = False  # it is to be removed, even if that has to be tried again
    ending: Future[None] | None = None  # its removal, while that continues
    retry_at: float = math.inf
    users: int = 0  # calls and leases running through the manager
    lessee: int | None = None  # the thread that leased it
    last_used: float = 0.0
    expires: float | None = None  # on the monotonic clock
    expires_at: datetime | None = None
    pauses: bool = False  # when its time is over it is paused, and not removed
    is_paused: bool = False
    time_left: float | None = None  # of its own lifetime, which stands still while it is paused

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self.sandbox.id


class PoolSupply:
    """Makes and ends the sandboxes of one pool: its `Supply`."""

    def __init__(self, table: SandboxTable, kind: SandboxType | str | None, config: Any) -> None:
        self._table = table
        self._config = config
        self.kind, self._facts = table.find_kind(kind, config)
        self.config = table.make(self.kind, config, None).config  # checked, and as the backend understands it

    def create(self, pool: Pool) -> Record:
        """Begin to make a sandbox; the record's ``started`` says when that has ended."""
        sandbox = self._table.make(self.kind, self._config, None)
        sandbox.metadata.update(self._facts)
        return self._table.begin(sandbox, kind=self.kind, pool=pool)

    def begin(self, pool: Pool) -> None:
        """Begin to make a sandbox for the pool."""
        try:
            record = self.create(pool)
        except Exception as error:
            pool.fail(error)
            return

        def pass_on(started: Future[None]) -> None:
            try:
                started.result()
            except BaseException as error:
                pool.fail(self._table.refusal(record) if isinstance(error, CancelledError) else error)
            else:
                pool.arrive(record.sandbox)

        record.started.add_done_callback(pass_on)

    def discard(self, sandbox: Sandbox) -> None:
        """Have a sandbox destroyed; what goes wrong is the reaper's to mend."""
        record = self._table.find(sandbox.id)
        if record is not None:
            self._table.end(record)


class SandboxTable:
    """The sandboxes of one manager, from its making until `stop`. Any thread may use it.

    It does not know the manager, so that a manager nobody refers to any more can be found out.
    """

    def __init__(self, manager_id: str, config: SandboxManagerConfig, *, calls: Workers, control: Workers) -> None:
        self.id = manager_id
        self.config = config
        self.pid = os.getpid()
        self._starts = Workers(config.parallel_starts, 'start', manager_id)
        self._ends = Workers(config.parallel_starts, 'end', manager_id)
        self._control = control
        self._workers = (calls, control, self._starts, self._ends)  # all that end with it
        self._reaper = Reaper(self._tend, manager_id)
        self._lock = threading.RLock()  # guards the table and all below
        self._changed = threading.Condition(self._lock)  # a call has ended, or a stop has
        self._state: State = 'new'
        self._stopper: int | None = None  # the thread that is stopping it
        self._records: dict[str, Record] = {}
        self._pools: dict[str, Pool] = {}
        self._kinds: set[str] = set()  # of all sandboxes so far
        self._calls: dict[int, int] = {}  # thread: calls and leases running
        self._clean_at = 0.0
        self._cleaning: Future[None] | None = None

    # State ------------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the manager is in its life."""
        return self._state

    def start(self) -> None:
        """Begin to look after sandboxes; does nothing the second time.

        Raises:
            ManagerStoppedError: It was stopped, or belongs to the process this one was forked from.
        """
        with self._lock:
            if self._state == 'running' and os.getpid() == self.pid:
                return
            self.check_open()
            self._state = 'running'
        self._reaper.start()

    def check_open(self) -> None:
        """Return if the manager takes work.

        Raises:
            ManagerStoppedError: It does not.
        """
        if self._state in ('stopping', 'stopped'):
            raise self._stopped_error()
        if os.getpid() != self.pid:
            raise ManagerStoppedError(
                f'manager {self.id} belongs to process {self.pid}, of which this is a fork; make a new one here',
                details={'manager_id': self.id},
            )

    def _stopped_error(self) -> ManagerStoppedError:
        return ManagerStoppedError(
            f'manager {self.id} is {self._state} and takes no new work; make a new one', details={'manager_id': self.id}
        )

    # The table --------------------------------------------------------------------------------------------------------

    def find(self, sandbox_id: str) -> Record | None:
        """Return the record of an id, or None."""
        with self._lock:
            return self._records.get(sandbox_id) if isinstance(sandbox_id, str) else None

    def get(self, sandbox_id: str) -> Record:
        """Return the record of an id.

        Raises:
            SandboxNotFoundError: There is none.
            ManagerStoppedError: There is none because the manager is stopped.
        """
        record = self.find(sandbox_id)
        if record is None:
            self.check_open()
            raise SandboxNotFoundError(
                f'no sandbox has the id {quoted(sandbox_id)}; it was never made here, or it was deleted',
                details={'sandbox_id': sandbox_id if isinstance(sandbox_id, str) else quoted(sandbox_id)},
            )
        return record

    def records(self) -> list[Record]:
        """Return all records, oldest first."""
        with self._lock:
            return list(self._records.values())

    def describe(self, record: Record) -> SandboxInfo:
        """Return what can be said of a sandbox; the manager's own facts are in its ``metadata``."""
        info = record.sandbox.get_info()
        with self._lock:
            facts = {
                'ttl': record.ttl,
                'idle_timeout': record.idle_timeout,
                'expires_at': record.expires_at.isoformat() if record.expires_at else None,
                'pool': record.pool.name if record.pool else None,
                'on_expiry': 'pause' if record.pauses else 'remove',
            }
        return info.model_copy(update={'metadata': {**info.metadata, **facts}})

    # Starting ---------------------------------------------------------------------------------------------------------

    def find_kind(self, kind: SandboxType | str | None, config: Any) -> tuple[str, dict[str, str]]:
        """Return the kind of a sandbox, and for its ``metadata`` why it is that, where nobody named it."""
        if config is None:
            config = self.config.sandbox_config
        if kind is None and self.config.sandbox_type is not None:
            kind = fit_for(self.config.sandbox_type, config)
        if kind is not None:
            if not isinstance(kind, str):
                raise InvalidArgumentError(f'a sandbox type is a SandboxType or a name, not {quoted(kind)}')
            return str(kind), {}
        choice = choose_for(config)
        return str(choice.sandbox_type), choice.facts

    def make(self, kind: str, config: Any, sandbox_id: str | None) -> Sandbox:
        """Return a new sandbox that is in no table yet; without a configuration, with the manager's own."""
        if config is None:
            config = self.config.sandbox_config
        sandbox = SandboxFactory.create_sandbox(kind, config, sandbox_id)
        sandbox.tenant = self.config.tenant
        return sandbox

    def begin(
        self,
        sandbox: Sandbox,
        *,
        kind: str,
        ttl: float | None = None,
        idle_timeout: float | None = None,
        pool: Pool | None = None,
    ) -> Record:
        """Put a sandbox in the table and begin to start it; the record's ``started`` says when that has ended.

        Raises:
            ConflictError: The id is taken.
            PolicyError: There are as many as there may be.
            ManagerStoppedError: The manager takes no work.
        """
        self.start()
        record = Record(sandbox, kind, ttl, idle_timeout, pool)
        sandbox._on_pause = lambda is_paused: self._note_pause(record, is_paused)
        self._await_removal(sandbox.id)
        with self._lock:
            self.check_open()
            if sandbox.id in self._records:
                raise ConflictError(
                    f'the sandbox id {quoted(sandbox.id)} is taken; choose another or delete that sandbox first',
                    details={'sandbox_id': sandbox.id},
                )
            most = self.config.max_sandboxes
            if most is not None and len(self._records) >= most:
                raise PolicyError(
                    f'{self.config.tenant or "the manager"} may have {most} sandboxes at once and has {len(self._records)}, '
                    'those of pools and those that are stopped included; delete some (rule max_sandboxes)',
                    details={'rule': 'max_sandboxes', 'max_sandboxes': most},
                )
            self._records[sandbox.id] = record
        try:
            self._starts.submit_to(record.started, _carried(lambda: self._start(record)))
        except BaseException:
            self._forget(record)
            raise
        with self._lock:
            if kind not in self._kinds:
                self._kinds.add(kind)
                self._clean_at = 0.0  # sweep a kind when it is first met
                self._reaper.wake_by(0.0)
        return record

    def _await_removal(self, sandbox_id: str) -> None:
        """Return when an id is not that of a sandbox which is just being removed; its creation may have been cancelled."""
        with self._lock:
            former = self._records.get(sandbox_id)
            ending = None if former is None else former.ending
        if ending is not None and not wait_for(ending, Deadline.after(UNDO_SECONDS)) and is_cancelled():
            raise CallCancelledError(f'the creation of sandbox {sandbox_id} was cancelled before it began')

    def finish(self, record: Record) -> Sandbox:
        """Wait for the end of a start and return the sandbox; a caller who gives up leaves nothing.

        Raises:
            CallCancelledError: The caller's work was cancelled.
            ManagerStoppedError: The manager was stopped meanwhile.
            EnclaveError: It could not be started; this says why.
        """
        try:
            done = wait_for(record.started)
        except BaseException:
            self.end(record)
            raise
        if not done or is_cancelled():
            # Waited for although the work is cancelled: so that its end is the end of what it made.
            with Cancellation().applied():
                wait_for(self.end(record), Deadline.after(UNDO_SECONDS))
            raise CallCancelledError(f'the creation of sandbox {record.id} was cancelled; nothing of it is left')
        try:
            record.started.result()
        except CancelledError:
            raise self.refusal(record) from None
        except EngineUnavailableError as error:  # as in `Sandbox.start`: how it came here is of no use to a reader
            raise error.with_traceback(None) from None
        return record.sandbox

    def refusal(self, record: Record) -> EnclaveError:
        """Return why a start was given up that nothing was wrong with."""
        if self._state != 'running':
            return self._stopped_error()
        return CallCancelledError(f'sandbox {record.id} was deleted before it had started')

    def _start(self, record: Record) -> None:
        """Start a sandbox. Runs on a thread for that."""
        if self._is_unwanted(record):
            self._forget(record)
            raise self.refusal(record)
        try:
            record.sandbox.start()
        except BaseException:
            record.sandbox._stop_failed()
            self._forget(record)
            raise
        now = time.monotonic()
        with self._lock:
            unwanted = self._is_unwanted(record)
            if not unwanted:
                record.is_up = True
                record.last_used = now
                self._set_ttl_locked(record, record.ttl)
        if unwanted:
            # Only this thread knows that it is up. `stop` and `end` wait for this.
            self._destroy(record)
            raise self.refusal(record)
        self._reaper.wake_by(self._due(record))

    def _is_unwanted(self, record: Record) -> bool:
        return record.is_doomed or self._state != 'running'

    def _destroy(self, record: Record) -> None:
        """Take a sandbox away; if that fails, it stays in the table and the reaper tries again."""
        try:
            record.sandbox.cleanup()
        except Exception as error:
            with self._lock:
                record.ending, record.is_doomed, record.is_up = None, True, True
                record.retry_at = time.monotonic() + RETRY_SECONDS
            logger.warning('sandbox %s could not be removed, which is tried again: %s', record.id, error)
            self._reaper.wake_by(record.retry_at)
            raise
        self._forget(record)

    def _forget(self, record: Record) -> None:
        with self._changed:
            if self._records.get(record.id) is record:
                del self._records[record.id]
            self._changed.notify_all()
        self.end_lease(record)  # of a sandbox that is no more, although nobody has given it back

    # Ending -----------------------------------------------------------------------------------------------------------

    def end(self, record: Record, *, unless_used_since: float | None = None) -> Future[None]:
        """Begin to remove a sandbox and return what says the end of that; a removal already under way is joined.

        Args:
            unless_used_since: Do nothing if it is in use, or was since this moment on the monotonic clock.
        """
        with self._lock:
            if record.ending is not None:
                return record.ending
            ending: Future[None] = Future()
            if unless_used_since is not None and (record.users or record.last_used > unless_used_since):
                ending.set_result(None)
                return ending
            record.is_doomed = True
            record.retry_at = math.inf
            record.ending = ending
        if record.pool is not None:
            record.pool.drop(record.id)
        try:
            self._ends.submit_to(ending, _carried(lambda: self._end(record)))
        except Exception as error:
            # The manager is being stopped, which takes away everything in the table.
            with self._lock:
                record.ending = None
            if not ending.cancelled():
                ending.set_exception(error)
        return ending

    def _end(self, record: Record) -> None:
        """Remove a sandbox. Runs on a thread for that."""
        if not record.started.cancel():
            wait_for(record.started)
        self._destroy(record)

    def halt(self, record: Record) -> None:
        """Stop a sandbox, which stays in the table, and wait for that."""
        halted = self._ends.submit(_carried(record.sandbox.stop))
        wait_for(halted)
        if is_cancelled() and not halted.done():
            raise CallCancelledError(f'waiting for sandbox {record.id} to stop was cancelled; it continues stopping')
        halted.result()

    def pause(self, record: Record) -> None:
        """Pause a sandbox, and wait for that."""
        self._apart(record, record.sandbox.pause, 'pause')

    def resume(self, record: Record) -> None:
        """Resume a sandbox, and wait for that."""
        self._apart(record, record.sandbox.resume, 'be resumed')

    def _apart(self, record: Record, move: Callable[[], None], what: str) -> None:
        self.check_open()
        moved = self._ends.submit(_carried(move))
        wait_for(moved)
        if is_cancelled() and not moved.done():
            raise CallCancelledError(f'waiting for sandbox {record.id} to {what} was cancelled; it continues')
        moved.result()

    def _note_pause(self, record: Record, is_paused: bool) -> None:
        """Let the lifetime of a sandbox stand still from its pause on, and continue at its resumption.

        A lease continues: somebody else waits for its end.
        """
        with self._lock:
            if record.is_paused is is_paused:
                return
            record.is_paused = is_paused
            record.last_used = now = time.monotonic()
            if record.pool is None:
                if is_paused:
                    record.time_left = None if record.expires is None else max(0.0, record.expires - now)
                    self._set_ttl_locked(record, self.paused_ttl)
                else:
                    self._set_ttl_locked(record, record.time_left)
        self._reaper.wake_by(self._due(record))

    @property
    def paused_ttl(self) -> float | None:
        """How long a sandbox may stay paused where nobody says."""
        limits = [each for each in (self.config.paused_ttl, self.config.max_ttl) if each is not None]
        return min(limits, default=None)

    # Use --------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def use(self, sandbox_id: str) -> Iterator[Sandbox]:
        """Count a call on a sandbox while the block lasts.

        Raises:
            SandboxNotFoundError: No sandbox has the id.
            ManagerStoppedError: The manager takes no work.
        """
        record = self.take(sandbox_id)
        try:
            yield record.sandbox
        finally:
            self.give_back(record)

    def take(self, sandbox_id: str, *, leases: bool = False) -> Record:
        """Count a use of a sandbox that begins, and for a lease ends with `end_lease`; see `use`."""
        self.check_open()
        me = threading.get_ident()
        with self._lock:
            record = self.get(sandbox_id)
            record.users += 1
            self._calls[me] = self._calls.get(me, 0) + 1
            if leases:
                record.lessee = me
        return record

    def give_back(self, record: Record, *, thread: int | None = None) -> None:
        """Count a use that has ended, begun by ``thread`` (default: the calling one)."""
        who = threading.get_ident() if thread is None else thread
        with self._changed:
            record.users -= 1
            record.last_used = time.monotonic()
            left = self._calls.get(who, 0) - 1
            if left > 0:
                self._calls[who] = left
            else:
                self._calls.pop(who, None)
            if self._state != 'running':
                self._changed.notify_all()
        if record.idle_timeout is not None and not record.users:
            self._reaper.wake_by(record.last_used + record.idle_timeout)

    def tend_by(self, due: float) -> None:
        """See to it that what is due by a moment on the monotonic clock is done then."""
        self._reaper.wake_by(due)

    def end_lease(self, record: Record) -> None:
        """Count a lease that has ended; its time limit ends with it."""
        with self._lock:
            lessee, record.lessee = record.lessee, None
            if lessee is None:
                return
            record.expires = record.expires_at = None
        self.give_back(record, thread=lessee)

    @property
    def active_calls(self) -> int:
        """How many calls and leases are running."""
        with self._lock:
            return sum(self._calls.values())

    # Lifetimes --------------------------------------------------------------------------------------------------------

    def set_ttl(self, record: Record, ttl: float | None, *, pauses: bool | None = None) -> datetime | None:
        """Let a sandbox live ``ttl`` seconds from now and return the moment, or None for no end.

        Args:
            pauses: Whether it is paused then, and not removed; None leaves that as it is.
        """
        with self._lock:
            self._set_ttl_locked(record, ttl)
            if pauses is not None:
                record.pauses = pauses
        self._reaper.wake_by(self._due(record))
        return record.expires_at

    def _set_ttl_locked(self, record: Record, ttl: float | None) -> None:
        record.expires = None if ttl is None else time.monotonic() + ttl
        record.expires_at = None if ttl is None else utc_now() + timedelta(seconds=ttl)

    def _due(self, record: Record) -> float:
        """Return when a sandbox is due for the reaper, on the monotonic clock; infinite for never."""
        if record.ending is not None or not record.is_up:
            return math.inf
        due = min(record.retry_at, math.inf if record.expires is None else record.expires)
        if record.idle_timeout is not None and not record.users and not record.is_paused:
            due = min(due, record.last_used + record.idle_timeout)
        return due

    def _tend(self) -> float:
        """Do what is due and return when to come again. The reaper's work."""
        now = time.monotonic()
        with self._lock:
            due = [record for record in self._records.values() if self._due(record) <= now]
            pools = list(self._pools.values())
            clean = now >= self._clean_at and (self._cleaning is None or self._cleaning.done())
            if clean:
                self._clean_at = now + self.config.cleanup_interval
        for record in due:
            self._reap(record, now)
        if clean:
            with contextlib.suppress(ManagerStoppedError):
                self._cleaning = self._ends.submit(self._clean)
        moments = [moment for pool in pools if (moment := self._tend_pool(pool, now)) is not None]
        with self._lock:
            moments += [self._due(record) for record in self._records.values()]
            # Where the last cleaning still continues although the next is due, look again soon.
            return min([self._clean_at if self._clean_at > now else now + BUSY_SECONDS, *moments])

    def _tend_pool(self, pool: Pool, now: float) -> float | None:
        """Do what is due for a pool and return when to come again; one that nobody has used for too long is dissolved."""
        timeout, unused_since = self.config.pool_unused_timeout, pool.unused_since
        if timeout is None or unused_since is None:
            return pool.tend(now)
        if now < unused_since + timeout:
            due = pool.tend(now)
            return unused_since + timeout if due is None else min(due, unused_since + timeout)
        dissolved = PoolError(f'the pool {pool.name!r} was dissolved, since nobody had used it for {timeout:g} s')
        with self._lock:
            if not pool.close(dissolved, if_unused_since=unused_since):
                return now  # somebody came in between
            if self._pools.get(pool.name) is pool:
                del self._pools[pool.name]
            # Only now, since one that was being made may have joined until it was closed.
            records = [record for record in self._records.values() if record.pool is pool]
        logger.info('pool %s is dissolved: nobody has used it for %g s', pool.name, timeout)
        for record in records:
            self.end(record)
        return None

    def _reap(self, record: Record, now: float) -> None:
        expired = record.retry_at <= now or (record.expires is not None and record.expires <= now)
        if not expired:
            # It may be used directly, without the manager.
            used_at = now if record.sandbox.active_calls else record.sandbox.used_at
            if used_at > record.last_used:
                with self._lock:
                    record.last_used = max(record.last_used, used_at)
                return  # when it is due now is for the next look, which follows at once if need be
        if record.pauses and not record.is_paused and record.retry_at > now and expired:
            self._pause_expired(record)
            return
        logger.info(
            'sandbox %s is removed: %s',
            record.id,
            'its time is over' if expired else 'it was idle for too long',
            extra={'enclave_sandbox': record.id},
        )
        self.end(record, unless_used_since=None if expired else record.last_used)

    def _pause_expired(self, record: Record) -> None:
        """Begin to pause a sandbox whose time is over; one that cannot be paused is removed."""
        with self._lock:
            # Not due again meanwhile; when it is resumed, it has as long as it was made with.
            record.expires = record.expires_at = None

        def pause() -> None:
            try:
                record.sandbox.pause()
                with self._lock:
                    record.time_left = record.ttl
            except Exception as error:
                logger.info('sandbox %s, whose time is over, cannot be paused and is removed: %s', record.id, error)
                self.end(record)

        with contextlib.suppress(ManagerStoppedError):
            self._ends.submit(_carried(pause))

    def _clean(self) -> None:
        """Look at every sandbox, so that it shows what has become of it, and sweep. Runs on a thread for ends; may be slow."""
        for record in self.records():
            if record.is_up and record.sandbox.status is SandboxStatus.ERROR:
                logger.debug('sandbox %s is lost: %s', record.id, record.sandbox.error)
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.look_over()
        if self.config.sweep:
            self.sweep()

    def sweep(self) -> list[str]:
        """Remove what dead owners left of the kinds in use, where none is yet of those that have a rank; return the ids."""
        with self._lock:
            kinds = sorted(self._kinds)
        kinds = kinds or [kind.name for kind in KINDS.ranked()]
        swept: list[str] = []
        for kind in kinds:
            housekeeper = find_housekeeper(kind)
            if housekeeper is None:
                continue
            try:
                swept += housekeeper.sweep()
            except EnclaveError as error:
                logger.debug('what dead owners left could not be swept: %s', error)
        return swept

    def check_backends(self, timeout: float) -> dict[str, str]:
        """Return whether the backends of the kinds in use answer: ``{kind: 'ok', or what is wrong}``."""
        with self._lock:
            kinds = sorted(self._kinds)
        deadline = Deadline.after(timeout)
        checks: dict[str, Future[None]] = {}
        for kind in kinds:
            housekeeper = find_housekeeper(kind)
            if housekeeper is not None:
                checks[kind] = self._control.submit(housekeeper.check)
        answers = {}
        for kind, check in checks.items():
            if not wait_for(check, deadline):
                answers[kind] = f'no answer within {timeout:g} s'
                continue
            error = check.exception()
            answers[kind] = 'ok' if error is None else str(error)
        return answers

    # Pools ------------------------------------------------------------------------------------------------------------

    def pools(self) -> dict[str, Pool]:
        """Return the pools by name, oldest first."""
        with self._lock:
            return dict(self._pools)

    def add_pool(self, pool: Pool) -> None:
        """Let the reaper tend a pool.

        Raises:
            ManagerStoppedError: The manager takes no work.
        """
        with self._lock:
            self.check_open()
            self._pools[pool.name] = pool
        self._reaper.wake_by(0.0)

    def look_after_pools(self) -> None:
        """Have the reaper look at the pools now, since one may have more than its size."""
        self._reaper.wake_by(0.0)

    def remove_pool(self, name: str) -> Pool | None:
        """Close a pool; None if there is none of that name. Its sandboxes stay in the table."""
        with self._lock:
            pool = self._pools.pop(name, None)
        if pool is not None:
            pool.close(PoolError(f'the pool {quoted(name)} was dissolved'))
        return pool

    def remove_pools(self, error: BaseException) -> None:
        """Close all pools; who waits in them gets ``error``. Their sandboxes stay in the table."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close(error)

    # Stop -------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take everything away; see `LocalSandboxManager.stop`. What cannot be taken away stays in the table."""
        if os.getpid() != self.pid:
            return  # a fork's copy: the sandboxes are its parent's
        me = threading.get_ident()
        with self._changed:
            if self._stopper == me:
                return  # a signal handler on a thread that is stopping it already, which continues afterwards
            self._changed.wait_for(lambda: self._stopper is None)
            if self._state == 'stopped' and not self._records:
                return
            self._stopper = me
            self._state = 'stopping'
        try:
            self._stop(Deadline.after(self.config.stop_timeout), me)
        finally:
            with self._changed:
                self._stopper = None
                self._changed.notify_all()

    def _stop(self, deadline: Deadline, me: int) -> None:
        # No new work from here on; those who wait learn it, starts not begun are given up.
        self._reaper.stop()
        self.remove_pools(self._stopped_error())
        for record in self.records():
            record.started.cancel()
        # Grace for the calls of other threads. A call of this one (below a signal handler, or around a lease) cannot end
        # before we return.
        with self._changed:
            self._changed.wait_for(
                lambda: not any(thread != me for thread in self._calls),
                deadline.earlier(self.config.stop_grace).remaining() if self.config.stop_grace else 0.0,
            )
        self._destroy_all(self.records(), deadline)
        for workers in self._workers:
            workers.shutdown(wait=False)
        with self._changed:
            self._state = 'stopped'
            left = list(self._records)
        if left:
            logger.warning(
                'manager %s is stopped, but of %d sandboxes something may be left: %s', self.id, len(left), left
            )
        parting = deadline.earlier(JOIN_SECONDS)
        self._reaper.join(parting.remaining())
        for workers in self._workers:
            workers.join(parting)
        logger.info('manager %s stopped', self.id)

    def _destroy_all(self, records: list[Record], deadline: Deadline) -> None:
        """Stop all sandboxes in parallel, on threads that need no lock of this library: our own thread may be holding it below
        us."""
        jobs: queue.SimpleQueue[Record] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Record, BaseException | None]] = queue.SimpleQueue()
        for record in records:
            jobs.put(record)

        def work() -> None:
            while True:
                try:
                    record = jobs.get_nowait()
                except queue.Empty:
                    return
                try:
                    wait_for(record.started, deadline)
                    # What was to be removed is removed, the rest is stopped: it may be one to keep (remove_on_exit=False).
                    if record.is_doomed:
                        record.sandbox.cleanup()
                    else:
                        record.sandbox.stop()
                except BaseException as error:
                    done.put((record, error))
                else:
                    done.put((record, None))

        helpers = min(len(records), self.config.parallel_starts)
        for number in range(helpers):
            thread = threading.Thread(target=work, name=f'enclave-stop-{self.id}-{number + 1}', daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # An interpreter that is exiting makes no threads: those that are there help, and so does this one.
                for _ in range(helpers):
                    thread_pool.submit(work)
                work()
                break
        for _ in records:
            try:
                record, error = done.get(timeout=deadline.remaining())
            except queue.Empty:
                break
            if error is None:
                self._forget(record)
            else:
                logger.warning('sandbox %s could not be stopped: %s', record.id, error)


def try_all(futures: list[Future[None]]) -> None:
    """Wait for all, then raise the first error there was."""
    for future in futures:
        wait_for(future)
    for future in futures:
        if future.done() and not future.cancelled() and (error := future.exception()) is not None:
            raise again(error)


def _carried(call: Callable[[], T]) -> Callable[[], T]:
    """Return a call to be made on another thread, in the context of this moment: whose work it is stays known there.

    It is not cancelled with that work. The one that waits for it is, and says what becomes of it.
    """
    context = contextvars.copy_context()

    def apart() -> T:
        with Cancellation().applied():
            return call()

    return lambda: context.run(apart)
