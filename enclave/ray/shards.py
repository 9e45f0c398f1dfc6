"""The shards of one manager (layer 6): where there is room, who waits for it, and which shards still live.

A thread of the manager's asks every shard for a report, over Ray, again and again. From these it knows how full each is, that
one has ended (Ray says so at once when its process died, and after some ten seconds when its node did), and that one says
nothing any more, which is the same after a while. It makes shards while somebody waits for room, and gives back those that
nobody needs.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import secrets
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Literal

import attrs
from attrs import define, field

from enclave.cancellation import is_cancelled, on_cancel
from enclave.deadline import Deadline
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    EngineUnavailableError,
    ManagerStoppedError,
    OperationTimeoutError,
    PolicyError,
    SandboxGoneError,
    SandboxStartError,
    ServerUnavailableError,
)
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.pool import again
from enclave.ray import cluster
from enclave.ray.metrics import ManagerGauges
from enclave.ray.ray_options import RayOptions
from enclave.ray.shard import Shard
from enclave.ray.transport import ShardClient

logger = logging.getLogger(__name__)

State = Literal['pending', 'up', 'retiring', 'lost', 'ended']

SLOW_TICK_SECONDS = 0.5
QUICK_TICK_SECONDS = 0.05
DISCOVER_SECONDS = 5.0
REST_SECONDS = 60.0
"""How often a manager that only uses the shards of others looks for new ones, and asks those that it has no call on. There may be
a thousand of such managers."""
MOST_REPORTS = 1000
"""How many reports are asked for in a second at most, however many shards there are."""
FIRST_SECONDS = 30.0
"""How long what is made first waits for all shards of ``min_shards``, so that it is spread, once one of them serves."""
MOST_REST_SECONDS = 30.0
"""How long it takes at most until a shard of ``min_shards`` is asked for again after others could not be started."""
MOST_ACCIDENTS = 5
"""How many shards in a row may end with their process or node before they serve, until that is the error of those who wait."""
REMEMBERED_LOSSES = 1000
"""How many lost shards are remembered, so that a call on what was in them is answered with what became of it."""


@define(eq=False)
class ShardRecord:
    """One shard as a manager knows it. All but what it is made with is guarded by the lock of its table.

    Attributes:
        used: How many of its places are taken, as far as is known here.
        reserved: How many are promised to creations that continue.
        is_own: Whether it is this manager's to end.
        is_found: Whether another manager made it.
        reported_at: When the report came that was asked for last, on the monotonic clock.
    """

    id: str
    handle: Any = field(repr=False)
    is_own: bool
    is_found: bool = False
    state: State = 'pending'
    facts: dict[str, Any] = field(factory=dict, repr=False)
    client: ShardClient | None = field(default=None, repr=False)
    size: int = 0
    used: int = 0
    reserved: int = 0
    doubts: int = 0  # callers who wait to know whether it lives
    since: float = field(factory=time.monotonic)  # when it came into its state, or was last in use
    asked: Any = field(default=None, repr=False)  # the reference of what it was asked, and since when
    asked_at: float = 0.0
    reported_at: float = 0.0
    silent_since: float | None = None
    loss: SandboxGoneError | None = field(default=None, repr=False)

    @property
    def room(self) -> int:
        """How many more sandboxes it takes."""
        return self.size - self.used - self.reserved if self.state == 'up' else 0

    def the_client(self) -> ShardClient:
        """Return the client of a shard that is or was up."""
        assert self.client is not None
        return self.client


@define(eq=False)
class _RoomTicket:
    """Somebody who waits for room. Guarded by the table's lock, but for ``ready``."""

    ready: threading.Event = field(factory=threading.Event)
    shard: ShardRecord | None = None
    error: BaseException | None = None


