"""Unpacking container images into root file systems for bubblewrap sandboxes (layer 4).

An image is a list of layers, tar archives laid one over the other, and a configuration. It comes from the engine of
this machine, from an archive (``docker save``, ``podman save``, ``skopeo copy ... oci-archive:``) or from an OCI
layout directory.

Source: the OCI image specification and Docker's image archive format 1.2.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from attrs import frozen

from enclave.errors import ConfigurationError, ImageNotFoundError, SandboxStartError
from enclave.records import Model, utc_now
from enclave.sandboxes.bubblewrap.bubblewrap_config import IMAGE_NAME
from enclave.sandboxes.bubblewrap.places import cache_dir
from enclave.sandboxes.bubblewrap.rootfs import FACTS_FILE, image_place
from enclave.sandboxes.bubblewrap.workspace import workspace
from enclave.sandboxes.images.archive import COPY_BYTES, WholeTarInfo, damage_reported, find_decompressor
from enclave.sandboxes.images.layer import apply_layer
from enclave.sandboxes.images.oci import Archive, Folder, read_image

Progress = Callable[[str], None]


@frozen(kw_only=True)
class UnpackedImage(Model):
    """An image in the cache: its name, its root directory and the bytes of its files."""

    name: str
    root: str
    size_bytes: int


def unpack_image(source: str, *, name: str | None = None, progress: Progress | None = None) -> UnpackedImage:
    """Unpack an image into the cache, in the place of one of the same name.

    Args:
        source: Path of an archive or of an OCI layout directory, or else the name of an image on the engine.
        name: What ``rootfs`` shall call it; default is the source itself, or the name an archive gives it.
        progress: Called with what is being done.

    Raises:
        ImageNotFoundError: There is no such file, and the engine has no such image.
        EngineUnavailableError: It is no file, and no engine answers.
        SandboxStartError: The archive is none of an image, or cannot be unpacked.
    """
    report = progress or (lambda message: None)
    path = Path(source)
    if not path.is_dir() and not path.is_file() and source.startswith(('/', '.')):
        raise ImageNotFoundError(f'there is no image archive at {source!r}')
    with workspace(cache_dir('images')) as work, contextlib.ExitStack() as stack:
        if path.is_dir():
            return _unpack(Folder(path), name or path.resolve().name, work, report)
        if path.is_file():
            file: IO[bytes] = stack.enter_context(path.open('rb'))
        else:
            report(f'taking {source} from the engine')
            name = name or source
            file = stack.enter_context(_spool(work))
            _save_from_engine(source, file)
            file.seek(0)
        with damage_reported(f'{source!r} is not an image archive, or not a whole one'):
            decompress = find_decompressor(file)
            if decompress is not None:
                # Once and to its end; parts are read in another order than they are stored in.
                report('decompressing')
                plain = stack.enter_context(_spool(work))
                shutil.copyfileobj(decompress(file), plain, COPY_BYTES)
                plain.seek(0)
                file = plain
            archive = stack.enter_context(tarfile.open(fileobj=file, mode='r:', tarinfo=WholeTarInfo))
            parts = Archive(archive)
        return _unpack(parts, name, work, report)


def _spool(work: Path) -> IO[bytes]:
    """Return a file without a name, which is gone with this process; beside the rest, as `/tmp` is often small."""
    return tempfile.TemporaryFile(dir=work)


def _save_from_engine(image: str, target: IO[bytes]) -> None:
    from enclave.sandboxes.docker.engine import get_engine

    engine = get_engine()
    try:
        with engine.translate(f'save the image {image!r}'):
            for chunk in engine.api.get_image(image):
                target.write(chunk)
    except ImageNotFoundError as error:
        raise ImageNotFoundError(
            f'there is no file {image!r}, and the engine has no image of this name; `ms-enclave images list` shows those that '
            'it has, and `ms-enclave images ensure` gets one',
            details=error.details,
        ) from None


# Unpacking ------------------------------------------------------------------------------------------------------------


def _unpack(parts: Folder | Archive, name: str | None, work: Path, report: Progress) -> UnpackedImage:
    image = read_image(parts)
    name = name or image.name
    if not name:
        raise ConfigurationError('the archive does not say what its image is called; give it a name')
    if not IMAGE_NAME.fullmatch(name):
        raise ConfigurationError(f'{name!r} is no name of an image; give it one')
    place = image_place(name)
    made = work / 'image'
    root = made / 'root'
    for each in (made, root):
        each.mkdir()
        each.chmod(0o755)  # whatever the umask
    for number, layer in enumerate(image.layers, 1):
        what = f'layer {number} of {len(image.layers)}'
        report(what)
        file = parts.open(layer.name)
        if file is None:
            raise SandboxStartError(f'the image lacks its {what}, {layer.name!r}')
        with file:
            apply_layer(
                root,
                file,
                what=f'{what} of the image, {layer.name!r},',
                digest=layer.digest,
                size_bytes=layer.size_bytes,
                diff_id=layer.diff_id,
            )
    size = sum(each.lstat().st_size for each in root.rglob('*') if not each.is_symlink() and each.is_file())
    facts = {'name': name, 'env': image.env, 'size_bytes': size, 'unpacked_at': utc_now().isoformat()}
    (made / FACTS_FILE).write_text(json.dumps(facts), 'utf-8')
    _put_in_place(made, place, work)
    return UnpackedImage(name=name, root=str(place / 'root'), size_bytes=size)


def _put_in_place(made: Path, place: Path, work: Path) -> None:
    """Move a directory to its place; what was there goes away afterwards, so that the place is empty for a moment only."""
    for number in itertools.count():
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, work / f'old-{number}')
        try:
            return os.rename(made, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process has put its own there meanwhile
                raise


# What is there --------------------------------------------------------------------------------------------------------


def list_unpacked() -> list[UnpackedImage]:
    """Return the images in the cache, by name."""
    return sorted(_each_unpacked(), key=lambda image: image.name)


def _each_unpacked() -> Iterator[UnpackedImage]:
    for place in image_place('x').parent.iterdir():
        if place.name.startswith('.'):
            continue
        with contextlib.suppress(OSError, ValueError, KeyError):
            facts = json.loads((place / FACTS_FILE).read_text('utf-8'))
            yield UnpackedImage(name=facts['name'], root=str(place / 'root'), size_bytes=facts['size_bytes'])


def remove_unpacked(name: str) -> None:
    """Take an image out of the cache; sandboxes that run from it lose their programs.

    Raises:
        ImageNotFoundError: It is not there.
    """
    place = image_place(name)
    if not place.is_dir():
        raise ImageNotFoundError(f'the image {name!r} is not unpacked on this machine')
    with workspace(place.parent) as work:
        os.rename(place, work / 'removed')  # so that it is there as a whole or not at all
