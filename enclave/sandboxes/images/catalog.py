"""Images: looking for them, pulling them, and the recipes of the few we can build (layer 4, docker).

A recipe is a folder under ``recipes/`` with a ``recipe.json`` (`ImageRecipe`); `enclave.sandboxes.images.build` follows it.
What was built here says so in its labels, and never passes for what a registry sends under the same name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, frozen
from docker import utils as docker_utils

from enclave.errors import EngineError, ImageNotFoundError, InvalidArgumentError, NotFoundError
from enclave.records import Model
from enclave.sandboxes.docker.engine import Engine

LABEL_BUILT_BY = 'enclave.image.built-by'
LABEL_RECIPE = 'enclave.image.recipe'
LABEL_RECIPE_VERSION = 'enclave.image.recipe-version'
LABEL_CREATED = 'enclave.image.created'
LABEL_HOST_CA = 'enclave.image.host-ca'

NOT_FETCHED = "pull='never' forbids fetching it, as for all clients of a server whose policy has no `allow_pull = true`"
"""Why an image that is missing is not pulled; a client of a server did not ask for that itself."""

_ARCHITECTURES = {
    'x86_64': 'amd64',
    'amd64': 'amd64',
    'aarch64': 'arm64',
    'arm64': 'arm64',
    'armv7l': 'arm',
    'i686': '386',
}


@frozen(kw_only=True)
class Progress:
    """One line of what a pull or a build is doing. ``done_bytes`` of ``total_bytes`` where the engine counts, else None."""

    message: str
    done_bytes: int | None = None
    total_bytes: int | None = None


ProgressCallback = Callable[[Progress], None]
PullPolicy = Literal['missing', 'never', 'always']


@frozen(kw_only=True)
class ImageInfo(Model):
    """An image on the engine.

    ``origin`` is ``'built here'`` (one of our recipes made it on this engine), ``'pulled'`` (it came from a registry) or
    ``'local'`` (anything else: somebody's own build or import). ``architecture`` is as images name it, like ``amd64``.
    """

    id: str
    names: list[str] = Factory(list)
    origin: Literal['built here', 'pulled', 'local'] = 'local'
    recipe: str | None = None
    recipe_version: str | None = None
    size_bytes: int = 0
    created_at: datetime | None = None
    architecture: str = ''
    os: str = ''
    labels: dict[str, str] = Factory(dict)


@frozen(kw_only=True)
class ImageRecipe(Model):
    """How an image is made; the fields are those of a ``recipe.json``.

    Attributes:
        name: The recipe's folder.
        image: The name the image gets unless the caller says otherwise.
        method: ``'mmdebstrap'`` needs ``suite`` and ``packages``, and runs ``customize`` at the end if there is one;
            ``'dockerfile'`` needs ``base`` and a Dockerfile.
        npm: Packages of npm, which ``customize`` is given after the root of the finished file tree.
        customize: A script of sh; relative to the recipe's folder, so that recipes may share one.
        changes: Dockerfile lines for an imported file tree (ENV, CMD, ...).
        is_default: Whether it is among the images that ``images ensure`` sees to if none is named.
        folder: Where its files are; filled in when it is loaded.
    """

    name: str
    image: str
    version: str
    description: str
    method: Literal['mmdebstrap', 'dockerfile']
    suite: str = ''
    packages: list[str] = Factory(list)
    npm: list[str] = Factory(list)
    customize: str = 'customize.sh'
    base: str = ''
    changes: list[str] = Factory(list)
    is_default: bool = True
    folder: str = ''


# Recipes --------------------------------------------------------------------------------------------------------------


def list_recipes() -> list[ImageRecipe]:
    """Return the recipes that come with this package, by name."""
    root = Path(str(resources.files('enclave.sandboxes.images'))) / 'recipes'
    return [load_recipe(path.parent) for path in sorted(root.glob('*/recipe.json'))]


def load_recipe(folder: str | Path) -> ImageRecipe:
    """Return the recipe in a folder, for recipes of one's own."""
    text = (Path(folder) / 'recipe.json').read_text('utf-8')
    return ImageRecipe.model_validate({**json.loads(text), 'folder': str(folder)})


def find_recipe(name: str) -> ImageRecipe | None:
    """Return the recipe of this name, or the one that makes the image of this name; None if there is neither."""
    wanted = {name, full_name(name)}
    return next((each for each in list_recipes() if wanted & {each.name, each.image, full_name(each.image)}), None)


def get_recipe(name: str) -> ImageRecipe:
    """Return the recipe of this name or for this image.

    Raises:
        NotFoundError: There is none; the message lists those there are.
    """
    recipe = find_recipe(name)
    if recipe is None:
        known = ', '.join(each.image for each in list_recipes())
        raise NotFoundError(f'There is no recipe for the image {name!r}; there are recipes for {known}')
    return recipe


# Looking --------------------------------------------------------------------------------------------------------------


def list_images(engine: Engine) -> list[ImageInfo]:
    """Return the images on the engine that have a name, newest first.

    Raises:
        EngineUnavailableError: The engine does not answer.
    """
    with engine.translate('list the images'):
        found: list[Any] = engine.api.images()
    images = []
    for each in found:
        names = _names(each.get('RepoTags'))
        if names:
            created_at = datetime.fromtimestamp(each.get('Created') or 0, timezone.utc)
            images.append(_info(each, names, each.get('Labels'), each.get('Size'), created_at))
    return images


def find_image(engine: Engine, name: str) -> ImageInfo | None:
    """Return the image of this name or id, or None if the engine has none.

    Raises:
        EngineUnavailableError: The engine does not answer.
    """
    try:
        with engine.translate(f'look for the image {name!r}'):
            found: dict[str, Any] = engine.api.inspect_image(name)  # type: ignore[no-untyped-call]
    except ImageNotFoundError:
        return None
    except EngineError as error:
        if error.details.get('status') in (400, 404):  # 400 is a name no image can have
            return None
        raise
    labels = (found.get('Config') or {}).get('Labels')
    return _info(found, _names(found.get('RepoTags')), labels, found.get('Size'), _parse_time(found.get('Created')))


@frozen
class ImageCommand:
    """What an image runs by itself: its ENTRYPOINT and its CMD."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def get_image_command(engine: Engine, name: str) -> ImageCommand:
    """Return what an image that is on the engine runs by itself.

    Raises:
        ImageNotFoundError: The engine has no such image.
        EngineUnavailableError: It does not answer.
    """
    with engine.translate(f'look for the image {name!r}'):
        found: dict[str, Any] = engine.api.inspect_image(name)  # type: ignore[no-untyped-call]
    config = found.get('Config') or {}
    return ImageCommand(tuple(config.get('Entrypoint') or ()), tuple(config.get('Cmd') or ()))


def ensure_image(
    engine: Engine,
    name: str,
    *,
    platform: str | None = None,
    pull: PullPolicy = 'missing',
    progress: ProgressCallback | None = None,
) -> ImageInfo:
    """Return the image of this name, pulling it as ``pull`` says. Never builds: that is a person's decision.

    Args:
        platform: Like ``'linux/arm64'``; an image for another platform counts as missing.

    Raises:
        ImageNotFoundError: It is not there and could not be pulled; says why, and names the build command if we have a recipe.
        EngineUnavailableError: The engine does not answer.
    """
    if pull not in ('missing', 'never', 'always'):
        raise InvalidArgumentError(f"pull must be 'missing', 'never' or 'always', not {pull!r}")
    found = None if pull == 'always' else find_image(engine, name)
    if found is not None and _fits(found, platform):
        return found
    if pull == 'never':
        other = f' for {platform}' if platform else ''
        raise ImageNotFoundError(
            f'The image {name!r} is not on the engine{other}, and {NOT_FETCHED}. {advice(name)}',
            details={'image': name},
        )
    return pull_image(engine, name, platform=platform, progress=progress)


def pull_image(
    engine: Engine, name: str, *, platform: str | None = None, progress: ProgressCallback | None = None
) -> ImageInfo:
    """Pull an image from its registry, as it is now, and return it. Without a tag it is ``latest``.

    Raises:
        ImageNotFoundError: The registry does not answer or has no such image; carries the engine's message.
        EngineUnavailableError: The engine does not answer.
    """
    layers: dict[str, tuple[int, int]] = {}
    try:
        with engine.translate(f'pull the image {name!r}'):
            for line in engine.api.pull(name, stream=True, decode=True, platform=platform):
                if line.get('error'):
                    raise EngineError(str(line['error']), details={'reason': str(line['error'])})
                if progress is not None:
                    progress(_pull_progress(line, layers))
    except EngineError as error:
        if isinstance(error, ConnectionError):
            raise
        reason = error.details.get('reason', str(error))
        raise ImageNotFoundError(
            f'The image {name!r} is not on the engine and could not be pulled: {reason}. {advice(name)}',
            details={**error.details, 'image': name},
        ) from error
    except ImageNotFoundError as error:
        reason = error.details.get('reason', str(error))
        raise ImageNotFoundError(
            f'The image {name!r} could not be pulled: {reason}. {advice(name)}',
            details={**error.details, 'image': name},
        ) from error
    found = find_image(engine, name)
    if found is None:
        raise ImageNotFoundError(
            f'The image {name!r} was pulled, but the engine does not have it', details={'image': name}
        )
    return found


def _pull_progress(line: Mapping[str, Any], layers: dict[str, tuple[int, int]]) -> Progress:
    """Add up the layers' own counts, so that a bar moves over the image as a whole."""
    status, layer, detail = line.get('status', ''), line.get('id', ''), line.get('progressDetail') or {}
    if detail.get('total') and status == 'Downloading':
        layers[layer] = (int(detail.get('current') or 0), int(detail['total']))
    elif layer in layers and status in ('Download complete', 'Pull complete'):
        layers[layer] = (layers[layer][1], layers[layer][1])
    done, total = (sum(each[part] for each in layers.values()) for part in (0, 1))
    message = f'{status} {layer}'.strip()
    return Progress(message=message, done_bytes=done if total else None, total_bytes=total or None)


# Small helpers --------------------------------------------------------------------------------------------------------


def _names(tags: Any) -> list[str]:
    return sorted(tag for tag in tags or () if tag != '<none>:<none>')


def _info(found: Mapping[str, Any], names: list[str], labels: Any, size: Any, created_at: datetime | None) -> ImageInfo:
    labels = dict(labels or {})
    origin: Literal['built here', 'pulled', 'local'] = 'local'
    if LABEL_BUILT_BY in labels and not _digests(found):
        origin = 'built here'
    elif _digests(found):
        origin = 'pulled'
    return ImageInfo(
        id=found['Id'],
        names=names,
        origin=origin,
        recipe=labels.get(LABEL_RECIPE),
        recipe_version=labels.get(LABEL_RECIPE_VERSION),
        size_bytes=int(size or 0),
        created_at=created_at,
        architecture=found.get('Architecture', ''),
        os=found.get('Os', ''),
        labels=labels,
    )


def _digests(found: Mapping[str, Any]) -> list[str]:
    return [each for each in found.get('RepoDigests') or () if not each.startswith('<none>')]


def _parse_time(text: Any) -> datetime | None:
    """Read the engine's RFC 3339 time; its nanoseconds are more than Python keeps."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return datetime.strptime(text[:19], '%Y-%m-%dT%H:%M:%S').replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def full_name(name: str) -> str:
    """Return the name with its tag, which is ``latest`` when none is said."""
    repository, tag = docker_utils.parse_repository_tag(name)
    return name if tag or '@' in name else f'{repository}:latest'


def architecture_of(machine: str) -> str:
    """Return how images name an architecture that the kernel names its own way: ``x86_64`` is ``amd64``."""
    return _ARCHITECTURES.get(machine.lower(), machine.lower())


def _fits(image: ImageInfo, platform: str | None) -> bool:
    if not platform:
        return True
    parts = platform.lower().split('/')
    wanted_os, wanted = (parts[0], parts[1]) if len(parts) > 1 else ('', parts[0])
    if not image.architecture:
        return True
    return wanted_os in ('', image.os) and architecture_of(wanted) == architecture_of(image.architecture)


def advice(name: str) -> str:
    """Return what somebody can do about an image that is missing: build it only where there is a recipe."""
    recipe = find_recipe(name)
    if recipe is not None:
        return f'Build it here with `ms-enclave images build {recipe.image}`.'
    return 'Check the name, log in with `docker login`, or bring the image to the engine with `docker load`.'
