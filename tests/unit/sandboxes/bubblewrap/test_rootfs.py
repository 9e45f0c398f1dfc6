"""What is read of a root file system, which may be a stranger's, and what a sandbox is shown of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap import rootfs
from enclave.sandboxes.bubblewrap.rootfs import (
    View,
    find_interpreter_trees,
    find_unpacked,
    get_view,
    image_place,
    open_inside,
)
from tests.support.interpreters import make_python


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ENCLAVE_CACHE_DIR', str(tmp_path / 'cache'))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system with a ``python3`` and an empty ``/etc``."""
    root = tmp_path / 'tree'
    (root / 'usr/bin').mkdir(parents=True)
    (root / 'etc').mkdir()
    (root / 'usr/bin/python3').write_text('#!/bin/sh\n')
    (root / 'usr/bin/python3').chmod(0o755)
    return root


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of this machine, with a line that would do for a ``passwd`` too."""
    path = tmp_path / 'secret'
    path.write_text('hunter2:x:7:7::/:/bin/sh\n')
    return path


def etc_of(view: View) -> Path:
    return Path({path: source for source, path in view.trees}['/etc'])


def holds(place: Path, text: str) -> list[Path]:
    """Return the files below a directory, links left aside, in which a text is."""
    files = [each for each in place.rglob('*') if each.is_file() and not each.is_symlink()]
    return [each for each in files if text in each.read_text('utf-8', 'replace')]


@pytest.mark.parametrize(
    'name', ['resolv.conf', 'passwd', 'group', 'hosts', 'hostname', 'nsswitch.conf', 'x', 'd/deep']
)
@pytest.mark.parametrize('network', [False, True])
def test_a_link_in_its_etc_leads_to_no_file_of_this_machine(tree: Path, secret: Path, name: str, network: bool) -> None:
    (tree / 'etc' / name).parent.mkdir(exist_ok=True)
    (tree / 'etc' / name).symlink_to(secret)

    etc = etc_of(get_view(str(tree), None, network=network))

    assert holds(etc, 'hunter2') == []
    assert (etc / 'passwd').read_text().splitlines()[-1].startswith('sandbox:x:1000:')


@pytest.mark.parametrize('way', ['{outside}', '../outside', '/../outside'])
def test_an_etc_that_is_a_link_leads_to_no_directory_of_this_machine(
    tree: Path, secret: Path, tmp_path: Path, way: str
) -> None:
    outside = tmp_path / 'outside'
    outside.mkdir()
    for name in ('passwd', 'shown'):
        (outside / name).write_text(secret.read_text())
    (tree / 'etc').rmdir()
    (tree / 'etc').symlink_to(way.format(outside=outside))

    assert holds(etc_of(get_view(str(tree), None, network=False)), 'hunter2') == []


def test_a_link_to_var_is_not_followed_on_this_machine(tree: Path) -> None:
    """Of this machine's own /etc such links are followed, since a sandbox does not see their targets."""
    found = next(each for each in Path('/var').rglob('*') if each.is_file() and os.access(each, os.R_OK))
    (tree / 'etc/x').symlink_to(found)

    etc = etc_of(get_view(str(tree), None, network=False))

    assert os.readlink(etc / 'x') == str(found)


def test_its_own_etc_is_shown_with_its_links_and_users(tree: Path) -> None:
    (tree / 'etc/deep/er').mkdir(parents=True)
    (tree / 'etc/deep/er/file').write_text('content')
    (tree / 'etc/shadow').write_text('private')
    (tree / 'etc/shadow').chmod(0o600)
    (tree / 'etc/alias').symlink_to('deep/er/file')
    (tree / 'usr/users').write_text('root:x:0:0::/:/bin/sh\nappuser:x:1000:5::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\n')
    (tree / 'etc/passwd').symlink_to('/usr/users')

    etc = etc_of(get_view(str(tree), None, network=False))

    assert (etc / 'alias').read_text() == 'content'
    assert not (etc / 'shadow').exists()
    users = [line.split(':')[0] for line in (etc / 'passwd').read_text().splitlines()]
    assert users == ['root', 'daemon', 'sandbox']


def test_what_stands_for_a_file_in_its_etc_may_be_anything(tree: Path) -> None:
    for name in ('passwd', 'hosts', 'resolv.conf'):
        (tree / 'etc' / name).mkdir()
    os.mkfifo(tree / 'etc/group')
    os.mkfifo(tree / 'etc/pipe')
    (tree / 'etc/nsswitch.conf').symlink_to('nowhere')

    etc = etc_of(get_view(str(tree), None, network=True))

    assert (etc / 'passwd').is_file()
    assert (etc / 'group').is_file()
    assert not (etc / 'pipe').exists()


