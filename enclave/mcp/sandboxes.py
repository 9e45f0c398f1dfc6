"""The sandboxes and running commands of one caller of the MCP server (layer 6).

A caller is the one client of a stdio process, or one API key of the HTTP server. What it makes lives in a manager of its own:
a local one, or a client of an enclave server with the caller's key, so that the server's policy and quotas hold.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import attrs
from attrs import define, field, frozen

from enclave.errors import (
    EnclaveError,
    InvalidArgumentError,
    NotFoundError,
    SandboxNotFoundError,
    TooManyRequestsError,
    UnsupportedError,
)
from enclave.managers.base import SandboxManager
from enclave.records import CommandResult
from enclave.sandboxes.choice import notebook_type
from enclave.sandboxes.kinds import find_kind

logger = logging.getLogger(__name__)

MAX_COMMANDS = 32
"""How many background commands one caller may have running, and how many that have ended are remembered."""
KEPT_BYTES = 256 << 10
"""How much output of a command waits here for `read_command_output`; what is older is left out and counted."""


@frozen(kw_only=True)
class Output:
    """What a background command wrote since it was last asked.

    Attributes:
        text: stdout and stderr as they came.
        left_out_bytes: How much older output there was no room for.
        result: How it ended; None while it runs.
        error: Why it was lost, where it was.
    """

    text: str
    left_out_bytes: int = 0
    result: CommandResult | None = None
    error: str | None = None


class Command:
    """A program that runs in the background, whose output a thread takes. Lives until it is forgotten."""

    def __init__(self, sandbox_id: str, process: Any) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.sandbox_id = sandbox_id
        self.process = process
        self._changed = threading.Condition()  # guards all below
        self._pending = bytearray()
        self._left_out = 0
        self._has_ended = False
        self._error: str | None = None
        threading.Thread(target=self._take, name=f'enclave-mcp-command-{self.id}', daemon=True).start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self._has_ended

    def _take(self) -> None:
        error = None
        try:
            for chunk in self.process.chunks():
                with self._changed:
                    self._pending += chunk.data
                    surplus = len(self._pending) - KEPT_BYTES
                    if surplus > 0:
                        del self._pending[:surplus]
                        self._left_out += surplus
                    self._changed.notify_all()
        except EnclaveError as failure:
            error = failure.message
        with self._changed:
            self._has_ended, self._error = True, error
            self._changed.notify_all()

    def read(self, timeout: float, max_bytes: int) -> Output:
        """Return what it wrote since the last call; waits up to ``timeout`` seconds for output or its end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._has_ended, timeout)
            data = bytes(self._pending[:max_bytes])
            del self._pending[:max_bytes]
            left_out, self._left_out = self._left_out, 0
            is_over = self._has_ended and not self._pending
        return Output(
            text=data.decode('utf-8', 'backslashreplace'),
            left_out_bytes=left_out,
            result=self.process.result if is_over else None,
            error=self._error if is_over else None,
        )

    def stop(self, timeout: float) -> None:
        """Kill it and everything it started, and wait for its end."""
        self.process.kill()
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended, timeout)


