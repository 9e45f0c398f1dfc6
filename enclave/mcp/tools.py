"""What a model is given over MCP (layer 6): one row a tool, a typed arguments class, and a blocking function.

A program that fails is a result that says how it ended. What could not be done at all raises an `EnclaveError`, whose
sentence the model reads.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from enclave import wire
from enclave.cells import CellResult
from enclave.errors import InvalidArgumentError, ToolArgumentsError, ToolNotFoundError, UnsupportedError
from enclave.languages.values import StepResult
from enclave.mcp.sandboxes import CallerSandboxes
from enclave.records import CommandResult
from enclave.tools.schema import argument, json_schema

OUTPUT_BYTES = 64 << 10
"""Cap on each of stdout and stderr in an answer; past it head and tail are kept around a marker."""
READ_BYTES = 256 << 10
"""How much of a text file one answer holds unless less is asked for."""
TRANSFER_BYTES = 640 << 10
"""How many bytes one download holds: in base64 an answer stays below 1 MiB, which clients of HTTP drop."""
ANSWER_BYTES = 960 << 10
"""How many bytes an answer has as JSON at most, with each text in it twice: for the model, and for a program."""
UPLOAD_BYTES = 8 << 20
MAX_ENTRIES = 1000
DEFAULT_TIMEOUT = 60.0
MAX_TIMEOUT = 3600.0
SANDBOX_ID = (
    "The sandbox, by the id that create_sandbox gave. Left out, it is this connection's own, made at the first call."
)


@frozen(kw_only=True)
class CallResponse:
    """What a call gives back.

    Attributes:
        text: For the model.
        data: The same for a program: JSON-compatible, ``structuredContent`` of the protocol.
        images: ``(media type, base64)`` of pictures.
        resources: ``(uri, media type, bytes)`` of files.
    """

    text: str
    data: Mapping[str, Any] = field(factory=dict)
    images: tuple[tuple[str, str], ...] = ()
    resources: tuple[tuple[str, str, bytes], ...] = ()


@frozen(kw_only=True)
class McpTool:
    """A tool. ``hints`` are the protocol's annotations; ``run(sandboxes, arguments)`` does the work."""

    name: str
    title: str
    description: str
    arguments: type[Any]
    run: Callable[[CallerSandboxes, Any], CallResponse]
    hints: Mapping[str, bool]

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of its arguments."""
        made = json_schema(self.arguments)
        made.pop('title', None)
        return made


TOOLS: dict[str, McpTool] = {}


def tool(
    title: str, arguments: type[Any], **hints: bool
) -> Callable[[Callable[..., CallResponse]], Callable[..., CallResponse]]:
    """Return a decorator that enters a function as a tool; its docstring is the description a model reads."""

    def enter(run: Callable[..., CallResponse]) -> Callable[..., CallResponse]:
        text = ' '.join((run.__doc__ or '').split())
        all_hints = {'readOnlyHint': False, 'destructiveHint': False, 'idempotentHint': False, 'openWorldHint': False}
        TOOLS[run.__name__] = McpTool(
            name=run.__name__, title=title, description=text, arguments=arguments, run=run, hints={**all_hints, **hints}
        )
        return run

    return enter


def call(sandboxes: CallerSandboxes, name: str, arguments: Mapping[str, Any] | None) -> CallResponse:
    """Check the arguments and run a tool.

    Raises:
        ToolNotFoundError: There is no tool of this name.
        ToolArgumentsError: An argument is missing, surplus or wrong.
        EnclaveError: It could not be done; the message is for the model.
    """
    found = TOOLS.get(name)
    if found is None:
        raise ToolNotFoundError(f'there is no tool {name!r}; there are: {", ".join(TOOLS)}')
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    checked = wire.decode(given, found.arguments, error=ToolArgumentsError, what=f'arguments of {name}')
    return found.run(sandboxes, checked)


# Programs -------------------------------------------------------------------------------------------------------------


def _timeout() -> Any:
    return argument(
        default=DEFAULT_TIMEOUT,
        minimum=0.001,
        maximum=MAX_TIMEOUT,
        description='Seconds it may take; then it is killed.',
    )


def _sandbox_id() -> Any:
    return argument(default=None, description=SANDBOX_ID)


@frozen(kw_only=True)
class RunPython:
    """A program."""

    code: str = argument(description='The program text.')
    timeout: float = _timeout()
    sandbox_id: str | None = _sandbox_id()


@tool('Run Python', RunPython, openWorldHint=True)
def run_python(sandboxes: CallerSandboxes, arguments: RunPython) -> CallResponse:
    """Run a Python program in a fresh interpreter in the sandbox, and return what it printed and its exit code. Files it
    writes stay in the sandbox; variables do not (run_cell keeps them)."""
    code = _text(arguments.code, 'code')
    sandbox = sandboxes.find(arguments.sandbox_id)
    result = sandbox.run_script(
        ['python3'],
        code,
        arguments.timeout,
        suffix='.py',
        import_path_env='PYTHONPATH',
        max_output_bytes=OUTPUT_BYTES,
    )
    return _command_response(sandbox.id, result)


@frozen(kw_only=True)
class RunCode:
    """A program in one of many languages."""

    code: str = argument(description='The program text.')
    language: str = argument(
        default='python',
        description='Its language, like "python", "javascript", "cpp", "go", "rust", "java" or "bash".',
    )
    stdin: str | None = argument(default=None, description='Text for its standard input.')
    timeout: float = _timeout()
    sandbox_id: str | None = _sandbox_id()


@tool('Run a program in any language', RunCode, openWorldHint=True)
def run_code(sandboxes: CallerSandboxes, arguments: RunCode) -> CallResponse:
    """Compile, where the language wants that, and run a program in a directory of its own that is gone afterwards; return
    what it printed and how it ended. The sandbox must have the language's tools."""
    code = _text(arguments.code, 'code')
    sandbox = sandboxes.find(arguments.sandbox_id)
    result = sandbox.run_code(code, arguments.language, stdin=arguments.stdin, timeout=arguments.timeout)
    step = result.last
    stdout, stderr = _bounded(step.stdout, ANSWER_BYTES // 4), _bounded(step.stderr, ANSWER_BYTES // 4)
    parts = [] if result.run is not None else ['[compiling failed]']
    parts += _streams(stdout, stderr)
    ending = _ending(step)
    data = {
        'sandbox_id': sandbox.id,
        'language': result.language,
        'compiled': result.run is not None,
        'status': str(result.status),
        'verdict': None if result.verdict is None else str(result.verdict),
        'exit_code': step.exit_code,
        'signal': step.signal,
        'stdout': stdout,
        'stderr': stderr,
        'timed_out': step.timed_out,
        'oom_killed': step.oom_killed,
        'execution_time': result.execution_time,
    }
    return CallResponse(text='\n'.join([*parts, *([ending] if ending else [])]) or '(no output)', data=data)


@frozen(kw_only=True)
class RunShell:
    """A command line."""

    command: str = argument(description='A command line for the shell.')
    timeout: float = _timeout()
    cwd: str | None = argument(default=None, description='Directory to run in.')
    sandbox_id: str | None = _sandbox_id()


@tool('Run a shell command', RunShell, openWorldHint=True)
def run_shell(sandboxes: CallerSandboxes, arguments: RunShell) -> CallResponse:
    """Run a command line in the sandbox's shell, and return what it printed and its exit code. For servers and whatever
    takes long, start_command returns at once."""
    command = _text(arguments.command, 'command')
    sandbox = sandboxes.find(arguments.sandbox_id)
    result = sandbox.execute_command(command, arguments.timeout, cwd=arguments.cwd, max_output_bytes=OUTPUT_BYTES)
    return _command_response(sandbox.id, result)


@frozen(kw_only=True)
class RunCell:
    """A notebook cell."""

    code: str = argument(description='The cell, in Python; its last expression is shown.')
    timeout: float = _timeout()
    sandbox_id: str | None = _sandbox_id()


@tool('Run a notebook cell', RunCell, openWorldHint=True)
def run_cell(sandboxes: CallerSandboxes, arguments: RunCell) -> CallResponse:
    """Run a cell in the sandbox's Jupyter kernel, which keeps variables between calls; plots come back as images."""
    code = _text(arguments.code, 'code')
    sandbox = sandboxes.find(arguments.sandbox_id)
    if not hasattr(sandbox, 'execute_cell'):
        raise UnsupportedError(
            f'sandbox {sandbox.id} has no Jupyter kernel; make one that has with create_sandbox(notebook=true), '
            'or use run_python'
        )
    result: CellResult = sandbox.execute_cell(code, timeout=arguments.timeout)
    text = result.text
    if result.stderr:
        text = f'{text}\n[stderr]\n{result.stderr}'.strip('\n')
    if result.error is not None:
        text = f'{text}\n{result.error.traceback or f"{result.error.name}: {result.error.value}"}'.strip('\n')
    elif not result.success:
        text = f'{text}\n{_cell_ending(result)}'.strip('\n')
    if result.state_lost:
        text = f'{text}\n(the variables are lost: the kernel {result.state_lost})'.strip('\n')
    text, room = _bounded(text, ANSWER_BYTES // 4), ANSWER_BYTES // 8
    error = result.error
    data = {
        'sandbox_id': sandbox.id,
        'status': str(result.status),
        'text': _bounded(result.text, room),
        'stderr': _bounded(result.stderr, room),
        'error': None if error is None else {'name': _bounded(error.name, room), 'value': _bounded(error.value, room)},
        'execution_count': result.execution_count,
        'execution_time': result.execution_time,
        'timed_out': result.timed_out,
        'oom_killed': result.oom_killed,
    }
    images, left_out = _pictures(result, ANSWER_BYTES - _size(text) - _size(data))
    if left_out:
        text = (
            f'{text}\n({left_out} of the pictures did not fit into the answer; save them and use download_file)'.strip(
                '\n'
            )
        )
    return CallResponse(text=text or '(no output)', data=data, images=images)


def _cell_ending(result: CellResult) -> str:
    if result.timed_out:
        return f'[timed out after {result.execution_time:.1f} s]'
    return '[out of memory]' if result.oom_killed else f'[ended with status {result.status}]'


def _pictures(result: CellResult, room: int) -> tuple[tuple[tuple[str, str], ...], int]:
    """Return the pictures that a cell shows, as far as there is room for them, and how many there was none for."""
    found, left_out = [], 0
    for output in result.outputs:
        data = output.get('data')
        for media_type in ('image/png', 'image/jpeg', 'image/gif', 'image/webp'):
            content = data.get(media_type) if isinstance(data, dict) else None
            if not isinstance(content, str):
                continue
            content = ''.join(content.split())
            if len(content) <= room:
                room -= len(content)
                found.append((media_type, content))
            else:
                left_out += 1
            break
    return tuple(found), left_out


def _streams(stdout: str, stderr: str) -> list[str]:
    """Return what a program wrote, as the parts of a text; stderr is named where there is stdout before it."""
    parts = [stdout.rstrip('\n')] if stdout else []
    return parts + ([(f'[stderr]\n{stderr}' if stdout else stderr).rstrip('\n')] if stderr else [])


def _command_response(sandbox_id: str, result: CommandResult) -> CallResponse:
    stdout, stderr = _bounded(result.stdout, ANSWER_BYTES // 4), _bounded(result.stderr, ANSWER_BYTES // 4)
    parts = _streams(stdout, stderr)
    ending = _ending(result)
    if ending:
        parts.append(ending)
    data = {'sandbox_id': sandbox_id, **_command_data(result), 'stdout': stdout, 'stderr': stderr}
    data['truncated'] = result.truncated or stdout != result.stdout or stderr != result.stderr
    return CallResponse(text='\n'.join(parts) or '(no output)', data=data)


def _ending(result: CommandResult | StepResult) -> str:
    if result.timed_out:
        return f'[timed out after {result.execution_time:.1f} s; it and all it had started were killed]'
    if result.oom_killed:
        return '[out of memory]'
    if result.signal:
        return f'[killed by {result.signal}]'
    return f'[exit code {result.exit_code}]' if result.exit_code else ''


def _command_data(result: CommandResult) -> dict[str, Any]:
    return {
        'status': str(result.status),
        'exit_code': result.exit_code,
        'signal': result.signal,
        'stdout': result.stdout,
        'stderr': result.stderr,
        'stdout_bytes': result.stdout_bytes,
        'stderr_bytes': result.stderr_bytes,
        'truncated': result.truncated,
        'timed_out': result.timed_out,
        'oom_killed': result.oom_killed,
        'execution_time': result.execution_time,
    }


# Background commands --------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class StartCommand:
    """A command to run in the background."""

    command: str = argument(description='A command line for the shell.')
    timeout: float | None = argument(
        default=None, minimum=0.001, description='Seconds it may run; left out, until it ends or is stopped.'
    )
    cwd: str | None = argument(default=None, description='Directory to run in.')
    sandbox_id: str | None = _sandbox_id()


@tool('Start a background command', StartCommand, openWorldHint=True)
def start_command(sandboxes: CallerSandboxes, arguments: StartCommand) -> CallResponse:
    """Start a command line in the background and return its command_id at once; read_command_output then reads what it
    prints, stop_command ends it."""
    command = sandboxes.start_command(
        arguments.sandbox_id, _text(arguments.command, 'command'), timeout=arguments.timeout or 0, cwd=arguments.cwd
    )
    return CallResponse(
        text=f'started; command_id is {command.id}',
        data={'sandbox_id': command.sandbox_id, 'command_id': command.id, 'running': True},
    )


@frozen(kw_only=True)
class ReadCommandOutput:
    """Whose output."""

    command_id: str = argument(description='What start_command returned.')
    timeout: float = argument(
        default=5.0, minimum=0, maximum=600, description='Seconds to wait where there is no new output yet.'
    )


@tool('Read the output of a background command', ReadCommandOutput, idempotentHint=False)
def read_command_output(sandboxes: CallerSandboxes, arguments: ReadCommandOutput) -> CallResponse:
    """Return what a background command printed since it was last asked, and whether it still runs."""
    command = sandboxes.find_command(arguments.command_id)
    output = command.read(arguments.timeout, OUTPUT_BYTES)
    left_out = f'({output.left_out_bytes} bytes of older output were left out)\n' if output.left_out_bytes else ''
    running = output.result is None and output.error is None
    if running:
        ending = '[still running]'
    elif output.result is None:
        ending = f'[lost: {output.error}]'
    else:
        ending = _ending(output.result) or '[exit code 0]'
    data: dict[str, Any] = {
        'command_id': command.id,
        'sandbox_id': command.sandbox_id,
        'running': running,
        'output': output.text,
        'left_out_bytes': output.left_out_bytes,
    }
    if output.result is not None:
        data.update(exit_code=output.result.exit_code, signal=output.result.signal, status=str(output.result.status))
    return CallResponse(text=f'{left_out}{output.text.rstrip()}\n{ending}'.lstrip('\n'), data=data)


@frozen(kw_only=True)
class StopCommand:
    """Which command."""

    command_id: str = argument(description='What start_command returned.')


@tool('Stop a background command', StopCommand, destructiveHint=True, idempotentHint=True)
def stop_command(sandboxes: CallerSandboxes, arguments: StopCommand) -> CallResponse:
    """Kill a background command and everything it started, and return the rest of its output."""
    command = sandboxes.find_command(arguments.command_id)
    command.stop(10.0)
    return read_command_output(sandboxes, ReadCommandOutput(command_id=command.id, timeout=0))


# Files ----------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class ReadTextFile:
    """Which file."""

    path: str = argument(description='Path in the sandbox; a relative one begins at its working directory.')
    offset: int = argument(default=0, minimum=0, description='Bytes to leave out at the beginning.')
    max_bytes: int = argument(default=READ_BYTES, minimum=1, maximum=READ_BYTES, description='How many bytes at most.')
    sandbox_id: str | None = _sandbox_id()


@tool('Read a text file', ReadTextFile, readOnlyHint=True, idempotentHint=True)
def read_file(sandboxes: CallerSandboxes, arguments: ReadTextFile) -> CallResponse:
    """Return the text of a file in the sandbox; for bytes use download_file."""
    sandbox = sandboxes.find(arguments.sandbox_id)
    data = sandbox.read_file(
        arguments.path, offset=arguments.offset, max_bytes=arguments.max_bytes + _LONGEST_CHARACTER
    )
    begin = _first_character(data) if arguments.offset else 0
    end, is_cut = len(data), len(data) > arguments.max_bytes
    if is_cut:
        end = max(_character_before(data, arguments.max_bytes), _character_after(data, begin))
    try:
        text = data[begin:end].decode('utf-8')
    except UnicodeDecodeError:
        raise InvalidArgumentError(f'{arguments.path!r} is not text in UTF-8; read it with download_file') from None
    fitting = _fitting(text, ANSWER_BYTES // 2)
    if fitting < len(text):
        text, is_cut = text[:fitting], True
        end = begin + len(text.encode('utf-8'))
    following = arguments.offset + end
    return CallResponse(
        text=f'{text}\n[cut here; continue with offset={following}]' if is_cut else text,
        data={
            'path': arguments.path,
            'content': text,
            'truncated': is_cut,
            'next_offset': following if is_cut else None,
        },
    )


_LONGEST_CHARACTER = 4


def _is_inside(data: bytes, index: int) -> bool:
    """Return whether a byte is one of a character that has begun before it, in UTF-8."""
    return index < len(data) and data[index] & 0xC0 == 0x80


def _first_character(data: bytes) -> int:
    """Return where the first character begins."""
    return next((index for index in range(_LONGEST_CHARACTER) if not _is_inside(data, index)), 0)


def _character_before(data: bytes, end: int) -> int:
    """Return the end of the last character that is whole before ``end``."""
    return next((index for index in range(end, end - _LONGEST_CHARACTER, -1) if not _is_inside(data, index)), end)


def _character_after(data: bytes, begin: int) -> int:
    """Return the end of the character that begins at ``begin``: one is read at least, or no reader would come to the end."""
    return next(index for index in range(begin + 1, len(data) + 1) if not _is_inside(data, index))


@frozen(kw_only=True)
class WriteTextFile:
    """A text file."""

    path: str = argument(description='Path in the sandbox; directories that are missing are made.')
    content: str = argument(description='The whole text of the file.')
    sandbox_id: str | None = _sandbox_id()


@tool('Write a text file', WriteTextFile, destructiveHint=True, idempotentHint=True)
def write_file(sandboxes: CallerSandboxes, arguments: WriteTextFile) -> CallResponse:
    """Write a text file in the sandbox, in the place of any that is there."""
    sandbox = sandboxes.find(arguments.sandbox_id)
    size = sandbox.write_file(arguments.path, _encoded(arguments.content, 'content'))
    return CallResponse(text=f'{arguments.path}: {size} bytes written', data={'path': arguments.path, 'size': size})


@frozen(kw_only=True)
class ListFiles:
    """Which directory."""

    path: str = argument(default='.', description='Directory in the sandbox.')
    recursive: bool = argument(default=False, description='Also what is in its directories.')
    sandbox_id: str | None = _sandbox_id()


@tool('List files', ListFiles, readOnlyHint=True, idempotentHint=True)
def list_files(sandboxes: CallerSandboxes, arguments: ListFiles) -> CallResponse:
    """List a directory of the sandbox, with kinds and sizes."""
    sandbox = sandboxes.find(arguments.sandbox_id)
    entries = sandbox.list_dir(arguments.path, recursive=arguments.recursive, max_entries=MAX_ENTRIES + 1)
    shown = min(len(entries), MAX_ENTRIES, _fitting_entries([entry.path for entry in entries]))
    is_cut = len(entries) > shown
    entries = entries[:shown]
    lines = [
        f'{entry.kind[0]} {entry.size:>10} {entry.path}{"/" if entry.kind == "directory" else ""}' for entry in entries
    ]
    if is_cut:
        lines.append(f'... (more than {shown} entries; list a directory in it)')
    return CallResponse(
        text='\n'.join(lines) or '(empty)',
        data={
            'path': arguments.path,
            'truncated': is_cut,
            'entries': [{'path': e.path, 'kind': e.kind, 'size': e.size} for e in entries],
        },
    )


@frozen(kw_only=True)
class UploadFile:
    """A file's bytes."""

    path: str = argument(description='Path in the sandbox; directories that are missing are made.')
    content: str = argument(description='The bytes of the file, in base64.')
    sandbox_id: str | None = _sandbox_id()


@tool('Upload a file', UploadFile, destructiveHint=True, idempotentHint=True)
def upload_file(sandboxes: CallerSandboxes, arguments: UploadFile) -> CallResponse:
    """Write a file of any bytes in the sandbox, given in base64."""
    try:
        data = base64.b64decode(arguments.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError(f'content is not base64: {error}; for text use write_file') from None
    if len(data) > UPLOAD_BYTES:
        raise InvalidArgumentError(f'content has {len(data)} bytes; one upload may have {UPLOAD_BYTES}')
    sandbox = sandboxes.find(arguments.sandbox_id)
    size = sandbox.write_file(arguments.path, data)
    return CallResponse(text=f'{arguments.path}: {size} bytes written', data={'path': arguments.path, 'size': size})


@frozen(kw_only=True)
class DownloadFile:
    """Which file."""

    path: str = argument(description='Path in the sandbox.')
    offset: int = argument(default=0, minimum=0, description='Bytes to leave out at the beginning.')
    sandbox_id: str | None = _sandbox_id()


@tool('Download a file', DownloadFile, readOnlyHint=True, idempotentHint=True)
def download_file(sandboxes: CallerSandboxes, arguments: DownloadFile) -> CallResponse:
    """Return a file's bytes as a resource in base64; a picture also as an image. Large files come in parts, by offset."""
    sandbox = sandboxes.find(arguments.sandbox_id)
    path, offset = arguments.path, arguments.offset
    data = sandbox.read_file(path, offset=offset, max_bytes=TRANSFER_BYTES + 1)
    is_cut = len(data) > TRANSFER_BYTES
    data = data[:TRANSFER_BYTES]
    following = offset + len(data)
    media_type = 'application/octet-stream'
    images: tuple[tuple[str, str], ...] = ()
    picture = _picture_type(data)
    if picture is not None and offset == 0 and not is_cut:
        media_type = picture
        if len(data) <= TRANSFER_BYTES // 2:
            images = ((picture, base64.b64encode(data).decode('ascii')),)
    text = f'{path}: {len(data)} bytes' + (f'; there is more, continue with offset={following}' if is_cut else '')
    return CallResponse(
        text=text,
        data={'path': path, 'size': len(data), 'truncated': is_cut, 'next_offset': following if is_cut else None},
        images=images,
        resources=((f'sandbox://{sandbox.id}/{path.lstrip("/")}', media_type, data),),
    )


def _picture_type(data: bytes) -> str | None:
    for start, media_type in ((b'\x89PNG\r\n', 'image/png'), (b'\xff\xd8\xff', 'image/jpeg'), (b'GIF8', 'image/gif')):
        if data.startswith(start):
            return media_type
    return None


# Sandboxes ------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class CreateSandbox:
    """What to make."""

    image: str | None = argument(default=None, description='The image to make it from; left out, the configured one.')
    notebook: bool | None = argument(
        default=None,
        description='Whether it has a Jupyter kernel (run_cell); left out, it has one where that can be had.',
    )


@tool('Make a sandbox', CreateSandbox)
def create_sandbox(sandboxes: CallerSandboxes, arguments: CreateSandbox) -> CallResponse:
    """Make a fresh sandbox and return its sandbox_id. It stays until delete_sandbox, or until the server takes it away."""
    made = sandboxes.create(image=arguments.image, notebook=arguments.notebook)
    info = sandboxes.manager.get_sandbox_info(made)
    return CallResponse(text=f'sandbox_id is {made}', data={'sandbox_id': made, 'type': str(info.type)})


@frozen(kw_only=True)
class Nothing:
    """No arguments."""


@tool('List sandboxes', Nothing, readOnlyHint=True, idempotentHint=True)
def list_sandboxes(sandboxes: CallerSandboxes, arguments: Nothing) -> CallResponse:
    """List the sandboxes that this connection or key has made, with the background commands that run in them."""
    found = [
        {
            'sandbox_id': info.id,
            'type': str(info.type),
            'status': str(info.status),
            'created_at': info.created_at.isoformat(),
            'command_ids': [each.id for each in sandboxes.commands() if each.sandbox_id == info.id and each.is_running],
        }
        for info in sandboxes.manager.list_sandboxes()
    ]
    lines = [f'{each["sandbox_id"]} {each["type"]} {each["status"]}' for each in found]
    return CallResponse(text='\n'.join(lines) or '(none)', data={'sandboxes': found})


@frozen(kw_only=True)
class DeleteSandbox:
    """Which sandbox."""

    sandbox_id: str = argument(description='What create_sandbox or list_sandboxes gave.')


@tool('Delete a sandbox', DeleteSandbox, destructiveHint=True, idempotentHint=True)
def delete_sandbox(sandboxes: CallerSandboxes, arguments: DeleteSandbox) -> CallResponse:
    """Take a sandbox away, with its files and whatever runs in it."""
    sandboxes.delete(arguments.sandbox_id)
    return CallResponse(text=f'sandbox {arguments.sandbox_id} is deleted', data={'sandbox_id': arguments.sandbox_id})


# Helpers --------------------------------------------------------------------------------------------------------------


def _text(value: str, name: str) -> str:
    if not value.strip():
        raise InvalidArgumentError(f'{name} is empty')
    return value


def _encoded(value: str, name: str) -> bytes:
    try:
        return value.encode('utf-8')
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f'{name} cannot be written as UTF-8: {error.reason}') from None


def _bounded(text: str, room: int) -> str:
    """Return a text, or its head and tail, in so many bytes of JSON."""
    left = min(len(text), OUTPUT_BYTES)
    if left == len(text) and _fitting(text, room) == left:
        return text
    left = min(left, 2 * _fitting(text, room // 2), 2 * _fitting(text[::-1], room // 2))
    half = left // 2
    return f'{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[len(text) - half :]}'


def _size(value: Any) -> int:
    """Return how many bytes a value has as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode('utf-8', 'surrogatepass'))


_MOST_OF_A_CHARACTER = 6  # as JSON: \\u0000


def _fitting(text: str, room: int) -> int:
    """Return how many characters of a text fit into so many bytes of JSON."""
    fit, beyond = min(len(text), room // _MOST_OF_A_CHARACTER), len(text) + 1
    while beyond - fit > 1:
        middle = (fit + beyond) // 2
        fit, beyond = (middle, beyond) if _size(text[:middle]) <= room else (fit, middle)
    return fit


def _fitting_entries(paths: list[str]) -> int:
    """Return how many entries of a directory fit into an answer, which names each twice."""
    room = ANSWER_BYTES
    for index, path in enumerate(paths):
        room -= 2 * _size(path) + _ENTRY_BYTES
        if room < 0:
            return index
    return len(paths)


_ENTRY_BYTES = 100
"""How many bytes an entry of a directory takes beside its path, about."""
