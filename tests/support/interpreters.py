"""Interpreters to be found, which are none."""

from __future__ import annotations

from pathlib import Path


def make_python(prefix: Path) -> Path:
    """Make a file that looks like the interpreter of an installation, and give its path."""
    path = prefix / 'bin' / 'python3'
    path.parent.mkdir(parents=True)
    path.write_text('#!/bin/sh\n')
    path.chmod(0o755)
    return path
