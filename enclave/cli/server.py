"""`ms-enclave server` (layer 6)."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enclave.cli.options import WholeNumber, sandbox_options, seconds_option
from enclave.cli.output import progress
from enclave.cli.pool import with_tools
from enclave.cli.relay import endings_as_exit

if TYPE_CHECKING:
    from enclave.server.adapters.e2b import E2BSettings
    from enclave.server.serve import SandboxServer

DEFAULT_IDLE_SECONDS = 3600.0


@click.command()
@click.option('--host', default='127.0.0.1', show_default=True, metavar='ADDRESS', help='The address to listen on.')
@click.option(
    '--port',
    type=WholeNumber(0, 65535),
    default=8000,
    show_default=True,
    metavar='PORT',
    help='The port; 0 takes a free one.',
)
@click.option(
    '--api-key', metavar='KEY', envvar='ENCLAVE_API_KEY', help='The key that clients must show.  [env: ENCLAVE_API_KEY]'
)
@click.option(
    '--keys-file', type=click.Path(path_type=Path), metavar='FILE', help='Several named keys, in JSON or TOML.'
)
@click.option(
    '--policy', type=click.Path(path_type=Path), metavar='FILE', help='What clients may ask for, in JSON or TOML.'
)
@click.option('--insecure', is_flag=True, help='Serve another address than loopback without any key.')
@click.option(
    '--allowed-host',
    'allowed_hosts',
    multiple=True,
    metavar='NAME',
    help='A name of this machine besides localhost. Repeatable.',
)
@click.option(
    '--audit-file', type=click.Path(path_type=Path), metavar='FILE', help='Append a JSON line for every request.'
)
@click.option(
    '--sandbox-fusion',
    'sandbox_fusion',
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings for SandboxFusion's clients (JSON or TOML): sandbox_type, config, pool_size, isolation.",
)
@click.option(
    '--e2b-debug', is_flag=True, help="Listen on the three ports of loopback that E2B's SDK uses under E2B_DEBUG."
)
@click.option(
    '--e2b-domain', metavar='DOMAIN', help="Answer E2B's SDK by the names of a domain, behind a proxy with TLS."
)
@click.option(
    '--e2b-file',
    type=click.Path(path_type=Path),
    metavar='FILE',
    help="Which sandboxes E2B's templates are, in JSON or TOML.",
)
@click.option(
    '--manager',
    'manager_type',
    type=click.Choice(['local', 'ray']),
    default='local',
    show_default=True,
    help='Where sandboxes are: on this machine, or on the nodes of a Ray cluster.',
)
@click.option(
    '--ray-options',
    type=click.Path(path_type=Path, dir_okay=False),
    metavar='FILE',
    help='What the shards on a Ray cluster are, in JSON or TOML: address, shard_size, num_cpus, memory, strategy, ...',
)
@click.option('--pool-size', type=WholeNumber(0), default=0, metavar='N', help='Warm sandboxes to have at the start.')
@click.option(
    '--pool-policy',
    type=click.Choice(['reuse', 'fresh']),
    default='reuse',
    show_default=True,
    help='Whether a used one goes back to the pool.',
)
@click.option(
    '--pool-when-empty',
    type=click.Choice(['wait', 'grow', 'fail']),
    default='wait',
    show_default=True,
    help='What a call does when none is free.',
)
@seconds_option('--ttl', help='How long a sandbox lives, unless its client asks for another time.')
@seconds_option(
    '--idle-timeout',
    default=DEFAULT_IDLE_SECONDS,
    help='How long a sandbox may be without any call; 0 for no limit.',
)
@seconds_option('--stop-grace', default=5.0, help='How long running calls continue at the end.')
@seconds_option('--cleanup-interval', minimum=0.01, default=300.0, help='How often all sandboxes are looked over.')
@click.option(
    '--log-level',
    type=click.Choice(['debug', 'info', 'warning', 'error', 'critical'], case_sensitive=False),
    default='warning',
    show_default=True,
    help='info shows a line for every request.',
)
@sandbox_options
@click.option(
    '--json', 'as_json', is_flag=True, help='Print where it is, and the key, as a line of JSON on standard output.'
)
def server(
    host: str,
    port: int,
    api_key: str | None,
    keys_file: Path | None,
    policy: Path | None,
    insecure: bool,
    allowed_hosts: tuple[str, ...],
    audit_file: Path | None,
    sandbox_fusion: Path | None,
    e2b_debug: bool,
    e2b_domain: str | None,
    e2b_file: Path | None,
    manager_type: str,
    ray_options: Path | None,
    pool_size: int,
    pool_policy: str,
    pool_when_empty: str,
    ttl: float | None,
    idle_timeout: float,
    stop_grace: float,
    cleanup_interval: float,
    log_level: str,
    sandbox_type: str | None,
    config: dict[str, Any],
    as_json: bool,
) -> None:
    """Serve sandboxes over HTTP, until Ctrl-C or SIGTERM; then all of them are taken away.

    On loopback no key is needed. On another address there is always one: --api-key, a keys file, or one that is made now,
    printed once, and kept in a file where clients of the same user on this machine find it. The
    variable is better than --api-key, which other users of this machine can see in the list of processes.

    The options of a sandbox are for the pool, and for sandboxes whose client names no options.

    \b
    Examples:
      ms-enclave server
      ms-enclave server --host 0.0.0.0 --port 8000
      ms-enclave server --host 0.0.0.0 --keys-file keys.json --policy policy.toml
      ms-enclave server --pool-size 8 --no-network -m 256m
      ms-enclave server --manager ray --ray-options shards.toml
    """
    from enclave.managers.manager_factory import SandboxManagerFactory
    from enclave.server.auth import read_settings
    from enclave.server.serve import create_server

    logging.basicConfig(level=log_level.upper(), format='%(asctime)s %(levelname)s %(name)s: %(message)s')
    if pool_size and keys_file is not None:
        raise click.UsageError(
            'With a keys file each key has sandboxes of its own, and makes its own pool: `ms-enclave pool init`.'
        )
    manager_options: dict[str, Any] = {
        'ttl': ttl,
        'idle_timeout': idle_timeout,
        'pool_policy': pool_policy,
        'pool_when_empty': pool_when_empty,
        'pool_size': pool_size,
        'cleanup_interval': cleanup_interval,
    }
    if sandbox_type is not None:
        manager_options['sandbox_type'] = sandbox_type
    if config:
        manager_options['sandbox_config'] = config
    settings: dict[str, Any] = {
        'policy': policy,
        'api_key': api_key,
        'keys': keys_file,
        'insecure': insecure,
        'allowed_hosts': allowed_hosts,
        'audit_file': audit_file,
        'stop_grace': stop_grace,
        'sandbox_fusion': sandbox_fusion,
        'e2b': _e2b_settings(e2b_file, e2b_debug, e2b_domain),
    }
    if ray_options is not None and manager_type != 'ray':
        raise click.UsageError('--ray-options are for --manager ray.')
    shards: dict[str, Any] = {}
    if ray_options is not None:
        from enclave.ray.ray_options import check_names

        shards = read_settings(ray_options)
        check_names(shards, str(ray_options))
    if not pool_size:
        made = create_server(manager_options, manager_type=manager_type, manager_options=shards, **settings)
        serve(made, host, port, as_json)
        return
    with endings_as_exit(), SandboxManagerFactory.create_manager(manager_type, manager_options, **shards) as manager:
        made = create_server(manager=manager, **settings)  # refuses what is wrong before the pool is made
        with progress(f'Starting {pool_size} sandboxes', quiet=as_json):
            manager.initialize_pool(pool_size, sandbox_type, with_tools(config, sandbox_type, ()))
        serve(made, host, port, as_json)


def _e2b_settings(file: Path | None, debug: bool, domain: str | None) -> E2BSettings:
    from enclave.server.adapters.e2b import E2BSettings

    found = E2BSettings.read(file)
    changes = {**({'debug': True} if debug else {}), **({} if domain is None else {'domain': domain})}
    return found.model_copy(update=changes)


def serve(server: SandboxServer, host: str, port: int, as_json: bool) -> None:
    """Serve until it is asked to end; with ``as_json`` the address is reported to a program instead of a person."""
    if not as_json:
        server.run(host, port)
        return
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    with server.running(host, port) as url:
        from enclave import wire

        sys.stdout.write(wire.to_json({'url': url, 'port': server.port, 'api_key': server.generated_key}) + '\n')
        sys.stdout.flush()
        ending.wait()
