"""What calls are asked with."""

from __future__ import annotations

from typing import Any

from ms_enclave.sandbox.model.modeling import Model, field


class ExecuteCodeRequest(Model):
    """Run code."""

    code: str = field()
    language: str = 'python'
    timeout: int | None = None
    working_dir: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    capture_output: bool = True


class ExecuteCommandRequest(Model):
    """Run a command."""

    command: str | list[str] = field()
    timeout: int | None = None
    working_dir: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    shell: bool = True


class FileOperationRequest(Model):
    """Do something with a file."""

    path: str = field()


class ReadFileRequest(FileOperationRequest):
    """Read a file."""

    encoding: str | None = 'utf-8'
    binary: bool = False


class WriteFileRequest(FileOperationRequest):
    """Write a file."""

    content: str | bytes = field()
    encoding: str = 'utf-8'
    binary: bool = False
    create_dirs: bool = True


class ToolExecutionRequest(Model):
    """Run a tool in a sandbox."""

    sandbox_id: str = field()
    tool_name: str = field()
    parameters: dict[str, Any] = field(default_factory=dict)
    timeout: int | None = None


__all__ = [
    'ExecuteCodeRequest',
    'ExecuteCommandRequest',
    'FileOperationRequest',
    'ReadFileRequest',
    'ToolExecutionRequest',
    'WriteFileRequest',
]
