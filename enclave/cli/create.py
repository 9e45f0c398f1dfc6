"""`ms-enclave create`, and `run -d` (layer: entries): sandboxes that stay when the command has ended.

A sandbox lives as long as its owner. A server is one; on this machine a small process of its own is started (`enclave.cli.hold`),
which ends when its sandbox is stopped or removed, or its time is over.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from enclave.cli.options import json_option, place_options, sandbox_options, seconds_option
from enclave.cli.output import echo_json
from enclave.cli.place import Place, RemotePlace, choose_kind, fetch_missing
from enclave.cli.placing import PRIVATE_DIR, place_program, put_files
from enclave.errors import SandboxStartError, UnsupportedError
from enclave.managers.protocol import rebuild_error

DETACHED_DIR = PRIVATE_DIR
"""Where a program of `run -d` leaves what it prints (``output``) and how it ended (``exit-code``)."""
DEFAULT_TTL_SECONDS = 86400.0
_BACKGROUND = (
    'mkdir -p "$0" && rm -f "$0/exit-code"; '
    '{ "$@" >"$0/output" 2>&1 </dev/null; echo $? >"$0/exit-code.new"; mv "$0/exit-code.new" "$0/exit-code"; } '
    '>/dev/null 2>&1 </dev/null &'
)

ttl_option = seconds_option(
    '--ttl',
    default=DEFAULT_TTL_SECONDS,
    show_default=False,
    help='How long it may stay; 0 for no limit.  [default: a day]',
)


@click.command()
@click.option('--id', 'sandbox_id', metavar='ID', help='An id of your own.  [default: a new one]')
@ttl_option
@sandbox_options
@place_options
@json_option
def create(
    sandbox_id: str | None,
    ttl: float,
    sandbox_type: str | None,
    config: dict[str, Any],
    place: Place,
    as_json: bool,
) -> None:
    """Make a sandbox that stays, and print its id: for `exec`, `cp`, `shell`, `info`, `stop` and `rm`.

    \b
    Examples:
      ms-enclave create
      ms-enclave create --id work --no-network -m 2g --ttl 3600
      ms-enclave create --url http://sandboxes:8000
    """
    with place:
        found = create_detached(place, sandbox_type, config, sandbox_id=sandbox_id, ttl=ttl, quiet=as_json)
    if as_json:
        echo_json({'id': found})
    else:
        click.echo(found)


def create_detached(
    place: Place,
    sandbox_type: str | None,
    config: Mapping[str, Any],
    *,
    sandbox_id: str | None = None,
    ttl: float = DEFAULT_TTL_SECONDS,
    program: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> str:
    """Make a sandbox that outlives this process, and return its id.

    Args:
        program: What `start_program` is to start in it.

    Raises:
        EnclaveError: It could not be made; nothing of it is left.
    """
    if isinstance(place, RemotePlace):
        manager = place.manager
        # Without options the server's own defaults apply.
        made = manager.create_sandbox(sandbox_type, config or None, sandbox_id, ttl=ttl, idle_timeout=None)
        if program is not None:
            try:
                start_program(manager.get_sandbox(made), program)
            except BaseException:
                manager.delete_sandbox(made)
                raise
        return made
    from enclave.sandboxes.kinds import KINDS, get_kind
    from enclave.sandboxes.sandbox_factory import SandboxFactory

    kind = sandbox_type or str(choose_kind(config, quiet=quiet).sandbox_type)
    described = get_kind(kind)
    if described.inventory is None:
        others = ' or '.join(each.name for each in KINDS.all() if each.inventory is not None and not each.is_notebook)
        raise UnsupportedError(
            f'a {kind} sandbox has no daemon, so only the process that made it can use it; make one that stays with --type '
            f'{others}, or start `ms-enclave server` and make it there with --url http://127.0.0.1:8000'
        )
    SandboxFactory.create_sandbox(kind, config)  # checks the configuration
    # The process that will make the sandbox has nobody to show progress to.
    fetch_missing(described, config, quiet=quiet)
    request = {'sandbox_type': kind, 'config': dict(config), 'sandbox_id': sandbox_id, 'ttl': ttl, 'program': program}
    return _start_holder(request)


def _start_holder(request: Mapping[str, Any]) -> str:
    holder = subprocess.Popen(
        [sys.executable, '-m', 'enclave.cli.hold'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that neither Ctrl-C here nor the end of this terminal reaches it
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin as requests, holder.stdout as answers:
        requests.write(json.dumps(request).encode() + b'\n')
        requests.flush()
        line = answers.readline()
    if not line:
        raise SandboxStartError('the process that was to keep the sandbox ended without a word')
    answer = json.loads(line)
    if 'error' in answer:
        raise rebuild_error(answer['error'])
    holder.returncode = 0  # it is left alone from here on; nobody waits for it
    return str(answer['id'])


def pack_program(
    copied: Sequence[tuple[Path, str]],
    *,
    command: Sequence[str] | None,
    interpreter: Sequence[str],
    name: str,
    text: bytes,
    args: Sequence[str],
    timeout: float | None,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what `start_program` is to start, as JSON-compatible values.

    Args:
        copied: Host files and directories, each with its place in the sandbox.
        command: What runs it without a file; else ``text`` is written as ``name`` and run by ``interpreter``.
    """
    return {
        'copied': [[str(source.absolute()), target] for source, target in copied],
        'command': None if command is None else list(command),
        'interpreter': list(interpreter),
        'name': name,
        'text': base64.b64encode(text).decode('ascii'),
        'args': list(args),
        'timeout': timeout,
        'config': dict(config),
    }


def start_program(sandbox: Any, program: Mapping[str, Any]) -> None:
    """Start a program in the background of a sandbox; what it prints goes into files below `DETACHED_DIR`."""
    put_files(sandbox, [(Path(source), target) for source, target in program['copied']])
    env: dict[str, str] = {}
    command = program['command']
    if command is None:
        text = base64.b64decode(program['text'])
        path, env = place_program(sandbox, program['name'], text, program['config'])
        command = [*program['interpreter'], path]
    if program['timeout']:
        command = ['timeout', f'{program["timeout"]:g}', *command]
    argv = ['sh', '-c', _BACKGROUND, DETACHED_DIR, *command, *program['args']]
    result = sandbox.execute_command(argv, env=env)
    if not result.success:
        raise SandboxStartError(f'the program could not be started in the background: {result.text}')
