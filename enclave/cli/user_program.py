"""What the commands that run a user's program share (layer 6): `run`, `exec` and `shell`.

They give back the program's own exit code, and:

- 124 when it ran out of time, as timeout(1) does,
- 128 + a signal's number when it was ended by one, so 137 when it ran out of memory,
- 125 when we failed, as docker(1) does; 126 and 127 when it could not be run, as shells do,
- 130, 143 or 129 when this process was interrupted, terminated or hung up.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from enclave.cli.output import echo_error, echo_json
from enclave.cli.place import report_kind
from enclave.cli.relay import relay

F = TypeVar('F', bound=Callable[..., Any])

TIMED_OUT, FAILED = 124, 125
EXIT_CODES = """\b
    Exit codes: the program's own; 124 when it ran out of time; 128 + number
    when a signal ended it (137: out of memory); 125 when ms-enclave failed;
    126 or 127 when the program could not be run.
    """


class OwnFailure(click.ClickException):
    """A failure of this library in a command whose exit code otherwise is the program's."""

    exit_code = FAILED

    def show(self, file: Any = None) -> None:
        """Print it as every failure is printed."""
        echo_error(self.message)


def runs_a_program(function: F) -> F:
    """Have a command end with 125 when it fails by itself, and say its exit codes in its help."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.exceptions.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get('ENCLAVE_DEBUG') == '1':
                raise
            from enclave.cli.main import explain

            raise OwnFailure(explain(error)) from error

    wrapper.__doc__ = (function.__doc__ or '') + '\n    ' + EXIT_CODES
    found: Any = wrapper
    return found  # type: ignore[no-any-return]


def drive(
    sandbox: Any,
    command: str | list[str],
    *,
    timeout: float | None,
    with_stdin: bool = True,
    stdin: bytes | None = None,
    tty: tuple[int, int] | None = None,
    as_json: bool = False,
    memory: Any = None,
    **options: Any,
) -> NoReturn:
    """Run a command to its end with its output shown as it comes, and end with its exit code.

    Args:
        timeout: Seconds; None and 0 for no limit.
        with_stdin: Send it our standard input.
        stdin: What it reads instead.
        tty: Run it on a terminal of this size, which is to be ours.
        as_json: Print the result as JSON, with the kind of sandbox, and nothing else.
        memory: The memory limit, for the message when it was not enough.
        options: ``cwd``, ``env``, ``user``.
    """
    with_stdin = with_stdin and stdin is None
    process = sandbox.start_process(
        command, timeout or 0, stdin=stdin, open_stdin=with_stdin, tty=tty, live=True, **options
    )
    with process:
        result = relay(process, with_stdin=with_stdin, on_terminal=tty is not None, quiet=as_json)
    if as_json:
        echo_json({**result.model_dump(mode='json'), **report_kind(sandbox)})
    else:
        _report_end(result, timeout, memory)
    raise click.exceptions.Exit(TIMED_OUT if result.timed_out else result.exit_code)


def _report_end(result: Any, timeout: float | None, memory: Any) -> None:
    """Say on standard error why a program ended that did not end by itself."""
    if result.timed_out:
        click.echo(f'ms-enclave: the program was ended: it ran longer than {timeout:g} s', err=True)
    elif result.oom_killed:
        limit = f' ({memory})' if memory else ''
        click.echo(f'ms-enclave: out of memory: the sandbox reached its limit{limit}; --memory sets another', err=True)
    elif result.signal:
        click.echo(f'ms-enclave: the program was ended by {result.signal}', err=True)
