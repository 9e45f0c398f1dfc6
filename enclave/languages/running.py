"""Running one program: its private directory, compiling, running, what it leaves, and the verdict.

It stands on a sandbox's public verbs, so every kind of sandbox that takes commands and files can run programs. What a kind
can do beyond that, measuring and limiting a program, is in `Runner.run_step`.
"""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import attrs

from enclave.cancellation import Cancellation
from enclave.config import parse_size
from enclave.enums import ExecutionStatus, Verdict
from enclave.errors import (
    EnclaveError,
    InvalidArgumentError,
    SandboxPathError,
    SandboxPathNotFoundError,
    UnsupportedError,
)
from enclave.languages.comparing import matches
from enclave.languages.table import Language, Plan, get_language
from enclave.languages.values import (
    PATIENCE,
    CodeRequest,
    CodeResult,
    Limits,
    StepResult,
    as_bytes,
)
from enclave.records import CommandResult, PathInfo

logger = logging.getLogger(__name__)

RUNS_DIR = '/tmp'
"""Where programs have their directories: on a file system that holds large files and lets programs be executed."""
_BYTE_ORDER_MARK = '\ufeff'
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # as shells count, and Workspace.execute_command promises
_PROBE_SECONDS = 20.0


class Runner(Protocol):
    """What running a program asks of a sandbox."""

    id: str
    preload: tuple[str, ...] | None
    """What programs in Python find preloaded that do not say so themselves."""

    def run_step(
        self,
        command: Sequence[str],
        *,
        timeout: float | None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        max_output_bytes: int | None = None,
        limits: Limits | None = None,
        source: tuple[str, bytes] | None = None,
        preload: Sequence[str] | None = None,
    ) -> CommandResult:
        """Run a command to its end, under limits where the kind of sandbox has them.

        Args:
            source: (file name, content) of a file to be written into a new directory, which is then the working directory
                and goes away with the call; only if `has_sources` is true.
            preload: The command is an interpreter of Python's for the file of ``source``: the program may be a fork of one that
                has started, and imported these modules, already.
        """

    @property
    def has_sources(self) -> bool:
        """Whether `run_step` takes a ``source``."""

    def make_dir(self, path: str, *, parents: bool = True, exist_ok: bool = True, mode: int = 0o755) -> None:
        """See `Workspace.make_dir`."""

    def write_file(self, path: str, data: bytes) -> int:
        """See `Workspace.write_file`."""

    def read_file(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """See `Workspace.read_file`."""

    def stat_path(self, path: str) -> PathInfo:
        """See `Workspace.stat_path`."""

    def remove_path(self, path: str, *, recursive: bool = False, missing_ok: bool = False) -> None:
        """See `Workspace.remove_path`."""


def run_program(
    runner: Runner,
    request: CodeRequest,
    language: Language | None = None,
    *,
    patience: float = PATIENCE,
    is_of_batch: bool = False,
) -> CodeResult:
    """Compile and run a program in a sandbox, and return what became of it.

    Args:
        language: An entry to be used in the place of the table's.
        patience: How many times its time limits a program may wait for a processor beyond them.
        is_of_batch: It is one of many: it need not have an interpreter of its own start, where a fork of one does the same.

    Raises:
        NotRegisteredError: There is no such language.
        UnsupportedError: The sandbox does not have the language's toolchain; the message names its packages.
        InvalidArgumentError: Something in the request cannot be.
        EnclaveError: The sandbox could not do it; see the errors of its verbs.
    """
    language = language or get_language(request.language)
    if request.code.startswith(_BYTE_ORDER_MARK):  # which some compilers take for a part of the first word
        request = attrs.evolve(request, code=request.code[1:])
    folder = posixpath.join(RUNS_DIR, f'enclave-run-{os.urandom(8).hex()}')
    plan = language.plan(request.code, folder)
    if plan is None:
        return _unnamed(language)
    if request.preload is not None and not language.is_forkable:
        raise InvalidArgumentError(
            f'preload: {language.title} has no preloaded interpreters; leave it out, or choose language="python"'
        )
    if plan.file in request.files:
        raise InvalidArgumentError(f'files: {plan.file!r} is where the program itself goes; choose another name')
    if runner.has_sources and _is_simple(plan, request):
        preload = _preload(runner, request, is_of_batch=is_of_batch) if language.is_forkable else None
        run = _run(runner, language, plan, request, None, patience, preload=preload)
        return CodeResult(language=language.name, run=run, verdict=judge(None, run, request))
    try:
        _write_files(runner, folder, plan, request)
        compiled = _compile(runner, language, plan, request, folder, patience)
        if compiled is not None and not compiled.success:
            return CodeResult(language=language.name, compile=compiled, verdict=judge(compiled, None, request))
        ran = _run(runner, language, plan, request, folder, patience)
        files, errors = _fetch(runner, folder, request)
        return CodeResult(
            language=language.name,
            compile=compiled,
            run=ran,
            verdict=judge(compiled, ran, request),
            files=files,
            file_errors=errors,
        )
    finally:
        with Cancellation().applied():  # also after a cancelled call
            _remove(runner, folder)


def judge(compiled: StepResult | None, ran: StepResult | None, request: CodeRequest) -> Verdict | None:
    """Return what a judge says; None where a call was cancelled, or where nothing failed and nothing was expected."""
    step = ran or compiled
    if step is None or step.status is ExecutionStatus.CANCELLED:
        return None
    if ran is None:
        return Verdict.COMPILE_ERROR
    if ran.exceeded is not None:
        return {
            'time': Verdict.TIME_LIMIT,
            'cpu': Verdict.TIME_LIMIT,
            'memory': Verdict.MEMORY_LIMIT,
            'output': Verdict.OUTPUT_LIMIT,
        }[ran.exceeded]
    if not ran.success:
        return Verdict.RUNTIME_ERROR
    if request.expected_output is None:
        return None
    if ran.stdout_truncated:
        return Verdict.OUTPUT_LIMIT
    is_right = matches(ran.stdout, request.expected_output, request.compare, request.tolerance)
    return Verdict.ACCEPTED if is_right else Verdict.WRONG_ANSWER


def as_step(result: CommandResult, limits: Limits) -> StepResult:
    """Return a command's result with the limit it went over, if it did, also where only what was measured shows that."""
    if isinstance(result, StepResult):
        step = result
    else:
        step = StepResult(**{each.name: getattr(result, each.name) for each in attrs.fields(CommandResult)})
    if step.exceeded is not None or step.status is ExecutionStatus.CANCELLED:
        return step
    exceeded: str | None = None
    if step.timed_out:
        exceeded = 'time'
    elif step.oom_killed or (limits.memory_bytes is not None and (step.peak_memory_bytes or 0) > limits.memory_bytes):
        exceeded = 'memory'
    elif limits.cpu_seconds is not None and _is_over(step, limits.cpu_seconds):
        exceeded = 'cpu'
    elif limits.output_bytes is not None and max(step.stdout_bytes, step.stderr_bytes) > limits.output_bytes:
        exceeded = 'output'
    return step if exceeded is None else attrs.evolve(step, exceeded=cast(Any, exceeded))


def _is_over(step: StepResult, cpu_seconds: float) -> bool:
    """Return whether a program used more processor time; where nobody measured it, the kernel has ended it for that (SIGXCPU)."""
    if step.cpu_time is not None:
        return step.cpu_time > cpu_seconds
    return step.signal == 'SIGXCPU' or step.exit_code == 128 + 24


# Steps ----------------------------------------------------------------------------------------------------------------


def _is_simple(plan: Plan, request: CodeRequest) -> bool:
    """Return whether a program is one file that is run as it is, so that one call does all."""
    if plan.compile or plan.files or request.files or request.fetch_files or '/' in plan.file:
        return False
    return not any('enclave-run-' in word for word in (*plan.run, *plan.env.values()))


def _unnamed(language: Language) -> CodeResult:
    """Return the result of a source that lacks the name that its language needs."""
    said = (
        f'{language.title}: the source has no name to run by: it must have '
        f'{f"what {language.name_patterns[0]!r} finds" if language.name_patterns else "what can be run at its top level"}.\n'
    )
    step = StepResult(
        command=list(language.compile[0] if language.compile else language.run),
        status=ExecutionStatus.ERROR,
        exit_code=1,
        stderr=said,
        stderr_bytes=len(said.encode()),
    )
    return CodeResult(language=language.name, compile=step, verdict=Verdict.COMPILE_ERROR)


def _write_files(runner: Runner, folder: str, plan: Plan, request: CodeRequest) -> None:
    runner.make_dir(folder, parents=True, exist_ok=False, mode=0o700)
    for path, data in {**plan.files, **request.files, plan.file: as_bytes(request.code)}.items():
        runner.write_file(posixpath.join(folder, path), data)


def _compile(
    runner: Runner, language: Language, plan: Plan, request: CodeRequest, folder: str, patience: float
) -> StepResult | None:
    timeout = language.compile_timeout if request.compile_timeout is None else request.compile_timeout
    limits = Limits(
        memory_bytes=_size(request.compile_memory_limit),
        output_bytes=request.output_limit,
        patience=patience,
    )
    step = None
    for command in plan.compile:
        result = runner.run_step(
            command,
            timeout=timeout,
            cwd=folder,
            env={**plan.env, **request.env},
            max_output_bytes=request.max_output_bytes,
            limits=limits,
        )
        step = as_step(result, limits)
        if not step.success:
            _check_toolchain(runner, language, step)
            break
    return step


def _run(
    runner: Runner,
    language: Language,
    plan: Plan,
    request: CodeRequest,
    folder: str | None,
    patience: float,
    *,
    preload: tuple[str, ...] | None = None,
) -> StepResult:
    limits = Limits(
        cpu_seconds=request.cpu_time_limit,
        memory_bytes=_size(request.memory_limit),
        output_bytes=request.output_limit,
        patience=patience,
    )
    result = runner.run_step(
        (*plan.run, *request.args),
        timeout=language.timeout if request.timeout is None else request.timeout,
        cwd=folder,
        env={**plan.env, **request.env},
        stdin=None if request.stdin is None else as_bytes(request.stdin),
        max_output_bytes=request.max_output_bytes,
        limits=limits,
        source=None if folder is not None else (plan.file, as_bytes(request.code)),
        preload=preload,
    )
    step = as_step(result, limits)
    if not step.success and not plan.compile:
        _check_toolchain(runner, language, step)
    return step


def _preload(runner: Runner, request: CodeRequest, *, is_of_batch: bool) -> tuple[str, ...] | None:
    if request.preload is not None:
        return request.preload
    return () if runner.preload is None and is_of_batch else runner.preload


def _check_toolchain(runner: Runner, language: Language, step: StepResult) -> None:
    """Raise if a step failed for the lack of a program; programs may end with 126 or 127 by themselves."""
    if step.exit_code not in (_NOT_EXECUTABLE, _NOT_FOUND) or step.signal is not None:
        return
    probe = runner.run_step(language.version or (language.program, '--version'), timeout=_PROBE_SECONDS)
    if probe.exit_code not in (_NOT_EXECUTABLE, _NOT_FOUND):
        return
    raise missing_toolchain(language, runner.id)


def missing_toolchain(language: Language, sandbox_id: str) -> UnsupportedError:
    """Return the error for a language whose toolchain a sandbox does not have."""
    where = []
    if language.packages:
        where.append(f'Debian has it as {", ".join(language.packages)}')
    if language.npm:
        where.append(f'npm has {", ".join(language.npm)}')
    image = f'; the image {language.image} has it too' if language.image else ''
    return UnsupportedError(
        f'sandbox {sandbox_id} cannot run {language.title}: it has no {language.program!r}. '
        f'Use an image that has it{" (" + "; ".join(where) + ")" if where else ""}{image}',
        details={'language': language.name, 'program': language.program},
    )


def _fetch(runner: Runner, folder: str, request: CodeRequest) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files that were asked for, and why others are not there. What is too large is left out whole."""
    files: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    left = request.max_fetch_bytes
    for path in request.fetch_files:
        place = path if path.startswith('/') else posixpath.join(folder, path)
        try:
            data = runner.read_file(place, max_bytes=left + 1)
        except (SandboxPathError, SandboxPathNotFoundError, InvalidArgumentError) as error:
            errors[path] = error.message
            continue
        if len(data) > left:
            errors[path] = (
                f'{path!r} does not fit into the {request.max_fetch_bytes} bytes that are fetched at most '
                '(max_fetch_bytes)'
            )
            continue
        files[path] = data
        left -= len(data)
    return files, errors


def _remove(runner: Runner, folder: str) -> None:
    try:
        runner.remove_path(folder, recursive=True, missing_ok=True)
    except EnclaveError as error:  # the sandbox is gone, say, and then so is the directory
        logger.info('sandbox %s: a directory of a program was not removed: %s', runner.id, error)
    except OSError as error:
        logger.warning('sandbox %s: a directory of a program was not removed: %s', runner.id, error)


def _size(limit: str | int | None) -> int | None:
    return None if limit is None else parse_size(limit, 'memory_limit')
