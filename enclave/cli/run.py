"""`ms-enclave run` (layer 6): one program, one fresh sandbox."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import click

from enclave.cli.create import DETACHED_DIR, create_detached, pack_program, ttl_option
from enclave.cli.options import (
    files_option,
    json_option,
    no_stdin_option,
    parse_files,
    place_options,
    sandbox_options,
    timeout_option,
)
from enclave.cli.output import echo_json
from enclave.cli.place import Place
from enclave.cli.placing import place_program, put_files
from enclave.cli.relay import endings_as_exit
from enclave.cli.user_program import drive, runs_a_program

# Unbuffered, since a person wants to see what it prints when it prints it.
PYTHON = ['python3', '-u']
_BY_SUFFIX = {
    '.py': PYTHON,
    '.sh': ['sh'],
    '.bash': ['bash'],
    '.js': ['node'],
    '.mjs': ['node'],
    '.rb': ['ruby'],
    '.pl': ['perl'],
    '.php': ['php'],
    '.lua': ['lua'],
    '.r': ['Rscript'],
}


@click.command(context_settings={'allow_interspersed_args': False})
@click.argument('program', required=False, metavar='[FILE|-]')
@click.argument('args', nargs=-1, type=click.UNPROCESSED, metavar='[ARGS]...')
@click.option('-c', 'code', metavar='CODE', help='Run this text instead of a file.')
@click.option('--python', 'is_python', is_flag=True, help='The program is Python, whatever its name says.')
@click.option('--shell', 'is_shell', is_flag=True, help='The program is a shell script.')
@click.option('--interpreter', metavar='COMMAND', help="What runs it, like 'node' or 'python3 -O'.")
@files_option
@timeout_option
@no_stdin_option
@click.option(
    '-d',
    '--detach',
    is_flag=True,
    help='Print the id of its sandbox and leave it running; what it prints is in /tmp/enclave-program/output there.',
)
@ttl_option
@sandbox_options
@place_options
@json_option
@runs_a_program
def run(
    program: str | None,
    args: tuple[str, ...],
    code: str | None,
    is_python: bool,
    is_shell: bool,
    interpreter: str | None,
    files: tuple[str, ...],
    timeout: float | None,
    no_stdin: bool,
    detach: bool,
    ttl: float,
    sandbox_type: str | None,
    config: dict[str, Any],
    place: Place,
    as_json: bool,
) -> None:
    """Run a program in a fresh sandbox, which is gone afterwards.

    FILE is a program on this machine, and - is one on standard input. What interprets it follows from its name, then its
    #! line, and is Python otherwise. All that comes after FILE, or after -c CODE, is the program's own. Its output is
    shown as it comes, and standard input is passed on. Ctrl-C ends it.

    \b
    Examples:
      ms-enclave run script.py --verbose
      ms-enclave run -c 'import sys; print(sys.version)'
      ms-enclave run --no-network -m 256m -t 10 untrusted.py
      ms-enclave run -f data/ -f config.json:/etc/app.json -e TOKEN script.py
      echo 'echo hello; id' | ms-enclave run --shell -
      ms-enclave run --url http://sandboxes:8000 script.py
      ms-enclave run -d --ttl 3600 training.py
    """
    if code is not None:
        args = args if program is None else (program, *args)
        program = None
    elif program is None:
        raise click.UsageError('Give a FILE, - for standard input, or -c CODE. `ms-enclave run --help` has examples.')
    if (interpreter is not None) + is_python + is_shell > 1:
        raise click.UsageError('--python, --shell and --interpreter exclude each other; give one of them.')
    chosen = _chosen_interpreter(is_python, is_shell, interpreter)
    text = _read_program(program) if code is None else code.encode('utf-8', 'surrogateescape')
    copied = parse_files(files)
    if detach:
        _run_detached(program, text, code, chosen, args, copied, timeout, ttl, sandbox_type, config, place, as_json)
        return

    with endings_as_exit(), place, place.open(sandbox_type, config, quiet=as_json) as sandbox:
        put_files(sandbox, copied)
        stdin: bytes | None = None
        env: dict[str, str] = {}
        if code is not None and (command := _code_command(code, chosen)):
            pass
        elif program == '-' and (command := _stdin_command(text, chosen)):
            stdin = text
        else:
            name = Path(program).name if program not in (None, '-') else 'program'
            path, env = place_program(sandbox, name, text, config)
            command = [*(chosen or _guess_interpreter(name, text)), path]
            stdin = b'' if program == '-' else None
        drive(
            sandbox,
            [*command, *args],
            timeout=place.longest_timeout() if timeout is None else timeout,
            with_stdin=not no_stdin,
            stdin=stdin,
            env=env,
            as_json=as_json,
            memory=config.get('memory_limit', '1g'),
        )


def _run_detached(
    program: str | None,
    text: bytes,
    code: str | None,
    chosen: list[str] | None,
    args: tuple[str, ...],
    copied: list[tuple[Path, str]],
    timeout: float | None,
    ttl: float,
    sandbox_type: str | None,
    config: dict[str, Any],
    place: Place,
    as_json: bool,
) -> None:
    """Run a program in a sandbox that stays, and print its id."""
    name = Path(program).name if program not in (None, '-') else 'program'
    packed = pack_program(
        copied,
        command=(_code_command(code, chosen) or None) if code is not None else None,
        interpreter=chosen or _guess_interpreter(name, text),
        name=name,
        text=text,
        args=args,
        timeout=timeout,
        config=config,
    )
    with place:
        found = create_detached(place, sandbox_type, config, ttl=ttl, program=packed, quiet=as_json)
    if as_json:
        echo_json({'id': found, 'output': f'{DETACHED_DIR}/output', 'exit_code': f'{DETACHED_DIR}/exit-code'})
    else:
        click.echo(found)


def _chosen_interpreter(is_python: bool, is_shell: bool, interpreter: str | None) -> list[str] | None:
    if interpreter is not None:
        try:
            argv = shlex.split(interpreter)
        except ValueError as error:
            raise click.BadParameter(f'{interpreter!r}: {error}', param_hint='--interpreter') from None
        if not argv:
            raise click.BadParameter('it is empty', param_hint='--interpreter')
        return argv
    return PYTHON if is_python else ['sh'] if is_shell else None


def _read_program(program: str | None) -> bytes:
    assert program is not None
    if program == '-':
        return sys.stdin.buffer.read()
    path = Path(program)
    if path.is_dir():
        raise click.BadParameter(
            f'{program!r} is a directory; give the program in it, and -f for the rest', param_hint='FILE'
        )
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise click.BadParameter(f'{program!r} does not exist; {_what_was_meant(program)}', param_hint='FILE') from None


def _what_was_meant(program: str) -> str:
    """Return a hint for a name that is no file's: docker's way of calling, or a program's text."""
    if program in ('host', 'none', 'bridge'):
        return '--network and --no-network take no name, and -o network=NAME joins a network of the engine'
    if re.fullmatch(r'[a-z0-9./_-]+:[A-Za-z0-9._-]+', program):
        return f'an image is named by --image, as in `ms-enclave run --image {program} FILE`'
    return '-c runs text'


