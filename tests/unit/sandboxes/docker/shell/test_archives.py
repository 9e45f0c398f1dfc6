from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest

from enclave.errors import SandboxPathError
from enclave.sandboxes.docker.shell.archives import check, rename_top


def make(*members: tarfile.TarInfo, data: bytes = b'') -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w') as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return stream.getvalue()


def file(name: str, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def pieces(data: bytes, size: int = 700) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


@pytest.mark.parametrize(
    'members',
    [
        [link('a', '..'), file('a/x')],
        [link('a', '/etc'), file('a/x')],
        [link('a', 'b/..'), link('b', '..'), file('a/x')],
        [link('a', 'a'), file('a/x')],
        [link('a', '/etc'), link('h', 'a/passwd', tarfile.LNKTYPE)],
        [link('h', '../x', tarfile.LNKTYPE)],
    ],
)
def test_what_leads_out_through_the_archives_own_links_is_refused(members: list[tarfile.TarInfo]) -> None:
    with pytest.raises(SandboxPathError, match='outside the target'):
        check(pieces(make(*members)), io.BytesIO(), None)


def test_a_link_that_another_member_replaces_leads_nowhere() -> None:
    spool = io.BytesIO()

    folders = check(pieces(make(link('a', '..'), file('a'), link('b', 'c'), file('b/x'))), spool, None)

    assert set(folders) == {'', 'b'}
    assert names(spool.getvalue()) == ['./a', './a', './b', './b/x']


def test_a_directory_gets_its_mode_after_it_was_filled() -> None:
    folder = tarfile.TarInfo('d')
    folder.type, folder.mode = tarfile.DIRTYPE, 0o555
    spool = io.BytesIO()

    check(pieces(make(folder, file('d/x'))), spool, (5, 6))

    with tarfile.open(fileobj=io.BytesIO(spool.getvalue())) as archive:
        assert [(m.name, m.mode, m.uid, m.gid) for m in archive] == [
            ('./d', 0o755, 5, 6),
            ('./d/x', 0o644, 5, 6),
            ('./d', 0o555, 5, 6),
        ]


def test_the_top_is_renamed_and_nothing_else() -> None:
    data = make(file('./top/x', 3), file('./topmost'), link('./top/h', './top/x', tarfile.LNKTYPE), data=b'abc')

    renamed = b''.join(rename_top(pieces(data), 'top', 'new/name'))

    with tarfile.open(fileobj=io.BytesIO(renamed)) as archive:
        assert [(m.name, m.linkname) for m in archive] == [
            ('new/name/x', ''),
            ('new/name/topmost', ''),
            ('new/name/h', 'new/name/x'),
        ]


@pytest.mark.parametrize('data', [b'', b'nonsense' * 500, make(file('x', 2000), data=b'y' * 2000)[:1024]])
def test_an_archive_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(SandboxPathError, match='no proper archive'):
        list(rename_top(pieces(data), '.', 'x'))


def test_a_header_without_end_is_refused_before_it_fills_the_memory() -> None:
    header = tarfile.TarInfo('x')
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    endless = iter(lambda: b'1' * 65536, b'')

    def stream() -> Iterator[bytes]:
        yield header.tobuf(tarfile.USTAR_FORMAT)
        yield from endless

    with pytest.raises(SandboxPathError, match='too long'):
        list(rename_top(stream(), '.', 'x'))
