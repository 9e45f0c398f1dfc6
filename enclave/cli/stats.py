"""`ms-enclave stats` (layer 6)."""

from __future__ import annotations

from typing import Any

import click

from enclave.cli.options import json_option, place_options
from enclave.cli.output import echo_json, format_size, print_facts, print_table
from enclave.cli.place import LocalPlace, Place, RemotePlace


@click.command()
@place_options
@json_option
def stats(place: Place, as_json: bool) -> None:
    """Show what the running sandboxes of this machine use, or a server's numbers.

    CPU is of one CPU over the last second; memory is without page cache that could be dropped.

    \b
    Examples:
      ms-enclave stats
      ms-enclave stats --url http://sandboxes:8000 --json
    """
    with place:
        if isinstance(place, RemotePlace):
            numbers = place.manager.get_stats()
            if as_json:
                echo_json(numbers)
            else:
                print_stats(numbers)
        elif isinstance(place, LocalPlace):
            _show_usage(place, as_json)


def _show_usage(place: LocalPlace, as_json: bool) -> None:
    infos, found = place.measure()
    if as_json:
        counts: dict[str, int] = {}
        for info in infos:
            counts[str(info.status)] = counts.get(str(info.status), 0) + 1
        usage = [each.model_dump(mode='json') for each in found]
        echo_json({'total_sandboxes': len(infos), 'status_counts': counts, 'usage': usage})
        return
    images = {info.id: info.metadata.get('image') for info in infos}
    rows = []
    for each in found:
        cpu = '' if each.cpu_percent is None else f'{each.cpu_percent:.1f} %'
        memory = f'{_size(each.memory_bytes)} of {_size(each.memory_limit_bytes)}'
        network = f'{_size(each.received_bytes)} / {_size(each.sent_bytes)}'
        rows.append((each.sandbox_id, images.get(each.sandbox_id), cpu, memory, each.pids, network))
    print_table(('ID', 'IMAGE', 'CPU', 'MEMORY', 'PROCESSES', 'RECEIVED / SENT'), rows)


def _size(size_bytes: int | None) -> str:
    return '-' if size_bytes is None else format_size(size_bytes)


def print_stats(numbers: dict[str, Any]) -> None:
    """Print a manager's numbers: the facts, and a table of its pools."""
    pools = numbers.get('pools') or {}
    print_facts([(name.replace('_', ' '), value) for name, value in numbers.items() if name != 'pools'])
    if pools:
        click.echo()
        print_pools(pools)


def print_pools(pools: dict[str, dict[str, Any]]) -> None:
    """Print a table of pools."""
    rows = []
    for name, each in pools.items():
        mean = each.get('wait_seconds_mean')
        waited = '' if mean is None else f'{mean * 1000:.1f} ms'
        numbers = [each.get(key) for key in ('size', 'idle', 'leased', 'starting', 'waiting', 'leases', 'replaced')]
        rows.append((name, each.get('policy'), *numbers, waited))
    print_table(
        ('POOL', 'POLICY', 'SIZE', 'IDLE', 'LEASED', 'STARTING', 'WAITING', 'LEASES', 'REPLACED', 'MEAN WAIT'), rows
    )