@define(eq=False)
class CallerSandboxes:
    """What one caller has. Lives as long as its server or, over HTTP, until its key has not been used for a while.

    Args:
        manager: Makes its sandboxes; is stopped by `close`.
        kind, options: What the caller's own sandbox is made of; a kind of None lets the library choose.
        has_default: Whether calls without a ``sandbox_id`` go to a sandbox that the first of them makes.
        prefers_notebook: Whether a sandbox of which nothing is said gets Jupyter kernels, where they can be had.
        images: Which images `create` may be asked for besides the one in ``options``; None leaves that to the manager.
    """

    manager: SandboxManager
    kind: str | None = None
    options: Mapping[str, Any] = field(factory=dict)
    has_default: bool = True
    prefers_notebook: bool = False
    images: frozenset[str] | None = None
    _lock: threading.RLock = field(factory=threading.RLock, init=False, repr=False)  # guards the two below
    _default: str | None = field(default=None, init=False)
    _commands: dict[str, Command] = field(factory=dict, init=False, repr=False)

    def find(self, sandbox_id: str | None) -> Any:
        """Return a sandbox: the named one, or the caller's own, which is made if it is not there.

        Raises:
            SandboxNotFoundError: There is no such sandbox.
            InvalidArgumentError: None is named, and this server has none of its own for a caller.
        """
        if sandbox_id is not None:
            sandbox = self.manager.get_sandbox(sandbox_id)
            if sandbox is None:
                raise SandboxNotFoundError(
                    f'there is no sandbox {sandbox_id!r}; list_sandboxes names those there are, create_sandbox makes one'
                )
            return sandbox
        if not self.has_default:
            raise InvalidArgumentError(
                'sandbox_id is required here: make a sandbox with create_sandbox and pass its id'
            )
        with self._lock:  # two first calls must not make two
            known = None if self._default is None else self.manager.get_sandbox(self._default)
            if known is not None and known.status in ('running', 'idle', 'busy'):
                return known
            self._default = self.create()
            return self.manager.get_sandbox(self._default)

    def create(self, *, image: str | None = None, notebook: bool | None = None) -> str:
        """Make a sandbox and return its id.

        Args:
            image: An image other than the configured one.
            notebook: Whether it has Jupyter kernels; None does as `prefers_notebook` says.

        Raises:
            InvalidArgumentError: The image is not among those that are allowed.
            UnsupportedError: The kind of sandbox has no images.
            EnclaveError: It cannot be made.
        """
        options = dict(self.options)
        if image is not None and image != options.get('image'):
            if self.images is not None and image not in self.images:
                allowed = ', '.join(sorted(self.images)) or 'none but the default one'
                raise InvalidArgumentError(
                    f'the image {image!r} is not allowed here; allowed: {allowed}. '
                    'The one that runs this server allows images with --allow-image'
                )
            self._check_images()
            options['image'] = image
        if notebook is None and self.prefers_notebook and image is None:
            try:
                return self._create_notebook(options)
            except EnclaveError as error:
                logger.info('no sandbox with kernels can be made here, so it is a plain one: %s', error)
        if notebook:
            return self._create_notebook(options)
        return self.manager.create_sandbox(self.kind, options or None)

    def _check_images(self) -> None:
        known = None if self.kind is None else find_kind(self.kind)
        if known is not None and not hasattr(attrs.fields(known.config_class), 'image'):
            raise UnsupportedError(
                f'sandboxes of the kind {self.kind} are not made from images: leave image out. The one that runs this server '
                'chooses the kind; --type docker has images'
            )

    def _create_notebook(self, options: Mapping[str, Any]) -> str:
        if self.kind is not None:
            return self.manager.create_sandbox(notebook_type(self.kind), options or None)
        # Without a kind, the only tool of a configuration says that it is a notebook's, here and on a server.
        return self.manager.create_sandbox(None, {**options, 'tools_config': ['notebook_executor']})

    def delete(self, sandbox_id: str) -> None:
        """Take a sandbox away, with what runs in it.

        Raises:
            SandboxNotFoundError: There is none.
        """
        if self.manager.get_sandbox(sandbox_id) is None:
            raise SandboxNotFoundError(f'there is no sandbox {sandbox_id!r}; list_sandboxes names those there are')
        self.manager.delete_sandbox(sandbox_id)
        with self._lock:
            for command in [each for each in self._commands.values() if each.sandbox_id == sandbox_id]:
                del self._commands[command.id]

    def start_command(self, sandbox_id: str | None, command: str, **options: Any) -> Command:
        """Start a command in the background.

        Raises:
            TooManyRequestsError: As many as may run do.
        """
        sandbox = self.find(sandbox_id)
        if not hasattr(sandbox, 'start_process'):
            raise UnsupportedError(f'sandbox {sandbox.id} has no background commands')
        with self._lock:
            ended = [each for each in self._commands.values() if not each.is_running]
            for each in ended[: max(0, len(ended) - MAX_COMMANDS + 1)]:
                del self._commands[each.id]
            if sum(each.is_running for each in self._commands.values()) >= MAX_COMMANDS:
                raise TooManyRequestsError(
                    f'{MAX_COMMANDS} commands run in the background, which is all there may be; stop some with stop_command'
                )
            made = Command(sandbox.id, sandbox.start_process(command, **options))
            self._commands[made.id] = made
        return made

    def find_command(self, command_id: str) -> Command:
        """Return a background command.

        Raises:
            NotFoundError: There is none of this id.
        """
        with self._lock:
            found = self._commands.get(command_id)
        if found is None:
            raise NotFoundError(f'there is no background command {command_id!r}; start_command starts one')
        return found

    def commands(self) -> list[Command]:
        """Return the background commands, oldest first."""
        with self._lock:
            return list(self._commands.values())

    def close(self, *, delete_all: bool = False) -> None:
        """End the background commands and let go of the manager: a local one takes its sandboxes away. May be called twice.

        Args:
            delete_all: Delete the caller's own sandbox from a server too.
        """
        for command in self.commands():
            with contextlib.suppress(EnclaveError):
                command.process.kill()
        if delete_all and self._default is not None:
            with contextlib.suppress(EnclaveError):
                self.manager.delete_sandbox(self._default)
        self.manager.stop()
