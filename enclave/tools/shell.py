"""``shell_executor`` (layer 3): run a shell line, or a program with its arguments."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from enclave.enums import SandboxType
from enclave.errors import InvalidArgumentError
from enclave.outlet import gives_output
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

_LARGE_CHARACTERS = 16 * 1024
"""A command from this size on goes to a shell of the options' as a file. No character takes more than four bytes."""


class ShellExecutor(Tool):
    """Run a command in the sandbox: a string through its shell, a list of strings as a program with its arguments."""

    name = 'shell_executor'
    description = (
        'Run a command in the sandbox and return its output. A string goes through the shell, with pipes, globs and '
        'variables; a list of strings is a program and its arguments, taken literally.'
    )
    needs = frozenset({'commands'})
    metadata = COMMAND_METADATA
    _sandbox_type = SandboxType.DOCKER

    @frozen(kw_only=True)
    class Arguments:
        """The arguments of a call."""

        command: str | tuple[str, ...] = argument(
            description='A shell command line, or a list of a program and its arguments that no shell reads.'
        )
        timeout: float | None = argument(
            default=None, minimum=0, description="Seconds it may take; 0 for no limit. Default is the sandbox's limit."
        )
        cwd: str | None = cwd_argument()
        env: Mapping[str, str] | None = env_argument()
        stdin: str | None = argument(default=None, description='Text for its standard input, which is empty otherwise.')

    rulings = {
        **OUTPUT_RULINGS,
        'shell': inside(),
    }

    @frozen(kw_only=True)
    class Options(OutputOptions):
        """What ``tools_config['shell_executor']`` may hold, besides `OutputOptions`.

        Attributes:
            shell: Program that reads a command string, called as ``shell -c -- command``, like ``'bash'``. Default is the
                sandbox's own ``sh``.
        """

        shell: str | None = argument(default=None)

    def run(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        """Run the command and report how it ended; where there is none, nothing is run."""
        program = arguments.command if isinstance(arguments.command, str) else ''.join(arguments.command[:1])
        if not program.strip():
            return self.failure('No command provided', error_code=InvalidArgumentError.code)
        command: str | tuple[str, ...] = arguments.command
        timeout = self.options.timeout if arguments.timeout is None else arguments.timeout
        options = given(
            cwd=arguments.cwd,
            env=arguments.env,
            stdin=arguments.stdin,
            max_output_bytes=self.options.max_output_bytes,
        )
        with gives_output():
            if not self.options.shell or not isinstance(command, str):
                result = workspace.execute_command(command, timeout, **options)
            elif len(command) < _LARGE_CHARACTERS:
                result = workspace.execute_command((self.options.shell, '-c', '--', command), timeout, **options)
            else:
                # Linux takes 128 KiB in one argument.
                result = workspace.run_script((self.options.shell,), command, timeout, **options)
        return command_result(self.name, result, timeout=timeout, memory_limit=memory_limit_of(workspace))
