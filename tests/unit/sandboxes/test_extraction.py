"""Unpacking what a sandbox sends: never outside of the target, whatever the archive says."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.errors import SandboxPathError
from enclave.sandboxes.extraction import unpack_tree
from tests.support.archives import Member, make_tar


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


LINK, HARD, FOLDER = {'type': tarfile.SYMTYPE}, {'type': tarfile.LNKTYPE}, {'type': tarfile.DIRTYPE}


def link(target: str) -> dict[str, Any]:
    return {**LINK, 'linkname': target}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the target, looked at afterwards."""
    folder = tmp_path / 'outside'
    folder.mkdir()
    (folder / 'kept').write_text('kept')
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == {'kept': 'kept'}


def test_a_tree_arrives_with_contents_modes_and_links(tmp_path: Path) -> None:
    name = 'n' * 150
    archive = make_tar(
        ('.', FOLDER, b''),
        ('d', FOLDER, b''),
        ('d/e', FOLDER, b''),
        ('d/script', {'mode': 0o4777, 'mtime': 1000}, b'x' * 5000),
        ('d/plain', {'mode': 0o666}, b''),
        (f'd/{name}', {}, b'y'),
        ('d/e/up', link('../script'), b''),
        ('hard', {**HARD, 'linkname': 'd/script'}, b''),
        ('ü/deep/without/directories', {}, b'z'),
    )

    unpack_tree(pieces(archive), tmp_path / 'new')

    script = tmp_path / 'new' / 'd' / 'script'
    assert script.read_bytes() == b'x' * 5000
    assert (stat.S_IMODE(script.stat().st_mode), script.stat().st_mtime) == (0o755, 1000)
    assert stat.S_IMODE((tmp_path / 'new/d/plain').stat().st_mode) == 0o644
    assert (tmp_path / 'new' / 'd' / name).read_bytes() == b'y'
    assert (tmp_path / 'new/d/e/up').resolve() == script.resolve()
    assert (tmp_path / 'new/hard').samefile(script)
    assert (tmp_path / 'new/ü/deep/without/directories').read_bytes() == b'z'


def test_what_is_there_is_merged_with(tmp_path: Path) -> None:
    unpack_tree([make_tar(('a', {}, b'1'), ('b', link('a'), b''), ('d/x', {}, b'1'))], tmp_path)
    unpack_tree([make_tar(('a', {}, b'22'), ('b', link('d'), b''), ('d/y', {}, b'2'))], tmp_path)

    assert (tmp_path / 'a').read_bytes() == b'22'
    assert os.readlink(tmp_path / 'b') == 'd'
    assert sorted(os.listdir(tmp_path / 'd')) == ['x', 'y']


@pytest.mark.parametrize(
    'members',
    [
        [('../outside/x', {}, b'x')],
        [('/tmp/enclave-escaped', {}, b'x')],
        [('a/../../outside/x', {}, b'x')],
        [('d', link('../outside'), b''), ('d/x', {}, b'x')],
        [('d', link('../outside'), b'')],
        [('d', link('/etc'), b'')],
        [('a', link('../outside/kept'), b''), ('a', {}, b'changed')],
        [('p/q/r', link('../..'), b''), ('out', link('p/q/r/../outside'), b''), ('out/x', {}, b'x')],
        [('a/' * 300 + 'l', link('../' * 301 + 'outside'), b'')],
        [('h', {**HARD, 'linkname': '../outside/kept'}, b''), ('h', {}, b'changed')],
        [('h', {**HARD, 'linkname': 'not-there'}, b'')],
        [('s', link('kept'), b''), ('h', {**HARD, 'linkname': 's'}, b'')],
        [('d', {}, b'file'), ('d/x', {}, b'x')],
        [('', {}, b'x')],
        [('p', {'type': tarfile.FIFOTYPE}, b'')],
        [('n', {'type': tarfile.CHRTYPE}, b'')],
    ],
)
def test_members_that_would_land_or_lead_outside_are_refused(
    tmp_path: Path, outside: Path, members: list[Member]
) -> None:
    with pytest.raises(SandboxPathError):
        unpack_tree(pieces(make_tar(*members)), tmp_path / 'target')

    assert not Path('/tmp/enclave-escaped').exists()


def test_a_symlink_that_was_there_before_is_not_followed(tmp_path: Path, outside: Path) -> None:
    target = tmp_path / 'target'
    target.mkdir()
    (target / 'd').symlink_to(outside)
    (target / 'kept').symlink_to(outside / 'kept')

    unpack_tree([make_tar(('kept', {}, b'mine'))], target)
    with pytest.raises(SandboxPathError):
        unpack_tree([make_tar(('d/x', {}, b'x'))], target)

    assert (target / 'kept').read_bytes() == b'mine'


def test_links_through_links_stay_inside(tmp_path: Path) -> None:
    unpack_tree([make_tar(('p/q/r', link('../..'), b''), ('in', link('p/q/r/p'), b''))], tmp_path / 'target')

    assert (tmp_path / 'target' / 'in').resolve() == (tmp_path / 'target' / 'p').resolve()


@pytest.mark.parametrize(
    'rubbish',
    [
        b'\xff' * 2048,
        make_tar(('a', {}, b'x' * 3000))[:1500],
        make_tar(('n' * 200, {}, b''), format=tarfile.GNU_FORMAT)[:512] * 3000,
        make_tar(('a', {'pax_headers': {'size': '99999999999999'}}, b'x')),
        make_tar(('a', {'pax_headers': {'GNU.sparse.major': '1', 'GNU.sparse.realsize': '1152921504606846976'}}, b'x')),
    ],
)
def test_broken_archives_are_refused_and_cost_nothing(tmp_path: Path, rubbish: bytes) -> None:
    with pytest.raises(SandboxPathError):
        unpack_tree(pieces(rubbish), tmp_path)


def test_a_header_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo('x')
    header.type, header.size = tarfile.XHDTYPE, 1 << 40

    with pytest.raises(SandboxPathError):
        unpack_tree([header.tobuf(tarfile.GNU_FORMAT)], tmp_path)
