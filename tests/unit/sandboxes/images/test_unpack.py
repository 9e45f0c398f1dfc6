"""Unpacking images: layers, whiteouts, both layouts, and archives that mean harm."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import platform
import random
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.errors import ConfigurationError, EnclaveError, ImageNotFoundError, SandboxStartError
from enclave.sandboxes.bubblewrap.rootfs import find_unpacked, image_place, resolve_inside
from enclave.sandboxes.bubblewrap.workspace import workspace
from enclave.sandboxes.images.layer import apply_layer
from enclave.sandboxes.images.unpack import list_unpacked, remove_unpacked, unpack_image

ARCHITECTURE = {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ENCLAVE_CACHE_DIR', str(tmp_path / 'cache'))


def member(name: str, content: bytes = b'', **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    for key, value in facts.items():
        setattr(info, key, value)
    return info, content


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def apply(root: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    apply_layer(root, io.BytesIO(layer(*members)))


def test_layers_are_laid_over_each_other(tmp_path: Path) -> None:
    apply(tmp_path, folder('etc'), member('etc/a', b'old'), member('etc/b', b'b'), folder('d'), member('d/x', b'x'))
    apply(tmp_path, member('etc/a', b'new'), member('etc/.wh.b'), folder('d'), member('d/.wh..wh..opq'), member('d/y'))
    assert (tmp_path / 'etc/a').read_bytes() == b'new'
    assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob('*')) == ['d', 'd/y', 'etc', 'etc/a']


LOWER = [folder('d'), member('d/old'), member('d/same', b'lower'), folder('t'), folder('t/u'), member('t/u/old')]
UPPER = {
    ('d', 'd/new', 'd/same', 'e'): [
        folder('d'),
        member('d/new'),
        member('d/same', b'upper'),
        member('d/.wh..wh..opq'),
        member('e'),
        member('.wh.e'),
        member('.wh.t'),
    ],
    ('d', 'd/new', 't', 't/u', 't/u/new'): [
        member('t/u/new'),
        member('.wh.t'),
        folder('d'),
        member('d/new'),
        member('.wh.d'),
    ],
    ('d', 'd/old', 'd/same', 't', 't/copy', 't/u', 't/u/link'): [
        link('t/u/link', 'old'),
        link('t/copy', 'd/same', tarfile.LNKTYPE),
        member('t/.wh.copy'),
        member('t/u/.wh.link'),
        member('t/u/.wh.old'),
    ],
}


@pytest.mark.parametrize('expected', UPPER)
@pytest.mark.parametrize('backwards', [False, True])
def test_whiteouts_hide_lower_layers_only_wherever_they_stand(
    tmp_path: Path, expected: tuple[str, ...], backwards: bool
) -> None:
    members = UPPER[expected]
    apply(tmp_path, *LOWER)

    apply(tmp_path, *(reversed(members) if backwards else members))

    assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob('*')) == list(expected)
    if 'd/old' not in expected and 'd/same' in expected:
        assert (tmp_path / 'd/same').read_bytes() == b'upper'


def test_modes_stay_but_nobody_becomes_root_by_them(tmp_path: Path) -> None:
    apply(tmp_path, member('su', b'x', mode=0o4755), member('plain', mode=0o600), folder('locked', 0o000))
    assert stat.S_IMODE((tmp_path / 'su').stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / 'plain').stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / 'locked').stat().st_mode) == 0o700


def test_symlinked_directories_lead_where_they_do_in_the_image(tmp_path: Path) -> None:
    apply(tmp_path, folder('usr/bin'), link('bin', 'usr/bin'), link('sbin', '/usr/bin'))
    apply(tmp_path, member('bin/one', b'1'), member('sbin/two', b'2'), link('three', 'bin/one', tarfile.LNKTYPE))
    assert (tmp_path / 'usr/bin/one').read_bytes() == b'1'
    assert (tmp_path / 'usr/bin/two').read_bytes() == b'2'
    assert (tmp_path / 'three').samefile(tmp_path / 'usr/bin/one')


@pytest.mark.parametrize(
    'members',
    [
        [member('../outside', b'evil')],
        [member('/../outside', b'evil')],
        [link('way', '..'), member('way/outside', b'evil')],
        [link('way', '/..'), member('way/outside', b'evil')],
        [link('way', '../../..'), link('way2', 'way'), member('way2/outside', b'evil')],
        [link('outside', '../outside'), member('outside', b'evil')],
        [link('copy', '../secret', tarfile.LNKTYPE)],
        [link('way', '..'), link('copy', 'way/secret', tarfile.LNKTYPE)],
        [link('way', '..'), member('way/.wh.secret')],
        [link('way', '..'), folder('way/made')],
    ],
)
def test_nothing_lands_outside(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    root = tmp_path / 'deep' / 'root'
    root.mkdir(parents=True)
    (tmp_path / 'deep' / 'secret').write_text('host')

    apply(root, *members)

    assert sorted(each.name for each in (tmp_path / 'deep').iterdir()) == ['root', 'secret']
    assert (tmp_path / 'deep' / 'secret').read_text() == 'host'
    copy = root / 'copy'
    assert not copy.exists() or copy.read_text() != 'host'


@pytest.mark.parametrize('name', ['.wh.', '.wh..', '.wh...', 'deep/.wh...'])
def test_a_whiteout_of_no_name_removes_nothing(tmp_path: Path, name: str) -> None:
    root = tmp_path / 'root'
    root.mkdir()
    apply(root, folder('deep'), member('deep/file'), member('file'))

    apply(root, member(name))

    assert sorted(each.name for each in root.rglob('*')) == ['deep', 'file', 'file']


@pytest.mark.parametrize(
    'members',
    [
        [folder('a'), member('a/b'), link('a', 'a/b', tarfile.LNKTYPE)],
        [member('n' * 300)],
    ],
)
def test_a_layer_that_cannot_be_is_reported(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with pytest.raises(SandboxStartError, match='cannot be unpacked'):
        apply(tmp_path, *members)


def test_a_deep_path_costs_what_it_is_long(tmp_path: Path) -> None:
    """Counted in calls, since a time says little on a busy machine."""

    def count(depth: int) -> int:
        root, events = tmp_path / str(depth), 0
        root.mkdir()
        file = io.BytesIO(layer(member('d/' * depth + 'f')))

        def on_event(*_: object) -> None:
            nonlocal events
            events += 1

        sys.setprofile(on_event)
        try:
            apply_layer(root, file)
        finally:
            sys.setprofile(None)
        assert (root / ('d/' * depth) / 'f').is_file()
        return events

    assert count(200) < 3 * count(100)


@pytest.mark.parametrize(
    'members',
    [
        [member('d/' * 300 + 'f')],
        [member('d/' * 200 + 'f'), link('way', 'd/' * 200), member('way/' + 'e/' * 200 + 'f')],
        [member('d/' * 100_000 + 'f')],
    ],
)
def test_a_depth_that_no_image_has_is_refused(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with pytest.raises(SandboxStartError, match='more than 256 directories'):
        apply(tmp_path, *members)


def test_links_upon_links_in_a_path_lead_nowhere_in_the_end(tmp_path: Path) -> None:
    apply(tmp_path, link('here', '.'), member('here/' * 40 + 'near'), member('here/' * 41 + 'far'))
    assert sorted(each.name for each in tmp_path.iterdir()) == ['here', 'near']


def test_devices_and_pipes_are_left_out(tmp_path: Path) -> None:
    apply(tmp_path, member('disk', type=tarfile.BLKTYPE, devmajor=8), member('pipe', type=tarfile.FIFOTYPE))
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_circles_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / 'a').symlink_to('b')
    (tmp_path / 'b').symlink_to('a')
    assert resolve_inside(tmp_path, '/a') is None


def docker_archive(path: Path, *layers: bytes, tag: str | None = 'demo:1') -> Path:
    config = json.dumps({'config': {'Env': ['PATH=/opt/bin:/bin', 'COLOUR=red']}}).encode()
    names = [f'{number}/layer.tar' for number in range(len(layers))]
    manifest = [{'Config': 'config.json', 'RepoTags': [tag] if tag else None, 'Layers': names}]
    path.write_bytes(
        layer(
            member('config.json', config),
            member('manifest.json', json.dumps(manifest).encode()),
            *(member(name, data) for name, data in zip(names, layers, strict=True)),
        )
    )
    return path


def test_an_archive_of_docker_save_is_unpacked(tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / 'a.tar', layer(member('one', b'1')), gzip.compress(layer(member('two', b'2'))))

    image = unpack_image(str(archive))

    assert image.name == 'demo:1'
    root, env = find_unpacked('demo:1')
    assert {each.name: each.read_bytes() for each in root.iterdir()} == {'one': b'1', 'two': b'2'}
    assert env == {'PATH': '/opt/bin:/bin', 'COLOUR': 'red'}
    assert [each.name for each in list_unpacked()] == ['demo:1']
    remove_unpacked('demo:1')
    with pytest.raises(ImageNotFoundError, match='images unpack demo:1'):
        find_unpacked('demo:1')


def test_unpacking_again_takes_the_place_of_the_old(tmp_path: Path) -> None:
    for content in (b'old', b'new'):
        unpack_image(str(docker_archive(tmp_path / 'a.tar', layer(member(content.decode(), content)))), name='x')
    assert [each.name for each in find_unpacked('x:latest')[0].iterdir()] == ['new']
    assert [each.name for each in image_place('x').parent.iterdir()] == ['x:latest']


@pytest.mark.parametrize('nested', [False, True])
def test_an_oci_layout_is_unpacked(tmp_path: Path, nested: bool) -> None:
    blobs = tmp_path / 'oci' / 'blobs' / 'sha256'
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {'digest': f'sha256:{name}', 'size': len(data)}

    first, second = put(layer(member('f', b'oci'))), put(json.dumps({'config': {'Env': ['A=b=c']}}).encode())
    manifest = {**put(json.dumps({'config': second, 'layers': [first]}).encode())}
    manifest['platform'] = {'architecture': ARCHITECTURE}
    other = {**put(b'{}'), 'platform': {'architecture': 'z80'}}
    top = {'manifests': [other, manifest]}
    if nested:
        top = {'manifests': [put(json.dumps(top).encode())]}
    (tmp_path / 'oci' / 'index.json').write_text(json.dumps(top))

    unpack_image(str(tmp_path / 'oci'), name='from-oci')

    root, env = find_unpacked('from-oci')
    assert (root / 'f').read_bytes() == b'oci'
    assert env == {'A': 'b=c'}


def image_of(*, manifest: Any = None, config: Any = None, index: Any = None, blob: Any = None) -> bytes:
    """Return an archive with these documents."""
    documents = {'manifest.json': manifest, 'index.json': index, 'config.json': config}
    given = {name: json.dumps(value).encode() for name, value in documents.items() if value is not None}
    data = json.dumps(blob).encode()
    given[f'blobs/sha256/{hashlib.sha256(data).hexdigest()}'] = data
    return layer(*(member(name, each) for name, each in given.items()), member('l.tar', layer(member('f'))))


def manifest_of(**fields: Any) -> list[Any]:
    return [{'Config': 'config.json', 'Layers': ['l.tar'], **fields}]


@pytest.mark.parametrize(
    ('documents', 'match'),
    [
        ({'manifest': 'x'}, "manifest.json must be a list, not 'x'"),
        ({'manifest': [5]}, r'manifest.json\[0\] must be an object, not 5'),
        ({'manifest': [{}]}, r'manifest.json\[0\] has no Config'),
        ({'manifest': manifest_of(Config=5)}, r'manifest.json\[0\]: Config must be a text, not 5'),
        ({'manifest': manifest_of(Config='gone.json')}, "it has no 'gone.json'"),
        ({'manifest': manifest_of(RepoTags=[5]), 'config': {}}, r'RepoTags\[0\] must be a text, not 5'),
        ({'manifest': manifest_of(RepoTags='x'), 'config': {}}, "RepoTags must be a list, not 'x'"),
        ({'manifest': manifest_of(Layers=5), 'config': {}}, 'Layers must be a list, not 5'),
        ({'manifest': manifest_of(), 'config': 'x'}, "config.json must be an object, not 'x'"),
        ({'manifest': manifest_of(), 'config': {'config': [1]}}, r'config must be an object, not \[1\]'),
        ({'manifest': manifest_of(), 'config': {'config': {'Env': 5}}}, 'Env must be a list, not 5'),
        ({'manifest': manifest_of(), 'config': {'config': {'Env': [1, 'A']}}}, r'Env\[0\] must be a text, not 1'),
        ({'index': []}, r'index.json must be an object, not \[\]'),
        ({'index': {'manifests': [{'digest': 5}]}}, 'digest must be a text, not 5'),
        ({'index': {'manifests': [{'platform': 5}]}}, 'platform must be an object, not 5'),
        ({'index': {'layers': [5], 'config': {}}}, 'config has no digest'),
    ],
)
def test_a_document_of_another_shape_is_reported_with_its_place(
    tmp_path: Path, documents: dict[str, Any], match: str
) -> None:
    (tmp_path / 'a.tar').write_bytes(image_of(**documents))
    with pytest.raises(SandboxStartError, match=match):
        unpack_image(str(tmp_path / 'a.tar'), name='x')


@pytest.mark.parametrize('text', [b'[' * 100_000, b'{"a": ', b'\xff\xfe', b'9' * 5000, b'[NaN]'])
def test_a_document_that_is_no_json_is_reported(tmp_path: Path, text: bytes) -> None:
    (tmp_path / 'a.tar').write_bytes(layer(member('manifest.json', text)))
    with pytest.raises(SandboxStartError, match=r'manifest\.json'):
        unpack_image(str(tmp_path / 'a.tar'), name='x')


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(['config.json', 'l.tar', 'PATH=/bin', '\0', '\ud800']),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ['Config', 'Layers', 'RepoTags', 'config', 'Env', 'manifests', 'digest', 'platform', 'layers', 'rootfs']
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(manifest=anything | st.builds(manifest_of, RepoTags=anything, Layers=anything), config=anything, index=anything)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_documents_of_any_shape_are_understood_or_reported(
    tmp_path: Path, manifest: Any, config: Any, index: Any
) -> None:
    data = image_of(manifest=manifest, config=config, index=index)
    (tmp_path / 'a.tar').write_bytes(data)
    with tempfile.TemporaryDirectory() as place:
        apply_layer(Path(place), io.BytesIO(data))
        for source in (tmp_path / 'a.tar', place):
            with contextlib.suppress(EnclaveError):
                unpack_image(str(source), name='x')


@pytest.mark.parametrize('pack', [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.7])
def test_an_archive_that_is_cut_off_is_reported(tmp_path: Path, pack: Callable[[bytes], bytes], share: float) -> None:
    data = pack(
        docker_archive(tmp_path / 'whole.tar', layer(member('f', random.Random(5).randbytes(50_000)))).read_bytes()
    )
    (tmp_path / 'a.tar').write_bytes(data[: int(len(data) * share)])

    with pytest.raises(SandboxStartError, match='not an image archive, or not a whole one'):
        unpack_image(str(tmp_path / 'a.tar'))


def test_a_damaged_header_is_not_the_end_of_a_layer(tmp_path: Path) -> None:
    data = bytearray(layer(member('first'), member('second')))
    data[512] ^= 1
    with pytest.raises(SandboxStartError, match='layer of the image is damaged'):
        apply_layer(tmp_path, io.BytesIO(data))


@pytest.mark.parametrize(
    'headers', [{'size': '-512'}, {'mtime': 'inf'}, {'mtime': '1e300'}, {'comment': 'x' * (2 << 20)}]
)
def test_a_members_facts_that_cannot_be_are_reported(tmp_path: Path, headers: dict[str, str]) -> None:
    info, content = member('f')
    info.pax_headers = headers
    with pytest.raises(SandboxStartError, match='layer of the image'):
        apply(tmp_path, (info, content))


def sha256(data: bytes) -> str:
    return f'sha256:{hashlib.sha256(data).hexdigest()}'


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def saved(path: Path, *layers: bytes, diff_ids: list[str] | None = None, config_name: str | None = None) -> Path:
    """Write an archive as `docker save` does."""
    config = json.dumps({'rootfs': {'diff_ids': diff_ids}} if diff_ids is not None else {}).encode()
    config_name = config_name or f'{hashlib.sha256(config).hexdigest()}.json'
    names = [f'{number}/layer.tar' for number in range(len(layers))]
    manifest = [{'Config': config_name, 'RepoTags': ['demo:1'], 'Layers': names}]
    documents = [member(config_name, config), member('manifest.json', json.dumps(manifest).encode())]
    path.write_bytes(layer(*documents, *(member(name, data) for name, data in zip(names, layers, strict=True))))
    return path


ONE, TWO = layer(member('one', b'1' * 5000)), layer(member('two', b'2' * 5000))


def nothing_stays() -> bool:
    return list_unpacked() == [] and list(image_place('x').parent.iterdir()) == []


@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress])
def test_a_damaged_layer_is_reported_by_the_check_sum_at_its_end(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    whole = pack(TWO)
    unpack_image(str(saved(tmp_path / 'whole.tar', ONE, whole)))
    remove_unpacked('demo:1')
    for damaged in (flipped(whole, len(whole) // 2), flipped(whole, len(whole) - 6), whole[:-9]):
        with pytest.raises(SandboxStartError, match=r"layer 2 of 2 of the image, '1/layer.tar', is damaged"):
            unpack_image(str(saved(tmp_path / 'a.tar', ONE, damaged)))
        assert nothing_stays()


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_a_layer_that_is_another_than_the_configuration_says_is_reported(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    right = [sha256(ONE), sha256(TWO)]
    unpack_image(str(saved(tmp_path / 'whole.tar', pack(ONE), pack(TWO), diff_ids=right)))
    remove_unpacked('demo:1')
    other = TWO.replace(b'2222', b'2322', 1)
    with pytest.raises(
        SandboxStartError, match=f'layer 2 of 2.*is damaged: its digest is {sha256(other)}, not {right[1]}'
    ):
        unpack_image(str(saved(tmp_path / 'a.tar', pack(ONE), pack(other), diff_ids=right)))
    assert nothing_stays()
    with pytest.raises(SandboxStartError, match='1 entries for 2 layers'):
        unpack_image(str(saved(tmp_path / 'a.tar', ONE, TWO, diff_ids=right[:1])))


def test_a_configuration_that_is_not_what_its_name_says_is_reported(tmp_path: Path) -> None:
    for name in (f'{"0" * 64}.json', f'blobs/sha256/{"0" * 64}'):
        with pytest.raises(SandboxStartError, match=f'damaged: {name}: its digest is'):
            unpack_image(str(saved(tmp_path / 'a.tar', ONE, config_name=name)))


def test_damage_of_any_byte_is_reported_or_does_none(tmp_path: Path) -> None:
    """As one flips each byte of a small layer in turn, whatever it hits."""
    for whole in (gzip.compress(ONE, mtime=0), lzma.compress(ONE)):
        for at in range(len(whole)):
            root = tmp_path / f'{whole[:1].hex()}-{at}'
            root.mkdir()
            try:
                apply_layer(root, io.BytesIO(flipped(whole, at)))
            except SandboxStartError as error:
                assert 'damaged' in str(error)  # noqa: PT017
            else:
                assert {each.name: each.read_bytes() for each in root.iterdir()} == {'one': b'1' * 5000}


@given(at=st.integers(0, len(ONE) - 1), data=st.binary(min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_nonsense_in_a_layer_is_reported_if_its_digest_is_known(tmp_path: Path, at: int, data: bytes) -> None:
    nonsense = (ONE[:at] + data + ONE[at + len(data) :])[: len(ONE)]
    with tempfile.TemporaryDirectory(dir=tmp_path) as root:
        if nonsense == ONE:
            apply_layer(Path(root), io.BytesIO(nonsense), diff_id=sha256(ONE))
        else:
            with pytest.raises(SandboxStartError, match='damaged'):
                apply_layer(Path(root), io.BytesIO(nonsense), diff_id=sha256(ONE))


@pytest.mark.parametrize('what', ['layer', 'config', 'manifest', 'size', 'algorithm', 'way out'])
def test_a_part_of_an_oci_layout_that_is_another_is_reported(tmp_path: Path, what: str) -> None:
    blobs = tmp_path / 'oci' / 'blobs' / 'sha256'
    blobs.mkdir(parents=True)

    def put(name: str, data: bytes) -> dict[str, Any]:
        digest = sha256(data)
        (blobs / digest[7:]).write_bytes(data + b' ' if name == what else data)
        return {'digest': digest, 'size': len(data)}

    first, config = put('layer', gzip.compress(ONE)), put('config', b'{}')
    first['size'] += what == 'size'
    if what == 'algorithm':
        first['digest'] = 'md5:0'
    if what == 'way out':
        first['digest'] = 'sha256:../../../secret'
    manifest = put('manifest', json.dumps({'config': config, 'layers': [first]}).encode())
    (tmp_path / 'oci' / 'index.json').write_text(json.dumps({'manifests': [manifest]}))

    with pytest.raises(SandboxStartError, match=r'damaged|must be a sha256 or sha512 digest'):
        unpack_image(str(tmp_path / 'oci'), name='x')

    assert nothing_stays()


def test_a_layer_compressed_in_an_unknown_way_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('enclave.sandboxes.images.archive._DECOMPRESSORS', {})
    with pytest.raises(SandboxStartError, match='zstd'):
        apply_layer(tmp_path, io.BytesIO(b'\x28\xb5\x2f\xfd' + bytes(100)))


def test_what_is_no_image_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / 'text').write_text('not a tar')
    (tmp_path / 'other.tar').write_bytes(layer(member('hello', b'x')))
    (tmp_path / 'bad.tar').write_bytes(layer(member('manifest.json', b'[{"Config": 5}]')))
    for name, match in (
        ('text', 'not an image archive'),
        ('other.tar', 'no image'),
        ('bad.tar', 'cannot be understood'),
    ):
        with pytest.raises(SandboxStartError, match=match):
            unpack_image(str(tmp_path / name), name='x')
    with pytest.raises(ImageNotFoundError, match='no image archive'):
        unpack_image(str(tmp_path / 'missing.tar'))
    with pytest.raises(ConfigurationError, match='give it a name'):
        unpack_image(str(docker_archive(tmp_path / 'anonymous.tar', layer(), tag=None)))
    with pytest.raises(ConfigurationError, match='no name of an image'):
        unpack_image(str(docker_archive(tmp_path / 'odd.tar', layer(), tag='a\0b')))
    lacking = docker_archive(tmp_path / 'lacking.tar', layer(member('f')), layer())
    data = lacking.read_bytes().replace(b'1/layer.tar\0', b'9/layer.tar\0')
    lacking.write_bytes(data)
    with pytest.raises((SandboxStartError, tarfile.TarError)):
        unpack_image(str(lacking), name='x')
    assert list(image_place('x').parent.iterdir()) == []


# Ends of the process --------------------------------------------------------------------------------------------------

CUT_SHORT = """
import sys, threading
from pathlib import Path
from enclave.cli.main import main
from enclave.sandboxes.images import unpack

