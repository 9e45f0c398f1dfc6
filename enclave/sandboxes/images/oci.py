"""What an image is made of: its parts in an archive or a directory, and what its documents say (layer 4).

The documents are a stranger's. `Node` reads them: whatever has another shape than the specification gives it is reported, with
where it stands.

Source: the OCI image specification (``image-layout.md``, ``manifest.md``, ``config.md``) and Docker's image archive
format 1.2.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import tarfile
from pathlib import Path
from typing import IO, Any, TypeVar

from attrs import evolve, frozen

from enclave import wire
from enclave.errors import InvalidArgumentError, SandboxStartError
from enclave.sandboxes.bubblewrap.rootfs import resolve_inside
from enclave.sandboxes.images.archive import Measured, damage_reported

_DOCUMENT_LIMIT_BYTES = 16 << 20
_INDEX_DEPTH = 4
"""How many indexes may lead to a manifest, one to the next."""
_ARCHITECTURES = {'x86_64': 'amd64', 'aarch64': 'arm64', 'armv7l': 'arm', 'i686': '386'}
_DIGEST = re.compile('sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}')
_DIGEST_NAME = re.compile(r'blobs/(sha256|sha512)/([0-9a-f]+)|([0-9a-f]{64})\.json')
"""Names of parts that are made of their digests, in OCI layouts and in what `docker save` writes."""
T = TypeVar('T')


@frozen(kw_only=True)
class Part:
    """A file of an image, a layer or a document: its name, and what is reported of it: its digest, ``'sha256:...'``, and size.

    Attributes:
        diff_id: The digest of the tar archive in a layer.
    """

    name: str
    digest: str | None = None
    size_bytes: int | None = None
    diff_id: str | None = None

    @classmethod
    def named(cls, name: str) -> Part:
        """Return the part of this name, which may be made of its digest."""
        found = _DIGEST_NAME.fullmatch(name)
        return cls(name=name, digest=f'{found[1] or "sha256"}:{found[2] or found[3]}' if found else None)

    @classmethod
    def described(cls, descriptor: Node) -> Part:
        """Return the part that a descriptor reports."""
        digest, size = descriptor.get('digest').digest(), descriptor.find('size')
        return cls(name=f'blobs/{digest.replace(":", "/")}', digest=digest, size_bytes=size.number() if size else None)


@frozen(kw_only=True)
class Image:
    """An image: its environment, its layers, lowest first, and what it is called, if it says so."""

    env: dict[str, str]
    layers: tuple[Part, ...]
    name: str | None


# Where the parts are --------------------------------------------------------------------------------------------------


class Folder:
    """The parts of an OCI layout directory."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def open(self, name: str) -> IO[bytes] | None:
        """Open a part for reading; None if it is not there."""
        with contextlib.suppress(ValueError):  # the name can be none of a file
            found = resolve_inside(self._place, name)
            return found.open('rb') if found is not None and found.is_file() else None
        return None


class Archive:
    """The parts in an image archive."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {member.name.removeprefix('./'): member for member in archive.getmembers()}

    def open(self, name: str) -> IO[bytes] | None:
        """Open a part for reading; None if it is not there."""
        member = self._members.get(name)
        for _ in range(8):  # docker save links equal layers to each other
            if member is not None and member.issym():
                target = os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
                member = self._members.get(target)
        return self._archive.extractfile(member) if member is not None and member.isfile() else None


# Documents ------------------------------------------------------------------------------------------------------------


@frozen
class Node:
    """A value in a document, and where it stands, for messages.

    Every method raises `SandboxStartError` where the value is of another kind.
    """

    value: Any
    where: str

    def find(self, name: str) -> Node | None:
        """Return an object's field; None where it is missing or null."""
        value = self._as(dict, 'an object').get(name)
        return None if value is None else Node(value, f'{self.where}: {name}')

    def get(self, name: str) -> Node:
        """Return an object's field, which must be there."""
        found = self.find(name)
        if found is None:
            raise not_understood(f'{self.where} has no {name}')
        return found

    def items(self) -> list[Node]:
        """Return what is in a list."""
        return [Node(value, f'{self.where}[{at}]') for at, value in enumerate(self._as(list, 'a list'))]

    def text(self) -> str:
        """Return a text."""
        return self._as(str, 'a text')

    def number(self) -> int:
        """Return a whole number."""
        return self._as(int, 'a whole number')

    def digest(self) -> str:
        """Return a digest, of an algorithm that the specification has."""
        text = self.text()
        if not _DIGEST.fullmatch(text):
            raise not_understood(f'{self.where} must be a sha256 or sha512 digest, not {text[:80]!r}')
        return text

    def _as(self, kind: type[T], expected: str) -> T:
        if not isinstance(self.value, kind):
            text = repr(self.value)
            raise not_understood(
                f'{self.where} must be {expected}, not {text if len(text) < 80 else f"{text[:60]}..."}'
            )
        return self.value


