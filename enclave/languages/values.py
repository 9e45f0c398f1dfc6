"""What is asked of a program and what became of it (values; they travel).

A request says everything about one program: its source, what it reads, its limits, and what it should print. A result says
compiling and running apart and, where it can be said, gives a judge's verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

import attrs
from attrs import Factory, field, frozen

from enclave.config import as_dict, as_strings, as_text_map, check_env, checked, parse_size
from enclave.deadline import check_timeout
from enclave.enums import ExecutionStatus, Verdict
from enclave.errors import InvalidArgumentError
from enclave.quoting import quoted
from enclave.records import CommandResult, Model
from enclave.rendering import one_line
from enclave.verb_requests import Limits as Limits
from enclave.verb_requests import check_modules

Comparison = Literal['exact', 'lines', 'tokens', 'floats']
COMPARISONS: tuple[Comparison, ...] = ('exact', 'lines', 'tokens', 'floats')

LEAST_MEMORY_BYTES = 1 << 20
DEFAULT_OUTPUT_LIMIT = 64 << 20
"""A program that writes more than this to stdout or to stderr is ended."""
DEFAULT_FETCH_BYTES = 16 << 20
"""How much of files is fetched at most, all together, unless the request says otherwise."""
MOST_FILES = 1000
_LONGEST_NAME = 255
_LONGEST_PATH = 3072
"""In bytes; Linux takes 4096 with the directories above."""
PATIENCE = 9.0
"""A program may take so many times its time limit longer, as far as it was ready to run and no processor was free for it."""


def _as_text(value: str | bytes | bytearray | memoryview | None) -> Any:
    """Return bytes as text, with what is not UTF-8 as `os.fsdecode` represents it; anything else is left for the validator."""
    return (
        bytes(value).decode('utf-8', 'surrogateescape') if isinstance(value, (bytes, bytearray, memoryview)) else value
    )


def as_bytes(text: str) -> bytes:
    """Return the bytes of a text that may represent any."""
    try:
        return text.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f'the text is not proper text: {error}') from None


def _as_files(value: Mapping[str, str | bytes] | None) -> Any:
    if not isinstance(value, Mapping):
        return as_dict(value)
    return {
        str(name) if isinstance(name, PurePosixPath) else name: (
            as_bytes(each)
            if isinstance(each, str)
            else bytes(each)
            if isinstance(each, (bytearray, memoryview))
            else each
        )
        for name, each in value.items()
    }


def _check_code(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise InvalidArgumentError(f'{name} must be the text of a program, not {type(value).__name__}')
    as_bytes(value)


def _check_language(value: Any, name: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InvalidArgumentError(f'{name} must be the name of a language, like "python", not {quoted(value)}')


def _check_stdin(value: Any, name: str) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidArgumentError(f'{name} must be text or bytes, not {type(value).__name__}')
    as_bytes(value)


def _check_args(value: Any, name: str) -> None:
    if not isinstance(value, tuple) or not all(isinstance(each, str) and '\0' not in each for each in value):
        raise InvalidArgumentError(f'{name} must be a list of strings without NUL, not {quoted(value)}')


def check_relative(path: Any, name: str) -> str:
    """Return a path below a program's own directory as it is, if it is one.

    Raises:
        InvalidArgumentError: It is absolute, leads out of the directory, or is none.
    """
    if not isinstance(path, str) or not path or '\0' in path:
        raise InvalidArgumentError(f'{name} must name files by text that is not empty, not {quoted(path)}')
    pure = PurePosixPath(path)
    if pure.is_absolute() or '..' in pure.parts or not pure.parts:
        raise InvalidArgumentError(f"{name}: {quoted(path)} must be a relative path inside the program's own directory")
    return path


def _check_name(path: str, place: PurePosixPath, name: str) -> None:
    """Check that a file can have a name, before any is written."""
    if path.endswith('/'):
        raise InvalidArgumentError(f'{name}: {quoted(path)} names a directory; leave the slash at its end out')
    if len(as_bytes(path)) > _LONGEST_PATH or any(len(as_bytes(part)) > _LONGEST_NAME for part in place.parts):
        raise InvalidArgumentError(
            f'{name}: {quoted(path)} is too long a path; {_LONGEST_NAME} bytes are the most for a name, {_LONGEST_PATH} for all'
        )


def _check_files(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f'{name} must be a dict of paths to contents, not {quoted(value)}')
    if len(value) > MOST_FILES:
        raise InvalidArgumentError(f'{name} may hold at most {MOST_FILES} files, not {len(value)}')
    places: set[PurePosixPath] = set()
    for path, data in value.items():
        place = PurePosixPath(check_relative(path, name))
        _check_name(path, place, name)
        if not isinstance(data, bytes):
            raise InvalidArgumentError(f'{name}[{quoted(path)}] must be bytes or text, not {type(data).__name__}')
        places.add(place)
    if len(places) < len(value):
        raise InvalidArgumentError(f'{name} names a file twice, by different ways to write its path')
    for place in places:
        above = next((each for each in place.parents if each in places), None)
        if above is not None:
            raise InvalidArgumentError(
                f'{name}: {quoted(str(above))} cannot be a file and the directory of {quoted(str(place))}'
            )


def _check_fetch(value: Any, name: str) -> None:
    if not isinstance(value, tuple):
        raise InvalidArgumentError(f'{name} must be a list of paths, not {quoted(value)}')
    if len(value) > MOST_FILES:
        raise InvalidArgumentError(f'{name} may name at most {MOST_FILES} files, not {len(value)}')
    for path in value:
        if not isinstance(path, str) or not path or '\0' in path:
            raise InvalidArgumentError(f'{name} must hold paths, not {quoted(path)}')


def _check_memory(value: Any, name: str) -> None:
    if value is not None and parse_size(value, name) < LEAST_MEMORY_BYTES:
        raise InvalidArgumentError(f'{name} must be at least 1m, not {quoted(value)}')


def _check_positive(value: Any, name: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e18:
        raise InvalidArgumentError(f'{name} must be a number above 0, not {quoted(value)}')


def _check_count(value: Any, name: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 40):
        raise InvalidArgumentError(f'{name} must be a whole number, 1 or more, not {quoted(value)}')


def _check_expected(value: Any, name: str) -> None:
    if value is not None and not isinstance(value, str):
        raise InvalidArgumentError(f'{name} must be the text that the program should print, not {quoted(value)}')


def _check_compare(value: Any, name: str) -> None:
    if value not in COMPARISONS:
        raise InvalidArgumentError(f'{name} must be one of {", ".join(map(repr, COMPARISONS))}, not {quoted(value)}')


def _check_tolerance(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidArgumentError(f'{name} must be a number, 0 or more, not {quoted(value)}')


def _check_environment(value: Any, name: str) -> None:
    check_env(value, name)


@frozen(kw_only=True)
class CodeRequest(Model):
    """One program to run.

    Attributes:
        code: Its source.
        language: A name or alias of `enclave.languages.table`; letter case does not matter.
        stdin: What it reads; it sees end of file at once without it.
        args: Its command line arguments.
        files: ``{path: content}``, written beside it before it is compiled; paths are relative and may be nested.
        fetch_files: Paths to return afterwards; relative ones begin in the program's own directory.
        env: Environment variables, for compiling and running.
        compile_timeout: Seconds that compiling may take; None takes the language's own, 0 is no limit.
        timeout: Seconds that running may take; None takes the sandbox's, 0 is no limit. Time in which the program was ready to
            run and no processor was free for it does not count, up to nine times the limit.
        memory_limit: Memory that the running program may have at once, with all it started, like ``'256m'``.
        compile_memory_limit: The same for compiling.
        cpu_time_limit: Seconds of processor time that the running program may use, with all it started.
        output_limit: Bytes that it may write to stdout, or to stderr, before it is ended; default 64 MiB.
        max_output_bytes: How much of each is kept, head and tail; default is the sandbox's.
        max_fetch_bytes: How much of files is fetched at most, all together.
        expected_output: What it should print on stdout; the result then has a verdict also if nothing failed.
        compare: How: ``'exact'``; ``'lines'``, without white space at the ends of lines and empty lines at the end;
            ``'tokens'``, words one by one whatever separates them; ``'floats'``, as tokens, and numbers may differ by
            ``tolerance``.
        tolerance: For ``'floats'``: absolute, and relative for numbers beyond 1.
        preload: For a program in Python that is one file: modules that an interpreter has imported before, of which the program
            is a fork (docs/preload.md); ``()`` is the interpreter alone. None takes what ``tools_config`` has for
            ``python_executor``.
    """

    code: str = field(converter=_as_text, validator=checked(_check_code))
    language: str = field(default='python', validator=checked(_check_language))
    stdin: str | None = field(default=None, converter=_as_text, validator=checked(_check_stdin))
    args: tuple[str, ...] = field(default=(), converter=as_strings, validator=checked(_check_args))
    files: dict[str, bytes] = field(factory=dict, converter=_as_files, validator=checked(_check_files))
    fetch_files: tuple[str, ...] = field(default=(), converter=as_strings, validator=checked(_check_fetch))
    env: dict[str, str] = field(factory=dict, converter=as_text_map, validator=checked(_check_environment), repr=False)
    compile_timeout: float | None = field(default=None)
    timeout: float | None = field(default=None)
    memory_limit: str | int | None = field(default=None, validator=checked(_check_memory))
    compile_memory_limit: str | int | None = field(default=None, validator=checked(_check_memory))
    cpu_time_limit: float | None = field(default=None, validator=checked(_check_positive))
    output_limit: int = field(default=DEFAULT_OUTPUT_LIMIT, validator=checked(_check_count))
    max_output_bytes: int | None = field(default=None, validator=checked(_check_count))
    max_fetch_bytes: int = field(default=DEFAULT_FETCH_BYTES, validator=checked(_check_count))
    expected_output: str | None = field(default=None, validator=checked(_check_expected))
    compare: Comparison = field(default='lines', validator=checked(_check_compare))
    tolerance: float = field(default=1e-6, validator=checked(_check_tolerance))
    preload: tuple[str, ...] | None = field(default=None, converter=check_modules)

    def __attrs_post_init__(self) -> None:
        for name in ('compile_timeout', 'timeout'):
            value = getattr(self, name)
            if value is not None:
                check_timeout(value, name)


def make_request(code: str | bytes | CodeRequest, **options: Any) -> CodeRequest:
    """Return the request that a call's arguments make.

    Raises:
        InvalidArgumentError: An argument is unknown or impossible, or comes beside a whole request.
    """
    if not isinstance(code, CodeRequest):
        for name in options:
            if name not in _REQUEST_FIELDS:
                raise InvalidArgumentError(
                    f'run_code takes no argument {quoted(name)}; it takes: {", ".join(_REQUEST_FIELDS)}'
                )
        return CodeRequest(code=code, **options)
    given = [name for name, value in options.items() if value not in (_REQUEST_FIELDS[name], None, (), {})]
    if given:
        raise InvalidArgumentError(
            f'{", ".join(given)} must be in the CodeRequest itself; beside a whole request no argument counts'
        )
    return code


Program = CodeRequest | str | bytes | Mapping[str, Any]
"""A request, its fields, or a source in Python."""


def as_request(program: Program) -> CodeRequest:
    """Return a program of a batch as a request.

    Raises:
        InvalidArgumentError: It is none.
    """
    if isinstance(program, CodeRequest):
        return program
    if isinstance(program, Mapping):
        return CodeRequest.model_validate(dict(program))
    return CodeRequest(code=program)


def request_maker(
    program: Program | Callable[[Any], Program], language: str = 'python'
) -> Callable[[Any], CodeRequest]:
    """Return what makes a request of each item that a program is mapped over.

    A function is given the item. Otherwise the program is the same for all, and an item is its stdin (text or bytes), some
    fields of a request, or a whole request.
    """
    if callable(program) and not isinstance(program, CodeRequest):
        function = program
        return lambda item: as_request(function(item))
    if isinstance(program, (CodeRequest, Mapping)):
        base = as_request(program)
    else:
        base = CodeRequest(code=program, language=language)

    def make(item: Any) -> CodeRequest:
        if isinstance(item, CodeRequest):
            return item
        if isinstance(item, Mapping):
            return base.model_copy(update=item)
        if isinstance(item, (str, bytes)):
            return attrs.evolve(base, stdin=item)
        raise InvalidArgumentError(
            f'an item must be the stdin of the program, a dict of fields of its request, or a CodeRequest, not {quoted(item)}; '
            'for other items give a function in the place of the program'
        )

    return make


_REQUEST_FIELDS = {
    each.name: None if isinstance(each.default, Factory) else each.default  # type: ignore[arg-type]
    for each in attrs.fields(CodeRequest)
    if each.name != 'code'
}
"""The options of a request, and their defaults."""


@frozen(kw_only=True, repr=False)
class StepResult(CommandResult):
    """What became of one step, compiling or running: a command's result, with what was measured.

    ``cpu_time`` is in seconds and counts what the program waited for too; ``peak_memory_bytes`` is the most that one of its
    processes had (getrusage(2); at least what the process that started it had, some 12 MB). None where the sandbox does not
    measure. ``exceeded`` is the limit that it was ended for, or went over.
    """

    cpu_time: float | None = None
    peak_memory_bytes: int | None = None
    exceeded: Literal['time', 'cpu', 'memory', 'output'] | None = None


@frozen(kw_only=True)
class CodeResult(Model):
    """What became of a program.

    Attributes:
        language: The language's own name.
        compile: How compiling went; None for a language that is not compiled. The last command's, where there are several.
        run: How running went; None if compiling failed.
        verdict: What a judge would say. Without an ``expected_output`` only failures have one.
        files: ``{path: bytes}`` of the ``fetch_files`` that there were.
        file_errors: ``{path: why}`` of the others.
    """

    language: str
    compile: StepResult | None = None
    run: StepResult | None = None
    verdict: Verdict | None = None
    files: dict[str, bytes] = Factory(dict)
    file_errors: dict[str, str] = Factory(dict)

    @property
    def last(self) -> StepResult:
        """The last step that was taken."""
        step = self.run or self.compile
        assert step is not None
        return step

    @property
    def status(self) -> ExecutionStatus:
        """How the last step ended."""
        return self.last.status

    @property
    def success(self) -> bool:
        """Whether it was compiled and ran to its end with exit code 0, within its limits, and said what was expected."""
        return self.run is not None and self.run.success and self.verdict in (None, Verdict.ACCEPTED)

    @property
    def exit_code(self) -> int:
        """The last step's exit code."""
        return self.last.exit_code

    @property
    def stdout(self) -> str:
        """What the program printed; what its compiler did, if it was not run."""
        return self.last.stdout

    @property
    def stderr(self) -> str:
        """What the program wrote to stderr; what its compiler did, if it was not run."""
        return self.last.stderr

    @property
    def timed_out(self) -> bool:
        """Whether the last step ran out of time."""
        return self.last.timed_out

    @property
    def oom_killed(self) -> bool:
        """Whether the last step ran out of memory."""
        return self.last.oom_killed

    @property
    def execution_time(self) -> float:
        """Seconds that its steps took, together."""
        return sum(step.execution_time for step in (self.compile, self.run) if step is not None)

    @property
    def text(self) -> str:
        """What a reader wants to see: what the program printed, its standard error too, and how it ended if not well."""
        what = '[compile]\n' if self.run is None and self.last.text else ''
        verdict = f'\n[{self.verdict}]' if self.verdict is not None else ''
        return f'{what}{self.last.text}{verdict}'.lstrip('\n')

    def __repr__(self) -> str:
        return one_line(
            type(self).__name__,
            language=self.language if self.language != 'python' else None,
            status=str(self.status),
            step='compile' if self.run is None else None,
            verdict=None if self.verdict is None else str(self.verdict),
            exit_code=self.exit_code or None,
            stdout=self.stdout,
            stderr=self.stderr,
            files=sorted(self.files),
            execution_time=round(self.execution_time, 3),
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {**self.last._repr_mimebundle_(), 'text/plain': repr(self)}