def stop_at(first, file, **named):
    if isinstance(first, Path):
        (first / 'file').write_text('half')
    else:
        file.write(bytes(1 << 20))
        file.flush()
    print('begun', flush=True)
    for _ in range(1200):  # not one long wait, which would not end if the signal came just before it
        threading.Event().wait(0.05)

setattr(unpack, sys.argv[1], stop_at)
main(['images', 'unpack', sys.argv[2], '--name', 'x'])
"""


def cut_short(stage: str, source: str, how: signal.Signals, folder: Path) -> int:
    """Unpack in a process of its own, and end that with a signal while it is at a stage; return its exit status."""
    (folder / 'tmp').mkdir(exist_ok=True)
    command = [sys.executable, '-c', CUT_SHORT, stage, source]
    env = {**os.environ, 'TMPDIR': str(folder / 'tmp')}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'begun\n'
        process.send_signal(how)
        return process.wait(60)


@pytest.mark.processes
@pytest.mark.parametrize('stage', ['apply_layer', '_save_from_engine'])
@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_that_is_asked_to_end_leaves_nothing(tmp_path: Path, stage: str, how: signal.Signals) -> None:
    source = str(saved(tmp_path / 'a.tar', ONE)) if stage == 'apply_layer' else 'some/image:1'

    status = cut_short(stage, source, how, tmp_path)

    assert status == 128 + how
    assert nothing_stays()
    assert list((tmp_path / 'tmp').iterdir()) == []


@pytest.mark.processes
@pytest.mark.parametrize('stage', ['apply_layer', '_save_from_engine'])
def test_what_a_killed_one_left_is_swept_by_the_next(tmp_path: Path, stage: str) -> None:
    archive = str(saved(tmp_path / 'a.tar', ONE))

    cut_short(stage, archive if stage == 'apply_layer' else 'some/image:1', signal.SIGKILL, tmp_path)

    left = list(image_place('x').parent.iterdir())
    assert [each.name.startswith('.new-') for each in left] == [True]
    assert list_unpacked() == []
    assert list((tmp_path / 'tmp').iterdir()) == []
    if stage == '_save_from_engine':
        assert list(left[0].iterdir()) == []  # the file for what the engine sends had no name

    unpack_image(archive)

    assert [each.name for each in image_place('x').parent.iterdir()] == ['demo:1']


def test_what_another_is_at_is_not_swept(tmp_path: Path) -> None:
    folder = image_place('x').parent
    with workspace(folder) as other:
        (other / 'file').write_text('in use')
        unpack_image(str(saved(tmp_path / 'a.tar', ONE)))
        assert (other / 'file').read_text() == 'in use'
    assert [each.name for each in folder.iterdir()] == ['demo:1']


def test_a_directory_swept_before_it_is_locked_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], tempfile.mkdtemp

    def make_and_lose(**options: Any) -> str:
        made.append(make(**options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, 'mkdtemp', make_and_lose)
    with workspace(tmp_path) as place:
        assert [str(place)] == made[1:]
        assert place.is_dir()


def test_two_that_unpack_the_same_image_at_once_do_not_hinder_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = str(saved(tmp_path / 'a.tar', ONE))
    rename = os.rename

    def late(source: Any, target: Any) -> None:
        if Path(target) == image_place('demo:1'):
            monkeypatch.setattr(os, 'rename', rename)
            unpack_image(archive)  # the other one, between making room and moving in
        rename(source, target)

    monkeypatch.setattr(os, 'rename', late)
    unpack_image(archive)

    assert [each.name for each in image_place('x').parent.iterdir()] == ['demo:1']