def not_understood(why: str) -> SandboxStartError:
    """Return the error for an image that says something that cannot be."""
    return SandboxStartError(f'the image cannot be understood: {why}')


def read_image(parts: Folder | Archive) -> Image:
    """Read what an image's documents say.

    Raises:
        SandboxStartError: They are missing, damaged, or cannot be understood.
    """
    manifests = _find_document(parts, Part(name='manifest.json'))
    if manifests is not None and manifests.items():
        first = manifests.items()[0]
        tags = first.find('RepoTags')
        names = [each.text() for each in tags.items()] if tags else []
        config = _get_document(parts, Part.named(first.get('Config').text()))
        layers = [Part.named(each.text()) for each in first.get('Layers').items()]
        return Image(env=_read_env(config), layers=_with_diff_ids(layers, config), name=names[0] if names else None)
    index = _find_document(parts, Part(name='index.json'))
    if index is None:
        raise SandboxStartError('this is no image: it has neither manifest.json nor index.json')
    manifest = _find_manifest(parts, index)
    config = _get_document(parts, Part.described(manifest.get('config')))
    layers = [Part.described(each) for each in manifest.get('layers').items()]
    return Image(env=_read_env(config), layers=_with_diff_ids(layers, config), name=None)


def _find_document(parts: Folder | Archive, part: Part) -> Node | None:
    file = parts.open(part.name)
    if file is None:
        return None
    where = part.name if part.name.isprintable() else repr(part.name)  # the image may have chosen it
    with damage_reported(f'the image is damaged: {where}'), file:
        measured = Measured(file, (part.digest,))
        reader = io.BufferedReader(measured)
        data = reader.read(_DOCUMENT_LIMIT_BYTES + 1)
        if len(data) > _DOCUMENT_LIMIT_BYTES:
            raise not_understood(f'its {where} has more than {_DOCUMENT_LIMIT_BYTES} bytes')
        measured.check(part.digest, part.size_bytes)
    try:
        value = wire.from_json(data, what=where)
    except InvalidArgumentError as error:
        raise not_understood(str(error)) from error
    return None if value is None else Node(value, where)


def _get_document(parts: Folder | Archive, part: Part) -> Node:
    found = _find_document(parts, part)
    if found is None:
        raise not_understood(f'it has no {part.name!r}')
    return found


def _find_manifest(parts: Folder | Archive, index: Node) -> Node:
    """Follow indexes to the manifest of the variant for this machine."""
    mine = _ARCHITECTURES.get(platform.machine(), platform.machine())
    for _ in range(_INDEX_DEPTH):
        if index.find('layers') is not None:
            break
        fits = [each for each in index.get('manifests').items() if _architecture(each) in (None, mine)]
        if not fits:
            raise SandboxStartError(f'the image has no variant for {mine}')
        index = _get_document(parts, Part.described(fits[0]))
    return index


def _architecture(descriptor: Node) -> str | None:
    found = descriptor.find('platform')
    name = found.find('architecture') if found else None
    return name.text() if name else None


def _with_diff_ids(layers: list[Part], config: Node) -> tuple[Part, ...]:
    """Return the layers with what the configuration reports them, if it does."""
    found = config.find('rootfs')
    found = found.find('diff_ids') if found else None
    if found is None:
        return tuple(layers)
    diff_ids = [each.digest() for each in found.items()]
    if len(diff_ids) != len(layers):
        raise not_understood(f'{found.where} has {len(diff_ids)} entries for {len(layers)} layers')
    return tuple(evolve(layer, diff_id=diff_id) for layer, diff_id in zip(layers, diff_ids, strict=True))


def _read_env(config: Node) -> dict[str, str]:
    settings = config.find('config')
    env = settings.find('Env') if settings else None
    variables = [each.text() for each in env.items()] if env else []
    return dict(each.split('=', 1) for each in variables if '=' in each)
