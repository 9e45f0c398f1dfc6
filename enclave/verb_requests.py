"""What a sandbox can be asked (layer 1): one frozen record a verb, and beside each how it travels over HTTP.

A record is the same from any entry to whatever executes it: the method of a sandbox makes it, HTTP carries it as a query or a
JSON body, `enclave.sandboxes.operations.Operations` executes it. It is checked when it is made, in every process, and is not
checked again. `VERBS` has a row for each, which routes, the HTTP client and the OpenAPI document read.

What is left out means the sandbox's own default, so that a record that was made on one machine can be completed on another.
"""

from __future__ import annotations

import contextlib
import copy
import posixpath
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast, get_args

import attrs
from attrs import field, frozen, validators
from attrs.converters import optional

from enclave.config import SandboxConfig, as_digits, check_env
from enclave.deadline import check_timeout
from enclave.errors import InvalidArgumentError, UnsupportedError
from enclave.quoting import quoted
from enclave.records import CommandResult, Model, PathInfo, described

R = TypeVar('R')
C = TypeVar('C', bound='type[Request[Any]]')
Q = TypeVar('Q', bound='Request[Any]')

BYTES = 'application/octet-stream'
TAR = 'application/x-tar'
MAX_COUNT = (1 << 63) - 1
MAX_OUTPUT_BYTES = 1 << 30
"""The largest cap on each of stdout and stderr that can be asked for."""

PYTHON_UNBUFFERED = 'PYTHONUNBUFFERED'

_CAPITAL = re.compile(r'(?<!^)(?=[A-Z])')


@frozen(kw_only=True)
class Verb:
    """How one verb travels over HTTP.

    Attributes:
        name: The verb's, and the ``operationId`` of its route.
        request: The class of its record.
        method: The method of HTTP. ``GET``, ``DELETE`` and what sends raw bytes carry the record as the query, others as JSON.
        path: The address below the sandbox's.
        gives: What it gives: a type, None for nothing, or the media type of raw bytes.
        sends: The media type of the raw bytes that are its body; None where the body is the record, or there is none.
        done: What the answer says of a verb that gives nothing; names in braces are fields of the record.
        is_repeatable: Whether it takes an idempotency key. What only asks needs none.
        is_long: Whether it may take as long as it takes; else an answer that does not come soon is an error.
        tag: The chapter of the OpenAPI document that it stands in.
        operation_id: What the OpenAPI document calls it, where that is not its name.
    """

    name: str
    request: type[Request[Any]]
    method: Literal['GET', 'POST', 'PUT', 'DELETE']
    path: str
    gives: Any = None
    sends: str | None = None
    done: str = ''
    is_repeatable: bool = False
    is_long: bool = False
    tag: str = 'files'
    operation_id: str = ''

    @property
    def is_in_query(self) -> bool:
        """Whether the record travels as the query of the address."""
        return self.sends is not None or self.method in ('GET', 'DELETE')


VERBS: dict[str, Verb] = {}
"""The rows, by name, in the order they are written below."""


def _verb(
    method: Literal['GET', 'POST', 'PUT', 'DELETE'], path: str, *, name: str = '', **facts: Any
) -> Callable[[C], C]:
    """Return a class decorator that gives a record its row; what the verb gives is what the class says."""

    def enter(cls: C) -> C:
        verb = name or _CAPITAL.sub('_', cls.__name__).lower()
        gives = facts.pop('gives', None) or get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]
        cls.verb = verb
        VERBS[verb] = Verb(
            name=verb, request=cls, method=method, path=path, gives=None if gives is type(None) else gives, **facts
        )
        return cls

    return enter


