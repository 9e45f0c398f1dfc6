"""`ms-enclave version` (layer 6)."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from enclave import __version__
from enclave.cli.output import echo_json

_LIBRARIES = ('docker', 'attrs', 'cattrs', 'flask', 'waitress', 'requests', 'jupyter_client', 'click', 'rich')


@click.command()
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def version(as_json: bool) -> None:
    """Print the version, and the versions of what it uses."""
    versions = {'ms-enclave': __version__, 'python': platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = 'not installed'
    if as_json:
        echo_json(versions)
        return
    for name, number in versions.items():
        click.echo(f'{name} {number}')