def _guess_interpreter(name: str, text: bytes) -> list[str]:
    """Return what runs a program: by its name's ending, by its #! line, else Python."""
    known = _BY_SUFFIX.get(Path(name).suffix.lower())
    if known is not None:
        return known
    first = text.partition(b'\n')[0]
    if first.startswith(b'#!'):
        argv = first[2:].decode('utf-8', 'replace').split()
        if argv:
            return argv
    return PYTHON


def _is_python(argv: Sequence[str]) -> bool:
    return PurePosixPath(argv[0]).name.startswith('python')


def _is_shell(argv: Sequence[str]) -> bool:
    return PurePosixPath(argv[0]).name in ('sh', 'bash', 'dash', 'zsh', 'ksh', 'ash')


def _code_command(code: str, chosen: list[str] | None) -> list[str]:
    """Return the command that has the text on it; empty for an interpreter of which we do not know how."""
    argv = chosen or PYTHON
    if _is_python(argv):
        return [*argv, '-c', code]
    return [*argv, '-c', code, argv[0]] if _is_shell(argv) else []  # the word after the text is $0


def _stdin_command(text: bytes, chosen: list[str] | None) -> list[str]:
    """Return the command that reads its program from standard input; empty as for `_code_command`."""
    argv = chosen or _guess_interpreter('-', text)
    if _is_python(argv):
        return [*argv, '-']
    return [*argv, '-s', '--'] if _is_shell(argv) else []