class Request(Model, Generic[R]):
    """What one verb is asked; ``R`` is what it gives."""

    __slots__ = ()
    omits_defaults: ClassVar[bool] = True
    verb: ClassVar[str]
    _paths: ClassVar[tuple[str, ...]] = ('path',)
    """The fields that are paths in the sandbox."""

    @property
    def method(self) -> str:
        """The name of the method that makes this request."""
        return self.verb

    def completed(self: Q, config: SandboxConfig) -> Q:
        """Return it with a sandbox's own defaults in the place of what was left out, and absolute paths only.

        Relative paths begin at the working directory. A trailing slash stays.
        """
        changes = {
            name: absolute(path, config.working_dir)
            for name in self._paths
            if not (path := getattr(self, name)).startswith('/')
        }
        return attrs.evolve(self, **changes) if changes else self  # type: ignore[misc]

    @property
    def paths(self) -> list[str]:
        """Return its paths in the sandbox."""
        return [getattr(self, name) for name in self._paths]

    def places(self, name: str) -> list[str]:
        """Return where something called ``name`` lies that is made beside what the paths name, or in it."""
        paths = [path.rstrip('/') or '/' for path in self.paths]
        return [posixpath.join(folder, name) for path in paths for folder in (posixpath.dirname(path), path)]

    def call_on(self, sandbox: Any) -> R:
        """Execute it by the method of an object that has the verbs, which gets what is not at its default.

        Raises:
            UnsupportedError: It has no such method.
        """
        positional, options = self._arguments()
        method = getattr(sandbox, self.method, None)
        if method is None:
            raise UnsupportedError(
                f'sandbox {sandbox.id}, a {type(sandbox).__name__}, has no {self.method}',
                details={'sandbox_id': sandbox.id},
            )
        return cast(R, method(*positional, **options))

    def _arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of the method: its paths, in order, and of the others those that differ from their defaults."""
        fields = attrs.fields(type(self))  # type: ignore[arg-type]
        options = {each.name: value for each in fields if (value := getattr(self, each.name)) != each.default}
        for name in self._paths:
            options.pop(name, None)
        return self.paths, options


class Download(Request[Iterator[bytes]]):
    """A request whose answer is raw bytes."""

    __slots__ = ()


class Upload(Request[R]):
    """A request that raw bytes go with."""

    __slots__ = ()

    @property
    def is_repeatable(self) -> bool:
        """Whether doing it twice is the same as doing it once."""
        return True


def absolute(path: str, directory: str) -> str:
    """Return a path, relative ones beginning at ``directory``."""
    if path.startswith('/'):
        return path
    return directory if path == '.' else f'{directory.rstrip("/")}/{path}'


# Checks: each raises InvalidArgumentError naming the field --------------------------------------------------------------


def as_text(text: str, name: str) -> str:
    """Return text that an operating system can be given: without NUL, and UTF-8 but for what `os.fsdecode` represents."""
    if '\0' in text:
        raise InvalidArgumentError(f'{name} must not contain NUL')
    try:
        text.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f'{name} is not proper text: {error}') from None
    return text


def as_bytes(data: Any, name: str) -> bytes:
    """Return bytes, or text as the sandbox will see it: UTF-8, with other bytes as `os.fsdecode` represents them."""
    if isinstance(data, str):
        try:
            return data.encode('utf-8', 'surrogateescape')
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f'{name} is not proper text: {error}') from None
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise InvalidArgumentError(f'{name} must be bytes or text, not {type(data).__name__}')


def as_path(path: Any, name: str) -> str:
    """Return a path in the sandbox as text."""
    if isinstance(path, PurePosixPath):
        path = str(path)
    if not isinstance(path, str):
        raise InvalidArgumentError(f'{name} must be a path in the sandbox, not {quoted(path)}')
    if not path:
        raise InvalidArgumentError(f'{name} is empty')
    return as_text(path, name)


def check_count(value: Any, name: str) -> None:
    """Check a whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgumentError(f'{name} must be a whole number, 0 or more, not {quoted(value)}')
    if value > MAX_COUNT:
        raise InvalidArgumentError(f'{name} must be at most {MAX_COUNT}, which no file is longer than')


def check_port(value: Any, name: str) -> None:
    """Check a TCP port."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise InvalidArgumentError(f'{name} must be a port from 1 to 65535, not {quoted(value)}')


def check_host(value: Any, name: str = 'host') -> None:
    """Check an address in a sandbox: names are not looked up there."""
    if value == 'localhost':
        return
    for family in (socket.AF_INET, socket.AF_INET6) if isinstance(value, str) else ():
        with contextlib.suppress(OSError, ValueError):  # no such address; a character that none has
            address, percent, zone = value.partition('%') if family == socket.AF_INET6 else (value, '', '')
            socket.inet_pton(family, address)
            if not percent or re.fullmatch(r'[!-~]{1,15}', zone):  # the name or the number of an interface
                return
    raise InvalidArgumentError(
        f"{name} must be a numeric address in the sandbox, or 'localhost', not {quoted(value)}; names are not looked up there"
    )


def check_mode(value: Any, name: str) -> None:
    """Check permission bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o7777:
        raise InvalidArgumentError(f'{name} must be permission bits from 0 to 0o7777, not {quoted(value)}')


