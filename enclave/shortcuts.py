"""The first two lines anyone writes (layer: entries): one program, one command, or one sandbox, without a factory or a manager.

::

    import enclave
    print(enclave.run_code('print(1)').stdout)

`open_sandbox` gives a running sandbox, of this machine or of a server. Which of them, and which kind, may be left to the
environment: ``ENCLAVE_URL`` and ``ENCLAVE_API_KEY`` name a server, ``ENCLAVE_TYPE`` the kind of sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from enclave.config import GivenConfig, SandboxConfig
from enclave.deadline import check_timeout
from enclave.enums import SandboxType
from enclave.errors import ConfigurationError, InvalidArgumentError, SandboxNotFoundError
from enclave.languages.values import CodeRequest, CodeResult, Comparison
from enclave.managers.remote import RemoteSandbox
from enclave.records import CommandResult
from enclave.sandboxes.choice import TYPE_VARIABLE
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.sandboxes.verbs import FullSandbox

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from enclave.sandboxes.notebook.sandbox import NotebookSandbox
    from enclave.sandboxes.options import NotebookKind, ProgramOptions, SandboxOptions

REMOTE_IDLE_SECONDS = 3600.0
"""How long a server keeps a sandbox that this process opened and nothing runs in: this process may die without a word."""


@overload
def open_sandbox(
    sandbox_type: NotebookKind,
    config: GivenConfig = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    idle_timeout: float | None = None,
    **options: Unpack[SandboxOptions],
) -> NotebookSandbox: ...


@overload
def open_sandbox(
    sandbox_type: SandboxType | str | None = None,
    config: GivenConfig = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    idle_timeout: float | None = None,
    **options: Unpack[SandboxOptions],
) -> FullSandbox: ...


def open_sandbox(
    sandbox_type: SandboxType | str | None = None,
    config: GivenConfig = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    idle_timeout: float | None = None,
    **options: Any,
) -> FullSandbox:
    """Return a running sandbox. Use it in a ``with`` block, or call its `stop` when it is not needed any more.

    Args:
        sandbox_type: The kind; None takes the one that alone has an option that was given (``image`` is Docker's, say), else what
            ``ENCLAVE_TYPE`` names, else Docker if its engine answers, else bubblewrap. A server that is asked for no kind
            chooses one.
        config: A configuration, or a dict of its options.
        url: A server to have it from. Default is ``ENCLAVE_URL``, and where that is not set this machine; ``''`` is this
            machine in any case.
        api_key: The server's key; default is ``ENCLAVE_API_KEY``.
        idle_timeout: Seconds without any call after which a server removes it, 0 for no limit; default is an hour.
        options: Options of the configuration, in the place of what ``config`` says.

    Raises:
        ConfigurationError, NotRegisteredError: An option is wrong, or the kind unknown.
        SandboxStartError: It could not be started, and nothing of it is left; `ImageNotFoundError` is one.
        EngineUnavailableError, ServerUnavailableError: The engine, or the server, does not answer.
    """
    merged = _merged(config, options)
    address = os.environ.get('ENCLAVE_URL', '') if url is None else url
    if not isinstance(address, str):
        raise ConfigurationError(f"url must be the address of a server, like 'http://127.0.0.1:8000', not {address!r}")
    if address:
        return _open_remote(address, api_key, sandbox_type, merged, idle_timeout)
    if idle_timeout is not None:
        check_timeout(
            idle_timeout, 'idle_timeout'
        )  # nothing here needs it, but a wrong one should not work until there is a server
    if api_key is not None:
        raise ConfigurationError('api_key is the key of a server, and there is none: give url, or set ENCLAVE_URL')
    sandbox = SandboxFactory.create_sandbox(sandbox_type, merged)
    if not isinstance(sandbox, FullSandbox):
        raise ConfigurationError(f'open_sandbox makes no {type(sandbox).__name__}; use SandboxFactory.create_sandbox')
    sandbox.start()
    return sandbox


def _merged(config: GivenConfig, options: Mapping[str, Any]) -> GivenConfig:
    if not options:
        return config
    if isinstance(config, SandboxConfig):
        return config.model_copy(update=options)
    return {**(config or {}), **options}


def _open_remote(
    address: str,
    api_key: str | None,
    sandbox_type: SandboxType | str | None,
    config: GivenConfig,
    idle_timeout: float | None,
) -> FullSandbox:
    from enclave.managers.http import HttpSandboxManager
    from enclave.managers.keyfile import with_scheme

    base_url = with_scheme(address)
    kind = sandbox_type or os.environ.get(TYPE_VARIABLE) or None
    kept = REMOTE_IDLE_SECONDS if idle_timeout is None else idle_timeout
    server: dict[str, Any] = {'base_url': base_url} if api_key is None else {'base_url': base_url, 'api_key': api_key}
    manager = HttpSandboxManager(server)
    try:
        try:
            sandbox_id = manager.create_sandbox(kind, config, idle_timeout=kept)
        except InvalidArgumentError:
            if idle_timeout is not None:
                raise
            sandbox_id = manager.create_sandbox(kind, config)  # an hour is more than this server allows
        sandbox = manager.get_sandbox(sandbox_id)
    except BaseException:
        manager.stop()
        raise
    if not isinstance(sandbox, RemoteSandbox):
        manager.stop()
        raise SandboxNotFoundError(f'sandbox {sandbox_id} is gone from the server at {base_url} already')
    sandbox._own_manager(manager)
    return sandbox


def run_code(
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
    config: GivenConfig = None,
    url: str | None = None,
    api_key: str | None = None,
    **options: Unpack[ProgramOptions],
) -> CodeResult:
    """Run one program in a sandbox of its own, which is gone afterwards, and return what became of it.

    Several programs are better run in one sandbox (`open_sandbox`) or over a pool.

    Args:
        code: Its source.
        language: A name or alias of the table of languages, like ``'python'``, ``'bash'`` or ``'cpp'``.
        stdin, args, files, fetch_files, env, timeout, expected_output, compare, on_stdout, on_stderr: See `Sandbox.run_code`.
        sandbox_type, config, url, api_key, options: The sandbox; see `open_sandbox`.

    Raises:
        ConfigurationError, SandboxStartError, EngineUnavailableError, ServerUnavailableError: As for `open_sandbox`.
        NotRegisteredError, UnsupportedError: There is no such language, or the sandbox lacks its toolchain.
        InvalidArgumentError: An argument is impossible; the message names it.
    """
    given: dict[str, Any] = dict(options)
    with open_sandbox(sandbox_type, config, url=url, api_key=api_key, **given) as sandbox:
        return sandbox.run_code(
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


def run_command(
    command: str | Sequence[str],
    timeout: float | None = None,
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes | None = None,
    on_stdout: Callable[[str], object] | None = None,
    on_stderr: Callable[[str], object] | None = None,
    sandbox_type: SandboxType | str | None = None,
    config: GivenConfig = None,
    url: str | None = None,
    api_key: str | None = None,
    **options: Unpack[ProgramOptions],
) -> CommandResult:
    """Run one command in a sandbox of its own, which is gone afterwards: a string through ``sh``, a sequence as it is.

    Args:
        timeout: Seconds; None takes 30, 0 means no limit.
        env, stdin, on_stdout, on_stderr: See `Sandbox.execute_command`.
        sandbox_type, config, url, api_key, options: The sandbox; see `open_sandbox`.

    Raises:
        ConfigurationError, SandboxStartError, EngineUnavailableError, ServerUnavailableError: As for `open_sandbox`.
        InvalidArgumentError: An argument is impossible; the message names it.
    """
    given: dict[str, Any] = dict(options)
    with open_sandbox(sandbox_type, config, url=url, api_key=api_key, **given) as sandbox:
        return sandbox.execute_command(command, timeout, env=env, stdin=stdin, on_stdout=on_stdout, on_stderr=on_stderr)
