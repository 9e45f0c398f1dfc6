"""``python_executor`` (layer 3): run Python source as a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen

from enclave.config import checked
from enclave.enums import SandboxType
from enclave.errors import ConfigurationError, InvalidArgumentError, UnsupportedError
from enclave.outlet import gives_output
from enclave.quoting import quoted
from enclave.records import ToolResult
from enclave.rulings import inside
from enclave.tools.base import (
    COMMAND_METADATA,
    OUTPUT_RULINGS,
    OutputOptions,
    Tool,
    command_result,
    cwd_argument,
    env_argument,
    given,
    memory_limit_of,
)
from enclave.tools.schema import argument
from enclave.tools.workspace import Workspace
from enclave.verb_requests import check_modules

_PROBE_SECONDS = 10.0
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # as shells count, and Workspace.execute_command promises


def _check_interpreter(value: Any, name: str) -> None:
    parts = [value] if isinstance(value, str) else list(value)
    if not parts or not parts[0].strip() or any('\0' in part for part in parts):
        raise ConfigurationError(f"{name} must be a program's name, or a list of it and its flags, not {quoted(value)}")


def _check_preload(value: Any, name: str) -> None:
    check_modules(value)


class PythonExecutor(Tool):
    """Run Python code in the sandbox.

    Each call is an interpreter of its own: variables do not last from call to call, files do. The code runs as a script, so
    tracebacks carry true line numbers, and imports look in the working directory first.
    """

    name = 'python_executor'
    description = (
        'Run Python code as a script in the sandbox and return what it prints. Every call starts a fresh interpreter; '
        'files in the working directory stay.'
    )
    needs = frozenset({'commands'})
    metadata = COMMAND_METADATA
    _sandbox_type = SandboxType.DOCKER

    @frozen(kw_only=True)
    class Arguments:
        """The arguments of a call."""

        code: str = argument(description='Python source code. Print what you want to see.')
        timeout: float | None = argument(
            default=None, minimum=0, description="Seconds it may take; 0 for no limit. Default is the sandbox's limit."
        )
        args: tuple[str, ...] | None = argument(default=None, description='Command line arguments, in sys.argv[1:].')
        stdin: str | None = argument(default=None, description='Text for its standard input, which is empty otherwise.')
        cwd: str | None = cwd_argument()
        env: Mapping[str, str] | None = env_argument()

    rulings = {
        **OUTPUT_RULINGS,
        'interpreter': inside(),
        'preload': inside(),
    }

    @frozen(kw_only=True)
    class Options(OutputOptions):
        """What ``tools_config['python_executor']`` may hold, besides `OutputOptions`.

        Attributes:
            preload: Modules that an interpreter has imported before: each call is then a fork of it, which takes half
                the time or less and does what an interpreter of its own would (docs/preload.md). ``[]`` preloads nothing but
                the interpreter. Default is an interpreter for each call.
            interpreter: The program that runs the code, or a list of it and its flags (``['python3', '-X', 'dev']``).
        """

        interpreter: str | tuple[str, ...] = argument(default='python3', validator=checked(_check_interpreter))
        preload: tuple[str, ...] | None = argument(
            default=None, validator=attrs.validators.optional(checked(_check_preload))
        )

    def run(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        """Run the code and report how it ended; where there is no code, nothing is run."""
        if not arguments.code.strip():
            return self.failure('No code provided', error_code=InvalidArgumentError.code)
        options = self.options
        interpreter = [options.interpreter] if isinstance(options.interpreter, str) else list(options.interpreter)
        timeout = options.timeout if arguments.timeout is None else arguments.timeout
        try:
            with gives_output():
                result = workspace.run_script(
                    interpreter,
                    arguments.code,
                    timeout,
                    suffix='.py',
                    args=arguments.args or (),
                    import_path_env='PYTHONPATH',
                    **given(
                        cwd=arguments.cwd,
                        env=arguments.env,
                        stdin=arguments.stdin,
                        max_output_bytes=options.max_output_bytes,
                        preload=options.preload,
                    ),
                )
        except UnsupportedError as error:  # a sandbox of a user's own that knows commands only
            return self.failure(str(error), error_code=error.code)
        reported = command_result(self.name, result, timeout=timeout, memory_limit=memory_limit_of(workspace))
        if result.exit_code in (_NOT_EXECUTABLE, _NOT_FOUND) and not self._runs(workspace, interpreter, arguments):
            return reported.model_copy(update={'error': _missing_text(interpreter[0], result.exit_code)})
        return reported

    @staticmethod
    def _runs(workspace: Workspace, interpreter: Sequence[str], arguments: Arguments) -> bool:
        """Return whether the interpreter can be started at all; code may end with 126 or 127 by itself."""
        # Not all of its variables: they may be too large for any program, and that is not the interpreter's fault.
        path = {name: value for name, value in (arguments.env or {}).items() if name == 'PATH'}
        options = given(cwd=arguments.cwd, env=path or None)
        probe = workspace.execute_command([interpreter[0], '--version'], _PROBE_SECONDS, **options)
        return probe.exit_code not in (_NOT_EXECUTABLE, _NOT_FOUND)


def _missing_text(program: str, exit_code: int) -> str:
    what = 'was not found' if exit_code == _NOT_FOUND else 'may not be executed'
    return (
        f'{program!r} {what} in this sandbox, so it cannot run Python code (exit code {exit_code}). Use an image that has '
        "it, such as python:3.11-slim, or name its interpreter in tools_config['python_executor']['interpreter']; "
        'shell_executor and file_operation work without one.'
    )