class Shards:
    """See the module. Lives as long as its manager; any thread may use it.

    Args:
        on_reports: Is given the record of a shard and its report, on the monitor's thread.
        on_lost: Is given the record of a shard that was lost, on the monitor's thread; it must not take long.
        on_tend: Is called again and again, on the monitor's thread, and returns whether somebody waits for what only reports
            say; it must not take long.
        cancel_later: Runs something on another thread.
    """

    def __init__(
        self,
        manager_id: str,
        config: SandboxManagerConfig,
        options: RayOptions,
        *,
        on_report: Callable[[ShardRecord, dict[str, Any]], None],
        on_lost: Callable[[ShardRecord], None],
        on_tend: Callable[[], bool | None],
        cancel_later: Callable[[Callable[[], None]], None],
    ) -> None:
        self.cluster = cluster_name(options.name or manager_id, config.tenant)
        self._manager_id = manager_id
        self._config = config
        self._options = options
        self._on_report = on_report
        self._on_lost = on_lost
        self._on_tend = on_tend
        self._cancel_later = cancel_later
        self._changed = threading.Condition()  # guards all below
        self._shards: dict[str, ShardRecord] = {}
        self._losses: collections.OrderedDict[str, SandboxGoneError] = collections.OrderedDict()
        self._queue: collections.deque[_RoomTicket] = collections.deque()
        self._asking = 0  # callers who wait to know whether a shard lives
        self._is_first = options.min_shards > 0  # whether the first shards are still to come
        self._first_until: float | None = None  # when that ends in any case
        self._failures = 0  # shards that could not be started since the last one that could
        self._accidents = 0  # those of them that ended with their process or node
        self._grow_at = 0.0  # when the next of ``min_shards`` may be asked for
        self._lost_count = 0
        self._closed: EnclaveError | None = None
        self._discover_at = 0.0
        self._is_awaited = False  # whether somebody waits for what only reports say; the monitor's alone
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._monitor: threading.Thread | None = None
        self._gauges: ManagerGauges | None = None

    # Life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find or make the first shards, and begin to watch them; Ray is connected."""
        self._gauges = ManagerGauges(self.cluster, self._manager_id)
        is_shared = self._options.attach or self._options.lifetime is not None
        if is_shared:
            self._discover()
        self._grow()
        self._monitor = threading.Thread(target=self._run, name=f'enclave-ray-{self._manager_id}', daemon=True)
        self._monitor.start()
        if is_shared:
            self.discover()

    def close(self, error: EnclaveError) -> list[ShardRecord]:
        """Make and give no more; those who wait get ``error``. Return the shards there are, which are the caller's to end."""
        with self._changed:
            self._closed = self._closed or error
            for ticket in self._queue:
                ticket.error = self._closed
                ticket.ready.set()
            self._queue.clear()
            self._changed.notify_all()
            left = list(self._shards.values())
        self._stopping.set()
        self._wake.set()
        if self._monitor is not None and self._monitor is not threading.current_thread():
            self._monitor.join(5.0)
        return left

    # Room -------------------------------------------------------------------------------------------------------------

    def reserve(self, count: int, deadline: Deadline, *, is_first: bool = False) -> list[ShardRecord]:
        """Wait for room for so many sandboxes, first come first served, and return the shard of each.

        Args:
            is_first: Before all others who wait: for the one who was sent away by a shard that turned out to be full.

        Raises:
            OperationTimeoutError: There was no room in time.
            CallCancelledError: The caller's work was cancelled.
            ManagerStoppedError: The manager was stopped.
            PolicyError: There would be more than the manager's ``max_sandboxes``.
            SandboxStartError: Shards cannot be started.
        """
        tickets = [_RoomTicket() for _ in range(count)]
        with self._changed:
            self._check_open_locked()
            if not is_first:
                self._check_quota_locked(count)
            if is_first:
                self._queue.extendleft(tickets)
            else:
                self._queue.extend(tickets)
            self._assign_locked()
            waits = any(ticket.shard is None for ticket in tickets)
        if waits:
            self._wake.set()
        try:
            for ticket in tickets:
                with on_cancel(ticket.ready.set):
                    ticket.ready.wait(deadline.remaining())
                with self._changed:
                    if ticket.error is not None:
                        raise again(ticket.error)
                    if ticket.shard is None and is_cancelled():
                        raise CallCancelledError('the wait for room in the cluster was cancelled')
                    if ticket.shard is None:
                        raise self._no_room_locked()
        except BaseException:
            with self._changed:
                for ticket in tickets:
                    if ticket.shard is not None:
                        ticket.shard.reserved -= 1
                    elif ticket in self._queue:
                        self._queue.remove(ticket)
                self._assign_locked()
            raise
        return [ticket.shard for ticket in tickets if ticket.shard is not None]

    def _check_open_locked(self) -> None:
        if self._closed is not None:
            raise again(self._closed)

    def _check_quota_locked(self, count: int) -> None:
        most = self._config.max_sandboxes
        if most is None:
            return
        used = sum(shard.used + shard.reserved for shard in self._shards.values()) + len(self._queue)
        if used + count > most:
            raise PolicyError(
                f'{self._config.tenant or "the manager"} may have {most} sandboxes at once and has {used}, those of pools and '
                'those that are stopped included; delete some (rule max_sandboxes)',
                details={'rule': 'max_sandboxes', 'max_sandboxes': most},
            )

    def _no_room_locked(self) -> OperationTimeoutError:
        counts = collections.Counter(shard.state for shard in self._shards.values())
        if self._options.attach and not counts['up']:
            return OperationTimeoutError(
                f'there is no shard of {self.cluster!r} that serves, and a manager with attach=True makes none; start '
                'the program that makes them',
                details={'shards': 0, 'pending': counts['pending'], 'waiting': len(self._queue)},
            )
        return OperationTimeoutError(
            f'no shard of {self.cluster!r} had room for a sandbox in time: {counts["up"]} are full, {counts["pending"]} wait for '
            f"the cluster's resources; add nodes, raise max_shards, or delete sandboxes",
            details={'shards': counts['up'], 'pending': counts['pending'], 'waiting': len(self._queue)},
        )

    def _assign_locked(self) -> None:
        """Give those who wait what room there is."""
        if self._is_first and self._options.strategy != 'pack':
            return  # so that what comes first is spread too
        while self._queue:
            free = [shard for shard in self._shards.values() if shard.room > 0]
            if not free:
                return
            choose = min if self._options.strategy == 'pack' else max
            shard = choose(free, key=lambda each: each.room / each.size)
            ticket = self._queue.popleft()
            shard.reserved += 1
            shard.since = time.monotonic()
            ticket.shard = shard
            ticket.ready.set()

    def settle(self, shard: ShardRecord, *, reserved: int = 0, used: int = 0, is_full: bool = False) -> None:
        """Count what became of places: ``reserved`` are no longer promised, ``used`` more (or fewer) are taken.

        Args:
            is_full: The shard itself says that it has no room, which counts until its next report.
        """
        with self._changed:
            shard.reserved -= reserved
            shard.used = shard.size if is_full else max(0, shard.used + used)
            shard.since = time.monotonic()
            self._assign_locked()
        if is_full:
            self._wake.set()

    # Finding ----------------------------------------------------------------------------------------------------------

    def up(self) -> list[ShardRecord]:
        """Return the shards that serve."""
        with self._changed:
            return [shard for shard in self._shards.values() if shard.state in ('up', 'retiring')]

    def find(self, shard_id: str) -> ShardRecord | None:
        """Return a shard that serves, by its id, or None.

        Raises:
            SandboxGoneError: It was there, and was lost.
        """
        with self._changed:
            if shard_id in self._losses:
                raise again(self._losses[shard_id])
            shard = self._shards.get(shard_id)
            return shard if shard is not None and shard.client is not None else None

    def counts(self) -> dict[str, int]:
        """Return numbers: of shards by their states, of those who wait, and of the places of those that serve."""
        with self._changed:
            states = collections.Counter(shard.state for shard in self._shards.values())
            return {
                'up': states['up'] + states['retiring'],
                'pending': states['pending'],
                'lost': self._lost_count,
                'waiting': len(self._queue),
                'size': sum(shard.size for shard in self._shards.values()),
                'used': sum(shard.used + shard.reserved for shard in self._shards.values()),
            }

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each shard."""
        with self._changed:
            return {
                shard.id: {
                    'state': shard.state,
                    'node_id': shard.facts.get('node_id'),
                    'address': shard.facts.get('address'),
                    'pid': shard.facts.get('pid'),
                    'size': shard.size,
                    'used': shard.used + shard.reserved,
                }
                for shard in self._shards.values()
            }

    def discover(self) -> None:
        """Look for shards of other managers of the same name, and wait a moment for what they say."""
        self._discover()
        with self._changed, on_cancel(self._notify):
            self._asking += 1
            self._wake.set()
            self._changed.wait_for(lambda: is_cancelled() or not self._has_unheard_locked(), DISCOVER_SECONDS)
            self._asking -= 1

    def _has_unheard_locked(self) -> bool:
        return any(shard.is_found and shard.state == 'pending' for shard in self._shards.values())

    # Judging ----------------------------------------------------------------------------------------------------------

    def judge(self, shard: ShardRecord, error: EnclaveError) -> EnclaveError:
        """Return what to raise for an error that says that a shard does not answer; asks it over Ray, and waits for that."""
        asked_at = time.monotonic()
        limit = self._options.lost_after + 2.0
        with self._changed, on_cancel(self._notify):
            self._asking += 1
            shard.doubts += 1
            self._wake.set()
            self._changed.wait_for(
                lambda: (
                    shard.state in ('lost', 'ended')
                    or shard.reported_at > asked_at
                    or self._closed is not None
                    or is_cancelled()
                ),
                limit,
            )
            self._asking -= 1
            shard.doubts -= 1
            if shard.loss is not None:
                found = again(shard.loss)
                assert isinstance(found, EnclaveError)
                return found
            if self._closed is not None:
                return ManagerStoppedError(self._closed.message)
            if shard.reported_at > asked_at:
                return error
            return ServerUnavailableError(
                f'shard {shard.id} does not answer, and Ray does not know yet whether it lives; ask again: {error.message}',
                details={'shard_id': shard.id},
            )

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _lose(self, shard: ShardRecord, why: str) -> None:
        """Give up a shard: end its process, if there is one, and every call on it."""
        with self._changed:
            if shard.state in ('lost', 'ended'):
                return
            was_pending, shard.state = shard.state == 'pending', 'lost'
            place = shard.facts.get('address')
            shard.loss = SandboxGoneError(
                f'shard {shard.id}{f" on {place}" if place else ""} is gone, and what ran in it is lost: {why}',
                details={'shard_id': shard.id, 'node_id': shard.facts.get('node_id')},
            )
            self._shards.pop(shard.id, None)
            self._losses[shard.id] = shard.loss
            while len(self._losses) > REMEMBERED_LOSSES:
                self._losses.popitem(last=False)
            if not was_pending:
                self._lost_count += 1
            self._changed.notify_all()
        logger.warning('shard %s is lost: %s', shard.id, why)
        if shard.is_own:
            # It may only be silent: then nothing it does from now on has anybody to know it.
            cluster.end_shard(shard.handle)
        if shard.client is not None:
            shard.client.lose(shard.loss)
        self._on_lost(shard)

    # Monitor ----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._tend()
            except Exception:
                logger.warning('looking after the shards failed, which is tried again', exc_info=True)
            with self._changed:
                is_urgent = bool(
                    self._asking or self._queue or any(s.state == 'pending' for s in self._shards.values())
                )
            self._wake.wait(QUICK_TICK_SECONDS if is_urgent else SLOW_TICK_SECONDS)
            self._wake.clear()

    def _tend(self) -> None:
        if not cluster.is_connected():
            self._leave()
            return
        now = time.monotonic()
        with self._changed:
            if self._is_first and self._first_until is not None and now >= self._first_until:
                self._is_first = False
                self._assign_locked()
        was_awaited, self._is_awaited = self._is_awaited, bool(self._on_tend())
        if self._is_awaited and not was_awaited:
            self._discover_at = min(self._discover_at, now + DISCOVER_SECONDS)
        if (self._options.name is not None) and now >= self._discover_at:
            self._discover()
        self._ask(now)
        with self._changed:
            asked = {shard.asked: shard for shard in self._shards.values() if shard.asked is not None}
        for ref in cluster.done(asked):
            self._hear(asked[ref], ref)
        self._give_up_silent(time.monotonic())
        self._grow()
        self._shrink(time.monotonic())
        if self._gauges is not None:
            counts = self.counts()
            self._gauges.show(**{name: counts[name] for name in ('up', 'pending', 'lost', 'waiting')})

    def _leave(self) -> None:
        """Give up all shards, since Ray was shut down in this program."""
        for shard in self.close(EngineUnavailableError(cluster.NOT_CONNECTED)):
            self._lose(shard, 'Ray was shut down in this program')

    def _discover(self) -> None:
        rests = self._options.attach and not self._is_awaited
        self._discover_at = time.monotonic() + (REST_SECONDS if rests else DISCOVER_SECONDS)
        for shard_id in cluster.named_shards(self.cluster):
            with self._changed:
                if shard_id in self._shards or shard_id in self._losses or self._closed is not None:
                    continue
            handle = cluster.get_shard(self.cluster, shard_id)
            if handle is None:
                continue
            # Shards that another program made end with that program, unless they are detached.
            is_own = self._options.lifetime is not None and not self._options.attach
            shard = ShardRecord(shard_id, handle, is_own=is_own, is_found=True)
            shard.asked, shard.asked_at = cluster.ask(handle, 'describe'), time.monotonic()
            with self._changed:
                self._shards.setdefault(shard_id, shard)

    def _ask(self, now: float) -> None:
        with self._changed:
            due = [
                shard
                for shard in self._shards.values()
                if shard.state == 'up' and shard.asked is None and now >= shard.asked_at + self._interval_locked(shard)
            ]
        for shard in due:
            shard.asked, shard.asked_at = cluster.ask(shard.handle, 'report'), time.monotonic()

    def _interval_locked(self, shard: ShardRecord) -> float:
        """Return how often a shard is to be asked how it is."""
        if shard.doubts:
            return QUICK_TICK_SECONDS
        is_wanted = self._queue or self._is_awaited or shard.the_client().is_in_use
        if self._options.attach and not is_wanted:
            # A detached shard ends when it is not asked for too long.
            return min(REST_SECONDS, (shard.facts.get('unattended_timeout') or 3 * REST_SECONDS) / 3)
        wanted = self._options.report_interval
        if self._queue:
            wanted = min(wanted, 4 * QUICK_TICK_SECONDS)
        return max(wanted, len(self._shards) / MOST_REPORTS)

    def _hear(self, shard: ShardRecord, ref: Any) -> None:
        """Take what a shard answered, or what Ray answered in its place."""
        asked_at = shard.asked_at
        try:
            answer = cluster.get(ref, timeout=5.0)
        except Exception as error:
            with self._changed:
                shard.asked = None
                state = shard.state
                if shard.silent_since is None:
                    shard.silent_since = asked_at
            if state == 'pending':
                self._fail_pending(shard, error)
            elif cluster.is_final(error):
                self._lose(shard, _last_line(error))
            return
        with self._changed:
            shard.asked, shard.silent_since = None, None
            state = shard.state
        if state == 'pending':
            self._open(shard, answer)
        elif state == 'retiring':
            self._retired(shard, bool(answer))
        else:
            with self._changed:
                shard.reported_at = asked_at + 1e-9
                # What was begun after the report was asked for is in nobody's count but this one's.
                if shard.since < asked_at:
                    shard.used = max(0, answer['used'] - shard.reserved)
                self._assign_locked()
                self._changed.notify_all()
            self._on_report(shard, answer)

    def _open(self, shard: ShardRecord, facts: dict[str, Any]) -> None:
        """Begin to use a shard that has said where it serves."""
        client = ShardClient(
            self._config, facts, judge=lambda error: self.judge(shard, error), cancel_later=self._cancel_later
        )
        with self._changed:
            shard.facts, shard.client = facts, client
            shard.size, shard.used = facts['size'], facts['used']
            shard.state = 'up'
            shard.since = shard.reported_at = time.monotonic()
            self._failures = self._accidents = 0
            self._first_until = self._first_until or shard.since + FIRST_SECONDS
            if len([each for each in self._shards.values() if each.state == 'up']) >= self._options.min_shards:
                self._is_first = False
        logger.info('shard %s serves at %s', shard.id, facts['url'])
        self._on_report(shard, facts)
        with self._changed:
            self._assign_locked()
            self._changed.notify_all()

    def _fail_pending(self, shard: ShardRecord, error: BaseException) -> None:
        """Forget a shard that never was; those who wait get to know why, if the next would end alike."""
        is_accident = cluster.is_accident(
            error
        )  # Ray may give a shard to a node that has just died, before it knows that
        with self._changed:
            self._shards.pop(shard.id, None)
            shard.state = 'ended'
            if not shard.is_own:
                self._changed.notify_all()
                return
            self._accidents += is_accident
            if not is_accident or self._accidents > MOST_ACCIDENTS:
                self._is_first = False
                failure = SandboxStartError(f'a shard could not be started on the cluster: {_last_line(error)}')
                failure.__cause__ = error
                self._fail_waiting_locked(failure)
        logger.warning('shard %s could not be started: %s', shard.id, error)
        cluster.end_shard(shard.handle)

    def _fail_waiting_locked(self, failure: EnclaveError) -> None:
        """Give those who wait for room the reason why no shard can be started; the next is asked for later."""
        self._failures += 1
        self._grow_at = time.monotonic() + min(MOST_REST_SECONDS, 0.25 * 2 ** min(self._failures, 16))
        for ticket in self._queue:
            ticket.error = failure
            ticket.ready.set()
        self._queue.clear()
        self._changed.notify_all()

    def _give_up_silent(self, now: float) -> None:
        with self._changed:
            silent = []
            for shard in self._shards.values():
                if shard.state not in ('up', 'retiring'):
                    continue
                since = shard.silent_since
                if since is None and shard.asked is not None:
                    since = shard.asked_at
                if since is not None and now - since > self._options.lost_after:
                    silent.append(shard)
        for shard in silent:
            self._lose(shard, f'it said nothing for {self._options.lost_after:g} s')

    def _grow(self) -> None:
        """Ask Ray for as many more shards as those who wait need, and for those that there are always to be."""
        if self._options.attach:
            return
        while True:
            with self._changed:
                if self._closed is not None:
                    return
                pending = sum(1 for shard in self._shards.values() if shard.state == 'pending')
                room = sum(shard.room for shard in self._shards.values())
                lacking = len(self._queue) - room - pending * self._options.shard_size
                lacks_first = len(self._shards) < self._options.min_shards and time.monotonic() >= self._grow_at
                is_wanted = lacks_first or lacking > 0
                most = self._options.max_shards
                may = most is None or len(self._shards) < most
                if not (is_wanted and may and pending < self._options.max_pending):
                    return
                shard_id = uuid.uuid4().hex[:8]
            try:
                shard = self._make(shard_id)
            except Exception as error:
                # The options are wrong, most likely: those who wait would else do so in vain until their time is over.
                failure = error
                if not isinstance(failure, EnclaveError):
                    failure = SandboxStartError(f'a shard could not be asked for: {_last_line(error)}')
                with self._changed:
                    self._fail_waiting_locked(failure)
                raise failure from error
            with self._changed:
                if self._closed is None:
                    self._shards[shard_id] = shard
                    continue
            cluster.end_shard(shard.handle)
            return

    def _make(self, shard_id: str) -> ShardRecord:
        options = self._options
        config = {
            **{each.name: getattr(self._config, each.name) for each in attrs.fields(type(self._config))},
            'api_key': None,
            'base_url': None,
            'max_sandboxes': None,
            'pool_size': 0,
            'pool_when_empty': 'wait',
            'pool_max_size': None,
            # What a part has above its size goes soon: when that is, is this manager's to say.
            'pool_idle_timeout': 1.0,
        }
        spec = {
            'cluster': self.cluster,
            'shard_id': shard_id,
            'key': secrets.token_hex(32),
            'size': options.shard_size,
            'config': config,
            'unattended_timeout': options.unattended_timeout if options.lifetime else None,
        }
        handle = cluster.make_shard(
            Shard,
            spec,
            name=cluster.actor_name(self.cluster, shard_id),
            strategy=options.strategy,
            **options.actor_options,
        )
        logger.info('shard %s is asked for', shard_id)
        shard = ShardRecord(shard_id, handle, is_own=True)
        shard.asked, shard.asked_at = cluster.ask(handle, 'describe'), time.monotonic()
        return shard

    def _shrink(self, now: float) -> None:
        """Give back shards that nobody needs."""
        if self._options.attach:
            return
        idle: list[ShardRecord] = []
        unneeded: list[ShardRecord] = []
        with self._changed:
            spare = len(self._shards) - self._options.min_shards
            for shard in sorted(self._shards.values(), key=lambda each: each.since):
                if spare <= 0 or self._queue or now - shard.since < self._options.idle_shard_timeout:
                    continue
                if not shard.is_own:
                    continue
                if shard.state == 'up' and not shard.used and not shard.reserved and shard.asked is None:
                    shard.state = 'retiring'
                    idle.append(shard)
                    spare -= 1
                elif shard.state == 'pending':
                    del self._shards[shard.id]
                    shard.state = 'ended'
                    unneeded.append(shard)
                    spare -= 1
        for shard in idle:
            shard.asked, shard.asked_at = cluster.ask(shard.handle, 'retire'), time.monotonic()
        for shard in unneeded:
            cluster.end_shard(shard.handle)

    def _retired(self, shard: ShardRecord, is_empty: bool) -> None:
        with self._changed:
            if not is_empty:
                shard.state, shard.since = 'up', time.monotonic()
                return
            shard.state = 'ended'
            self._shards.pop(shard.id, None)
            self._changed.notify_all()
        logger.info('shard %s is given back', shard.id)
        if shard.client is not None:
            shard.client.stop()
        cluster.end_shard(shard.handle)


def cluster_name(name: str, tenant: str | None) -> str:
    """Return what the shards of a name and a tenant are known by; no two tenants have the same."""
    return f'{name}.{urllib.parse.quote(tenant, safe="").replace(".", "%2E")}' if tenant else name


def end_all(shards: Iterable[ShardRecord], deadline: Deadline) -> None:
    """Have shards take everything away, and end them; those of other managers stay."""
    stops = {}
    everyone = [shard for shard in shards if shard.is_own]
    for shard in everyone:
        with contextlib.suppress(Exception):  # it may have ended, and so may Ray
            if shard.state != 'pending':
                stops[shard.id] = cluster.ask(shard.handle, 'stop')
    for shard in everyone:
        try:
            if shard.id in stops:
                cluster.get(stops[shard.id], timeout=deadline.remaining())
        except Exception as error:
            logger.debug('shard %s did not stop by itself: %s', shard.id, error)
        shard.state = 'ended'
        if shard.client is not None:
            shard.client.stop()
        cluster.end_shard(shard.handle)


def _last_line(error: BaseException) -> str:
    """Return what Ray says last of an error, which is why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
