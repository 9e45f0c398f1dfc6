"""`ms-enclave cp` (layer 6)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import click

from enclave.cli.options import json_option, place_options, split_target
from enclave.cli.output import Reporter, echo_json, format_size, progress
from enclave.cli.place import Place
from enclave.cli.relay import endings_as_exit
from enclave.errors import InvalidArgumentError, SandboxPathNotFoundError

_PIECE_BYTES = 1 << 20


@click.command()
@click.argument('source', metavar='SRC')
@click.argument('target', metavar='DST')
@click.option('-q', '--quiet', is_flag=True, help='Show no progress.')
@place_options
@json_option
def cp(source: str, target: str, quiet: bool, place: Place, as_json: bool) -> None:
    """Copy a file or directory between this machine and a running sandbox.

    One of SRC and DST is ID:PATH, in the sandbox; a relative PATH begins at its working directory. As with cp -r, a DST that
    is a directory takes what is copied into itself, and any other DST is its new name; SRC/. means what is in a
    directory. A host DST of - is standard output, a host SRC of - is standard input. What comes out of a sandbox never
    lands outside of DST.

    \b
    Examples:
      ms-enclave cp data.csv 3f2a:
      ms-enclave cp src/ 3f2a:/sandbox/project
      ms-enclave cp 3f2a:results ./results
      ms-enclave cp 3f2a:log.txt - | tail
    """
    inward, outward = _sandbox_path(target), _sandbox_path(source)
    if (inward is None) == (outward is None):
        raise click.UsageError('One of SRC and DST must be ID:PATH, in a sandbox, and the other a path here.')
    quiet = quiet or as_json or not sys.stderr.isatty()
    with endings_as_exit(), place:
        if inward is not None:
            with place.attach(inward[0]) as sandbox:
                copied = _copy_in(sandbox, source, inward[1] or '.', quiet)
        else:
            assert outward is not None
            with place.attach(outward[0]) as sandbox:
                copied = _copy_out(sandbox, outward[1] or '.', target, quiet)
    if as_json:
        echo_json({'source': source, 'target': copied[0], 'bytes': copied[1]})


def _sandbox_path(text: str) -> tuple[str, str] | None:
    """Return ``ID:PATH`` as its two parts; None for a host path, which one with a / or . before the colon is."""
    first, rest = split_target(text)
    if rest is None or not first or first.startswith('.') or '/' in first or '\\' in first:
        return None
    return first, rest


def _kind(sandbox: Any, path: str) -> str | None:
    with contextlib.suppress(SandboxPathNotFoundError):
        return str(sandbox.stat_path(path).kind)
    return None


# In -------------------------------------------------------------------------------------------------------------------


def _copy_in(sandbox: Any, source: str, target: str, quiet: bool) -> tuple[str, int | None]:
    if source == '-':
        if target == '.' or target.endswith('/'):
            raise InvalidArgumentError('standard input has no name; give the file it is to become, as ID:PATH')
        return target, sandbox.write_file(target, _pieces(sys.stdin.buffer, None, None))
    path = Path(source)
    facts = path.stat()  # raises what a person understands
    if path.is_dir():
        if not _is_contents(source) and (_kind(sandbox, target) == 'directory' or target.endswith('/')):
            target = _join(target, path.resolve().name)
        with progress(f'Copying {source}', quiet=quiet):
            sandbox.put_dir(path, target)
        return target, None
    if target.endswith('/') or _kind(sandbox, target) == 'directory':
        target = _join(target, path.name)
    with progress(f'Copying {source} ({format_size(facts.st_size)})', quiet=quiet) as report, path.open('rb') as file:
        pieces = _pieces(file, report, facts.st_size)
        return target, sandbox.write_file(target, pieces, size=facts.st_size, mode=facts.st_mode & 0o777)


def _pieces(file: IO[bytes], report: Reporter | None, size: int | None) -> Iterator[bytes]:
    done = 0
    while data := file.read(_PIECE_BYTES):
        yield data
        done += len(data)
        if report is not None:
            report('', done, size)


def _is_contents(source: str) -> bool:
    return source in ('.', '..') or source.endswith(('/.', os.sep + '.'))


def _join(folder: str, name: str) -> str:
    return str(PurePosixPath(folder) / name)


# Out ------------------------------------------------------------------------------------------------------------------


def _copy_out(sandbox: Any, source: str, target: str, quiet: bool) -> tuple[str, int | None]:
    found = sandbox.stat_path(source)
    if target == '-':
        if found.kind == 'directory':
            raise InvalidArgumentError(f'{source!r} is a directory, which cannot go to standard output')
        size = sandbox.get_file(source, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return '-', size
    # The name the user gave, not where a symlink led; for "." and "" the directory's own.
    name = PurePosixPath(source).name
    name = PurePosixPath(found.path).name if name in ('', '.', '..') else name
    place = Path(target)
    if found.kind == 'directory':
        if place.is_dir() and not _is_contents(source):
            place = place / name
        with progress(f'Copying {source}', quiet=quiet):
            sandbox.get_dir(source, place)
        return str(place), None
    if place.is_dir() or target.endswith(('/', os.sep)):
        place = place / name
    if not place.parent.is_dir():
        raise FileNotFoundError(2, 'no such directory here', str(place.parent))
    with progress(f'Copying {source} ({format_size(found.size)})', quiet=quiet):
        return str(place), sandbox.get_file(source, place)
