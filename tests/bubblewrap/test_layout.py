"""Where the working directory and volumes may be, and what stands in their way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap.rootfs import _STORES
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox

Start = Callable[..., BubblewrapSandbox]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A host directory that a sandbox may write in, the one that it is outside."""
    place = tmp_path / 'volume'
    place.mkdir()
    place.chmod(0o777)
    return place


@pytest.mark.parametrize(
    'path', ['/var/tmp', '/var/tmp/work', '/dev/shm', '/dev/shm/work', '//work//', '/run/work', '/var/log']
)
def test_a_working_directory_may_be_anywhere_that_is_not_read_only(start: Start, path: str) -> None:
    sandbox = start(working_dir=path)
    sandbox.write_file('made', 'content')
    assert sandbox.execute_command('cat made && cd / && cat "$OLDPWD"/made').stdout == 'contentcontent'


@pytest.mark.parametrize(
    'path', ['/var/tmp', '/var/tmp/data', '/dev/shm/data', '/run/data', '/usr/local', '/data/deep']
)
def test_a_volume_may_be_anywhere_that_is_there_or_can_be_made(start: Start, volume: Path, path: str) -> None:
    (volume / 'file').write_text('content')
    sandbox = start(volumes={str(volume): {'bind': path, 'mode': 'ro'}})
    assert sandbox.execute_command(['cat', f'{path}/file']).stdout == 'content'


def test_a_working_directory_below_a_writable_volume_is_made_in_it(start: Start, volume: Path) -> None:
    sandbox = start(working_dir='/data/work/deep', volumes={str(volume): '/data'})
    sandbox.write_file('made', 'content')
    assert (volume / 'work' / 'deep' / 'made').read_text() == 'content'


def test_a_working_directory_below_a_read_only_volume_must_be_there(start: Start, volume: Path) -> None:
    read_only = {str(volume): {'bind': '/data', 'mode': 'ro'}}
    with pytest.raises(SandboxStartError, match=r"working_dir: '/data/work' .* /data is read-only"):
        start(working_dir='/data/work', volumes=read_only)
    (volume / 'work').mkdir()
    assert start(working_dir='/data/work', volumes=read_only).execute_command('pwd').stdout == '/data/work\n'


def test_volumes_may_be_in_each_other_in_any_order(start: Start, volume: Path) -> None:
    (volume / 'inner').mkdir()
    other = volume.parent / 'other'
    other.mkdir()
    (other / 'file').write_text('inner')
    sandbox = start(
        volumes={str(other): {'bind': '/data/inner', 'mode': 'ro'}, str(volume): {'bind': '/data', 'mode': 'ro'}}
    )
    assert sandbox.execute_command('cat /data/inner/file').stdout == 'inner'


@pytest.mark.parametrize('path', ['/usr/missing', '/usr/bin/env/x'])
def test_what_cannot_be_made_is_reported_by_name(start: Start, volume: Path, path: str) -> None:
    with pytest.raises(SandboxStartError, match=f'working_dir: {path!r}'):
        start(working_dir=path)
    with pytest.raises(SandboxStartError, match=f"'bind'.*{path!r}"):
        start(volumes={str(volume): {'bind': path, 'mode': 'ro'}})


def test_a_working_directory_is_not_made_in_etc(start: Start) -> None:
    with pytest.raises(SandboxStartError, match="working_dir: '/etc/missing'"):
        start(working_dir='/etc/missing')


def test_volumes_may_be_in_etc(start: Start, volume: Path) -> None:
    (volume / 'file').write_text('content')
    (volume / 'other').mkdir()
    (volume / 'other/file').write_text('other')
    before = set(start().execute_command('ls /etc').stdout.split())
    sandbox = start(
        volumes={
            str(volume): {'bind': '/etc/an app/conf', 'mode': 'ro'},
            str(volume / 'file'): {'bind': '/etc/app.conf', 'mode': 'ro'},
            str(volume / 'other'): {'bind': '/etc/ssl/more', 'mode': 'ro'},
        }
    )

    seen = sandbox.execute_command(
        'cat "/etc/an app/conf/file" /etc/app.conf /etc/ssl/more/file; ls /etc/ssl/certs | wc -l'
    )

    assert seen.stdout.startswith('contentcontentother')
    assert seen.stderr == ''
    assert set(sandbox.execute_command('ls /etc').stdout.split('\n')) - before == {'an app', 'app.conf', ''}
    assert sandbox.execute_command('touch /etc/x /etc/ssl/x /etc/passwd').exit_code != 0
    assert sandbox.execute_command('getent passwd 1000; getent hosts localhost').exit_code == 0


def test_no_link_in_a_volume_leads_bubblewrap_out_of_it(start: Start, volume: Path) -> None:
    """While it makes what is missing, this machine's own root is at /oldroot."""
    outside = volume.parent / 'outside'
    outside.mkdir()
    outside.chmod(0o777)
    (volume / 'way').symlink_to(f'/oldroot{outside}')
    for options in (
        {'working_dir': '/data/way/made', 'volumes': {str(volume): '/data'}},
        {'volumes': {str(volume): '/data', str(outside): {'bind': '/data/way/made', 'mode': 'ro'}}},
    ):
        with pytest.raises(SandboxStartError, match='symlink'):
            start(**options)
    assert list(outside.iterdir()) == []


def test_no_link_in_a_rootfs_leads_bubblewrap_out_of_it(start: Start, tmp_path: Path) -> None:
    outside, root = tmp_path / 'outside', tmp_path / 'root'
    for place in (outside, root / 'usr' / 'bin', root / 'srv'):
        place.mkdir(parents=True)
    outside.chmod(0o777)
    for place in (tmp_path, root):
        place.chmod(0o755)
    (root / 'usr' / 'bin' / 'python3').touch(0o755)
    os.symlink(f'/oldroot{outside}', root / 'sandbox')
    os.symlink(f'/oldroot{outside}', root / 'srv' / 'way')

    for working_dir in ('/sandbox', '/sandbox/made', '/srv/way/made'):
        with pytest.raises(SandboxStartError, match='symlink'):
            start(rootfs=str(root), working_dir=working_dir)

    assert list(outside.iterdir()) == []


@pytest.mark.parametrize('place', [each for each in _STORES if os.path.isdir(each)])
def test_what_programs_keep_in_var_is_shown_and_cannot_be_written(place: str) -> None:
    with BubblewrapSandbox({}) as sandbox:
        assert sandbox.list_dir(place)
        assert not sandbox.execute_command(['touch', f'{place}/x']).success
        assert {each.path for each in sandbox.list_dir('/var')} <= {'lib', 'tmp'}
