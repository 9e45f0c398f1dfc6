"""What a sandbox sees of this machine is enough for its programs, and agrees with what the sandbox is."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from enclave.sandboxes.bubblewrap import usr_links
from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox

Start = Callable[..., BubblewrapSandbox]


def test_links_from_usr_lead_somewhere_as_they_do_on_this_machine(start: Start) -> None:
    sandbox = start(timeout=120)
    listed = sandbox.execute_command(
        'find /usr/bin /usr/sbin /usr/lib /usr/share -path /usr/share/doc -prune -o -path /usr/share/man -prune -o '
        '-xtype l -lname "/etc/*" -print 2>/dev/null',
        max_output_bytes=1 << 20,
    )

    missing = [path for path in listed.stdout.splitlines() if os.path.exists(path)]
    reported = {os.path.realpath(path) for path in missing}

    assert {
        path for path in reported if path.startswith('/etc/') and not is_private(path) and is_for_all(path)
    } == set()


def is_private(path: str) -> bool:
    return any(f'{path}/'.startswith(f'/etc/{each}/') for each in usr_links.PRIVATE)


def is_for_all(path: str) -> bool:
    return bool(os.stat(path).st_mode & 0o004)


@pytest.mark.skipif(shutil.which('java', path='/usr/bin') is None, reason='no Java on this machine')
def test_java_of_this_machine_runs(start: Start) -> None:
    result = start(memory_limit='1g').execute_command(['java', '-version'], 120)

    assert (result.exit_code, 'version' in result.stderr) == (0, True), result.stderr


@pytest.mark.skipif(shutil.which('mvn', path='/usr/bin') is None, reason='no Maven on this machine')
def test_maven_of_this_machine_runs(start: Start) -> None:
    assert start(memory_limit='1g').execute_command(['mvn', '-version'], 120).exit_code == 0


def test_passwd_names_the_users_there_are(start: Start) -> None:
    sandbox = start()
    code = (
        'import os, pwd, grp\n'
        'print(sorted(p.pw_uid for p in pwd.getpwall()), sorted(g.gr_gid for g in grp.getgrall()), os.getuid())'
    )

    assert sandbox.execute_command(['python3', '-c', code]).stdout == '[1000] [1000] 1000\n'
    assert sandbox.execute_command('stat -c %U /usr /tmp .').stdout.split() == ['UNKNOWN', 'sandbox', 'sandbox']


def test_core_files_may_be_asked_for(start: Start) -> None:
    sandbox = start()
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]

    limits = sandbox.execute_command('ulimit -Sc; ulimit -Hc').stdout.split()

    assert limits[0] == '0'
    assert limits[1] == ('unlimited' if hard == resource.RLIM_INFINITY else str(hard // 512)) or hard > 0


def test_nothing_private_of_etc_is_shown(start: Start) -> None:
    sandbox = start()
    for name in usr_links.PRIVATE - {'group', 'passwd', 'hosts', 'hostname'}:
        assert not sandbox.path_exists(f'/etc/{name}'), name


def test_names_behind_links_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc = tmp_path / 'etc'
    for folder in ('alternatives', 'app/deep', 'ssl/private', 'other'):
        (etc / folder).mkdir(parents=True)
    usr = tmp_path / 'usr'
    (usr / 'lib/app/conf/x').mkdir(parents=True)
    for number in range(3):
        (etc / f'app/{number}').write_text('')
        (usr / f'lib/app/conf/{number}').symlink_to(etc / f'app/{number}')
    (usr / 'lib/app/conf/x/one').symlink_to(etc / 'other/one')
    (usr / 'lib/app/conf/x/keys').symlink_to(etc / 'ssl/private')
    (usr / 'lib/app/conf/x/out').symlink_to('/var/lib')
    (etc / 'alternatives/cfg').symlink_to(etc / 'cfg-3.conf')
    monkeypatch.setattr(usr_links, 'ETC', str(etc))

    assert usr_links._look(str(usr)) == ['app', 'cfg-3.conf', 'other/one']
