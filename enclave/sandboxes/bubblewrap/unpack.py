"""Unpacking container images into root file systems for bubblewrap sandboxes (floor 4).

An image is a list of layers, tar archives laid one over the other, and a configuration. It comes from the engine of
this machine, from an archive (``docker save``, ``podman save``, ``skopeo copy ... oci-archive:``) or from an OCI
layout directory.

Source: the OCI image specification and Docker's image archive format 1.2.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from attrs import frozen

from enclave.errors import ConfigurationError, ImageNotFoundError, SandboxStartError
from enclave.records import Model, utc_now
from enclave.sandboxes.bubblewrap.config import IMAGE_NAME
from enclave.sandboxes.bubblewrap.layer import apply_layer
from enclave.sandboxes.bubblewrap.rootfs import FACTS_FILE, image_place, resolve_inside

_DOCUMENT_LIMIT_BYTES = 16 << 20
_ARCHITECTURES = {'x86_64': 'amd64', 'aarch64': 'arm64', 'armv7l': 'arm', 'i686': '386'}
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
    told = progress or (lambda message: None)
    path = Path(source)
    if path.is_dir():
        return _unpack(_Folder(path), name or path.resolve().name, told)
    if path.is_file():
        return _unpack_archive(path, name, told)
    if source.startswith(('/', '.')):
        raise ImageNotFoundError(f'there is no image archive at {source!r}')
    with tempfile.NamedTemporaryFile(prefix='enclave-image-') as spool:
        told(f'taking {source} from the engine')
        _save_from_engine(source, spool)
        spool.flush()
        return _unpack_archive(Path(spool.name), name or source, told)


def _save_from_engine(image: str, target: IO[bytes]) -> None:
    from enclave.sandboxes.docker.engine import get_engine

    engine = get_engine()
    with engine.translate(f'save the image {image!r}'):
        for chunk in engine.api.get_image(image):
            target.write(chunk)


def _unpack_archive(path: Path, name: str | None, told: Progress) -> UnpackedImage:
    try:
        with tarfile.open(path) as archive:
            return _unpack(_Archive(archive), name, told)
    except tarfile.TarError as error:
        raise SandboxStartError(f'{os.fspath(path)!r} is not an image archive: {error}') from error


# Where an image's parts are -------------------------------------------------------------------------------------------


class _Folder:
    """The parts of an OCI layout directory."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def open(self, name: str) -> IO[bytes] | None:
        found = resolve_inside(self._place, name)
        return found.open('rb') if found is not None and found.is_file() else None


class _Archive:
    """The parts in an image archive."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {member.name.removeprefix('./'): member for member in archive.getmembers()}

    def open(self, name: str) -> IO[bytes] | None:
        member = self._members.get(name)
        for _ in range(8):  # docker save links equal layers to each other
            if member is not None and member.issym():
                target = os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
                member = self._members.get(target)
        return self._archive.extractfile(member) if member is not None and member.isfile() else None


def _document(parts: _Folder | _Archive, name: str) -> Any:
    """Return a JSON document of the image, or None if it is not there."""
    file = parts.open(name)
    if file is None:
        return None
    with file:
        data = file.read(_DOCUMENT_LIMIT_BYTES + 1)
    if len(data) > _DOCUMENT_LIMIT_BYTES:
        raise SandboxStartError(f'the image has a {name} of more than {_DOCUMENT_LIMIT_BYTES} bytes')
    return json.loads(data)


def _blob(digest: str) -> str:
    algorithm, _, value = digest.partition(':')
    return f'blobs/{algorithm}/{value}'


def _read_parts(parts: _Folder | _Archive) -> tuple[dict[str, Any], list[str], str | None]:
    """Return an image's configuration, the names of its layers, lowest first, and what it is called."""
    manifest = _document(parts, 'manifest.json')
    if manifest:
        first = manifest[0]
        tags = first.get('RepoTags') or [None]
        return _document(parts, first['Config']) or {}, list(first['Layers']), tags[0]
    index = _document(parts, 'index.json')
    for _ in range(4):
        if not index or 'layers' in index:
            break
        mine = _ARCHITECTURES.get(platform.machine(), platform.machine())
        entries = index['manifests']
        fits = [each for each in entries if (each.get('platform') or {}).get('architecture', mine) == mine]
        if not fits:
            raise SandboxStartError(f'the image has no variant for {mine}')
        index = _document(parts, _blob(fits[0]['digest']))
    if not index:
        raise SandboxStartError('this is no image: it has neither manifest.json nor index.json')
    layers = [_blob(each['digest']) for each in index['layers']]
    return _document(parts, _blob(index['config']['digest'])) or {}, layers, None


# Unpacking ------------------------------------------------------------------------------------------------------------


def _unpack(parts: _Folder | _Archive, name: str | None, told: Progress) -> UnpackedImage:
    try:
        config, layers, own_name = _read_parts(parts)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise SandboxStartError(f'the image cannot be understood: {error!r}') from error
    name = name or own_name
    if not name:
        raise ConfigurationError('the archive does not say what its image is called; give it a name')
    if not IMAGE_NAME.fullmatch(name):
        raise ConfigurationError(f'{name!r} is no name of an image; give it one')
    place = image_place(name)
    made = Path(tempfile.mkdtemp(dir=place.parent, prefix='.new-'))
    try:
        made.chmod(0o755)
        root = made / 'root'
        root.mkdir(mode=0o755)
        for number, layer in enumerate(layers, 1):
            told(f'layer {number} of {len(layers)}')
            file = parts.open(layer)
            if file is None:
                raise SandboxStartError(f'the image lacks its layer {layer}')
            with file:
                apply_layer(root, file)
        size = sum(each.lstat().st_size for each in root.rglob('*') if not each.is_symlink() and each.is_file())
        env = dict(each.split('=', 1) for each in (config.get('config') or {}).get('Env') or [] if '=' in each)
        facts = {'name': name, 'env': env, 'size_bytes': size, 'unpacked_at': utc_now().isoformat()}
        (made / FACTS_FILE).write_text(json.dumps(facts), 'utf-8')
        _put_in_place(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return UnpackedImage(name=name, root=str(place / 'root'), size_bytes=size)


def _put_in_place(made: Path, place: Path) -> None:
    """Move a directory to its place; what was there goes away afterwards, so that the place is empty for a moment only."""
    old = Path(tempfile.mkdtemp(dir=place.parent, prefix='.old-'))
    try:
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, old / 'tree')
        os.rename(made, place)
    finally:
        shutil.rmtree(old, ignore_errors=True)


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
    shutil.rmtree(place)
