"""Where things are kept, on machines where that is not as usual."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap import places
from enclave.sandboxes.bubblewrap.places import VARIABLE, cache_dir, is_reachable, keep_file, keep_tree, reachable_dir
from tests.support.host import PATIENCE

USER = 12345


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, where all users pass; what comes before it in the search cannot be used."""
    for each in (tmp_path, *tmp_path.parents):
        if str(each).startswith('/tmp/'):
            each.chmod(0o755)
    place = tmp_path / 'temporary'
    place.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(place))
    monkeypatch.setattr(places, '_usual', lambda uid, xdg, home: None)
    monkeypatch.delenv(VARIABLE, raising=False)
    return place


def test_a_users_cache_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    assert places._usual(USER, None, str(tmp_path)) == tmp_path / '.cache' / 'enclave'
    assert places._usual(USER, str(tmp_path / 'xdg'), str(tmp_path)) == tmp_path / 'xdg' / 'enclave'


def test_a_home_that_is_none_or_is_nowhere_has_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setenv('HOME', str(tmp_path / 'file'))
    assert places._usual(USER, None, str(tmp_path / 'file')) is None

    def unknown(path: Path) -> Path:
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(Path, 'expanduser', unknown)
    assert places._usual(USER, None, None) is None


def test_without_any_other_place_it_is_our_own_among_the_temporary_files(temporary: Path) -> None:
    found = cache_dir('etc')
    assert found == temporary / f'enclave-{os.geteuid()}' / 'etc'
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize('trick', ['open to all', 'a link', 'somebody elses'])
def test_what_others_put_in_its_place_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch, trick: str) -> None:
    place = temporary / f'enclave-{os.geteuid()}'
    if trick == 'a link':
        (temporary / 'other').mkdir()
        place.symlink_to('other')
    else:
        place.mkdir()
        place.chmod(0o777 if trick == 'open to all' else 0o755)
    if trick == 'somebody elses':
        monkeypatch.setattr(os, 'geteuid', lambda: USER)
        place.rename(temporary / f'enclave-{USER}')

    with pytest.raises(SandboxStartError, match=f'cannot be the cache directory.*{VARIABLE}'):
        cache_dir('etc')


def test_one_that_was_named_and_cannot_be_used_is_reported_with_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / 'file'))
    with pytest.raises(SandboxStartError, match=f'file.*{VARIABLE}'):
        cache_dir('etc')
    with pytest.raises(SandboxStartError, match=VARIABLE):
        keep_file(tmp_path / 'missing' / 'x', lambda: b'x')
    with pytest.raises(SandboxStartError, match=VARIABLE):
        keep_tree(tmp_path / 'missing' / 'x', lambda place: None)


def test_what_all_must_reach_is_not_below_a_private_directory(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / 'private'
    private.mkdir(0o700)
    monkeypatch.setenv(VARIABLE, str(private / 'cache'))

    assert cache_dir('mounts') == private / 'cache' / 'mounts'
    assert reachable_dir('mounts') == temporary / f'enclave-{os.geteuid()}' / 'mounts'

    temporary.chmod(0o700)
    with pytest.raises(SandboxStartError, match=VARIABLE):
        reachable_dir('mounts')


def test_a_private_directory_on_the_way_makes_a_path_unreachable(tmp_path: Path) -> None:
    (tmp_path / 'private' / 'open').mkdir(parents=True)
    for each in (tmp_path, *tmp_path.parents):
        if str(each).startswith('/tmp/'):
            each.chmod(0o755)
    assert is_reachable(str(tmp_path / 'private' / 'open'))
    (tmp_path / 'private').chmod(0o700)
    assert not is_reachable(str(tmp_path / 'private' / 'open'))
    assert not is_reachable(str(tmp_path / 'missing'))


def test_a_tree_of_any_depth_is_removed_and_what_its_links_lead_to_stays(tmp_path: Path) -> None:
    tree, outside = tmp_path / 'tree', tmp_path / 'outside'
    (tree / 'a' / 'b').mkdir(parents=True)
    (tree / 'a' / 'file').write_text('x')
    outside.mkdir()
    (outside / 'stays').write_text('x')
    for place in (tree, tree / 'a' / 'b'):
        (place / 'link').symlink_to(outside)
    here = os.open(tree, os.O_RDONLY)
    for _ in range(3000):  # no path leads so far, and no recursion
        os.mkdir('d', dir_fd=here)
        deeper = os.open('d', os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)

    try:
        places.remove_tree(tree)
        places.remove_tree(tree)

        assert not tree.exists()
    finally:
        subprocess.run(['rm', '-rf', str(tree)], check=True)  # pytest itself would stumble over it
    assert (outside / 'stays').read_text() == 'x'


@pytest.mark.parametrize(
    'damage', [lambda data: b'', lambda data: data[:-1], lambda data: b'x' + data, lambda data: data[9:]]
)
def test_a_kept_file_that_is_damaged_is_made_anew(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    place, made = tmp_path / 'file', []

    def make() -> bytes:
        made.append(True)
        return b'content' * 10

    assert keep_file(place, make) == keep_file(place, make) == b'content' * 10
    assert len(made) == 1

    place.write_bytes(damage(place.read_bytes()))

    assert keep_file(place, make) == keep_file(place, make) == b'content' * 10
    assert len(made) == 2


def test_two_threads_remove_trees_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = [tmp_path / 'one', tmp_path / 'other']
    for tree in trees:
        (tree / 'outer' / 'inner').mkdir(parents=True)
    both, random = threading.Barrier(2), os.urandom

    def wait_for_the_other(size: int) -> bytes:
        both.wait(PATIENCE)
        return random(size)

    monkeypatch.setattr(os, 'urandom', wait_for_the_other)
    with ThreadPoolExecutor(2) as workers:
        list(workers.map(places.remove_tree, trees))

    assert list(tmp_path.iterdir()) == []
