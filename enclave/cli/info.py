"""`ms-enclave info` (layer 6)."""

from __future__ import annotations

from typing import Any

import click

from enclave.cli.options import json_option, place_options, sandbox_ids_argument
from enclave.cli.output import echo_json, format_age, format_size, print_facts
from enclave.cli.place import Place
from enclave.cli.ps import owner_text
from enclave.records import SandboxInfo, utc_now


@click.command()
@sandbox_ids_argument
@place_options
@json_option
def info(sandbox_ids: tuple[str, ...], place: Place, as_json: bool) -> None:
    """Show what is known of sandboxes. Values of environment variables are never shown.

    \b
    Examples:
      ms-enclave info 3f2a
      ms-enclave info 3f2a --json
    """
    with place:
        found = [place.get_info(each) for each in sandbox_ids]
    if as_json:
        echo_json([each.model_dump(mode='json') for each in found])
        return
    for number, each in enumerate(found):
        if number:
            click.echo()
        print_facts(_facts(each))


def _facts(info: SandboxInfo) -> list[tuple[str, Any]]:
    now = utc_now()
    facts: list[tuple[str, Any]] = [
        ('id', info.id),
        ('type', str(info.type)),
        ('status', str(info.status)),
        ('created', _when(info.created_at, now)),
        ('started', _when(info.started_at, now)),
    ]
    if info.error:
        facts.append(('error', info.error))
    metadata = dict(info.metadata)
    if 'owner' in metadata:
        facts.append(('owner', owner_text(info)))
        for name in ('owner', 'kept', 'is_orphan'):
            metadata.pop(name, None)
    if info.available_tools:
        facts.append(('tools', info.available_tools))
    facts.extend((name.replace('_', ' '), value) for name, value in metadata.items() if value is not None)
    config = dict(info.config)
    if isinstance(config.get('memory_limit'), int):
        config['memory_limit'] = format_size(config['memory_limit'])
    config['env_vars'] = sorted(config.get('env_vars') or ())
    facts.append(('config', {name: value for name, value in config.items() if value not in (None, {}, [])}))
    return facts


def _when(moment: Any, now: Any) -> str | None:
    return None if moment is None else f'{moment:%Y-%m-%d %H:%M:%S} UTC ({format_age(moment, now)} ago)'
