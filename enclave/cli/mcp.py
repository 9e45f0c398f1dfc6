"""`ms-enclave mcp` (layer 6): sandboxes for assistants that speak the Model Context Protocol."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from enclave.cli.hints import HintedGroup
from enclave.cli.options import sandbox_options
from enclave.cli.relay import endings_as_exit
from enclave.errors import ConfigurationError, EnclaveError

CLIENTS: dict[str, tuple[str | dict[str, str], str]] = {
    'claude-code': ('.mcp.json', 'mcpServers'),
    'claude-desktop': (
        {
            'darwin': '~/Library/Application Support/Claude/claude_desktop_config.json',
            'win32': '~/AppData/Roaming/Claude/claude_desktop_config.json',
            'linux': '~/.config/Claude/claude_desktop_config.json',
        },
        'mcpServers',
    ),
    'cursor': ('~/.cursor/mcp.json', 'mcpServers'),
    'gemini-cli': ('~/.gemini/settings.json', 'mcpServers'),
    'vscode': ('.vscode/mcp.json', 'servers'),
    'windsurf': ('~/.codeium/windsurf/mcp_config.json', 'mcpServers'),
    'zed': ('~/.config/zed/settings.json', 'context_servers'),
}
"""``{client: (its configuration file, by platform where that differs; the key its servers stand under)}``."""


@click.group(cls=HintedGroup, invoke_without_command=True)
@click.option(
    '--http',
    'address',
    metavar='HOST:PORT',
    help='Serve many clients over streamable HTTP at /mcp, not one over stdio.',
)
@click.option(
    '--url', metavar='URL', envvar='ENCLAVE_URL', help='An enclave server that makes the sandboxes.  [env: ENCLAVE_URL]'
)
@click.option(
    '--api-key',
    metavar='KEY',
    envvar='ENCLAVE_API_KEY',
    help='The key of that server, or of --http.  [env: ENCLAVE_API_KEY]',
)
@click.option('--keys-file', type=click.Path(path_type=Path), metavar='FILE', help='With --http: several named keys.')
@click.option(
    '--policy', type=click.Path(path_type=Path), metavar='FILE', help='With --http: what callers may ask for.'
)
@click.option(
    '--allowed-host',
    'allowed_hosts',
    multiple=True,
    metavar='NAME',
    help='With --http: a further name of this machine.',
)
@click.option(
    '--allow-image', 'images', multiple=True, metavar='IMAGE', help='An image that create_sandbox may take. Repeatable.'
)
@sandbox_options
@click.pass_context
def mcp(
    context: click.Context,
    address: str | None,
    url: str | None,
    api_key: str | None,
    keys_file: Path | None,
    policy: Path | None,
    allowed_hosts: tuple[str, ...],
    images: tuple[str, ...],
    sandbox_type: str | None,
    config: dict[str, Any],
) -> None:
    """Give an assistant sandboxes, by the Model Context Protocol. Needs the extra: pip install 'ms-enclave[mcp]'.

    Without --http it serves the one client that started it, over standard input and output: one sandbox, made at the first
    call. With --http it serves many; each key has its own sandboxes, named by the ids that create_sandbox gives.

    \b
    Examples:
      ms-enclave mcp install cursor
      ms-enclave mcp --no-network -m 512m
      ms-enclave mcp --http 127.0.0.1:8931
    """
    if context.invoked_subcommand is not None:
        return
    logging.basicConfig(level='WARNING', format='%(asctime)s %(levelname)s %(name)s: %(message)s', stream=sys.stderr)
    logging.getLogger('mcp').setLevel('CRITICAL')  # 1.x shows a traceback for every client that goes
    if address is None:
        _serve_stdio(url, api_key, sandbox_type, config, images)
        return
    host, port = _parse_address(address)
    with endings_as_exit(), _server_url(host, url, api_key, keys_file, policy, sandbox_type, config) as (inner, key):
        _serve_http(
            inner, host, port, key, allowed_hosts, prefers_notebook=url is None and has_kernels(sandbox_type, config)
        )


def _serve_stdio(
    url: str | None, api_key: str | None, sandbox_type: str | None, config: dict[str, Any], images: tuple[str, ...]
) -> None:
    import asyncio

    from enclave.mcp.sandboxes import CallerSandboxes
    from enclave.mcp.sdk import serve_stdio

    manager: Any
    if url is not None:
        from enclave.managers.http import HttpSandboxManager
        from enclave.managers.keyfile import with_scheme

        manager = HttpSandboxManager(base_url=with_scheme(url), api_key=api_key)
    else:
        from enclave.managers.local import LocalSandboxManager

        manager = LocalSandboxManager()
    sandboxes = CallerSandboxes(
        manager,
        kind=sandbox_type,
        options=config,
        prefers_notebook=url is None and has_kernels(sandbox_type, config),
        images=frozenset(images),
    )
    try:
        with endings_as_exit():
            asyncio.run(serve_stdio(sandboxes))
    finally:
        sandboxes.close(delete_all=True)


def has_kernels(sandbox_type: str | None, config: dict[str, Any]) -> bool:
    """Return whether a sandbox with Jupyter kernels can be made here without fetching or building anything."""
    from enclave.sandboxes.choice import choose_for, notebook_type
    from enclave.sandboxes.kinds import get_kind

    try:
        kind = notebook_type(sandbox_type or str(choose_for(config or None).sandbox_type))
        found = get_kind(kind)
        return found.is_notebook and 'image' not in config and found.look_for_missing(config) is None
    except EnclaveError:
        return False


def _parse_address(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(':')
    if not colon or not port.isdigit() or int(port) > 65535:
        raise click.UsageError(f'--http takes HOST:PORT, like 127.0.0.1:8931, not {address!r}')
    return host.strip('[]') or '127.0.0.1', int(port)


@contextlib.contextmanager
def _server_url(
    host: str,
    url: str | None,
    api_key: str | None,
    keys_file: Path | None,
    policy: Path | None,
    sandbox_type: str | None,
    config: dict[str, Any],
) -> Iterator[tuple[str, str | None]]:
    """Yield the address of the enclave server that makes the sandboxes, and the key that was made for it here, if one was."""
    from enclave.managers.keyfile import is_loopback, with_scheme

    if url is not None:
        if keys_file is not None or policy is not None or sandbox_type is not None or config:
            raise click.UsageError(
                "With --url the server's own keys, policy and sandboxes hold; give those options there."
            )
        yield with_scheme(url), None
        return
    from enclave.server.auth import make_key
    from enclave.server.serve import create_server

    made = None
    if not is_loopback(host) and api_key is None and keys_file is None:
        made = api_key = make_key()
    options: dict[str, Any] = {}
    if sandbox_type is not None:
        options['sandbox_type'] = sandbox_type
    if config:
        options['sandbox_config'] = config
    server = create_server(options, api_key=api_key, keys=keys_file, policy=policy)
    with server.running() as inner:
        yield inner, made


def _serve_http(
    inner: str, host: str, port: int, key: str | None, allowed_hosts: tuple[str, ...], *, prefers_notebook: bool
) -> None:
    from enclave.managers.keyfile import is_loopback
    from enclave.mcp.http import App, Callers, serve
    from enclave.server.auth import HostGuard

    callers = Callers(inner, prefers_notebook=prefers_notebook)
    guard = HostGuard(frozenset(name.lower() for name in allowed_hosts) if is_loopback(host) else None)

    def announce(address: str) -> None:
        click.echo(f'Serving MCP at {address}', err=True)
        if key is not None:
            click.echo(f'The key that callers must send ("Authorization: Bearer KEY"): {key}', err=True)

    try:
        serve(App(callers, guard), host, port, announce)
    finally:
        callers.close()


@mcp.command()
@click.argument('client', type=click.Choice(sorted(CLIENTS)))
@click.option('--write', is_flag=True, help="Put it into the client's configuration file, whose other entries stay.")
@click.option('--file', 'path', type=click.Path(path_type=Path), help='Another configuration file than the usual one.')
@click.option('--name', default='enclave', show_default=True, help='What the client calls the server.')
@click.option('--url', metavar='URL', help='An MCP server over HTTP to use, like http://127.0.0.1:8931/mcp.')
@click.argument('options', nargs=-1, type=click.UNPROCESSED)
def install(client: str, write: bool, path: Path | None, name: str, url: str | None, options: tuple[str, ...]) -> None:
    """Print the configuration that has CLIENT start this server, or write it. OPTIONS after -- are those of `ms-enclave mcp`.

    \b
    Examples:
      ms-enclave mcp install vscode
      ms-enclave mcp install cursor --write -- --no-network
    """
    place, under = CLIENTS[client]
    usual = place if isinstance(place, str) else place.get(sys.platform, place['linux'])
    target = path or Path(usual).expanduser()
    if url is not None:
        entry: dict[str, Any] = {'url': url} if client != 'vscode' else {'type': 'http', 'url': url}
    else:
        command = shutil.which('ms-enclave')
        start = [command, 'mcp'] if command else [sys.executable, '-m', 'enclave', 'mcp']
        entry = {'command': start[0], 'args': [*start[1:], *options]}
        if client == 'vscode':
            entry = {'type': 'stdio', **entry}
    if not write:
        click.echo(json.dumps({under: {name: entry}}, indent=2))
        click.echo(f'Put this into {target}, or add --write to have it done.', err=True)
        return
    settings = _read_settings(target)
    servers = settings.setdefault(under, {})
    if not isinstance(servers, dict):
        raise ConfigurationError(f'{target}: {under!r} is no JSON object; nothing was changed')
    servers[name] = entry
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f'{target.name}.enclave-{os.getpid()}')
    try:
        beside.write_text(json.dumps(settings, indent=2) + '\n', encoding='utf-8')
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    click.echo(f'{target}: {client} starts {name!r} from its next start on')


def _read_settings(target: Path) -> dict[str, Any]:
    try:
        text = target.read_text(encoding='utf-8')
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f'{target} cannot be read: {error.strerror or error}') from None
    try:
        found = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f'{target} is not plain JSON ({error}); nothing was changed. Add the entry by hand'
        ) from None
    if not isinstance(found, dict):
        raise ConfigurationError(f'{target} holds no JSON object; nothing was changed')
    return found
