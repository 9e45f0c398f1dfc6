"""What a shell may complete in the place of an option's value (layer 6)."""

from __future__ import annotations

import os

import click


def complete_kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the kinds of sandbox for shell completion, those of installed packages too."""
    try:
        from enclave.sandboxes.kinds import KINDS

        return [kind.name for kind in KINDS.all() if kind.name.startswith(incomplete)]
    except Exception:  # completion has nowhere to report a failure
        return []


def complete_images(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the engine's images for shell completion; none where no engine answers, or a server is meant."""
    given = ctx.params
    if (given.get('url') or os.environ.get('ENCLAVE_URL')) and not given.get('local'):
        return []  # which images a server has is not for its clients
    try:
        from enclave.sandboxes.docker.engine import get_engine
        from enclave.sandboxes.images.catalog import list_images

        names = {name for image in list_images(get_engine()) for name in image.names}
        return sorted(name for name in names if name.startswith(incomplete))
    except Exception:  # completion has nowhere to report a failure
        return []
