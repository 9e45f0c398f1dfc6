"""What calls return (layer 1): frozen values that travel unchanged from the agent's answer to the HTTP client.

Every record offers `model_dump`, `model_dump_json` and `model_validate`, the names users of such values know.
Times are aware UTC datetimes, durations are seconds, sizes are bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import attrs
from attrs import Factory, field, frozen

from enclave.enums import ExecutionStatus, SandboxStatus, SandboxType
from enclave.errors import ConfigurationError, InvalidArgumentError
from enclave.quoting import quoted
from enclave.rendering import Picture, bundle, find_pictures, one_line, outputs_html, readable, save_pictures, text_html

M = TypeVar('M', bound='Model')

METADATA_KEY = 'enclave'
"""Under this key of an attrs field's metadata lies a dict of schema keywords, like ``{'description': '...'}``."""


def described(**keywords: Any) -> dict[str, dict[str, Any]]:
    """Return the metadata of a field that a schema describes by keywords like ``description`` and ``minimum``; '' is left out."""
    return {METADATA_KEY: {name: value for name, value in keywords.items() if value != ''}}


def utc_now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(timezone.utc)


def as_sandbox_type(kind: SandboxType | str) -> SandboxType | str:
    """Return the enum member for a known kind, or the name itself for a kind that a user registered."""
    try:
        return SandboxType(kind)
    except ValueError:
        return str(kind)


