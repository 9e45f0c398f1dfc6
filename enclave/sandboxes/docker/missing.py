"""What has to be fetched or built before a Docker sandbox can be made (layer 4, docker)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enclave.sandboxes.docker.docker_config import DEFAULT_IMAGE
from enclave.sandboxes.docker.docker_notebook_config import NOTEBOOK_IMAGE
from enclave.sandboxes.docker.engine import get_engine
from enclave.sandboxes.images.build import build_image
from enclave.sandboxes.images.catalog import ensure_image, find_image, find_recipe
from enclave.sandboxes.kinds import Missing, Report


def find_missing(config: Mapping[str, Any]) -> Missing | None:
    """Return the image that a sandbox's options name, if the engine lacks it and it may be fetched.

    Raises:
        EngineUnavailableError: The engine does not answer.
    """
    name = str(config.get('image', DEFAULT_IMAGE))
    if config.get('pull', 'missing') != 'missing' or find_image(get_engine(), name) is not None:
        return None

    def pull(report: Report) -> None:
        ensure_image(
            get_engine(),
            name,
            platform=config.get('platform'),
            progress=lambda step: report(step.message, step.done_bytes, step.total_bytes),
        )

    return Missing(f'Pulling {name}', pull)


def find_missing_for_notebooks(config: Mapping[str, Any]) -> Missing | None:
    """Return the image of a notebook sandbox, if the engine lacks it: built by a recipe of this library, else fetched.

    Raises:
        EngineUnavailableError: The engine does not answer.
    """
    missing = find_missing({'image': NOTEBOOK_IMAGE, **config})
    name = str(config.get('image', NOTEBOOK_IMAGE))
    recipe = None if missing is None else find_recipe(name)
    if recipe is None or not recipe.base:
        return missing
    found = recipe

    def build(report: Report) -> None:
        build_image(
            get_engine(),
            found,
            tag=name,
            progress=lambda step: report(step.message, step.done_bytes, step.total_bytes),
        )

    return Missing(f'Building {name}', build)
