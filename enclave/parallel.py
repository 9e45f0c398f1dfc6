"""Many pieces of work at once, and what became of each, as it comes (layer: ground).

A `Batch` takes its items from any iterable, a few at a time, and hands out outcomes in the order in which they come, or in
that of the items. It holds no more than a window of them: the one that does not take outcomes holds up the work. An error of one
item is a value and stops nothing; closing the batch cancels what continues and begins nothing more.
"""

from __future__ import annotations

import collections
import contextvars
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen

from enclave.cancellation import Cancellation, on_cancel
from enclave.deadline import Deadline
from enclave.errors import CallCancelledError, InvalidArgumentError, error_record
from enclave.quoting import quoted
from enclave.threads import thread_pool

T = TypeVar('T')
R = TypeVar('R')

MOST_AT_ONCE = 1024


@frozen
class Outcome(Generic[R]):
    """What became of one item: a result, or the error that it met.

    Attributes:
        index: The item's place, from 0.
        result: What came of it; None if it failed.
        error: Why it failed; None if it did not.
    """

    index: int
    result: R | None = None
    error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether there is an error and no result."""
        return self.error is not None

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict: ``index``, ``result`` (as a dict too, where it is a record) and ``error`` (see `error_record`)."""
        dump = getattr(self.result, 'to_dict', None)
        return {
            'index': self.index,
            'result': dump() if callable(dump) else self.result,
            'error': None if self.error is None else error_record(self.error),
        }

    def unwrap(self) -> R:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class Outcomes(Generic[R]):
    """Outcomes as they come: an iterator, and a context manager that ends what is left."""

    def __iter__(self) -> Iterator[Outcome[R]]:
        return self

    def __next__(self) -> Outcome[R]:
        raise NotImplementedError

    def close(self) -> None:
        """End what is left, and wait for that. May be called twice."""

    def __enter__(self) -> Outcomes[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Followed(Outcomes[R]):
    """Outcomes that a generator gives; leaving it ends what is left.

    Args:
        source: The generator.
        on_progress: Called on the caller's thread after each outcome with (how many there were, how many there will be or
            None).
        total: How many there will be, where that is known.
    """

    def __init__(
        self,
        source: Generator[Outcome[R], None, None],
        *,
        on_progress: Callable[[int, int | None], object] | None = None,
        total: int | None = None,
    ) -> None:
        self._source = source
        self._on_progress = on_progress
        self._total = total
        self._count = 0

    def __next__(self) -> Outcome[R]:
        found = next(self._source)
        self._count += 1
        if self._on_progress is not None:
            self._on_progress(self._count, self._total)
        return found

    def close(self) -> None:
        """End what is left."""
        self._source.close()


def follow_all(source: Outcomes[R]) -> Generator[Outcome[R], None, None]:
    """Yield all outcomes; the one that leaves early ends what is left."""
    with source:
        yield from source


def check_concurrency(concurrency: int | None) -> int | None:
    """Return how many items are to be worked on at once, if that can be; None is for somebody else to choose.

    Raises:
        InvalidArgumentError: It cannot be.
    """
    if concurrency is None:
        return None
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= MOST_AT_ONCE:
        raise InvalidArgumentError(
            f'concurrency must be a whole number from 1 to {MOST_AT_ONCE}, not {quoted(concurrency)}'
        )
    return concurrency


@define(eq=False)
class _Running:
    """What one worker is doing."""

    cancellation: Cancellation = field(factory=Cancellation)


class Batch(Outcomes[R], Generic[T, R]):
    """Work on many items. An iterator of `Outcome`, and a context manager that ends what is left; lives for one pass.

    Args:
        work: Does one item; called on several threads at once, under the context of the one that made the batch.
        items: Taken one by one, by one thread at a time, no further than the window.
        concurrency: How many items are worked on at once.
        is_ordered: Give outcomes in the order of the items.
        window: How many outcomes may wait to be taken, those being made included; at least ``concurrency``.
    """

    def __init__(
        self,
        work: Callable[[T], R],
        items: Iterable[T],
        *,
        concurrency: int,
        is_ordered: bool = False,
        window: int | None = None,
    ) -> None:
        check_concurrency(concurrency)
        if not isinstance(items, Iterable):
            raise InvalidArgumentError(f'what is to be worked on must be an iterable of items, not {quoted(items)}')
        self._work = work
        self._items = iter(items)
        self._taking = threading.Lock()  # held while the next item is taken
        self._concurrency = concurrency
        self._is_ordered = is_ordered
        self._window = max(concurrency, window if window is not None else 4 * concurrency)
        self._context = contextvars.copy_context()
        self._changed = threading.Condition()  # guards all below
        self._taken = 0  # items
        self._given = 0  # outcomes
        self._workers = 0
        self._is_exhausted = False
        self._is_closed = False
        self._failure: BaseException | None = None  # of the items themselves
        self._running: set[_Running] = set()
        self._ready: collections.deque[Outcome[R]] = collections.deque()
        self._early: dict[int, Outcome[R]] = {}  # where the order counts

    # For the caller ---------------------------------------------------------------------------------------------------

    def __next__(self) -> Outcome[R]:
        with on_cancel(self.stop):
            found = self.next(None)
        if found is None:
            self.close()
            raise StopIteration
        return found

    def next(self, timeout: float | None) -> Outcome[R] | None:
        """Return the next outcome; None if there is none any more, and if none came in time (then `is_over` is false).

        Raises:
            Exception: The items could not be taken; what had been taken before has been given.
            CallCancelledError: The batch was stopped.
        """
        deadline: Deadline | None = None
        with self._changed:
            self._begin_locked()
            while True:
                if self._is_closed:
                    raise CallCancelledError('the batch was cancelled')
                if self._ready:
                    return self._give_locked()
                if self._is_over_locked():
                    if self._failure is not None:
                        raise self._failure
                    return None
                if deadline is None:
                    deadline = Deadline.after(None if timeout is None else max(timeout, 1e-9))  # 0 is no limit to it
                if deadline.has_expired():
                    return None
                self._changed.wait(deadline.remaining())

    def _give_locked(self) -> Outcome[R]:
        """Take the first of the outcomes that are ready, and let those continue who wait for room."""
        self._given += 1
        self._changed.notify_all()
        return self._ready.popleft()

    @property
    def is_over(self) -> bool:
        """Whether every outcome has been given."""
        with self._changed:
            return self._is_closed or (not self._ready and self._is_over_locked())

    def stop(self) -> None:
        """Begin nothing more, cancel what continues, and wake those that wait. Does not wait."""
        with self._changed:
            self._is_closed = True
            running = list(self._running)
            self._changed.notify_all()
        for each in running:
            each.cancellation.cancel()

    def close(self) -> None:
        """Stop, and wait for the end of what continued. May be called twice."""
        self.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._workers)

    # On the workers' threads ------------------------------------------------------------------------------------------

    def _is_over_locked(self) -> bool:
        return self._is_exhausted and not self._workers

    def _begin_locked(self) -> None:
        if self._workers or self._is_exhausted or self._is_closed:
            return
        self._workers = self._concurrency
        for _ in range(self._concurrency):
            context = self._context.copy()
            thread_pool.submit(lambda context=context: context.run(self._serve))  # type: ignore[misc]

    def _serve(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._deliver(self._do(*taken))
        finally:
            with self._changed:
                self._workers -= 1
                self._changed.notify_all()

    def _take(self) -> tuple[int, Any] | None:
        """Return the next item with its place, when there is room for what becomes of it; None if there are no more."""
        with self._changed:
            # Places are reserved before an item is taken, so that the window holds also while an iterator is slow.
            self._changed.wait_for(
                lambda: self._is_closed or self._is_exhausted or self._taken - self._given < self._window
            )
            if self._is_closed or self._is_exhausted:
                return None
        with self._taking:
            with self._changed:
                if self._is_closed or self._is_exhausted:
                    return None
            try:
                item = next(self._items)
            except StopIteration:
                failure = None
            except BaseException as error:
                failure = error
            else:
                with self._changed:
                    index, self._taken = self._taken, self._taken + 1
                return index, item
            with self._changed:
                self._is_exhausted, self._failure = True, failure
                self._changed.notify_all()
            return None

    def _do(self, index: int, item: Any) -> Outcome[R]:
        running = _Running()
        with self._changed:
            self._running.add(running)
            is_closed = self._is_closed
        if is_closed:
            running.cancellation.cancel()
        try:
            with running.cancellation.applied():
                return Outcome(index, self._work(item))
        except Exception as error:
            return Outcome(index, error=error)
        finally:
            with self._changed:
                self._running.discard(running)

    def _deliver(self, outcome: Outcome[R]) -> None:
        with self._changed:
            self._deliver_locked(outcome)

    def _deliver_locked(self, outcome: Outcome[R]) -> None:
        if not self._is_ordered:
            self._ready.append(outcome)
        else:
            self._early[outcome.index] = outcome
            due = self._given + len(self._ready)
            while due in self._early:
                self._ready.append(self._early.pop(due))
                due += 1
        self._changed.notify_all()
