"""One program, one command or one sandbox, awaited (layer: entries): `enclave.shortcuts` with ``await`` and ``async with``.

::

    async with enclave.aio.open_sandbox() as sandbox:
        print((await sandbox.run_code('print(1)')).stdout)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from enclave import shortcuts
from enclave.aio.proxies import run
from enclave.aio.sandboxes import AgentBackedSandbox, Sandbox
from enclave.config import GivenConfig
from enclave.enums import SandboxType

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from enclave.aio.notebooks import NotebookSandbox
    from enclave.sandboxes.options import NotebookKind, SandboxOptions

P = ParamSpec('P')
R = TypeVar('R')
S = TypeVar('S', bound=AgentBackedSandbox)


class Opening(Generic[S]):
    """A sandbox that is opened when this is awaited, or entered by ``async with``, which stops it at the end of the block."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._sandbox: S | None = None

    async def _open(self) -> S:
        blocking = await run(self._make, undo=lambda sandbox: sandbox.stop())
        return cast(S, Sandbox._proxy_registry.present(blocking))

    def __await__(self) -> Generator[Any, None, S]:
        return self._open().__await__()

    async def __aenter__(self) -> S:
        self._sandbox = await self._open()
        return self._sandbox

    async def __aexit__(self, *_: object) -> None:
        if self._sandbox is not None:
            await self._sandbox.stop()


@overload
def open_sandbox(
    sandbox_type: NotebookKind,
    config: GivenConfig = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    idle_timeout: float | None = None,
    **options: Unpack[SandboxOptions],
) -> Opening[NotebookSandbox]: ...


@overload
def open_sandbox(
    sandbox_type: SandboxType | str | None = None,
    config: GivenConfig = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    idle_timeout: float | None = None,
    **options: Unpack[SandboxOptions],
) -> Opening[AgentBackedSandbox]: ...


def open_sandbox(
    sandbox_type: SandboxType | str | None = None,
    config: GivenConfig = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    idle_timeout: float | None = None,
    **options: Any,
) -> Any:
    """Open a sandbox: await this for a running one, or use it with ``async with``. See `enclave.shortcuts.open_sandbox`.

    Cancelling the await leaves nothing of the sandbox.
    """
    return Opening(
        functools.partial(
            shortcuts.open_sandbox,
            sandbox_type,
            config,
            url=url,
            api_key=api_key,
            idle_timeout=idle_timeout,
            **options,
        )
    )


def _awaited(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    @functools.wraps(function)
    async def call(*args: P.args, **options: P.kwargs) -> R:
        return await run(functools.partial(function, *args, **options))

    return call


run_code = _awaited(shortcuts.run_code)
run_command = _awaited(shortcuts.run_command)
