"""The code interpreter (layer 6): cells in contexts, which are the kernels of a notebook sandbox.

Each thing that a cell gives travels as a line of JSON: what it prints, its results in all their forms, its error. A client that
goes away interrupts its cell.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import re
import shlex
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import flask

from enclave.cancellation import Cancellation
from enclave.cells import DEFAULT_KERNEL, CellResult, KernelInfo, KernelSpec
from enclave.config import check_env
from enclave.enums import ExecutionStatus
from enclave.errors import (
    EnclaveError,
    InvalidArgumentError,
    NotFoundError,
    SandboxGoneError,
    SandboxStateError,
    UnsupportedError,
)
from enclave.sandboxes.base import Sandbox
from enclave.server.adapters.e2b import charts
from enclave.server.adapters.e2b.creation import CODE_INTERPRETER
from enclave.server.adapters.e2b.services import (
    answer,
    asked_sandbox,
    checked_path,
    empty,
    on_interpreter,
    read_object,
    remembered,
)
from enclave.server.adapters.e2b.state import SandboxState
from enclave.server.notebooks import TOOL
from enclave.server.route import EVENTS, Context, RawBody, Streamed

logger = logging.getLogger(__name__)

LANGUAGE_PREFIX = 'language-'
"""How kernels are called that were made because a cell named a language alone."""
_CONTEXT = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,62}')
_LANGUAGE = re.compile(r'[A-Za-z0-9+#_. -]{1,60}')
_FIELDS = {
    'text/plain': 'text',
    'text/html': 'html',
    'text/markdown': 'markdown',
    'image/svg+xml': 'svg',
    'image/png': 'png',
    'image/jpeg': 'jpeg',
    'application/pdf': 'pdf',
    'text/latex': 'latex',
    'application/json': 'json',
    'application/javascript': 'javascript',
    'e2b/data': 'data',
    'e2b/chart': 'chart',
}
_OBJECTS = ('e2b/data', 'e2b/chart')
_WITHOUT_BREAKS = ('image/png', 'image/jpeg', 'application/pdf')
_ALIASES = {
    'python': ('python', 'python3'),
    'javascript': ('javascript', 'js', 'node'),
    'typescript': ('typescript', 'ts', 'deno'),
    'r': ('r', 'ir'),
    'bash': ('bash', 'sh', 'shell'),
}


def _notebook(context: Context) -> Sandbox:
    """Return the notebook sandbox of a request.

    Raises:
        PolicyError: The policy allows no notebooks.
        UnsupportedError: It is no notebook.
    """
    context.service.policy.check_tool(TOOL, {})
    sandbox = asked_sandbox(context)
    if not hasattr(sandbox, 'stream_cell'):
        raise UnsupportedError(
            f'sandbox {sandbox.id} has no kernels; make one from the template {CODE_INTERPRETER!r} to run code'
        )
    return sandbox


def _text(body: Mapping[str, Any], name: str, default: str | None = None) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidArgumentError(f'{name} must be a string, not {str(value)[:60]!r}')
    return value or default


# Contexts -------------------------------------------------------------------------------------------------------------


@on_interpreter('GET', '/contexts')
def e2b_list_contexts(context: Context, body: RawBody) -> flask.Response:
    """Return the contexts of a sandbox, the usual one first."""
    sandbox: Any = _notebook(context)
    known = remembered(context, sandbox)
    return answer([_as_context(sandbox, known, info) for info in sandbox.list_kernels()])


def _as_context(sandbox: Any, known: SandboxState, info: KernelInfo) -> dict[str, Any]:
    with known.lock:
        cwd = known.contexts.get(info.name)
    return {'id': info.name, 'language': info.language or 'python', 'cwd': cwd or str(sandbox.config.working_dir)}


@on_interpreter('POST', '/contexts', lane='call')
def e2b_create_context(context: Context, body: RawBody) -> flask.Response:
    """Start a kernel of a language, with a state of its own."""
    sandbox: Any = _notebook(context)
    options = read_object(body)
    known = remembered(context, sandbox)
    spec = _find_spec(sandbox, _text(options, 'language', 'python') or 'python')
    cwd = _text(options, 'cwd')
    place = None if cwd is None else checked_path(sandbox, cwd)
    info = sandbox.create_kernel(f'ctx-{uuid.uuid4().hex[:16]}', spec.name, cwd=place)
    with known.lock:
        if place is not None:
            known.contexts[info.name] = place
    return answer(_as_context(sandbox, known, info))


def _find_spec(sandbox: Any, language: str) -> KernelSpec:
    """Return the kind of kernel for a language, by its language or its own name.

    Raises:
        NotFoundError: The sandbox has none; the message names the languages it has.
    """
    if not _LANGUAGE.fullmatch(language):
        raise InvalidArgumentError(f'{language[:60]!r} is no name of a language')
    asked = language.lower()
    specs: list[KernelSpec] = sandbox.list_kernel_specs()
    names = next((known for known in _ALIASES.values() if asked in known), (asked,))
    for spec in specs:
        if spec.language.lower() in names:
            return spec
    for spec in specs:
        if spec.name.lower() in names:
            return spec
    have = ', '.join(sorted({spec.language or spec.name for spec in specs})) or 'none'
    raise NotFoundError(f'sandbox {sandbox.id} has no kernel for {language!r}; it has: {have}')


def _context_name(sandbox: Any, name: str) -> str:
    """Return a context's name, if there is such a one.

    Raises:
        NotFoundError: There is none.
    """
    if not _CONTEXT.fullmatch(name) or all(name != info.name for info in sandbox.list_kernels()):
        raise NotFoundError(f'context {name[:100]!r} not found')
    return name


@on_interpreter('DELETE', '/contexts/<context_id>', lane='end')
def e2b_delete_context(context: Context, context_id: str, body: RawBody) -> flask.Response:
    """End a kernel."""
    sandbox: Any = _notebook(context)
    known = remembered(context, sandbox)
    sandbox.delete_kernel(_context_name(sandbox, context_id))
    with known.lock:
        known.contexts.pop(context_id, None)
        known.turns.pop(context_id, None)
        known.prepared.pop(context_id, None)
    return empty()


@on_interpreter('POST', '/contexts/<context_id>/restart', lane='end')
def e2b_restart_context(context: Context, context_id: str, body: RawBody) -> flask.Response:
    """Give a kernel a new process, without the state of the old one."""
    sandbox: Any = _notebook(context)
    sandbox.restart_kernel(_context_name(sandbox, context_id))
    return empty()


# Cells ----------------------------------------------------------------------------------------------------------------


@on_interpreter('POST', '/execute', lane='stream')
def e2b_execute(context: Context, body: RawBody) -> Streamed:
    """Run a cell and follow it: a line of JSON for each thing it gives."""
    sandbox: Any = _notebook(context)
    options = read_object(body)
    code = options.get('code')
    if not isinstance(code, str):
        raise InvalidArgumentError('code must be a string')
    name, language = _text(options, 'context_id'), _text(options, 'language')
    if name and language:
        raise InvalidArgumentError('give either context_id or language, not both')
    known = remembered(context, sandbox)
    kernel = _context_name(sandbox, name) if name else _kernel_of(sandbox, language)
    context.facts['kernel'] = kernel
    env = _read_env(options.get('env_vars'))
    # The limit is the client's own: it closes the connection, by which the cell is interrupted. The policy's holds besides.
    limit = context.service.policy.max_timeout or 0
    before, after = _env_cells(sandbox, kernel, env) if env else ('', '')
    turn = known.turn(kernel) if env else contextlib.nullcontext()

    def steps() -> Iterator[dict[str, Any]]:
        _prepare(sandbox, known, kernel, limit)
        with turn:
            if before:
                _run_silently(sandbox, kernel, before, limit)
            try:
                yield from _cell(sandbox, kernel, code, limit)
            finally:
                if after:
                    _run_silently(sandbox, kernel, after, limit)

    known.note('code executed', kernel=kernel, characters=len(code))
    return Streamed(_lines(context, steps), EVENTS)


def _prepare(sandbox: Any, known: SandboxState, kernel: str, limit: float) -> None:
    """Have a Python kernel say what its plots show; once in each life of its process."""
    info = next((each for each in sandbox.list_kernels() if each.name == kernel), None)
    if info is None or info.language.lower() != 'python' or info.started_at is None:
        return
    with known.lock:
        is_done, known.prepared[kernel] = known.prepared.get(kernel) == info.started_at, info.started_at
    if not is_done:
        _run_silently(sandbox, kernel, _CHARTS, limit)


def _kernel_of(sandbox: Any, language: str | None) -> str:
    """Return the usual kernel of a language, which is made when it is first asked for."""
    kernels: list[KernelInfo] = sandbox.list_kernels()
    default = next((info for info in kernels if info.name == DEFAULT_KERNEL), None)
    asked = (language or '').lower()
    names = next((known for known in _ALIASES.values() if asked in known), (asked,))
    if not asked or (default is not None and (default.language.lower() in names or default.spec.lower() in names)):
        return DEFAULT_KERNEL
    spec = _find_spec(sandbox, asked)
    made: KernelInfo = sandbox.create_kernel(_language_kernel(spec), spec.name, exist_ok=True)
    return made.name


def _language_kernel(spec: KernelSpec) -> str:
    return f'{LANGUAGE_PREFIX}{re.sub("[^A-Za-z0-9_.-]", "-", spec.name)}'[:63]


def _cell(sandbox: Any, kernel: str, code: str, limit: float) -> Generator[dict[str, Any], None, None]:
    """Yield what a cell gives, as it travels."""
    steps = sandbox.stream_cell(code, limit, kernel=kernel, keep_escapes=True)
    has_error = False
    with contextlib.closing(steps):
        for step in steps:
            if isinstance(step, CellResult):
                yield from _ending(step, has_error)
                return
            for line in _as_lines(step):
                has_error = has_error or line['type'] == 'error'
                yield line


def _as_lines(output: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = output.get('output_type')
    if kind == 'stream':
        name = 'stderr' if output.get('name') == 'stderr' else 'stdout'
        yield {'type': name, 'text': output.get('text', ''), 'timestamp': time.time_ns()}
    elif kind in ('display_data', 'execute_result', 'update_display_data'):
        yield {**_as_result(output.get('data') or {}), 'type': 'result', 'is_main_result': kind == 'execute_result'}
    elif kind == 'error':
        yield {
            'type': 'error',
            'name': output.get('ename', ''),
            'value': output.get('evalue', ''),
            'traceback': '\n'.join(output.get('traceback') or []),
        }


def _as_result(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a display in all its forms: those that the interface knows by name, and the others as ``extra``."""
    found: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for mime, value in data.items():
        if mime in _WITHOUT_BREAKS and isinstance(value, str):
            value = value.replace('\n', '')
        if mime == 'text/plain' and isinstance(value, str):
            value = _unquoted(value)
        if mime in _OBJECTS and isinstance(value, str):  # a notebook has text under all names that are not JSON's
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(value)
        if mime in _FIELDS:
            found[_FIELDS[mime]] = value
        else:
            extra[mime] = value
    return {**found, 'extra': extra} if extra else found


