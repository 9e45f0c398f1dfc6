"""The options that the configurations of all notebook sandboxes share (layer 4), whatever their backend."""

from __future__ import annotations

import os
from typing import Any, Literal

from attrs import field, frozen

from enclave.config import checked, is_a, whole_number
from enclave.errors import ConfigurationError
from enclave.quoting import quoted

NOTEBOOK_TOOLS_ENVIRONMENT = 'ENCLAVE_NOTEBOOK_TOOLS'
"""With the value ``all``, notebook sandboxes load other tools too; see `NotebookConfig`."""


def loads_all_tools(asked: str | None) -> bool:
    """Return whether a notebook sandbox loads tools that are not made for notebooks: as its configuration says, else as the
    environment does."""
    return (asked or os.environ.get(NOTEBOOK_TOOLS_ENVIRONMENT, '').strip().lower()) == 'all'


def _check_tools(value: Any, name: str) -> None:
    if value not in (None, 'notebook', 'all'):
        raise ConfigurationError(f"{name} must be 'notebook', 'all' or None, not {quoted(value)}")


def _check_grace(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 3600:
        raise ConfigurationError(f'{name} must be a number of seconds from 0 to 3600, not {quoted(value)}')


@frozen(kw_only=True, slots=False)
class NotebookConfig:
    """What every notebook sandbox can be asked. A backend's class derives from its own configuration first, then from this.

    It has no slots, since Python lays out no class that inherits slots from two.

    Attributes:
        kernel_name: The kind of the default kernel, as Jupyter names it.
        interrupt_grace: Seconds a cell may take to end after it was interrupted, before its kernel is killed.
        max_display_bytes: Bytes of one rich output (a picture, a table as HTML) that are kept, and a quarter of what all those
            of a cell may have together; past it a text stands in its place.
        notebook_tools: ``'notebook'``: only tools made for notebooks are loaded. ``'all'``: those for general-purpose sandboxes
            too (``shell_executor``, ``file_operation``, ...). None is what the environment variable
            ``ENCLAVE_NOTEBOOK_TOOLS`` says, else ``'notebook'``.
    """

    kernel_name: str = field(default='python3', validator=is_a(str))
    interrupt_grace: float = field(default=3.0, validator=checked(_check_grace))
    max_display_bytes: int = field(default=8 << 20, validator=whole_number(1024, 256 << 20))
    notebook_tools: Literal['notebook', 'all'] | None = field(default=None, validator=checked(_check_tools))
