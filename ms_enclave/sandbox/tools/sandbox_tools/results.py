"""How the built-in tools say what became of a call."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from enclave.errors import CallCancelledError, EnclaveError, ManagerStoppedError, PolicyError, TooManyRequestsError
from ms_enclave.sandbox.model.base import ExecutionStatus
from ms_enclave.sandbox.model.responses import CommandResult, ToolResult
from ms_enclave.sandbox.tools.base import Tool
from ms_enclave.utils.logger import logger

T = TypeVar('T', bound=Tool)
P = ParamSpec('P')

NO_TIME = 'Command timed out after {} seconds'
_PASSED_ON = (CallCancelledError, ManagerStoppedError, PolicyError, TooManyRequestsError)
"""What ends the call, and is nothing that the tool found out."""
_FAILURES = (LookupError, OSError, RuntimeError, ValueError)


def failure(
    tool_name: str, error: str, status: ExecutionStatus = ExecutionStatus.ERROR, output: Any = ''
) -> ToolResult:
    """Return a result that says what went wrong."""
    return ToolResult(tool_name=tool_name, status=status, output=output, error=error)


def failures_as_results(
    execute: Callable[Concatenate[T, P], Awaitable[ToolResult]],
) -> Callable[Concatenate[T, P], Coroutine[Any, Any, ToolResult]]:
    """Return a tool's `execute` whose failures are results: the sandbox does not run, say, or a value is of the wrong type.

    Parameters with other names than the tool's are a `TypeError` as ever.
    """

    @functools.wraps(execute)
    async def run(tool: T, /, *args: P.args, **parameters: P.kwargs) -> ToolResult:
        call = execute(tool, *args, **parameters)  # which checks the parameters' names
        try:
            return await call
        except _PASSED_ON:
            raise
        except _FAILURES as error:
            return failure(tool.name, str(error))
        except EnclaveError:
            raise
        except Exception as error:  # of a sandbox of the program's own, whose commands may give anything
            logger.warning('%s failed', tool.name, exc_info=True)
            return failure(tool.name, f'Execution failed: {type(error).__name__}: {error}')

    return run


def text_of(value: Any, name: str) -> str:
    """Return a parameter that is text; '' where it is None.

    Raises:
        ValueError: It is something else.
    """
    if value is None or isinstance(value, str):
        return value or ''
    raise ValueError(f'{name} must be text, not {type(value).__name__}')


def seconds(timeout: Any) -> float | None:
    """Return a time limit, which may be a number's text as models write it; None where there is none.

    Raises:
        ValueError: It is no number.
    """
    if timeout is None:
        return None
    try:
        limit = float(timeout)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f'timeout must be a number of seconds, not {timeout!r}') from None
    return limit if limit > 0 else None


def command_result(tool_name: str, result: CommandResult, timeout: float | None) -> ToolResult:
    """Return a command's end as a tool's result.

    ``output`` is its stdout, ``error`` its stderr (None if it succeeded without); where a command that failed wrote none, a
    sentence that names its exit code, on which programs match.
    """
    error = result.stderr or None
    if result.status == ExecutionStatus.TIMEOUT:
        error = error or NO_TIME.format(timeout)
    elif result.status != ExecutionStatus.SUCCESS:
        error = error or f'Command failed with exit code {result.exit_code}'
    return ToolResult(tool_name=tool_name, status=result.status, output=result.stdout or '', error=error)
