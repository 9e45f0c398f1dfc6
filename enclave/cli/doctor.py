"""`ms-enclave doctor` (layer 6)."""

from __future__ import annotations

import sys

import click

from enclave.cli.options import json_option
from enclave.cli.output import echo_json

_MARKS = {'ok': ('ok', 'green'), 'warning': ('warn', 'yellow'), 'failed': ('FAIL', 'red'), 'skipped': ('skip', 'cyan')}


_LANGUAGE_MARKS = {'ok': ('ok', 'green'), 'broken': ('FAIL', 'red'), 'missing': ('no', 'cyan')}


def _report_languages(sandbox_type: str | None, image: str | None, as_json: bool) -> None:
    from enclave.cli.place import LocalPlace
    from enclave.languages.runner import SandboxRunner
    from enclave.languages.toolchains import find_toolchains

    config = {} if image is None else {'image': image}
    with LocalPlace() as place, place.open(sandbox_type, {'timeout': 120, 'memory_limit': '2g', **config}) as sandbox:
        found = find_toolchains(SandboxRunner(sandbox))
    if as_json:
        echo_json([each.model_dump(mode='json') for each in found])
    else:
        width = max(len(each.title) for each in found)
        for each in found:
            mark, color = _LANGUAGE_MARKS[each.status]
            said = each.version or ('needs ' + ', '.join((*each.packages, *each.npm)) if each.packages else 'not here')
            click.echo(f'{click.style(f"{mark:>4}", fg=color)}  {each.title:<{width}}  {said}')
            if each.problem:
                click.echo(f'{"":>4}  {"":<{width}}  -> {each.problem}')
    sys.exit(1 if any(each.status == 'broken' for each in found) else 0)


@click.command()
@click.option('--engine', 'base_url', metavar='URL', help="The engine's address; default as docker chooses it.")
@click.option('--languages', is_flag=True, help='Start a sandbox and say which languages work in it, with versions.')
@click.option('--type', 'sandbox_type', metavar='KIND', help='With --languages: the kind of sandbox.')
@click.option('--image', metavar='IMAGE', help='With --languages: the image, like multi.')
@json_option
def doctor(base_url: str | None, languages: bool, sandbox_type: str | None, image: str | None, as_json: bool) -> None:
    """Say what is there, what is missing, and how to mend it.

    The exit code is 0 when code can run in a sandbox of some kind, 1 otherwise. With --languages it is 1 if a toolchain is there
    and does not work.
    """
    if languages:
        _report_languages(sandbox_type, image, as_json)
        return
    if sandbox_type or image:
        raise click.UsageError('--type and --image go with --languages')
    from enclave.doctor import examine
    from enclave.sandboxes.kinds import KINDS

    found = examine(base_url)
    if as_json:
        echo_json(found.model_dump(mode='json'))
        sys.exit(0 if found.can_run else 1)
    width = max(len(each.name) for each in found.checks)
    for each in found.checks:
        mark, color = _MARKS[each.status]
        click.echo(f'{click.style(f"{mark:>4}", fg=color)}  {each.name:<{width}}  {each.summary}')
        if each.remedy:
            click.echo(f'{"":>4}  {"":<{width}}  -> {each.remedy}')
    if found.can_run:
        click.echo(f'Code can run here in sandboxes of {" and ".join(found.backends)}.')
    first = KINDS.ranked()[0].name
    if first not in found.backends:
        needed = ', '.join(each.name for each in found.checks if each.required and each.status in ('failed', 'skipped'))
        click.echo(f'{"" if found.can_run else "No code can run here yet. "}{first.capitalize()} lacks: {needed}.')
    sys.exit(0 if found.can_run else 1)
