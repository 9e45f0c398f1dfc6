"""The asynchronous SDK behind plain calls, so that the steps are written once."""

import asyncio
import inspect
import threading

_loop = asyncio.new_event_loop()
threading.Thread(target=_loop.run_forever, name='loop', daemon=True).start()


class Blocking:
    """An object, or a class, whose methods run in the loop and return when their coroutine has ended."""

    def __init__(self, inner):
        self.__dict__['inner'] = inner

    def __getattr__(self, name):
        value = _run(lambda: getattr(self.inner, name))
        return _method(value) if callable(value) and not isinstance(value, type) else _wrapped(value)

    def __enter__(self):
        return _wrapped(_run(self.inner.__aenter__))

    def __exit__(self, *error):
        return _run(lambda: self.inner.__aexit__(*error))

    def __iter__(self):
        iterator = self.inner.__aiter__()
        while True:
            try:
                yield _run(iterator.__anext__)
            except StopAsyncIteration:
                return

    @staticmethod
    def iterable(pieces):
        """Return an asynchronous iterable of the same."""

        async def each():
            for piece in pieces:
                yield piece

        return Blocking(each())


def _method(function):
    def call(*args, **options):
        args = [_unwrapped(each) for each in args]
        options = {name: _unwrapped(each) for name, each in options.items()}
        return _wrapped(_run(lambda: function(*args, **options)))

    return call


def _run(call):
    async def run():
        value = call()
        return await value if inspect.isawaitable(value) else value

    return asyncio.run_coroutine_threadsafe(run(), _loop).result()


def _unwrapped(value):
    return value.inner if isinstance(value, Blocking) else value


def _wrapped(value):
    kind = type(value)
    is_theirs = kind.__module__.startswith(('e2b.', 'e2b_code_interpreter.'))
    if is_theirs and any(inspect.iscoroutinefunction(getattr(kind, name, None)) for name in dir(kind)):
        return Blocking(value)
    is_theirs_too = is_theirs and kind.__name__ in ('AsyncFileStreamReader', 'Commands', 'Filesystem', 'Pty', 'Git')
    return Blocking(value) if is_theirs_too else value
