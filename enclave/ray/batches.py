"""Batches of programs over the shards of a pool (layer 6).

A batch is divided into *parts*: some programs that go to one shard with one request, as many as its free places there are through
with in half a second or so. So a request costs little of each of many short programs, and long ones go one to a place, as
if each were a request of its own. A shard gets its next part when it has a free place, first come first served among all who use
the pool; so one that is slow gets less and holds up nobody. What a shard has not begun in time, because programs took longer than
those before, it gives back, and others get it.

What larger parts would cost: others wait longer for a place, so parts are shorter while somebody waits; places come to their
end at different times, so what is left of a batch is shared among all places and its last parts are the smallest; more programs
fail with a shard that dies. What smaller parts cost is processor time: a request is about a millisecond of each side.

What a shard may have begun is not sent to another one. What it says it did not begin, or what never came to it, is.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from attrs import define, field

from enclave.cancellation import Cancellation
from enclave.deadline import Deadline, check_timeout
from enclave.errors import (
    CallCancelledError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    PoolError,
    PoolExhaustedError,
    RequestTooLargeError,
)
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.code_batches import Exchange, size_of
from enclave.managers.pool import again
from enclave.managers.protocol import BEGIN_RULE
from enclave.parallel import Batch, Outcome
from enclave.ray.pools import ShardedPool
from enclave.ray.shards import ShardRecord
from enclave.threads import thread_pool

logger = logging.getLogger(__name__)

PART_SECONDS = 0.5
"""How long the places of a part are to work on it."""
SHARED_PART_SECONDS = 0.2
"""The same while others wait for a place in the pool."""
BEGIN_SECONDS = 1.0
"""When a shard gives back what of a part it has not begun."""
MOST_PER_PLACE = 32
"""How many programs a part has at most for each of its places."""
FIRST_PER_PLACE = 4
"""The same of the first parts, whose programs may be quite others than those of the batch before."""
PART_BYTES = 4 << 20
"""Sources, inputs and files of a part, about; a larger program travels alone."""
WAITING_BYTES = 16 << 20
"""The same of all programs that were taken and not sent yet; one more may be taken before that is seen."""
HELD_BYTES = 64 << 20
"""Results that wait to be taken; past it no more are read from the shards."""
MOST_SENT = 8
"""How often a program is sent that never arrives anywhere."""


@define(eq=False)
class _Program:
    """A program on its way. Guarded by the batch's condition."""

    index: int
    request: CodeRequest
    size: int
    sent: int = 0  # how often, in vain
    is_alone: bool = False  # whether it travels alone, since a shard refused the part that it was in


@define(eq=False)
class _Pace:
    """How long a shard's places take for a program of the batch. Guarded by the batch's condition."""

    seconds: float
    per_place: int  # how many programs the last part had for each place

    def note(self, seconds: float, per_place: int) -> None:
        """Learn how a part went."""
        self.seconds, self.per_place = (self.seconds + seconds) / 2, per_place


@define(eq=False)
class _SentPart:
    """Programs that a shard has, by their places in the exchange. Guarded by the batch's condition, but for the exchange.

    Attributes:
        concurrency: How many run at once, at first.
        places: How many still may.
    """

    pool: ShardedPool
    shard: ShardRecord
    concurrency: int
    programs: dict[int, _Program]
    exchange: Exchange
    count: int = field(init=False)
    places: int = field(init=False)
    cancellation: Cancellation = field(factory=Cancellation, init=False)

    @count.default
    def _count(self) -> int:
        return len(self.programs)

    @places.default
    def _places(self) -> int:
        return self.concurrency