def test_an_etc_of_any_size_is_not_copied(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tree / 'etc/huge').open('wb') as file:
        file.truncate(1 << 40)
    with pytest.raises(SandboxStartError, match='has more than'):
        get_view(str(tree), None, network=False)
    (tree / 'etc/huge').unlink()
    monkeypatch.setattr(rootfs, '_ETC_DEPTH', 3)
    (tree / 'etc/a/b/c/d/e').mkdir(parents=True)
    with pytest.raises(SandboxStartError, match='has more than'):
        get_view(str(tree), None, network=False)


def test_its_python_is_looked_for_in_it_alone(tree: Path, tmp_path: Path) -> None:
    (tree / 'usr/bin/python3').unlink()
    (tree / 'usr/bin/python3').symlink_to('/usr/bin/env')
    with pytest.raises(SandboxStartError, match='has no python3'):
        get_view(str(tree), None, network=False)


def test_a_python_that_cannot_be_executed_is_not_reported_as_missing(tree: Path) -> None:
    python = tree / 'usr/bin/python3'
    python.chmod(0o644)
    with pytest.raises(SandboxStartError, match=r'has a /usr/bin/python3, .* cannot be executed'):
        get_view(str(tree), None, network=False)
    python.unlink()
    python.mkdir()
    with pytest.raises(SandboxStartError, match=r'has a /usr/bin/python3, .* cannot be executed'):
        get_view(str(tree), None, network=False)


def test_a_link_put_in_the_way_meanwhile_is_not_followed(
    tree: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rootfs, 'resolve_inside', lambda root, path: tree / 'etc/x')
    (tree / 'etc/x').symlink_to(secret)
    with pytest.raises(OSError, match='symbolic'):
        open_inside(tree, '/etc/x')
    monkeypatch.setattr(rootfs, 'resolve_inside', lambda root, path: tree / 'way/secret')
    (tree / 'way').symlink_to(secret.parent)
    with pytest.raises(OSError, match='directory'):
        open_inside(tree, '/way/secret')


def test_an_images_variables_that_can_be_none_are_left_out() -> None:
    """A NUL in one would be the end of an option of bubblewrap's, and the rest another option."""
    place = image_place('evil')
    place.mkdir()
    env = {'GOOD': 'yes', 'BAD': 'x\0--ro-bind\0/\0/host', 'NO=NAME': '', 'ODD': '\ud800'}
    (place / 'enclave.json').write_text(json.dumps({'env': env}))

    assert find_unpacked('evil')[1] == {'GOOD': 'yes'}


# Interpreters ---------------------------------------------------------------------------------------------------------


def link_to(link: Path, target: str | Path) -> Path:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return link


def test_an_environment_is_shown_with_the_python_it_is_made_from(tmp_path: Path) -> None:
    python = make_python(tmp_path / 'python-3.11.7')
    venv = tmp_path / 'venv'

    for target in (python, '../../python-3.11.7/bin/python3'):
        link = link_to(venv / 'bin' / 'python3', target)
        both = {str(venv), str(tmp_path / 'python-3.11.7')}
        assert set(find_interpreter_trees(str(link))) == {(each, each) for each in both}
        link.unlink()


def test_a_python_behind_a_linked_directory_is_there_under_both_names(tmp_path: Path) -> None:
    make_python(tmp_path / 'python-3.11.7')
    link_to(tmp_path / 'python-3.11', 'python-3.11.7')
    link = link_to(tmp_path / 'venv' / 'bin' / 'python3', '../../python-3.11/bin/python3')

    real = str(tmp_path / 'python-3.11.7')
    shown = {(str(tmp_path / 'venv'),) * 2, (real, str(tmp_path / 'python-3.11')), (real, real)}
    assert set(find_interpreter_trees(str(link))) == shown


def test_where_a_link_leads_is_not_reported_by_its_text(tmp_path: Path) -> None:
    """By its text alone this one leads to what it does not lead to."""
    secret = make_python(tmp_path / 'secret')
    make_python(tmp_path / 'shown' / 'deep' / 'secret')
    (tmp_path / 'shown' / 'deep' / 'er' / 'still').mkdir(parents=True)
    link_to(tmp_path / 'shown' / 'way', 'deep/er/still')
    link = link_to(tmp_path / 'shown' / 'bin' / 'python3', '../way/../../secret/bin/python3')
    assert os.path.normpath(link.parent / os.readlink(link)) == str(secret)

    assert find_interpreter_trees(str(link)) == [(str(tmp_path / 'shown'),) * 2]


def test_an_interpreter_named_with_dots_is_shown_where_it_is(tmp_path: Path) -> None:
    for folder in ('env/bin', 'elsewhere'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'env/bin/python3').symlink_to(sys.executable)

    for way in ('elsewhere/../env/bin/python3', 'env/bin/../bin/./python3', 'env/../elsewhere/../env/bin/python3'):
        view = get_view(None, f'{tmp_path}/{way}', network=False)

        assert view.python == f'{tmp_path}/env/bin/python3'
        assert view.path.startswith(f'{tmp_path}/env/bin:')
