"""One program, one command or one sandbox, awaited (layer: entries): `enclave.shortcuts` with ``await`` and ``async with``.

::

    async with enclave.aio.open_sandbox() as sandbox:
        print((await sandbox.run_code('print(1)')).stdout)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from enclave import shortcuts
from enclave.aio.proxies import run
from enclave.aio.sandboxes import AgentBackedSandbox, Sandbox
from enclave.config import SandboxConfig
from enclave.enums import SandboxType
from enclave.languages.values import CodeRequest, CodeResult, Comparison
from enclave.records import CommandResult

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from enclave.aio.notebooks import NotebookSandbox
    from enclave.sandboxes.options import NotebookKind, ProgramOptions, SandboxOptions

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
    config: SandboxConfig | Mapping[str, Any] | None = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    idle_timeout: float | None = None,
    **options: Unpack[SandboxOptions],
) -> Opening[NotebookSandbox]: ...


@overload
def open_sandbox(
    sandbox_type: SandboxType | str | None = None,
    config: SandboxConfig | Mapping[str, Any] | None = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    idle_timeout: float | None = None,
    **options: Unpack[SandboxOptions],
) -> Opening[AgentBackedSandbox]: ...


def open_sandbox(
    sandbox_type: SandboxType | str | None = None,
    config: SandboxConfig | Mapping[str, Any] | None = None,
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


async def run_code(
    code: str | bytes | CodeRequest,
    language: str = 'python',
    *,
    stdin: str | bytes | None = None,
    args: Sequence[str] = (),
    files: Mapping[str, str | bytes] | None = None,
    fetch_files: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    expected_output: str | None = None,
    compare: Comparison = 'lines',
    on_stdout: Callable[[str], object] | None = None,
    on_stderr: Callable[[str], object] | None = None,
    sandbox_type: SandboxType | str | None = None,
    config: SandboxConfig | Mapping[str, Any] | None = None,
    url: str | None = None,
    api_key: str | None = None,
    **options: Unpack[ProgramOptions],
) -> CodeResult:
    """Run one program in a sandbox of its own, which is gone afterwards; see `enclave.shortcuts.run_code`."""
    given: dict[str, Any] = dict(options)
    async with open_sandbox(sandbox_type, config, url=url, api_key=api_key, **given) as sandbox:
        return await sandbox.run_code(
            code,
            language,
            stdin=stdin,
            args=args,
            files=files,
            fetch_files=fetch_files,
            env=env,
            timeout=timeout,
            expected_output=expected_output,
            compare=compare,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
        )


async def run_command(
    command: str | Sequence[str],
    timeout: float | None = None,
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes | None = None,
    on_stdout: Callable[[str], object] | None = None,
    on_stderr: Callable[[str], object] | None = None,
    sandbox_type: SandboxType | str | None = None,
    config: SandboxConfig | Mapping[str, Any] | None = None,
    url: str | None = None,
    api_key: str | None = None,
    **options: Unpack[ProgramOptions],
) -> CommandResult:
    """Run one command in a sandbox of its own, which is gone afterwards; see `enclave.shortcuts.run_command`."""
    given: dict[str, Any] = dict(options)
    async with open_sandbox(sandbox_type, config, url=url, api_key=api_key, **given) as sandbox:
        return await sandbox.execute_command(
            command, timeout, env=env, stdin=stdin, on_stdout=on_stdout, on_stderr=on_stderr
        )