def check_cap(value: Any, name: str) -> None:
    """Check a cap on output."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_OUTPUT_BYTES:
        raise InvalidArgumentError(f'{name} must be a whole number from 1 to {MAX_OUTPUT_BYTES}, not {quoted(value)}')


def _checked(check: Callable[[Any, str], None]) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Return an attrs validator; None is let through where it is the default."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None or attribute.default is not None:
            check(value, attribute.name)

    return validate


def _path(name: str = 'path', *, default: Any = attrs.NOTHING, description: str = '') -> Any:
    def convert(value: Any) -> Any:
        return None if value is None and default is None else as_path(value, name)

    return field(default=default, converter=convert, metadata=described(description=description))


def _count(*, default: int | None, description: str = '') -> Any:
    return field(
        default=default, validator=_checked(check_count), metadata=described(description=description, minimum=0)
    )


def _mode(*, default: int | None, description: str = '') -> Any:
    metadata = described(description=description, minimum=0, maximum=0o7777)
    return field(default=default, validator=_checked(check_mode), metadata=metadata)


def _flag(default: bool, description: str = '') -> Any:
    return field(default=default, converter=bool, metadata=described(description=description))


# Commands ---------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Limits:
    """What a sandbox ends a program for, besides its time limit; None is no limit.

    A program that runs under limits is measured, and everything it started ends with it.

    Attributes:
        cpu_seconds: Processor time of the program and all it started, together.
        memory_bytes: Memory it has at once, with all it started.
        output_bytes: What it may write to stdout, and to stderr.
        patience: How many times the time limit it may wait for a processor beyond that limit.
    """

    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    output_bytes: int | None = None
    patience: float = 0.0


def _check_suffix(value: str, name: str) -> None:
    if '/' in value or '\0' in value:
        raise InvalidArgumentError(f'{name} must be a file ending, not {quoted(value)}')


MAX_PRELOADED = 100


def check_modules(names: Any) -> tuple[str, ...] | None:
    """Return names of modules, checked."""
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidArgumentError(f"preload must be a list of modules' names, not {quoted(names)}")
    modules = tuple(names)
    if len(modules) > MAX_PRELOADED:
        raise InvalidArgumentError(f'preload may name {MAX_PRELOADED} modules, not {len(modules)}')
    for name in modules:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split('.')):
            raise InvalidArgumentError(f"preload must name modules, like 'numpy' or 'os.path', not {quoted(name)}")
    return modules


def _as_source(source: Any) -> bytes:
    return as_bytes(source, 'source')


@frozen(kw_only=True)
class Script(Model):
    """A program text: written to a private file ending in ``suffix``, whose path is put into the command at index ``at``.

    ``import_path_env`` names a search path variable like ``PYTHONPATH``, which the working directory is put first in. ``preload``
    names modules that a template interpreter has imported, of which the program is a fork where it can be; null starts an
    interpreter for it.
    """

    # With a `name` the file is called that, and the private directory that it is in is the working directory. If it `is_sourced`,
    # the command has at `at` a shell's code that reads the file, as the shell would read it after ``-c``.

    omits_defaults: ClassVar[bool] = True
    local_fields: ClassVar[frozenset[str]] = frozenset({'name', 'is_sourced'})

    source: bytes = field(converter=_as_source, repr=False)
    suffix: str = field(default='', validator=_checked(_check_suffix))
    at: int = field(default=0, metadata=described(minimum=0, maximum=1024))
    import_path_env: str | None = None
    name: str | None = None
    is_sourced: bool = False
    preload: tuple[str, ...] | None = field(default=None, converter=check_modules)


def _as_command(command: Any) -> str | tuple[str, ...]:
    if isinstance(command, str):
        if not command.strip():
            raise InvalidArgumentError('command is empty')
        return as_text(command, 'command')
    if not isinstance(command, Sequence) or isinstance(command, (bytes, bytearray)) or not command:
        raise InvalidArgumentError(f'command must be a string or a non-empty list of strings, not {quoted(command)}')
    for word in command:
        if not isinstance(word, str):
            raise InvalidArgumentError(f'command must be a list of strings; {quoted(word)} is none')
        if '\0' in word or not word.isascii():
            as_text(word, 'command')
    if not command[0]:
        raise InvalidArgumentError('the first word of command is empty')
    return tuple(command)


def _as_limit(timeout: Any) -> float:
    return check_timeout(timeout) or 0.0


def _as_env(env: Any) -> dict[str, str]:
    check_env(env, 'env')
    return dict(env)


def _as_cwd(cwd: Any) -> str:
    return as_path(cwd, 'cwd')


def _as_user(user: Any) -> str:
    user = as_digits(user)
    if not isinstance(user, str) or not user or user.startswith((':', '+')) or ':+' in user:
        raise InvalidArgumentError(f"user must be a name or uid with optional ':group', not {quoted(user)}")
    return as_text(user, 'user')


def _as_stdin(stdin: Any) -> bytes:
    return as_bytes(stdin, 'stdin')


@_verb('POST', '/command', name='execute_command', is_repeatable=True, is_long=True, tag='tools')
@frozen(kw_only=True)
class RunCommand(Request[CommandResult]):
    """Run a command to its end: a string through the sandbox's shell, a list as it is.

    ``stdin`` is what it reads before its end of file; null is no input.
    """

    # `path_first` is ``{variable: directory}`` put first in a search path like ``PYTHONPATH``; `grace` is seconds between SIGTERM
    # and SIGKILL at the time limit; under `limits` it is measured, and everything that it started ends with it.
    local_fields: ClassVar[frozenset[str]] = frozenset({'path_first', 'grace', 'limits'})

    _paths: ClassVar[tuple[str, ...]] = ()

    command: str | tuple[str, ...] = field(converter=_as_command)
    timeout: float | None = field(
        default=None,
        converter=optional(_as_limit),
        metadata=described(minimum=0, description="Seconds; null takes the sandbox's own, 0 means no limit."),
    )
    cwd: str | None = field(default=None, converter=optional(_as_cwd))
    env: dict[str, str] | None = field(default=None, converter=optional(_as_env), repr=False)
    user: str | None = field(default=None, converter=optional(_as_user))
    stdin: bytes | None = field(default=None, converter=optional(_as_stdin), repr=False)
    max_output_bytes: int | None = field(
        default=None,
        validator=validators.optional(_checked(check_cap)),
        metadata=described(minimum=1, maximum=MAX_OUTPUT_BYTES),
    )
    script: Script | None = None
    path_first: dict[str, str] | None = None
    grace: float = 0.0
    limits: Limits | None = None

    def __attrs_post_init__(self) -> None:
        script = self.script
        if (
            script is not None
            and script.name is None
            and (isinstance(self.command, str) or not 1 <= script.at < len(self.command))
        ):
            raise InvalidArgumentError(
                'with a script, command must be a list with a place for it after the interpreter'
            )

    @property
    def method(self) -> str:
        """The name of the method that makes this request."""
        return self.verb if self.script is None else 'run_script'

    def completed(self: RunQ, config: SandboxConfig) -> RunQ:
        """Return it with a sandbox's own defaults in the place of what was left out."""
        changes: dict[str, Any] = {'grace': config.timeout_grace}
        if self.timeout is None:
            changes['timeout'] = config.timeout or 0.0
        if self.max_output_bytes is None:
            changes['max_output_bytes'] = config.max_output_bytes
        script = self.script
        if script is not None:
            if script.import_path_env:
                changes['path_first'] = {script.import_path_env: absolute(self.cwd or '.', config.working_dir)}
            if (script.name or script.suffix).endswith('.py') and PYTHON_UNBUFFERED not in config.env_vars:
                # Python holds back what it prints to a pipe, and that would be lost when it is ended at its time limit, runs out
                # of memory or crashes.
                changes['env'] = {PYTHON_UNBUFFERED: '1', **(self.env or {})}
        made = copy.copy(self)  # and not evolved, which would check what is known to be right
        for name, value in changes.items():
            object.__setattr__(made, name, value)
        return made

    def _arguments(self) -> tuple[list[Any], dict[str, Any]]:
        _, options = super()._arguments()
        del options['command']
        timeout, script = options.pop('timeout', attrs.fields(type(self)).timeout.default), options.pop('script', None)
        command: Any = self.command if isinstance(self.command, str) else list(self.command)
        if script is None:
            return [command, timeout], options
        options.update(suffix=script.suffix, args=command[script.at + 1 :], import_path_env=script.import_path_env)
        return [command[: script.at], script.source, timeout], options


