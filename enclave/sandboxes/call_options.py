"""The options of calls as keywords (layer: sandboxes), for editors, type checkers, and what reads annotations at run time.

They are imported at run time too, so that `typing.get_type_hints` of a function that takes them finds their names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

from enclave.config import Size
from enclave.languages.values import Comparison

if sys.version_info >= (3, 11):
    from typing import Unpack as Unpack
else:
    from typing_extensions import Unpack as Unpack  # which cattrs requires


class CommandOptions(TypedDict, total=False):
    """What a command of a sandbox takes besides its time limit; see `Verbs.execute_command`."""

    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    stdin: str | bytes | None
    max_output_bytes: int | None
    max_chars: int | None
    on_stdout: Callable[[str], object] | None
    on_stderr: Callable[[str], object] | None


class ScriptOptions(TypedDict, total=False):
    """What a script takes besides its interpreter, source and time limit; see `Verbs.run_script`."""

    suffix: str
    args: Sequence[str]
    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    stdin: str | bytes | None
    max_output_bytes: int | None
    import_path_env: str | None
    preload: Sequence[str] | None
    on_stdout: Callable[[str], object] | None
    on_stderr: Callable[[str], object] | None


class CodeOptions(TypedDict, total=False):
    """What a program takes besides its source and language; see `enclave.languages.values.CodeRequest`."""

    stdin: str | bytes | None
    args: Iterable[str]
    files: Mapping[str, str | bytes] | None
    fetch_files: Iterable[str]
    env: Mapping[str, str] | None
    compile_timeout: float | None
    timeout: float | None
    memory_limit: Size | None
    compile_memory_limit: Size | None
    cpu_time_limit: float | None
    output_limit: int
    max_output_bytes: int | None
    max_fetch_bytes: int
    expected_output: str | None
    compare: Comparison
    tolerance: float
    preload: Iterable[str] | None
