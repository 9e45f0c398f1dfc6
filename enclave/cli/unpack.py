"""`ms-enclave images unpack` (layer 6): images as root file systems for bubblewrap sandboxes."""

from __future__ import annotations

import click

from enclave.cli.output import echo_json, format_size, print_table, progress
from enclave.cli.relay import endings_as_exit
from enclave.errors import InvalidArgumentError


@click.command()
@click.argument('source', required=False)
@click.option('--name', help="What `rootfs` shall call it; default is the image's own name.")
@click.option('--list', 'as_list', is_flag=True, help='List what is unpacked.')
@click.option('--remove', is_flag=True, help='Remove the unpacked image SOURCE again.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def unpack(source: str | None, name: str | None, as_list: bool, remove: bool, as_json: bool) -> None:
    """Unpack an image for sandboxes without Docker, whose option `rootfs` then names it.

    SOURCE is an image on the engine, an archive (`docker save`, `podman save`), or an OCI layout directory.
    """
    from enclave.sandboxes.images.unpack import list_unpacked, remove_unpacked, unpack_image

    if as_list:
        found = list_unpacked()
        if as_json:
            echo_json([each.model_dump(mode='json') for each in found])
        else:
            print_table(
                ('IMAGE', 'SIZE', 'ROOT'), [(each.name, format_size(each.size_bytes), each.root) for each in found]
            )
        return
    if source is None:
        raise InvalidArgumentError('name an image, an archive or an OCI directory to unpack, or give --list')
    if remove:
        with endings_as_exit():
            remove_unpacked(source)
        return
    with endings_as_exit(), progress(f'Unpacking {source}', quiet=as_json) as report:
        image = unpack_image(source, name=name, progress=lambda message: report(message, None, None))
    if as_json:
        echo_json(image.model_dump(mode='json'))
    else:
        click.echo(f'{image.name}  {format_size(image.size_bytes)}  rootfs={image.name}')
