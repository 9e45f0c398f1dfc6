"""What notebooks give back (layer 1): the result of a cell, and what is known of kernels and of what lives in them.

Outputs are as a notebook stores them (nbformat 4): dicts with an ``output_type`` of ``stream``, ``display_data``,
``execute_result`` or ``error``. Source: https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, field, frozen

from enclave.enums import ExecutionStatus
from enclave.records import Model
from enclave.rendering import Picture, bundle, find_pictures, one_line, outputs_html, save_pictures

DEFAULT_KERNEL = 'default'
"""The kernel that cells run in unless they name another."""

KERNEL_DELETED = 'was deleted'
"""The `CellResult.state_lost` of a cell whose kernel was deleted, so that cells find none by its name."""
SANDBOX_STOPPED = 'was ended with its sandbox'
"""The `CellResult.state_lost` of a cell whose sandbox was stopped, so that it takes no cells."""


@frozen(kw_only=True)
class CellError(Model):
    """What a cell raised: the exception's class name, its text, and the traceback as text without escape codes."""

    name: str
    value: str = ''
    traceback: str = ''


@frozen(kw_only=True)
class CellResult(Model):
    """What became of a cell.

    Attributes:
        status: ``success``, ``error`` (it raised, its kernel ended, or did not say how it went), ``timeout`` or ``cancelled``
            (it was interrupted). An error that is only shown, by ``showtraceback()`` for one, is an output and no failure.
        outputs: In order, as a notebook stores them. Where some were too many to keep, a text stands in their place, which has
            ``enclave`` in their metadata; the value and the error are kept all the same.
        text: What a person reads: stdout and the values shown, in order. Standard error is not in it.
        stdout, stderr: All of the one stream; past the cap head and tail are kept around a visible marker, ``*_truncated``
            is true, and ``*_bytes`` is the true count of what the cell wrote (about it, where a kernel other than Python's sent a
            message that was too large to keep).
        error: What it raised; None where it raised nothing.
        execution_count: The number a notebook shows in brackets; None where the kernel did not say.
        execution_time: Seconds from the request to the end.
        kernel: The kernel it ran in.
        state_lost: Why the kernel's state is lost, where it is: it died in this cell, was ended by ``exit()``, or had to be
            killed. The next cell gets a new kernel, unless this is `KERNEL_DELETED` or `SANDBOX_STOPPED`.
        note: What should be known besides, above all that the kernel had died since the cell before.
        outputs_left_out: How many outputs were too many to keep.
        display_ids: ``{id: indexes in outputs}`` of displays that a later cell may update.
        display_updates: ``[{'display_id', 'data', 'metadata'}]``: updates of displays of earlier cells.
        timing: When the kernel says it began and ended the cell, as ISO 8601 in UTC, by the names that Jupyter's tools give in a
            cell's metadata: ``iopub.status.busy``, ``iopub.execute_input``, ``iopub.status.idle``, ``shell.execute_reply``.
        widgets: What it changed of Jupyter widgets: ``{model id: {'state': {...}, 'buffers': [...]}}`` with those parts of the
            state that it set, as a notebook stores them; None for a widget that it closed.
    """

    status: ExecutionStatus = field(converter=ExecutionStatus)
    outputs: list[dict[str, Any]] = Factory(list)
    text: str = ''
    stdout: str = ''
    stderr: str = ''
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    error: CellError | None = None
    execution_count: int | None = None
    execution_time: float = 0.0
    kernel: str = DEFAULT_KERNEL
    timed_out: bool = False
    oom_killed: bool = False
    state_lost: str | None = None
    note: str | None = None
    outputs_left_out: int = 0
    display_ids: dict[str, list[int]] = Factory(dict)
    display_updates: list[dict[str, Any]] = Factory(list)
    timing: dict[str, str] = Factory(dict)
    widgets: dict[str, Any] = Factory(dict)

    @property
    def success(self) -> bool:
        """Whether it ended by itself and raised nothing."""
        return self.status is ExecutionStatus.SUCCESS

    @property
    def pictures(self) -> list[Picture]:
        """The pictures that it showed, in order."""
        return find_pictures(self.outputs)

    def save_pictures(self, folder: str | os.PathLike[str], prefix: str = 'picture') -> list[Path]:
        """Write the pictures into a folder of this machine as ``picture-1.png`` and so on, and return their paths."""
        return save_pictures(self.pictures, folder, prefix)

    def __repr__(self) -> str:
        return one_line(
            type(self).__name__,
            status=str(self.status),
            text=self.text,
            stderr=self.stderr,
            error=None if self.error is None else f'{self.error.name}: {self.error.value}',
            pictures=len(self.pictures) or None,
            state_lost=self.state_lost,
            execution_time=round(self.execution_time, 3),
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return bundle(repr(self), outputs_html(self.outputs), self.pictures)


@frozen(kw_only=True)
class KernelInfo(Model):
    """A kernel of a sandbox. ``spec`` is the kernel specification it was made from; ``idle`` kernels take a cell at once.

    ``stopped`` is a kernel that has ended and will be started anew by its next cell. ``language_info`` is what the kernel says of
    its language, as notebooks store it: ``name``, ``version``, ``mimetype``, ``file_extension`` and others; empty until it has.
    """

    name: str
    spec: str
    language: str = ''
    status: Literal['idle', 'busy', 'stopped'] = 'idle'
    cells_run: int = 0
    waiting: int = 0
    started_at: datetime | None = None
    language_info: dict[str, Any] = Factory(dict)


@frozen(kw_only=True)
class KernelSpec(Model):
    """A kind of kernel that the sandbox has; ``name`` is what `create_kernel` takes."""

    name: str
    display_name: str = ''
    language: str = ''
    argv: list[str] = Factory(list)
    env: dict[str, str] = Factory(dict)
    interrupt_mode: str = 'signal'


@frozen(kw_only=True)
class Completion(Model):
    """What could stand at a place in the code: each of ``matches`` replaces the characters from ``start`` to ``end``."""

    matches: list[str] = Factory(list)
    start: int = 0
    end: int = 0


@frozen(kw_only=True)
class Inspection(Model):
    """What a kernel knows of a name: ``text`` for people, without escape codes; ``data`` by MIME type."""

    found: bool = False
    text: str = ''
    data: dict[str, Any] = Factory(dict)


@frozen(kw_only=True)
class Variable(Model):
    """A variable of a kernel: its class's name, a short text of its value, and its length or shape, where it has one."""

    name: str
    type: str = ''
    text: str = ''
    shape: str = ''