class Model:
    """The few methods every value of this library offers. It has no fields of its own."""

    __slots__ = ()

    def model_dump(
        self,
        *,
        mode: Literal['python', 'json'] = 'python',
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        by_alias: bool | None = None,
        exclude_unset: bool = False,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
        round_trip: bool = False,
    ) -> dict[str, Any]:
        """Return the fields as a dict; ``mode='json'`` gives JSON-compatible values only.

        Args:
            include: Only the fields with these names.
            exclude: Leave out the fields with these names.
            exclude_defaults: Leave out fields that have their default value, also of records within.
            exclude_none: Leave out fields that are None, also of records within; dicts keep what is None in them.
            exclude_unset: Must be False.
            by_alias, round_trip: Change nothing, because no field has an alias.

        Raises:
            InvalidArgumentError: ``include`` or ``exclude`` holds other than names, or ``exclude_unset`` is true: which
                fields were given is not remembered.
        """
        if exclude_unset:
            raise InvalidArgumentError(
                'exclude_unset=True is not possible: which fields were given is not remembered; use exclude_defaults=True'
            )
        wanted, unwanted = _names(include, 'include'), _names(exclude, 'exclude') or frozenset()

        def is_kept(attribute: attrs.Attribute[Any], value: Any) -> bool:
            return not (exclude_none and value is None) and not (exclude_defaults and is_default(attribute, value))

        dumped: Any = self
        if exclude_none or exclude_defaults or mode != 'json':
            dumped = attrs.asdict(self, filter=is_kept)  # type: ignore[arg-type]
        if mode == 'json':
            from enclave import wire

            dumped = wire.encode(dumped)
        return {
            name: value for name, value in dumped.items() if (wanted is None or name in wanted) and name not in unwanted
        }

    def model_dump_json(
        self,
        *,
        indent: int | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        by_alias: bool | None = None,
        exclude_unset: bool = False,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
        round_trip: bool = False,
    ) -> str:
        """Return the fields as JSON text; see `model_dump`."""
        from enclave import wire

        dumped = self.model_dump(
            mode='json',
            include=include,
            exclude=exclude,
            exclude_unset=exclude_unset,
            exclude_defaults=exclude_defaults,
            exclude_none=exclude_none,
        )
        return wire.to_json(dumped, indent=indent)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values; `model_validate` makes an equal record of them."""
        return self.model_dump(mode='json')

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the fields as JSON text; `model_validate_json` makes an equal record of it."""
        return self.model_dump_json(indent=indent)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values, so that ``dict(record)`` and web frameworks can take it for a mapping."""
        for attribute in attrs.fields(type(self)):  # type: ignore[arg-type]
            yield attribute.name, getattr(self, attribute.name)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Return how pydantic, and so FastAPI, reads and writes it: as JSON objects. Called by pydantic only, if it is there."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.model_validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda record: record.to_dict()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        names = [attribute.name for attribute in attrs.fields(cls)]  # type: ignore[arg-type]
        return {'title': cls.__name__, 'type': 'object', 'properties': {name: {} for name in names}}

    @classmethod
    def model_validate(cls: type[M], value: Any) -> M:
        """Return ``value`` (a dict of fields, or an instance) as an instance of this class.

        Raises:
            InvalidArgumentError: A key is unknown or missing, or a value is of a wrong type or out of range.
        """
        from enclave import wire

        return wire.decode(value, cls, error=cls._invalid())

    @classmethod
    def model_validate_json(cls: type[M], text: str | bytes) -> M:
        """Return an instance made from JSON text; see `model_validate`."""
        from enclave import wire

        return cls.model_validate(wire.from_json(text, what=cls.__name__))

    def model_copy(self: M, *, update: Mapping[str, Any] | None = None) -> M:
        """Return a copy, with the fields in ``update`` changed and checked again.

        Raises:
            InvalidArgumentError: There is no such field, or its validator refuses the value.
        """
        changes = dict(update or {})
        known = [attribute.name for attribute in attrs.fields(type(self))]  # type: ignore[arg-type]
        for name in changes:
            if name not in known:
                raise self._invalid()(f'{type(self).__name__} has no field {name!r}; known: {", ".join(known)}')
        return attrs.evolve(self, **changes)  # type: ignore[misc]

    @classmethod
    def _invalid(cls) -> type[InvalidArgumentError]:
        return InvalidArgumentError


class OptionsModel(Model):
    """A value whose fields are options: what is wrong with one is a `ConfigurationError`."""

    __slots__ = ()

    @classmethod
    def _invalid(cls) -> type[InvalidArgumentError]:
        return ConfigurationError


def _names(given: Iterable[str] | None, argument: str) -> frozenset[str] | None:
    """Return names of fields as they were given; of those that no field has, nothing is said."""
    if given is None:
        return None
    if isinstance(given, (str, Mapping)) or not all(isinstance(name, str) for name in given):
        raise InvalidArgumentError(f'{argument} must be a set of names of fields, not {quoted(given)}')
    return frozenset(given)


def is_default(attribute: attrs.Attribute[Any], value: Any) -> bool:
    """Return whether a value of a field is its default."""
    default: Any = attribute.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = attrs.NOTHING if default.takes_self else default.factory()
    if default is attrs.NOTHING:
        return False
    if callable(attribute.converter):
        default = attribute.converter(default)
    return bool(value == default)


class OutputSource(Protocol):
    """Output that is not text yet."""

    @property
    def text(self) -> str:
        """The text that it is."""


class WithOutput(Model):
    """A record with fields whose text is made when it is first asked for; see `put_source`.

    Where a large output only travels on, nobody asks for it.
    """

    __slots__ = ('_sources',)

    if not TYPE_CHECKING:  # else a checker would take any attribute for one that there is

        def __getattr__(self, name: str) -> Any:
            """Return what is asked for first: of a field that has no value yet, the text."""
            source = find_source(self, name)
            if source is None:
                kind = type(self).__name__
                raise AttributeError(f'{kind!r} object has no attribute {name!r}', name=name, obj=self)
            text = source.text
            object.__setattr__(self, name, text)
            return text


def put_source(record: WithOutput, **sources: OutputSource) -> None:
    """Have fields of a record that was just made be the texts of sources."""
    object.__setattr__(record, '_sources', sources)
    for name in sources:
        object.__delattr__(record, name)


def find_source(record: WithOutput, name: str) -> OutputSource | None:
    """Return the source of a field whose text nobody has asked for; None where there is none, or the text is there."""
    get = object.__getattribute__
    try:
        get(record, name)
    except AttributeError:
        with contextlib.suppress(AttributeError):
            found: OutputSource | None = get(record, '_sources').get(name)
            return found
    return None


@frozen(kw_only=True)
class CommandResult(WithOutput):
    """What became of one command.

    ``exit_code`` is the program's own, or 128 + the signal's number when a signal ended it (as shells and Docker count);
    ``signal`` is then its name (``'SIGSEGV'``), else None, so that the two cases can take apart. ``stdout`` and
    ``stderr`` hold at most the caller's cap; past it they keep head and tail around a visible marker, ``*_truncated`` is
    true and ``*_bytes`` is still the true count. Bytes that are not UTF-8 show as backslash escapes (``\\xff``).
    ``status`` is ``success`` only for exit code 0; ``timeout`` or ``cancelled`` when we ended it.
    ``command`` is as the caller gave it. ``*_file`` is the path in the sandbox of a file with the whole of a stream, where it
    was shortened to a budget of characters (``max_chars``).
    """

    command: str | list[str]
    status: ExecutionStatus = field(converter=ExecutionStatus)
    exit_code: int = 0
    signal: str | None = None
    stdout: str = ''
    stderr: str = ''
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    timed_out: bool = False
    oom_killed: bool = False
    execution_time: float = 0.0
    stdout_file: str | None = None
    stderr_file: str | None = None

    @property
    def success(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.status is ExecutionStatus.SUCCESS

    @property
    def truncated(self) -> bool:
        """Whether anything of its output was left out."""
        return self.stdout_truncated or self.stderr_truncated

    @property
    def text(self) -> str:
        """What a reader wants to see: what it printed, its standard error too, and how it ended if that was not well."""
        return readable(self.stdout, self.stderr, self._ending())

    def _ending(self) -> str:
        if self.success:
            return ''
        if self.timed_out or self.status is ExecutionStatus.TIMEOUT:
            return f'[timed out after {self.execution_time:.1f} s]'
        if self.status is ExecutionStatus.CANCELLED:
            return '[cancelled]'
        if self.oom_killed:
            return f'[out of memory, exit code {self.exit_code}]'
        return f'[exit code {self.exit_code}{f", {self.signal}" if self.signal else ""}]'

    def __repr__(self) -> str:
        return one_line(
            type(self).__name__,
            status=str(self.status),
            exit_code=self.exit_code or None,
            signal=self.signal,
            stdout=self.stdout,
            stderr=self.stderr,
            oom_killed=self.oom_killed,
            execution_time=round(self.execution_time, 3),
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return bundle(repr(self), text_html(self.stdout, self.stderr, self._ending()))


@frozen(kw_only=True)
class ToolResult(WithOutput):
    """What a tool call gives back.

    ``output`` is the text (or JSON-compatible value) the tool is for; ``error`` is None on success and otherwise says what
    went wrong (a program's stderr, or our sentence). ``metadata`` holds further JSON-compatible facts: for tools that run
    a command ``stderr``, ``signal``, ``timed_out``, ``oom_killed``, byte counts and truncation marks.
    """

    tool_name: str
    status: ExecutionStatus = field(converter=ExecutionStatus)
    output: Any = ''
    error: str | None = None
    exit_code: int | None = None
    execution_time: float | None = None
    timestamp: datetime = Factory(utc_now)
    metadata: dict[str, Any] = Factory(dict)

    @property
    def success(self) -> bool:
        """Whether ``status`` is success."""
        return self.status is ExecutionStatus.SUCCESS

    @property
    def text(self) -> str:
        """What a reader, or a model, wants to see: the output, standard error of a success too, and what went wrong."""
        return readable(self._output_text(), *self._other_texts())

    @property
    def pictures(self) -> list[Picture]:
        """The pictures that a notebook cell showed, in order; empty for other tools."""
        return find_pictures(self.metadata.get('outputs'))

    def save_pictures(self, folder: str | os.PathLike[str], prefix: str = 'picture') -> list[Path]:
        """Write the pictures into a folder of this machine as ``picture-1.png`` and so on, and return their paths."""
        return save_pictures(self.pictures, folder, prefix)

    def _output_text(self) -> str:
        return self.output if isinstance(self.output, str) else json.dumps(self.output, ensure_ascii=False, default=str)

    def _other_texts(self) -> tuple[str, str]:
        """Return the standard error that is not in ``error``, and how the call ended."""
        if self.success:
            stderr = self.metadata.get('stderr')
            return (stderr if isinstance(stderr, str) else ''), ''
        error = (self.error or '').rstrip()
        code = (
            '' if self.exit_code is None or f'exit code {self.exit_code}' in error else f', exit code {self.exit_code}'
        )
        return '', f'[{self.status}{code}]\n{error}'.rstrip()

    def __repr__(self) -> str:
        return one_line(
            type(self).__name__,
            repr(self.tool_name),
            status=str(self.status),
            exit_code=self.exit_code or None,
            output=self._output_text(),
            error=self.error,
            stderr=self._other_texts()[0],
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        outputs = self.metadata.get('outputs')
        if isinstance(outputs, list) and self.success:
            return bundle(repr(self), outputs_html(outputs), self.pictures)
        return bundle(repr(self), text_html(self._output_text(), *self._other_texts()), self.pictures)


@frozen(kw_only=True)
class PathInfo(Model):
    """One entry of a sandbox's file system. ``path`` is absolute or, in a listing, relative to the listed directory.

    ``kind`` is ``file``, ``directory``, ``symlink`` or ``other``; ``mode`` are the permission bits (0o644 is 420);
    ``target`` is a symlink's text.
    """

    path: str
    kind: Literal['file', 'directory', 'symlink', 'other']
    size: int = 0
    mode: int = 0
    modified_at: datetime | None = None
    uid: int = 0
    gid: int = 0
    target: str | None = None


@frozen(kw_only=True)
class PathEvent(Model):
    """Something that changed in a directory that is watched; paths are absolute.

    ``kind`` is ``created``, ``modified`` (its content, or where a symlink leads), ``attributes`` (its mode or owner),
    ``removed``, or ``renamed``, to ``target``. ``info`` is what is there now, where anything is.
    """

    kind: Literal['created', 'modified', 'attributes', 'removed', 'renamed']
    path: str
    target: str | None = None
    info: PathInfo | None = None


@frozen(kw_only=True)
class ProcessInfo(Model):
    """A program that runs, or ran, in a sandbox.

    ``last_seq`` is the number of the newest event, at a server; ``result`` is there when it has ended well or badly,
    ``error`` when it was lost.
    """

    id: str
    sandbox_id: str
    command: str | list[str]
    pid: int | None = None
    running: bool = True
    last_seq: int = 0
    result: CommandResult | None = None
    error: dict[str, Any] | None = None


@frozen(kw_only=True)
class SandboxInfo(Model):
    """A sandbox as seen from outside. ``config`` never shows the values of ``env_vars``.

    ``metadata`` holds what the backend knows: for Docker the container's id and name, the image, and the status text;
    ``error`` is why the status is ``error``. ``active_calls`` counts commands and file transfers running. ``offers`` is what
    tools may need of it, of ``'commands'``, ``'files'``, ``'notebook'`` and a kind's own names, sorted; empty where it is not
    known, as in what an older version wrote.
    """

    id: str
    type: SandboxType | str = field(converter=as_sandbox_type)
    status: SandboxStatus = field(converter=SandboxStatus)
    config: dict[str, Any] = Factory(dict)
    created_at: datetime
    started_at: datetime | None = None
    available_tools: list[str] = Factory(list)
    active_calls: int = 0
    error: str | None = None
    metadata: dict[str, Any] = Factory(dict)
    offers: list[str] = Factory(list)
    labels: dict[str, str] = Factory(dict)

    def __repr__(self) -> str:
        return one_line(
            type(self).__name__, repr(self.id), type=str(self.type), status=str(self.status), error=self.error
        )

    def __getstate__(self) -> dict[str, Any]:
        return {attribute.name: getattr(self, attribute.name) for attribute in attrs.fields(type(self))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        whole = type(self)(**state)  # with the defaults of what an older version's pickle lacks
        for attribute in attrs.fields(type(self)):
            object.__setattr__(self, attribute.name, getattr(whole, attribute.name))


@frozen(kw_only=True)
class HealthCheckResult(Model):
    """Whether something works: ``healthy`` is true, ``version`` is ours, ``details`` say what was looked at."""

    healthy: bool
    version: str
    timestamp: datetime = Factory(utc_now)
    details: dict[str, Any] = Factory(dict)


@frozen(kw_only=True)
class Usage(Model):
    """What a running sandbox uses. ``cpu_percent`` is of one CPU, over the last second; None is what the engine does not say."""

    sandbox_id: str
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    pids: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None
