"""Tools by name (layer 3): where users' tools are registered, ours are found, and a sandbox's are loaded.

Our own tools are imported when they are first asked for, so a program that never opens a sandbox pays for none of them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from enclave.enums import GENERAL_TYPES, NOTEBOOK_TYPES, SandboxType
from enclave.errors import ConfigurationError, ConflictError, EnclaveError, InvalidArgumentError, ToolNotFoundError
from enclave.quoting import quoted
from enclave.records import as_sandbox_type
from enclave.registry import Home, Registry
from enclave.suggest import suggest
from enclave.tools.base import Tool

logger = logging.getLogger(__name__)

K = TypeVar('K', bound=type[Tool])

TOOLS: Registry[type[Tool]] = Registry(
    {
        'file_operation': ('enclave.tools.file', 'FileOperation'),
        'multi_code_executor': ('enclave.tools.multi_code', 'MultiCodeExecutor'),
        'notebook_executor': ('enclave.tools.notebook', 'NotebookExecutor'),
        'python_executor': ('enclave.tools.python', 'PythonExecutor'),
        'shell_executor': ('enclave.tools.shell', 'ShellExecutor'),
    }
)
_EQUIVALENT_KINDS: dict[SandboxType | str, tuple[SandboxType | str, ...]] = {
    types[0]: types for types in (GENERAL_TYPES, NOTEBOOK_TYPES)
}
"""Our kinds of sandbox that a tool for this kind fits, for messages."""


_LOADS_ALL = "ENCLAVE_NOTEBOOK_TOOLS=all in the environment, or notebook_tools='all' in the configuration, loads it"


@lru_cache(maxsize=256)
def _signature(kind: Callable[..., Tool]) -> inspect.Signature:
    return inspect.signature(kind)  # takes longer than all the rest of making a tool


class ToolFactory:
    """Makes tools by name. The registry is the process's; there are no instances."""

    @classmethod
    def register_tool(cls, name: str, tool: type[Tool], *, replace: bool = False) -> None:
        """Register a tool class under a name.

        Registering a class again that is defined at the same place, as notebooks do when a cell is run twice, takes the
        new one.

        Raises:
            ConflictError: Another class has the name, and ``replace`` is false.
            InvalidArgumentError: It is not a name, or not a subclass of `Tool`.
        """
        if not isinstance(name, str) or not name.strip():
            raise InvalidArgumentError(f"a tool's name must be a string that is not empty, not {quoted(name)}")
        if not isinstance(tool, type) or not issubclass(tool, Tool):
            raise InvalidArgumentError(f'{quoted(tool)} must be a subclass of Tool to be registered as {quoted(name)}')

        def check(home: Home | None) -> None:
            if home not in (None, (tool.__module__, tool.__qualname__)) and not replace:
                raise ConflictError(
                    f'the tool name {quoted(name)} is taken by {".".join(home or ())}; '
                    'choose another name, or register with replace=True'
                )

        TOOLS.register(name, tool, check=check)
        if not tool.name and not tool._name:
            tool.name = name

    @classmethod
    def get_tool_class(cls, name: str) -> type[Tool]:
        """Return the class registered under a name.

        Raises:
            ToolNotFoundError: There is none; the message names those there are.
        """
        found = TOOLS.find(name)
        if found is None:
            known = cls.get_available_tools()
            near = suggest(str(name), known)
            hint = f'did you mean {near!r}? ' if near else ''
            raise ToolNotFoundError(
                f'no tool is registered as {quoted(name)}; {hint}known: {", ".join(known)}',
                details={'tool_name': str(name)},
            )
        return found

    @classmethod
    def create_tool(cls, name: str, /, **options: Any) -> Tool:
        """Return a new tool.

        Args:
            name: What it is registered under; the tool will go by that name.
            options: What ``tools_config[name]`` holds.

        Raises:
            ToolNotFoundError: No tool has the name; it is a `ValueError` too.
            ConfigurationError: The tool does not take an option, or not with that value.
        """
        kind = cls.get_tool_class(name)
        if 'name' in options:
            raise ConfigurationError(
                f"options of {quoted(name)}: unknown key 'name'; a tool goes by the name it is registered under"
            )
        try:
            _signature(kind).bind(**options)  # type: ignore[arg-type]  # mypy takes the class for an instance
        except TypeError as error:
            raise ConfigurationError(f'options of {quoted(name)}: {error}') from None
        try:
            tool = kind(**options)
        except EnclaveError:
            raise
        except (TypeError, ValueError) as error:
            if not options:
                raise
            raise ConfigurationError(f'options of {quoted(name)} ({", ".join(options)}): {error}') from error
        tool.name = name
        return tool

    @classmethod
    def get_available_tools(cls) -> list[str]:
        """Return the names of all tools there are, ours and registered ones, sorted."""
        return TOOLS.names()


def register_tool(name: str, *, replace: bool = False) -> Callable[[K], K]:
    """Return a class decorator that registers a tool under a name; see `ToolFactory.register_tool`."""

    def register(tool: K) -> K:
        ToolFactory.register_tool(name, tool, replace=replace)
        return tool

    return register


def load_tools(
    tools_config: Mapping[str, Mapping[str, Any]],
    sandbox_type: SandboxType | str,
    offers: Collection[str],
    *,
    is_notebook: bool | None = None,
    loads_all: bool = False,
) -> dict[str, Tool]:
    """Return the tools of a sandbox: ``{name: tool}``, in the order of ``tools_config``.

    A tool that is for another kind of sandbox, or needs what this one does not offer, is left out with a warning in the log;
    one with ``enabled`` false is left out without.

    Args:
        tools_config: ``{tool name: options}``.
        sandbox_type: The sandbox's kind.
        offers: What the sandbox offers, of ``'commands'``, ``'files'`` and ``'notebook'``.
        is_notebook: Whether the kind is one with kernels; None looks it up among ours.
        loads_all: Whether a notebook sandbox loads the tools for general-purpose sandboxes too.

    Raises:
        ToolNotFoundError: A name is unknown.
        ConfigurationError: An option is unknown, or its value is of a wrong type or impossible.
    """
    tools: dict[str, Tool] = {}
    for name, options in tools_config.items():
        tool = ToolFactory.create_tool(name, **options)
        if not tool.enabled:
            continue
        reason = _misfit(tool, sandbox_type, offers, is_notebook, loads_all)
        if reason:
            logger.warning('tool %s is not loaded: %s', name, reason)
        else:
            tools[name] = tool
    return tools


def _misfit(
    tool: Tool, sandbox_type: SandboxType | str, offers: Collection[str], is_notebook: bool | None, loads_all: bool
) -> str:
    """Return why the sandbox cannot have the tool, or ''."""
    required, kind = tool.required_sandbox_type, as_sandbox_type(sandbox_type)
    if required is not None:
        required = as_sandbox_type(required)
        has_kernels = kind in NOTEBOOK_TYPES if is_notebook is None else is_notebook
        sorts: dict[SandboxType | str, bool] = {
            GENERAL_TYPES[0]: loads_all or not has_kernels,
            NOTEBOOK_TYPES[0]: has_kernels,
        }
        if not sorts.get(required, required == kind):
            meant = _EQUIVALENT_KINDS.get(required, (required,))
            reason = f'it is for {" and ".join(meant)} sandboxes, and this one is {kind}'
            if required is GENERAL_TYPES[0]:
                reason += f'; {_LOADS_ALL}'
            return reason
    missing = sorted(set(tool.needs) - set(offers))
    return f'it needs {", ".join(missing)}, which this {kind} sandbox does not offer' if missing else ''
