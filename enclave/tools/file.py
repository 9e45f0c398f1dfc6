"""``file_operation`` (layer 3): files and directories of the sandbox, without a shell in between.

A path is data: quotes, newlines, ``$()`` and leading dashes have no meaning. Relative paths begin at the working directory.

Text is strict. A file that is not text in the asked-for encoding is an error that names the first bad byte and the ways
round it, because a text with bytes shown as something else would be written back as something else. Binary content travels
as base64 both ways.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
from attrs import frozen

from enclave.config import MIB
from enclave.enums import SandboxType
from enclave.errors import InvalidArgumentError, SandboxPathError, SandboxPathNotFoundError
from enclave.quoting import quoted
from enclave.records import PathInfo, ToolResult
from enclave.rulings import at_most
from enclave.tools.base import Tool
from enclave.tools.schema import argument
from enclave.tools.workspace import Workspace

_BASE64 = 'base64'
_WIDEST_CHARACTER_BYTES = 4  # in UTF-8, UTF-16, UTF-32 and GB 18030
_USES: dict[str, frozenset[str]] = {}
"""The arguments each operation reads, besides ``operation`` and ``file_path``; `_operation` fills it."""
_NEEDS: dict[str, str] = {}
"""The argument that an operation cannot do without."""

M = TypeVar('M', bound=Callable[..., ToolResult])


def _operation(*uses: str, needs: str = '') -> Callable[[M], M]:
    """Return a decorator of the method that does an operation, and is called like it."""

    def enter(method: M) -> M:
        name = method.__name__.removeprefix('_')
        _USES[name] = frozenset(uses)
        if needs:
            _NEEDS[name] = needs
        return method

    return enter


def _check_path(_: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is None:
        return
    if not value:
        raise InvalidArgumentError(f'{attribute.name} must not be empty')
    if '\0' in value:
        raise InvalidArgumentError(f'{attribute.name} must not contain NUL, as {quoted(value)} does')


def _check_encoding(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    try:
        # Python's table of codecs also holds bytes-to-bytes ones, like 'zlib', which refuse to be used here.
        fits = value == _BASE64 or isinstance('x'.encode(value), bytes)
    except (LookupError, ValueError):
        fits = False
    if not fits:
        raise InvalidArgumentError(
            f"{attribute.name} must be 'base64' or a text encoding like 'utf-8' or 'latin-1', not {quoted(value)}"
        )


class FileOperation(Tool):
    """Read, write and manage files in the sandbox.

    What ``output`` and ``metadata`` hold, besides ``metadata['path']`` (the path as given) and ``['operation']``:

    ========== ==================================================== ====================================================
    operation  output                                               metadata
    ========== ==================================================== ====================================================
    create,    a sentence                                           ``size`` of the file, ``bytes`` written
    write,
    append
    read       the text, or base64                                  ``encoding``, ``offset``, ``bytes`` read, ``size`` of
                                                                    the file, ``truncated``; then also ``next_offset``
    list       a name on each line, directories ending in ``/``     ``entries`` (dicts of `PathInfo`), ``truncated``
    exists     ``true`` or ``false``                                ``exists`` (bool), ``kind`` (None if it does not)
    stat       a line of facts                                      the fields of `PathInfo`, ``path`` among them
    delete,    a sentence                                           (``target`` of a move or a copy)
    mkdir,
    move,
    copy
    ========== ==================================================== ====================================================

    A part that begins or ends within a character is read without it; ``offset`` and ``next_offset`` say where the text
    begins and continues. ``create`` makes a new file, with parents, and fails where something is; ``write`` replaces what is
    there. ``exists`` and ``stat`` follow symlinks. Control characters in listed names show as backslash escapes;
    ``entries`` has the true names.
    """

    name = 'file_operation'
    description = (
        'Create, read, write, append to, list, delete, move, copy or look at files and directories in the sandbox. Relative '
        'paths begin at the working directory.'
    )
    needs = frozenset({'files'})
    _sandbox_type = SandboxType.DOCKER

    def run(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        """Do the operation, each by one workspace verb (a second one where an error needs a fact)."""
        self._check_together(arguments)
        result: ToolResult = getattr(self, f'_{arguments.operation}')(workspace, arguments)
        metadata = {'operation': arguments.operation, 'path': arguments.file_path, **result.metadata}
        return attrs.evolve(result, metadata=metadata)

    def _check_together(self, arguments: Arguments) -> None:
        operation = arguments.operation
        needed = _NEEDS.get(operation)
        problems = []
        if needed and getattr(arguments, needed) is None:
            problems.append(f'{needed} is required for the operation {operation!r} and missing')
        for each in attrs.fields(type(arguments)):
            if each.name in ('operation', 'file_path') or each.name in _USES[operation]:
                continue
            value = getattr(arguments, each.name)
            if value != each.default and value != '':
                problems.append(f'{each.name} has no meaning for the operation {operation!r}')
        if problems:
            raise self.arguments_error(*problems)

    # Writing

    @_operation('content', 'encoding')
    def _create(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        return self._put(workspace, arguments, 'Created', exclusive=True)

    @_operation('content', 'encoding', needs='content')
    def _write(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        return self._put(workspace, arguments, 'Wrote')

    @_operation('content', 'encoding', needs='content')
    def _append(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        return self._put(workspace, arguments, 'Appended to', append=True)

    def _put(self, workspace: Workspace, arguments: Arguments, did: str, **how: bool) -> ToolResult:
        data = self._encode(arguments.content or '', arguments.encoding)
        limit = self.options.max_file_bytes
        if len(data) > limit:
            return self.failure(
                f'The content of {arguments.file_path!r} is {len(data)} bytes, more than the {limit} allowed for one call '
                "(max_file_bytes); write the first part and add the others with the operation 'append'",
                error_code=InvalidArgumentError.code,
            )
        size = workspace.write_file(arguments.file_path, data, **how)
        return self.success(f'{did} {arguments.file_path} ({len(data)} bytes)', size=size, bytes=len(data))

    def _encode(self, content: str, encoding: str) -> bytes:
        try:
            if encoding == _BASE64:
                return base64.b64decode(''.join(content.split()), validate=True)
            return content.encode(encoding)
        except UnicodeEncodeError as error:
            bad = content[error.start : error.end][:10]
            raise self.arguments_error(
                f'content cannot be written as {encoding}: character {error.start} is {bad!a}'
            ) from None
        except ValueError as error:
            raise self.arguments_error(f'content is not base64: {error}') from None

    # Reading

    @_operation('encoding', 'offset', 'max_bytes')
    def _read(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        limit = self.options.max_file_bytes
        wanted = min(arguments.max_bytes or limit, limit)
        if arguments.encoding != _BASE64:
            wanted = max(wanted, _WIDEST_CHARACTER_BYTES)  # so that reading part after part always gets on
        # One byte more than wanted says whether there is more, without a second call.
        data = workspace.read_file(arguments.file_path, offset=arguments.offset, max_bytes=wanted + 1)
        truncated = len(data) > wanted
        if truncated and arguments.max_bytes is None:
            size = workspace.stat_path(arguments.file_path).size
            return self.failure(
                f'{arguments.file_path!r} is {size} bytes, more than the {limit} allowed for one call (max_file_bytes); '
                'read it in parts with offset and max_bytes',
                size=size,
                error_code=SandboxPathError.code,
            )
        data = data[:wanted]
        start = arguments.offset
        if arguments.encoding == _BASE64:
            text = base64.b64encode(data).decode('ascii')
        else:
            skipped = _broken_start(data, arguments.encoding) if start else 0
            data, start = data[skipped:], start + skipped
            try:
                text, data = _decode(data, arguments.encoding, more=truncated)
            except UnicodeDecodeError as error:
                return self.failure(
                    f'{arguments.file_path!r} is not {arguments.encoding} text: byte {start + error.start} is '
                    f"0x{error.object[error.start]:02x}. Read it with encoding='base64' for its exact bytes, or with "
                    "'latin-1' to see each byte as a character",
                    error_code=SandboxPathError.code,
                )
        facts: dict[str, Any] = {
            'encoding': arguments.encoding,
            'offset': start,
            'bytes': len(data),
            'size': start + len(data),
            'truncated': truncated,
        }
        if truncated:
            facts['next_offset'] = start + len(data)
        if truncated or (arguments.offset and not data):
            facts['size'] = workspace.stat_path(arguments.file_path).size
        return self.success(text, **facts)

    @_operation('recursive')
    def _list(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        limit = self.options.max_entries
        entries = workspace.list_dir(arguments.file_path, recursive=arguments.recursive, max_entries=limit + 1)
        truncated = len(entries) > limit
        entries = entries[:limit]
        lines = [_shown(entry.path) + ('/' if entry.kind == 'directory' else '') for entry in entries]
        if truncated:
            lines.append(f'... (more than {limit} entries; list a smaller directory)')
        return self.success(
            '\n'.join(lines), entries=[entry.model_dump(mode='json') for entry in entries], truncated=truncated
        )

    @_operation()
    def _exists(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        try:
            found = workspace.stat_path(arguments.file_path)
        except SandboxPathNotFoundError:
            return self.success('false', exists=False, kind=None)
        return self.success('true', exists=True, kind=found.kind)

    @_operation()
    def _stat(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        found = workspace.stat_path(arguments.file_path)
        facts = found.model_dump(mode='json')
        return self.success(_facts(found), **facts)

    # Changing

    @_operation('recursive')
    def _delete(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        try:
            workspace.remove_path(arguments.file_path, recursive=arguments.recursive)
        except SandboxPathError as error:
            if (
                arguments.recursive
                or workspace.stat_path(arguments.file_path, follow_symlinks=False).kind != 'directory'
            ):
                raise
            return self.failure(
                f'{error.message} (to delete a directory with everything in it, pass recursive=true)',
                error_code=error.code,
            )
        return self.success(f'Deleted {arguments.file_path}')

    @_operation()
    def _mkdir(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        workspace.make_dir(arguments.file_path)
        return self.success(f'Made directory {arguments.file_path}')

    @_operation('target_path', 'overwrite', needs='target_path')
    def _move(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        target = arguments.target_path or ''
        workspace.move_path(arguments.file_path, target, overwrite=arguments.overwrite)
        return self.success(f'Moved {arguments.file_path} to {target}', target=target)

    @_operation('target_path', 'overwrite', 'recursive', needs='target_path')
    def _copy(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        target = arguments.target_path or ''
        workspace.copy_path(arguments.file_path, target, recursive=arguments.recursive, overwrite=arguments.overwrite)
        return self.success(f'Copied {arguments.file_path} to {target}', target=target)

    # What it takes: the operations are those above

    @frozen(kw_only=True)
    class Arguments:
        """The arguments of a call."""

        operation: str = argument(
            choices=tuple(_USES), description="What to do. 'create' fails if the file exists, 'write' replaces it."
        )
        file_path: str = argument(description='Path of the file or directory.', validator=_check_path)
        content: str | None = argument(default=None, description='What to write, in the given encoding.')
        encoding: str = argument(
            default='utf-8',
            description="Text encoding of the file, or 'base64' for content of any bytes.",
            validator=_check_encoding,
        )
        recursive: bool = argument(
            default=False, description='List whole trees; delete or copy a directory with everything in it.'
        )
        offset: int = argument(default=0, minimum=0, description='Byte to start reading at.')
        max_bytes: int | None = argument(
            default=None, minimum=1, description='Read at most this many bytes (at least 4 of text).'
        )
        target_path: str | None = argument(default=None, description='Where to move or copy to.', validator=_check_path)
        overwrite: bool = argument(default=False, description='Let a move or a copy replace what is at the target.')

    rulings = {'max_file_bytes': at_most('max_file_bytes'), 'max_entries': at_most('max_entries')}

    @frozen(kw_only=True)
    class Options:
        """What ``tools_config['file_operation']`` may hold.

        Attributes:
            max_file_bytes: The most one call reads or writes, in bytes.
            max_entries: The most entries one call lists.
        """

        max_file_bytes: int = argument(default=10 * MIB, minimum=1)
        max_entries: int = argument(default=10_000, minimum=1)


def _broken_start(data: bytes, encoding: str) -> int:
    """Return how many bytes belong to a character that began before; only UTF-8 says."""
    count = 0
    if codecs.lookup(encoding).name == 'utf-8':
        while count < min(_WIDEST_CHARACTER_BYTES - 1, len(data)) and data[count] & 0xC0 == 0x80:
            count += 1
    return count


def _decode(data: bytes, encoding: str, *, more: bool) -> tuple[str, bytes]:
    """Return the text, and the bytes it represents: where ``more`` follows, without the beginning of a cut character."""
    decoder = codecs.getincrementaldecoder(encoding)()
    text = decoder.decode(data, final=not more)
    rest = len(decoder.getstate()[0]) if more else 0
    return text, data[: len(data) - rest]


def _shown(name: str) -> str:
    """Return a name on one line: control characters and bytes that are not UTF-8 as escapes."""
    if name.isprintable():
        return name
    return ''.join(each if each.isprintable() else each.encode('unicode_escape').decode('ascii') for each in name)


def _facts(info: PathInfo) -> str:
    facts = [info.kind, f'{info.size} bytes', f'mode {info.mode:03o}', f'owner {info.uid}:{info.gid}']
    if info.modified_at is not None:
        facts.append(f'modified {info.modified_at.isoformat(timespec="seconds")}')
    if info.target is not None:
        facts.append(f'points to {_shown(info.target)}')
    return ', '.join(facts)
