"""Every exception this library raises (layer 0).

A *result* says what the code in the sandbox did, including failing and running out of time. An *exception* says what we
could not do. All of them derive from `EnclaveError`; each also wears the builtin exception a stranger would catch, and a
stable kebab-case ``code`` that does not change between releases and travels over HTTP.

``ERROR_TYPES`` is the closed table a client rebuilds exceptions from: ``{code: class}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class EnclaveError(Exception):
    """The root of everything raised here.

    Args:
        message: A sentence for a person: what was tried, on what, what to do.
        details: JSON-compatible facts for a program, for example ``{'sandbox_id': 'ab12'}``.
    """

    code: ClassVar[str] = 'enclave'

    def __init__(self, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """Return the record of it, whose keys are the same for every refusal and failure; see `error_record`."""
        return error_record(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.details))


def error_record(error: BaseException) -> dict[str, Any]:
    """Return an exception as the one record that every refusal and failure is: here, in a batch, over HTTP, on the command line.

    Its keys are ``code`` (which class it is, for programs), ``message``, ``details`` (facts for programs) and ``detail`` (the
    message, or what an adapter for another interface shows in its place). An exception that is not of this library has the code
    ``'enclave'`` and the name of its class in its details.
    """
    if isinstance(error, EnclaveError):
        detail = getattr(error, 'detail', None)
        return {
            'code': error.code,
            'message': error.message,
            'details': dict(error.details),
            'detail': error.message if detail is None else detail,
        }
    name = type(error).__name__
    message = f'{name}: {error}' if str(error) else name
    return {'code': EnclaveError.code, 'message': message, 'details': {'exception': name}, 'detail': message}


def _rebuild(cls: type[EnclaveError], message: str, details: dict[str, Any]) -> EnclaveError:
    return cls(message, details=details)


# What the caller asked for cannot be right ---------------------------------------------------------------------------


class InvalidArgumentError(EnclaveError, ValueError):
    """An argument has a wrong type or an impossible value; the message names it."""

    code = 'invalid-argument'


class ConfigurationError(InvalidArgumentError):
    """A configuration names an unknown key, a wrong type or an impossible value; the message names the field."""

    code = 'configuration'


class ToolArgumentsError(InvalidArgumentError):
    """The arguments of a tool call are missing, surplus or of a wrong type."""

    code = 'tool-arguments'


class UnsupportedError(EnclaveError, NotImplementedError):
    """This sandbox, engine or platform does not offer what was asked."""

    code = 'unsupported'


# What was named is not there -----------------------------------------------------------------------------------------


class NotFoundError(EnclaveError, LookupError, ValueError):
    """Something that was named does not exist."""

    code = 'not-found'


class SandboxNotFoundError(NotFoundError):
    """No sandbox has this id."""

    code = 'sandbox-not-found'


class ToolNotFoundError(NotFoundError):
    """No tool has this name, or the sandbox has not enabled it."""

    code = 'tool-not-found'


class NotRegisteredError(NotFoundError):
    """No sandbox, manager or tool class is registered under this name."""

    code = 'not-registered'


class SandboxPathNotFoundError(EnclaveError, FileNotFoundError):
    """A path does not exist in the sandbox."""

    code = 'path-not-found'


class SandboxPathError(EnclaveError, OSError):
    """A file operation in the sandbox was refused: permission, wrong kind, no space, too large."""

    code = 'path'


class SandboxPathExistsError(SandboxPathError, FileExistsError):
    """The path exists already, and the call asked that it should not."""

    code = 'path-exists'


# Sandboxes -----------------------------------------------------------------------------------------------------------


class SandboxError(EnclaveError, RuntimeError):
    """A sandbox could not do what was asked."""

    code = 'sandbox'


class SandboxStateError(SandboxError):
    """The sandbox is not in a state that allows this: not started yet, or already stopped."""

    code = 'sandbox-state'


class SandboxStartError(SandboxError):
    """A sandbox could not be started; nothing of it is left behind."""

    code = 'sandbox-start'


class ImageNotFoundError(SandboxStartError, LookupError):
    """The image is not on the engine and could not be had."""

    code = 'image-not-found'


class SandboxGoneError(SandboxError, ConnectionError):
    """The sandbox died or was removed behind our back; what ran in it is lost."""

    code = 'sandbox-gone'


class SandboxBrokenError(SandboxError, ConnectionError):
    """The peer broke the protocol; the channel is closed and the sandbox can only be deleted."""

    code = 'sandbox-broken'


class SandboxSilentError(SandboxError, TimeoutError):
    """A sandbox did not answer in time, since it is paused or frozen, say; it can be used again when it answers again."""

    code = 'sandbox-silent'


class KernelDiedError(SandboxError):
    """A notebook's kernel ended, or could not be started, while something was asked of it; its state is lost."""

    code = 'kernel-died'


class CallCancelledError(SandboxError):
    """The call was cancelled before it had a result."""

    code = 'cancelled'


# Engine --------------------------------------------------------------------------------------------------------------


class EngineError(EnclaveError, RuntimeError):
    """The container engine refused a request; the message is what it said."""

    code = 'engine'


class EngineUnavailableError(EngineError, ConnectionError):
    """No container engine answers."""

    code = 'engine-unavailable'


# Managers ------------------------------------------------------------------------------------------------------------


class OperationTimeoutError(EnclaveError, TimeoutError):
    """Something of this library, not the guest's code, did not finish within its time limit."""

    code = 'timeout'


class PoolError(EnclaveError, ValueError):
    """The pool does not exist, or cannot be what was asked."""

    code = 'pool'


class PoolExhaustedError(OperationTimeoutError):
    """No sandbox of the pool became free within the time limit."""

    code = 'pool-exhausted'


class ManagerStoppedError(EnclaveError, RuntimeError):
    """The manager is stopping or stopped and takes no new work."""

    code = 'manager-stopped'


# Remote --------------------------------------------------------------------------------------------------------------


class ServerError(EnclaveError, RuntimeError):
    """The server failed in a way it could not name."""

    code = 'server'


class ServerUnavailableError(ServerError, ConnectionError):
    """The server cannot be reached, went away, or is not a server of this library."""

    code = 'server-unavailable'


class AuthenticationError(EnclaveError, PermissionError):
    """No API key was sent, or the server does not know it."""

    code = 'authentication'


class PolicyError(EnclaveError, PermissionError):
    """The server's policy does not allow this request."""

    code = 'policy'


class TooManyRequestsError(EnclaveError, RuntimeError):
    """The server, or this key's quota, is full; ``details['retry_after']`` is in seconds."""

    code = 'too-many-requests'


class RequestTooLargeError(EnclaveError, ValueError):
    """A request body is larger than the server allows."""

    code = 'request-too-large'


class ConflictError(EnclaveError, ValueError):
    """The name or id is already taken, or the same idempotency key was used for another request."""

    code = 'conflict'


def _table(root: type[EnclaveError]) -> dict[str, type[EnclaveError]]:
    found = {root.code: root}
    for cls in root.__subclasses__():
        found.update(_table(cls))
    return found


ERROR_TYPES: dict[str, type[EnclaveError]] = _table(EnclaveError)
