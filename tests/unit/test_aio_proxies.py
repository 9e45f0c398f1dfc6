from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from enclave.aio import proxies
from enclave.aio.proxies import AsyncProxy, Forwarded, ProxyRegistry, entered, run, streamed, to_async
from enclave.cancellation import is_cancelled, on_cancel
from tests.support.aio import PATIENCE, until

color: contextvars.ContextVar[str] = contextvars.ContextVar('color', default='none')


class Held:
    """A blocking call that continues until it is cancelled or let go, and keeps a record."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.was_cancelled = False

    def __call__(self) -> str:
        self.begun.set()
        with on_cancel(self.let_go.set):
            assert self.let_go.wait(PATIENCE)
        self.was_cancelled = is_cancelled()
        return 'made'


def test_a_call_runs_on_a_thread_of_the_pool_and_not_of_the_loop() -> None:
    names = asyncio.run(run(lambda: threading.current_thread().name))

    assert names.startswith('enclave-thread-')


def test_context_variables_travel() -> None:
    async def main() -> str:
        color.set('blue')
        return await run(color.get)

    assert asyncio.run(main()) == 'blue'


def test_an_exception_comes_back_as_it_is() -> None:
    with pytest.raises(KeyError, match='missing'):
        asyncio.run(run(lambda: {}['missing']))


def test_cancelling_the_await_cancels_the_work_and_waits_for_its_end() -> None:
    held = Held()

    async def main() -> None:
        task = asyncio.ensure_future(run(held))
        await until(held.begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held.was_cancelled

    asyncio.run(main())


def test_a_result_that_nobody_waits_for_any_more_is_undone() -> None:
    held, undone = Held(), []

    async def main() -> None:
        task = asyncio.ensure_future(run(held, undo=undone.append))
        await until(held.begun.is_set)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: undone)

    asyncio.run(main())

    assert undone == ['made']


def test_a_result_lost_in_the_moment_of_cancelling_is_undone() -> None:
    undone: list[str] = []

    async def main() -> None:
        task = asyncio.ensure_future(run(lambda: 'made', undo=undone.append))
        # The result is delivered in this very step of the loop, before the task has seen it.
        waiter = task.get_coro()
        while True:
            await asyncio.sleep(0)
            frame = waiter.cr_frame  # type: ignore[union-attr]
            work = frame.f_locals.get('work') if frame is not None else None
            if work is not None and work.outcome.done():
                break
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())

    assert undone == ['made']


@pytest.mark.parametrize('fails', [False, True])
def test_work_that_had_ended_unheard_when_it_was_cancelled_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(proxies, 'GRACE_SECONDS', PATIENCE)
    posted, undone = threading.Event(), threading.Event()

    def work() -> None:
        if fails:
            raise KeyError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        post = loop.call_soon_threadsafe

        def posting(*args: Any, **kwargs: Any) -> Any:
            handle = post(*args, **kwargs)
            posted.set()
            return handle

        loop.call_soon_threadsafe = posting  # type: ignore[method-assign]
        task = asyncio.ensure_future(run(work, undo=lambda _: undone.set()))
        await asyncio.sleep(0)
        assert posted.wait(PATIENCE)  # while the loop is held up
        task.cancel()
        _, left = await asyncio.wait([task], timeout=PATIENCE / 2)
        assert not left
        assert undone.is_set() is not fails

    asyncio.run(main())


def test_work_that_cannot_be_stopped_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, 'GRACE_SECONDS', 0.01)
    begun, let_go, undone = threading.Event(), threading.Event(), []

    def stubborn() -> str:
        begun.set()
        assert let_go.wait(PATIENCE)
        return 'late'

    async def main() -> None:
        task = asyncio.ensure_future(run(stubborn, undo=undone.append))
        await until(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        let_go.set()
        await until(lambda: undone)

    asyncio.run(main())

    assert undone == ['late']


def test_what_is_made_after_its_loop_was_closed_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, 'GRACE_SECONDS', 0.01)
    begun, let_go, undone = threading.Event(), threading.Event(), threading.Event()

    def stubborn() -> str:
        begun.set()
        assert let_go.wait(PATIENCE)
        return 'late'

    async def main() -> None:
        asyncio.ensure_future(run(stubborn, undo=lambda _: undone.set()))  # noqa: RUF006
        await until(begun.is_set)

    asyncio.run(main())
    let_go.set()

    assert undone.wait(PATIENCE)


def test_a_coroutine_that_is_closed_leaves_no_work() -> None:
    held = Held()

    async def main() -> None:
        waiter = run(held)
        waiter.send(None)
        await until(held.begun.is_set)
        waiter.close()
        await until(lambda: held.was_cancelled)

    asyncio.run(main())


def test_a_coroutine_that_was_never_awaited_does_nothing() -> None:
    held = Held()

    run(held).close()

    assert not held.begun.is_set()


def test_the_loop_goes_on_while_calls_wait() -> None:
    held = [Held() for _ in range(40)]

    async def main() -> list[str]:
        tasks = [asyncio.ensure_future(run(each)) for each in held]
        await until(lambda: all(each.begun.is_set() for each in held))
        for each in held:
            each.let_go.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ['made'] * 40


def test_several_loops_at_once_get_their_own_results() -> None:
    results: dict[int, list[int]] = {}

    def loop(number: int) -> None:
        async def main() -> list[int]:
            return await asyncio.gather(*(run(lambda each=each: number * 1000 + each) for each in range(50)))  # type: ignore[misc]

        results[number] = asyncio.run(main())

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert results == {number: [number * 1000 + each for each in range(50)] for number in range(6)}


# Proxies


class Well:
    """A blocking class with every shape of method."""

    depth = 3

    def __init__(self) -> None:
        self.entered = 0
        self.left: list[object] = []
        self.closed = threading.Event()

    def draw(self, litres: int, *, clean: bool = True) -> str:
        """Draw water."""
        return f'{litres} {clean}'

    def same(self, other: object) -> bool:
        """Return whether another is this one."""
        return other is self

    def drops(self, count: int) -> Iterator[int]:
        """Yield drops."""
        try:
            yield from range(count)
        finally:
            self.closed.set()

    def forever(self) -> Iterator[int]:
        """Yield a drop, and then wait."""
        yield 1
        gone = threading.Event()
        with on_cancel(gone.set):
            assert gone.wait(PATIENCE)
        self.closed.set()
        yield 2

    def bucket(self) -> Any:
        """Give a bucket for a while."""
        return self

    def __enter__(self) -> Well:
        self.entered += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.left.append(error[0])

    def extra(self) -> str:
        return 'extra'


class AioWell(AsyncProxy):
    _proxy_registry: ClassVar[ProxyRegistry] = ProxyRegistry()
    _home: ClassVar[tuple[str, str]] = (__name__, 'Well')

    depth: Forwarded[int] = Forwarded('How deep.')
    draw = to_async(Well.draw)
    same = to_async(Well.same)
    drops = streamed(Well.drops)
    forever = streamed(Well.forever)
    bucket = entered(AsyncProxy, Well.bucket)


@pytest.fixture
def well() -> Well:
    return Well()


@pytest.fixture
def proxy(well: Well) -> AioWell:
    return AioWell._over(well)


def test_a_lifted_method_takes_and_gives_what_the_blocking_one_does(proxy: AioWell) -> None:
    assert asyncio.run(proxy.draw(2, clean=False)) == '2 False'


def test_attributes_are_those_of_the_blocking_object(proxy: AioWell, well: Well) -> None:
    proxy.depth = 4

    assert well.depth == proxy.depth == 4


def test_a_method_that_the_face_does_not_name_is_lifted_when_asked_for(proxy: AioWell) -> None:
    assert asyncio.run(proxy.extra()) == 'extra'


def test_what_is_not_there_is_an_attribute_error(proxy: AioWell) -> None:
    with pytest.raises(AttributeError):
        proxy.nothing  # noqa: B018


def test_two_faces_of_one_object_are_equal(proxy: AioWell, well: Well) -> None:
    assert AioWell._over(well) == proxy
    assert hash(AioWell._over(well)) == hash(proxy)
    assert AioWell._over(Well()) != proxy


def test_an_iterator_gives_everything_in_order(proxy: AioWell) -> None:
    async def main() -> list[int]:
        return [each async for each in proxy.drops(100)]

    assert asyncio.run(main()) == list(range(100))


def test_leaving_an_iterator_early_ends_the_blocking_one(proxy: AioWell, well: Well) -> None:
    async def main() -> None:
        async for _each in proxy.drops(100):
            break
        await until(well.closed.is_set)

    asyncio.run(main())


def test_cancelling_within_an_iterator_cancels_its_step(proxy: AioWell, well: Well) -> None:
    first = threading.Event()

    async def use() -> None:
        async for _each in proxy.forever():
            first.set()

    async def main() -> None:
        task = asyncio.ensure_future(use())
        await until(first.is_set)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(well.closed.is_set)

    asyncio.run(main())


def test_a_context_manager_is_entered_and_left_with_the_error_there_was(proxy: AioWell, well: Well) -> None:
    async def main() -> None:
        async with proxy.bucket() as bucket:
            assert bucket == proxy
            raise KeyError('spilt')

    with pytest.raises(KeyError, match='spilt'):
        asyncio.run(main())

    assert well.entered == 1
    assert well.left == [KeyError]


def test_faces_are_taken_by_position_and_by_name(proxy: AioWell, well: Well) -> None:
    async def main() -> None:
        assert await proxy.same(proxy)
        assert await proxy.same(other=proxy)

    asyncio.run(main())


def test_work_whose_coroutine_is_closed_after_its_loop_is_cancelled_all_the_same(proxy: AioWell) -> None:
    cancelled = threading.Event()
    begun = threading.Event()

    def work() -> None:
        with on_cancel(cancelled.set):
            begun.set()
            assert cancelled.wait(PATIENCE)

    loop = asyncio.new_event_loop()
    waiting = run(work)

    async def step() -> None:
        waiting.send(None)

    loop.run_until_complete(step())
    assert begun.wait(PATIENCE)
    loop.close()
    waiting.close()

    assert cancelled.wait(PATIENCE)
