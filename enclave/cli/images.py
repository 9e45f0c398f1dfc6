"""`ms-enclave images`: list, pull, build, ensure and unpack (layer 6)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from enclave.cli.hints import HintedGroup
from enclave.cli.options import json_option
from enclave.cli.output import Reporter, echo_json, format_size, print_table, progress, visible
from enclave.cli.unpack import unpack
from enclave.errors import EngineUnavailableError, ImageNotFoundError, InvalidArgumentError, SandboxStartError

if TYPE_CHECKING:
    from enclave.sandboxes.images.unpack import UnpackedImage

_ca_option = click.option(
    '--ca-bundle',
    default='auto',
    show_default=True,
    metavar='auto|none|FILE',
    help='Certificate authorities for the image to trust: those this host is to, none, or a PEM file.',
)


@click.group(cls=HintedGroup)
def images() -> None:
    """List, pull, build and unpack the images that sandboxes are made from."""


images.add_command(unpack)


@images.command('list')
@json_option
def list_(as_json: bool) -> None:
    """List the images on the engine, those unpacked for bubblewrap, and what can be built."""
    from enclave.sandboxes.docker.engine import get_engine
    from enclave.sandboxes.images.catalog import list_images, list_recipes

    unpacked = _find_unpacked()
    recipes, found = list_recipes(), []
    try:
        found = list_images(get_engine())
    except EngineUnavailableError as error:
        what = 'Those of an engine are not listed, only what is unpacked or can be built'
        click.echo(f'ms-enclave: {what}. {visible(error.message.splitlines()[0])}', err=True)
    present = {name for image in found for name in image.names}
    missing = [each.image for each in recipes if not {each.image, f'{each.image}:latest'} & present]
    if as_json:
        echo_json(
            {
                'images': [each.model_dump(mode='json') for each in found],
                'can_be_built': missing,
                'unpacked': [each.model_dump(mode='json') for each in unpacked],
            }
        )
        return
    rows: list[tuple[str, ...]] = [
        (name, image.origin, format_size(image.size_bytes), f'{image.created_at:%Y-%m-%d %H:%M}', image.id[7:19])
        for image in found
        for name in image.names
    ]
    rows += [(each.name, 'unpacked', format_size(each.size_bytes), '', f'rootfs={each.name}') for each in unpacked]
    rows += [(name, 'not there', '', '', f'ms-enclave images build {name}') for name in missing]
    print_table(('IMAGE', 'ORIGIN', 'SIZE', 'CREATED (UTC)', 'ID'), rows)


def _find_unpacked() -> list[UnpackedImage]:
    from enclave.sandboxes.images.unpack import list_unpacked

    if sys.platform.startswith('linux'):
        with contextlib.suppress(SandboxStartError):  # there is no directory to unpack into
            return list_unpacked()
    return []


@images.command()
@click.argument('names', nargs=-1, required=True, metavar='IMAGE...')
@click.option('--platform', help="Another platform than the engine's own, like linux/arm64.")
@json_option
def pull(names: tuple[str, ...], platform: str | None, as_json: bool) -> None:
    """Pull images from their registry, as they are there now."""
    from enclave.sandboxes.docker.engine import get_engine
    from enclave.sandboxes.images.catalog import pull_image

    engine = get_engine()
    done = []
    for name in names:
        with progress(f'Pulling {name}', quiet=as_json) as report:
            done.append(pull_image(engine, name, platform=platform, progress=_adapter(report)))
    if as_json:
        echo_json([each.model_dump(mode='json') for each in done])


@images.command()
@click.argument('names', nargs=-1, required=True, metavar='IMAGE...')
@click.option('--tag', help='Name the image something else; for one image only.')
@_ca_option
@json_option
def build(names: tuple[str, ...], tag: str | None, ca_bundle: str, as_json: bool) -> None:
    """Build images by our own recipes, without a registry. `images list` names what can be built."""
    from enclave.sandboxes.docker.engine import get_engine
    from enclave.sandboxes.images.build import build_image
    from enclave.sandboxes.images.catalog import get_recipe

    if tag is not None and len(names) != 1:
        raise InvalidArgumentError('--tag names one image, so give one image to build')
    recipes = [get_recipe(name) for name in names]
    engine = get_engine()
    done = []
    for recipe in recipes:
        with progress(f'Building {tag or recipe.image}', quiet=as_json) as report:
            bundle = None if ca_bundle == 'none' else ca_bundle
            done.append(build_image(engine, recipe, tag=tag, progress=_adapter(report), ca_bundle=bundle))
    if as_json:
        echo_json([each.model_dump(mode='json') for each in done])
        return
    for image in done:
        click.echo(f'{image.names[0] if image.names else image.id}  {format_size(image.size_bytes)}  built here')


@images.command()
@click.argument('names', nargs=-1, metavar='[IMAGE...]')
@_ca_option
@json_option
def ensure(names: tuple[str, ...], ca_bundle: str, as_json: bool) -> None:
    """Have images on the engine: leave those that are there, pull the others, build what no registry gives.

    Without names: every image we have a recipe for.
    """
    from enclave.sandboxes.docker.engine import get_engine
    from enclave.sandboxes.images.build import build_image
    from enclave.sandboxes.images.catalog import find_image, find_recipe, list_recipes, pull_image

    engine = get_engine()
    done = []
    # A recipe that stands on another one comes after it.
    by_base = sorted((each for each in list_recipes() if each.is_default), key=lambda each: bool(each.base))
    for name in names or [each.image for each in by_base]:
        found = find_image(engine, name)
        recipe = find_recipe(name)
        if found is not None:
            click.echo(f'{name} is there ({found.origin})', err=True)
        elif recipe is None:
            with progress(f'Pulling {name}', quiet=as_json) as report:
                found = pull_image(engine, name, progress=_adapter(report))
        else:
            if not recipe.base:  # what stands on a base of this library is published nowhere
                try:
                    with progress(f'Pulling {name}', quiet=as_json) as report:
                        found = pull_image(engine, name, progress=_adapter(report))
                except ImageNotFoundError as error:
                    click.echo(f'no registry gives it: {visible(error.details.get("reason", error))}', err=True)
            if found is None:
                with progress(f'Building {name}', quiet=as_json) as report:
                    bundle = None if ca_bundle == 'none' else ca_bundle
                    found = build_image(engine, recipe, tag=name, progress=_adapter(report), ca_bundle=bundle)
        done.append(found)
    if as_json:
        echo_json([each.model_dump(mode='json') for each in done])


def _adapter(report: Reporter) -> Callable[..., None]:
    return lambda step: report(step.message, step.done_bytes, step.total_bytes)