def _unquoted(text: str) -> str:
    """Return the text of a string's representation, which the interface shows without its quotes."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in '\'"'
    return text[1:-1] if is_quoted else text


def _ending(result: CellResult, has_error: bool) -> Iterator[dict[str, Any]]:
    """Yield what a cell's result says that its outputs have not said."""
    if not has_error and result.status is not ExecutionStatus.SUCCESS:
        yield {'type': 'error', **_error_of(result)}
    if result.execution_count is not None:
        yield {'type': 'number_of_executions', 'execution_count': result.execution_count}
    yield {'type': 'end_of_execution'}


def _error_of(result: CellResult) -> dict[str, str]:
    if result.error is not None:
        return {'name': result.error.name, 'value': result.error.value, 'traceback': result.error.traceback}
    name = {ExecutionStatus.TIMEOUT: 'TimeoutError', ExecutionStatus.CANCELLED: 'KeyboardInterrupt'}.get(
        result.status, 'ExecutionError'
    )
    message = f'the cell was ended ({result.status})' + (
        f'; its kernel {result.state_lost}' if result.state_lost else ''
    )
    return {'name': name, 'value': message, 'traceback': message}


# The stream -----------------------------------------------------------------------------------------------------------


def _lines(context: Context, steps: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[bytes]:
    """Yield the lines of a cell. It is interrupted when its reader goes away.

    Raises:
        SandboxGoneError: The sandbox was lost; the connection breaks, by which the SDK learns to ask whether it runs.
    """
    cancellation = Cancellation()
    context.on_gone(cancellation.cancel)
    with cancellation.applied():
        try:
            for each in steps():
                yield _as_line(each)
        except (SandboxGoneError, SandboxStateError):
            raise
        except EnclaveError as error:
            yield _as_line({'type': 'error', 'name': type(error).__name__, 'value': error.message, 'traceback': ''})


def _as_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode('ascii') + b'\n'


# Environments ---------------------------------------------------------------------------------------------------------


def _read_env(value: Any) -> dict[str, str]:
    if not value:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError('env_vars must be an object whose values are strings')
    found = dict(value)
    check_env(found, 'env_vars')
    return found


_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')
_SAVED = '_enclave_e2b_environment'
_CHARTS_SOURCE = f'{inspect.getsource(charts)}\nregister(get_ipython())\n'
_CHARTS = f'exec({_CHARTS_SOURCE!r}, {{"get_ipython": get_ipython, "__name__": "charts"}})'


def _env_cells(sandbox: Any, kernel: str, env: dict[str, str]) -> tuple[str, str]:
    """Return code that sets variables for a cell, and code that puts back what was there.

    Raises:
        UnsupportedError: It is not known how in the kernel's language.
    """
    info = next((each for each in sandbox.list_kernels() if each.name == kernel), None)
    language = (info.language if info is not None else '').lower()
    for name in env:
        if not _NAME.fullmatch(name):
            raise InvalidArgumentError(f'env_vars has {name[:60]!r}, which is no name of a variable')
    texts = {name: json.dumps(value) for name, value in env.items()}
    if language == 'python':
        names = json.dumps(list(env))
        before = (
            f'import os as _os; {_SAVED} = {{name: _os.environ.get(name) for name in {names}}}; '
            f'_os.environ.update({json.dumps(env)}); del _os'
        )
        after = (
            'import os as _os\n'
            f'for _name, _value in {_SAVED}.items():\n'
            '    _os.environ.pop(_name, None) if _value is None else _os.environ.update({_name: _value})\n'
            f'del _os, _name, _value, {_SAVED}'
        )
        return before, after
    if language in ('javascript', 'typescript'):
        lines = '; '.join(f'process.env[{json.dumps(name)}] = {text}' for name, text in texts.items())
        return lines, '; '.join(f'delete process.env[{json.dumps(name)}]' for name in env)
    if language == 'r':
        setting = ', '.join(f'{name} = {text}' for name, text in texts.items())
        return f'Sys.setenv({setting})', f'Sys.unsetenv(c({", ".join(json.dumps(name) for name in env)}))'
    if language in ('bash', 'sh'):
        quoted = ' '.join(f'{name}={shlex.quote(value)}' for name, value in env.items())
        return f'export {quoted}', f'unset {" ".join(env)}'
    raise UnsupportedError(f'environment variables of a single cell are not known for {language or kernel!r}')


def _run_silently(sandbox: Any, kernel: str, code: str, limit: float) -> None:
    """Run a cell that shows nothing."""
    result = sandbox.execute_cell(code, limit, kernel=kernel, silent=True, store_history=False)
    if result.status is not ExecutionStatus.SUCCESS:
        logger.debug('setting the environment of a cell failed: %s', result.error)