class ShardedBatch(Batch[Any, CodeResult]):
    """See the module. An iterator of outcomes, and a context manager that ends what is left; lives for one pass.

    Args:
        items: Taken one by one, on a thread of their own, no further than the window.
        make: Makes a request of an item; what it raises is the outcome of that one.
        take: Holds places for at most so many programs and returns the pool, the shard and how many they are.
        lost_part: Is called when a shard knows nothing of a pool any more.
        is_over: Whether a shard is no more, after an error of it.
        concurrency: How many programs run at once.
        wait_timeout: How long a program may wait for a place.
    """

    def __init__(
        self,
        items: Iterable[Any],
        make: Callable[[Any], CodeRequest],
        *,
        take: Callable[[int, Deadline], tuple[ShardedPool, ShardRecord, int]],
        lost_part: Callable[[ShardedPool, ShardRecord, EnclaveError], None],
        is_over: Callable[[ShardRecord, BaseException], bool],
        concurrency: int,
        is_ordered: bool,
        wait_timeout: float | None,
    ) -> None:
        super().__init__(self._single, items, concurrency=concurrency, is_ordered=is_ordered)
        self._make = make
        # Each outcome wakes the one that takes it, and nobody else: `_changed` is for outcomes. These two have the same lock.
        lock = self._changed._lock  # type: ignore[attr-defined]
        self._room = threading.Condition(lock)  # for the one that takes the items
        self._sendable = threading.Condition(lock)  # for the one that sends parts
        self._take_places = take
        self._lost_part = lost_part
        self._is_shard_over = is_over
        self._wait_timeout = check_timeout(wait_timeout)
        self._cancellation = Cancellation()  # of the wait for places
        # All below is guarded by _changed.
        self._waiting: collections.deque[_Program] = collections.deque()  # to be sent, in their order
        self._waiting_bytes = 0
        self._parts: set[_SentPart] = set()
        self._out: set[int] = set()  # programs that shards have
        self._busy = 0  # places
        self._held_bytes = 0  # of the outcomes that wait to be taken
        self._sizes: dict[int, int] = {}  # of each of these
        self._paces: dict[str, _Pace] = {}  # of the shards
        self._per_place = 1  # how many programs the last part was to have for each place

    # For the caller ---------------------------------------------------------------------------------------------------

    def _give_locked(self) -> Outcome[CodeResult]:
        found = self._ready.popleft()
        self._given += 1
        was_full, self._held_bytes = self._held_bytes >= HELD_BYTES, self._held_bytes - self._sizes.pop(found.index, 0)
        if was_full:
            self._changed.notify_all()
        if self._has_room_locked():
            self._room.notify()
        return found

    def stop(self) -> None:
        """Begin nothing more, cancel what continues, and wake those that wait. Does not wait."""
        super().stop()
        with self._changed:
            parts = list(self._parts)
            self._room.notify()
            self._sendable.notify()
        self._cancellation.cancel()
        for part in parts:
            part.cancellation.cancel()

    def _single(self, item: Any) -> CodeResult:
        raise NotImplementedError  # programs go in parts

    # Threads ----------------------------------------------------------------------------------------------------------

    def _begin_locked(self) -> None:
        if self._workers or self._is_exhausted or self._is_closed:
            return
        self._start_locked(self._read)
        self._start_locked(self._send)

    def _start_locked(self, work: Callable[[], None]) -> None:
        """Have something done on a thread of its own, under the caller's context."""
        context = self._context.copy()
        self._workers += 1

        def serve() -> None:
            try:
                context.run(work)
            except BaseException:
                logger.exception('a batch ends, since it cannot be continued')
                self.stop()
            finally:
                with self._changed:
                    self._workers -= 1
                    self._changed.notify_all()

        thread_pool.submit(serve)

    # Taking the items -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Take items as long as there is room for what becomes of them."""
        while True:
            with self._changed:
                if not self._may_take_locked():
                    self._room.wait_for(lambda: self._is_closed or self._has_room_locked())
                if self._is_closed:
                    return
            try:
                item = next(self._items)
            except StopIteration:
                failure = None
            except BaseException as error:
                failure = error
            else:
                self._take_item(item)
                continue
            with self._changed:
                self._is_exhausted, self._failure = True, failure
                self._changed.notify_all()
                self._sendable.notify()
            return

    def _may_take_locked(self) -> bool:
        return self._taken - self._given < self._window_locked() and self._waiting_bytes < WAITING_BYTES

    def _has_room_locked(self) -> bool:
        """Whether there is room again after there was none: for one, where none waits to be sent, else for some at once."""
        few = self._window_locked() // 4 if self._waiting else 0
        return self._taken - self._given < self._window_locked() - few and self._waiting_bytes < WAITING_BYTES

    def _window_locked(self) -> int:
        # One part each place has, and at least one for each is to wait, or parts would be smaller than they are to be.
        return 3 * self._concurrency * (1 + self._per_place)

    def _take_item(self, item: Any) -> None:
        with self._changed:
            index, self._taken = self._taken, self._taken + 1
        try:
            request = self._make(item)
            size = size_of(request)
        except Exception as error:
            self._deliver(Outcome(index, error=error))
            return
        with self._changed:
            self._waiting.append(_Program(index, request, size))
            self._waiting_bytes += size
            if self._busy < self._concurrency:  # else nobody asks how many wait
                self._sendable.notify()

    # Sending parts ----------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send parts as places become free, until there is nothing left to send."""
        while True:
            with self._changed:
                self._sendable.wait_for(
                    lambda: (
                        self._is_closed or self._is_done_locked() or (self._waiting and self._busy < self._concurrency)
                    )
                )
                if self._is_closed or self._is_done_locked():
                    return
                most = min(self._concurrency - self._busy, len(self._waiting))
            try:
                with self._cancellation.applied():
                    pool, shard, places = self._take_places(most, Deadline.after(self._wait_timeout))
            except Exception as error:
                self._fail_first(most, error)
                continue
            seconds = SHARED_PART_SECONDS if pool.waiting else PART_SECONDS
            with self._changed:
                part = None if self._is_closed else self._next_part_locked(pool, shard, places, seconds)
                if part is not None:
                    self._parts.add(part)
                    self._busy += part.places
                    self._start_locked(lambda part=part: self._run_part(part))  # type: ignore[misc]
            spare = places - (0 if part is None else part.places)
            if spare:
                pool.give(shard, spare)

    def _is_done_locked(self) -> bool:
        return self._is_exhausted and not self._waiting and not self._parts

    def _fail_first(self, count: int, error: Exception) -> None:
        """Give those that have waited in vain their outcome."""
        with self._changed:
            if self._is_closed:
                return
            programs = [self._pop_locked() for _ in range(min(count, len(self._waiting)))]
        for program in programs:
            self._deliver(Outcome(program.index, error=_again(error)))

    def _pop_locked(self) -> _Program:
        program = self._waiting.popleft()
        self._waiting_bytes -= program.size
        if not self._waiting or self._waiting_bytes + program.size >= WAITING_BYTES:
            self._room.notify()
        return program

    def _next_part_locked(self, pool: ShardedPool, shard: ShardRecord, places: int, seconds: float) -> _SentPart | None:
        if not self._waiting:
            return None
        self._per_place = self._per_place_locked(pool, shard, seconds)
        wanted = places * self._per_place
        # What is left is shared among all places, so that they come to the end at the same time.
        share = -(-len(self._waiting) * places // self._concurrency)
        programs = [self._pop_locked()]
        size = programs[0].size
        while self._waiting and len(programs) < max(places, min(wanted, share)) and not programs[0].is_alone:
            following = self._waiting[0]
            if size + following.size > PART_BYTES or following.is_alone:
                break
            programs.append(self._pop_locked())
            size += following.size
        self._out.update(program.index for program in programs)
        numbered = dict(enumerate(programs))
        exchange = Exchange(0, {number: program.request for number, program in numbered.items()}, size=size)
        return _SentPart(pool, shard, min(places, len(programs)), numbered, exchange)

    def _per_place_locked(self, pool: ShardedPool, shard: ShardRecord, seconds: float) -> int:
        """Return how many programs a shard is to have for each of its places, which are to work on them so long."""
        pace = self._paces.get(shard.id)
        if pace is not None:
            each, most = pace.seconds, min(MOST_PER_PLACE, 2 * pace.per_place)
        elif pool.program_seconds is not None:
            each, most = pool.program_seconds, FIRST_PER_PLACE
        else:
            return 1
        return max(1, min(most, int(seconds / max(each, 1e-6))))

    # Parts ------------------------------------------------------------------------------------------------------------

    def _run_part(self, part: _SentPart) -> None:
        try:
            with part.cancellation.applied():
                with self._changed:
                    is_closed = self._is_closed
                if not is_closed:
                    self._run_on_shard(part)
        except CallCancelledError as error:
            self._fail_part(part, error)
        except Exception as error:
            self._end_part(part, error)
        finally:
            with self._changed:
                places, part.places = part.places, 0
            if places:
                part.pool.give(part.shard, places)
            with self._changed:
                self._busy -= places
                self._parts.discard(part)
                self._sendable.notify()

    def _run_on_shard(self, part: _SentPart) -> None:
        outcomes = part.shard.the_client().run_part(
            part.exchange,
            concurrency=part.concurrency,
            timeout=self._wait_timeout,
            pool=part.pool.name,
            begin_within=BEGIN_SECONDS,
        )
        begun = time.monotonic()
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                if _was_not_begun(outcome.error):
                    self._send_again(part, [outcome.index])
                    if type(outcome.error) is PoolError:
                        self._lost_part(part.pool, part.shard, outcome.error)
                else:
                    self._take_outcome(part, outcome)
                self._give_spare_places(part)
        seconds = (time.monotonic() - begun) * part.concurrency / part.count
        with self._changed:
            per_place = -(-part.count // part.concurrency)
            pace = self._paces.setdefault(part.shard.id, _Pace(seconds, per_place))
            pace.note(seconds, per_place)
            part.pool.program_seconds = pace.seconds

    def _take_outcome(self, part: _SentPart, outcome: Outcome[CodeResult]) -> None:
        """Hand an outcome to the caller, when there is room for it."""
        size = 0 if outcome.result is None else _result_size(outcome.result)
        with self._changed:
            index = part.programs.pop(outcome.index).index
            while not (self._is_closed or self._may_hold_locked(part, index)):
                self._changed.wait()
            self._out.discard(index)
            self._held_bytes += size
            self._sizes[index] = size
            self._deliver_locked(Outcome(index, outcome.result, outcome.error))

    def _may_hold_locked(self, part: _SentPart, index: int) -> bool:
        if self._held_bytes < HELD_BYTES:
            return True
        if not self._is_ordered:
            return not self._ready
        # The next one in the order is always let through, and so is what stands before it on the way from its shard.
        due = self._given + len(self._ready)
        return due == index or due not in self._out or any(each.index == due for each in part.programs.values())

    def _give_spare_places(self, part: _SentPart) -> None:
        """Let others have the places for which the part has no programs left."""
        if part.places <= len(part.exchange.waiting):  # no other thread changes these of a part that runs
            return
        with self._changed:
            spare = part.places - len(part.exchange.waiting)
            part.places -= spare
        part.pool.give(part.shard, spare)
        with self._changed:
            self._busy -= spare
            self._sendable.notify()

    # What fails -------------------------------------------------------------------------------------------------------

    def _end_part(self, part: _SentPart, error: Exception) -> None:
        """Say what becomes of the programs of a part that has failed as a whole."""
        exchange = part.exchange
        left = list(exchange.waiting)
        # Nothing has begun where nothing arrived, or where the only answer was that the request as a whole is refused.
        was_refused = exchange.attempts == 1 and not exchange.has_begun
        if not exchange.was_sent and (self._is_shard_over(part.shard, error) or _is_elsewhere(error)):
            self._send_again(part, left, error)
        elif was_refused and type(error) is PoolError:
            self._lost_part(part.pool, part.shard, error)
            self._send_again(part, left)
        elif was_refused and len(left) > 1 and isinstance(error, (InvalidArgumentError, RequestTooLargeError)):
            self._send_again(part, left, is_alone=True)
        else:
            self._fail_part(part, error)

    def _fail_part(self, part: _SentPart, error: Exception) -> None:
        """Give the programs without an outcome this one."""
        for number in list(part.exchange.waiting):
            with self._changed:
                program = part.programs.pop(number)
                self._out.discard(program.index)
            self._deliver(Outcome(program.index, error=_again(error)))

    def _send_again(
        self, part: _SentPart, numbers: list[int], error: Exception | None = None, *, is_alone: bool = False
    ) -> None:
        """Have programs that were not begun sent again, before all others.

        Args:
            error: Why they did not arrive; after too many times it is their outcome.
        """
        given_up: list[_Program] = []
        with self._changed:
            for number in numbers:
                program = part.programs.pop(number)
                self._out.discard(program.index)
                program.sent += error is not None
                program.is_alone = program.is_alone or is_alone
                if error is not None and program.sent >= MOST_SENT:
                    given_up.append(program)
                else:
                    self._waiting.append(program)
                    self._waiting_bytes += program.size
            self._waiting = collections.deque(sorted(self._waiting, key=lambda each: each.index))
            self._changed.notify_all()
            self._sendable.notify()
        for program in given_up:
            assert error is not None
            self._deliver(Outcome(program.index, error=_again(error)))


def _was_not_begun(error: BaseException | None) -> bool:
    """Whether a shard says of a program that it did not begin it, so that it may go elsewhere."""
    if isinstance(error, PoolExhaustedError):
        return error.details.get('rule') == BEGIN_RULE
    return type(error) is PoolError


def _is_elsewhere(error: BaseException) -> bool:
    """Whether a shard could not be reached, which others may be."""
    return isinstance(error, ConnectionError) and not isinstance(error, ManagerStoppedError)


def _again(error: Exception) -> Exception:
    made = again(error)
    assert isinstance(made, Exception)
    return made


def _result_size(result: CodeResult) -> int:
    """Return how much memory a result takes, about."""
    steps = (result.compile, result.run)
    size = 1024 + sum(len(step.stdout) + len(step.stderr) for step in steps if step is not None)
    return size + sum(map(len, result.files.values()))
