"""What a command is, for programs that add theirs to an argument parser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class CLICommand(ABC):
    """A command of the command line."""

    @staticmethod
    @abstractmethod
    def define_args(parsers: Any) -> None:
        """Add the command, and its arguments, to the subparsers of an argument parser."""

    @abstractmethod
    def execute(self) -> None:
        """Run the command."""


__all__ = ['CLICommand']