RunQ = TypeVar('RunQ', bound=RunCommand)


def _as_tty(tty: Any) -> tuple[int, int] | None:
    return tuple(tty) if isinstance(tty, list) else tty


def check_tty(value: Any, name: str) -> None:
    """Check the size of a terminal."""
    is_pair = isinstance(value, tuple) and len(value) == 2
    if not is_pair or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 65536 for n in value):
        raise InvalidArgumentError(f'{name} must be (rows, columns), like (24, 80), not {quoted(value)}')


@frozen(kw_only=True)
class StartProcess(RunCommand):
    """Start a command and continue while it runs; ``tty`` is ``[rows, columns]`` of a terminal to run it on."""

    verb: ClassVar[str] = 'start_process'

    timeout: float | None = field(
        default=0.0,
        converter=optional(_as_limit),
        metadata=described(minimum=0, description='Seconds it may run; 0 means no limit.'),
    )
    open_stdin: bool = _flag(False)
    live: bool = _flag(True)
    tty: tuple[int, int] | None = field(
        default=None,
        converter=_as_tty,
        validator=_checked(check_tty),
    )


# Files ------------------------------------------------------------------------------------------------------------------


@_verb('GET', '/file', gives=BYTES)
@frozen(kw_only=True)
class ReadFile(Download):
    """Return a file's bytes, as they are."""

    path: str = _path(description='Path in the sandbox; relative ones begin at its working directory.')
    offset: int = _count(default=0, description='Bytes to leave out at its beginning.')
    max_bytes: int | None = _count(default=None, description='How many bytes at most.')


@_verb('PUT', '/file', sends=BYTES, is_long=True)
@frozen(kw_only=True)
class WriteFile(Upload[int]):
    """Write a file as a whole, or append to it; the body is its bytes."""

    path: str = _path(description='Path in the sandbox.')
    append: bool = _flag(False)
    exclusive: bool = _flag(False, 'Fail if the path exists.')
    make_parents: bool = _flag(True)
    mode: int | None = _mode(default=None, description='Permission bits of a new file.')

    @property
    def is_repeatable(self) -> bool:
        """Whether doing it twice is the same as doing it once."""
        return not self.append and not self.exclusive


@_verb('GET', '/files')
@frozen(kw_only=True)
class ListDir(Request[list[PathInfo]]):
    """Return a directory's entries, sorted by path."""

    path: str = _path(default='.')
    recursive: bool = _flag(False)
    max_entries: int | None = _count(default=None)


@_verb('GET', '/path')
@frozen(kw_only=True)
class StatPath(Request[PathInfo]):
    """Return what is at a path."""

    path: str = _path()
    follow_symlinks: bool = _flag(True)


@_verb('DELETE', '/path', done='{path} is removed', is_repeatable=True, is_long=True)
@frozen(kw_only=True)
class RemovePath(Request[None]):
    """Remove a file, a symlink or a directory."""

    path: str = _path()
    recursive: bool = _flag(False)
    missing_ok: bool = _flag(False)

    def __attrs_post_init__(self) -> None:
        if self.path == '/':
            raise InvalidArgumentError("path must not be '/': the sandbox needs its root directory")


@_verb('POST', '/directory', done='{path} is there', is_repeatable=True)
@frozen(kw_only=True)
class MakeDir(Request[None]):
    """Make a directory."""

    path: str = _path()
    parents: bool = _flag(True)
    exist_ok: bool = _flag(True)
    mode: int = _mode(default=0o755)


@_verb('POST', '/move', done='{source} is now {target}', is_repeatable=True, is_long=True)
@frozen(kw_only=True)
class MovePath(Request[None]):
    """Rename a file or directory inside the sandbox."""

    _paths: ClassVar[tuple[str, ...]] = ('source', 'target')

    source: str = _path('source')
    target: str = _path('target')
    overwrite: bool = _flag(False)


@_verb('POST', '/copy', done='{source} is copied to {target}', is_repeatable=True, is_long=True)
@frozen(kw_only=True)
class CopyPath(Request[None]):
    """Copy a file or a symlink inside the sandbox, or a directory with everything in it where that is asked for."""

    _paths: ClassVar[tuple[str, ...]] = ('source', 'target')

    source: str = _path('source')
    target: str = _path('target', description='Where the copy goes; into it, if it is a directory.')
    recursive: bool = _flag(False, 'Copy a directory with everything in it.')
    overwrite: bool = _flag(False, 'Let the copy replace a file, or an empty directory.')


@_verb('GET', '/archive', gives=TAR, operation_id='get_archive')
@frozen(kw_only=True)
class ReadArchive(Download):
    """Return a path as a plain tar archive."""

    path: str = _path(description='Path in the sandbox.')
    arcname: str | None = _path(
        'arcname', default=None, description="Name of the archive's top member; default is the path's last."
    )

    @property
    def top_name(self) -> str:
        """What the archive's top member is called."""
        return self.arcname or PurePosixPath(self.path).name or '.'


@_verb(
    'POST',
    '/archive',
    sends=TAR,
    done='the archive is unpacked in {target_dir}',
    is_long=True,
    operation_id='put_archive',
)
@frozen(kw_only=True)
class WriteArchive(Upload[None]):
    """Unpack a tar archive, plain or compressed, below a directory; the body is the archive."""

    _paths: ClassVar[tuple[str, ...]] = ('target_dir',)

    target_dir: str = _path('target', default='.', description='Directory in the sandbox, made if missing.')
