"""Finding, making, limiting and sweeping control groups, on a tree of plain files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from attrs import evolve

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap import cgroups
from enclave.sandboxes.bubblewrap.cgroups import Cgroups, Group, GroupLimits, look_for_cgroups, own_group, parse_mounts
from enclave.sandboxes.owner import current_owner

V1 = """\
25 22 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:23 / {root}/memory rw,relatime - cgroup cgroup rw,memory
27 25 0:24 / {root}/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
28 25 0:25 / {root}/a\\040space rw,relatime - cgroup cgroup rw,pids
29 25 0:26 / {root}/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_GROUPS = '4:memory:/a/b\n3:pids:/\n2:cpu,cpuacct:/\n0::/user\n'


class FakeKernel:
    """Gives every directory that is made below it the files of a control group, as the kernel does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: dict[str, list[str]]) -> None:
        self._mkdir, self._rmdir, self._files = Path.mkdir, Path.rmdir, files
        self.steals = 0  # how often a family is removed, as by another process, before a group is made in it
        monkeypatch.setattr(Path, 'mkdir', lambda path, *args, **named: self.make(path, *args, **named))
        monkeypatch.setattr(Path, 'rmdir', lambda path: self.remove(path))

    def make(self, path: Path, *args: int, **named: bool) -> None:
        if self.steals and path.parent.name == 'enclave':
            self.steals -= 1
            path.parent.rmdir()
        self._mkdir(path, *args, **named)
        for root, names in self._files.items():
            if str(path).startswith(root):
                for name in names:
                    (path / name).touch()

    def remove(self, path: Path) -> None:
        if (path / 'cgroup.procs').read_text():
            raise OSError(errno.EBUSY, 'busy', str(path))
        for each in path.iterdir():
            if each.is_file():
                each.unlink()
        self._rmdir(path)


def test_mounts_and_own_groups_are_read() -> None:
    mounts = parse_mounts(V1.format(root='/cg'))
    assert [each[0] for each in mounts] == ['cgroup', 'cgroup', 'cgroup', 'cgroup2']
    assert mounts[2][2] == '/cg/a space'
    assert own_group(mounts[0], V1_GROUPS) == Path('/cg/memory/a/b')
    assert own_group(mounts[1], V1_GROUPS) == Path('/cg/cpu,cpuacct')
    assert own_group(mounts[3], V1_GROUPS) == Path('/cg/unified/user')


def test_a_mount_with_another_root_shows_its_own_part() -> None:
    mount = ('cgroup', '/docker/abc', '/sys/fs/cgroup/memory', {'rw', 'memory'})
    assert own_group(mount, '4:memory:/docker/abc/deeper\n') == Path('/sys/fs/cgroup/memory/deeper')
    assert own_group(mount, '4:memory:/elsewhere\n') == Path('/sys/fs/cgroup/memory')
    assert own_group(mount, '4:pids:/x\n') is None


@pytest.fixture
def v1_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    for name in ('memory/a/b', 'cpu,cpuacct', 'a space', 'unified/user'):
        (tmp_path / name).mkdir(parents=True)
    common = ['cgroup.procs']
    return FakeKernel(
        monkeypatch,
        {
            f'{tmp_path}/memory': [
                *common,
                'memory.limit_in_bytes',
                'memory.memsw.limit_in_bytes',
                'memory.oom_control',
            ],
            f'{tmp_path}/cpu': [*common, 'cpu.cfs_quota_us', 'cpu.cfs_period_us'],
            f'{tmp_path}/a space': [*common, 'pids.max'],
        },
    )


@pytest.fixture
def v1(v1_kernel: FakeKernel, tmp_path: Path) -> Cgroups:
    return look_for_cgroups(parse_mounts(V1.format(root=tmp_path)), V1_GROUPS)


def test_v1_groups_are_below_the_own_ones(v1: Cgroups, tmp_path: Path) -> None:
    assert v1.version == 1
    assert v1.parents == {
        'memory': tmp_path / 'memory/a/b/enclave',
        'pids': tmp_path / 'a space/enclave',
        'cpu': tmp_path / 'cpu,cpuacct/enclave',
    }
    assert not v1.missing


def test_v1_limits_are_written_and_taken_away(v1: Cgroups) -> None:
    group = Group.make(v1, 'box', GroupLimits(memory_bytes=1000, processes=7, cpus=0.5))
    group.hold('box')
    place = {name: parent / group.name for name, parent in v1.parents.items()}

    group.add(4242)

    assert group.held == ('memory', 'pids', 'cpu')
    assert (place['memory'] / 'memory.limit_in_bytes').read_text() == '1000'
    assert (place['memory'] / 'memory.memsw.limit_in_bytes').read_text() == '1000'
    assert (place['pids'] / 'pids.max').read_text() == '8', 'one is for bubblewrap itself'
    assert (place['cpu'] / 'cpu.cfs_quota_us').read_text() == '50000'
    assert {(each / 'cgroup.procs').read_text() for each in place.values()} == {'4242'}
    (place['memory'] / 'memory.oom_control').write_text('oom_kill_disable 0\nunder_oom 0\noom_kill 3\n')
    assert group.count_oom_kills() == 3
    for each in place.values():
        (each / 'cgroup.procs').write_text('')
    group.remove()
    group.remove()
    assert not any(each.exists() for each in place.values())


def test_a_thread_enters_and_leaves_v1_groups(v1: Cgroups) -> None:
    group = Group.make(v1, 'box', GroupLimits(processes=7))
    group.hold('box')
    assert not group.takes_threads, 'there would be no way back'
    homes = [parent.parent / 'tasks' for parent in v1.parents.values()]
    for home in homes:
        home.touch()
    assert group.takes_threads
    with group.entered():
        assert {(parent / group.name / 'tasks').read_text() for parent in v1.parents.values()} == {'0'}
        assert {home.read_text() for home in homes} == {''}
    assert {home.read_text() for home in homes} == {'0'}


def test_what_is_not_limited_is_not_written(v1: Cgroups) -> None:
    group = Group.make(v1, 'box', GroupLimits(processes=7))
    group.hold('box')
    assert group.held == ('pids',)
    group.remove()


def test_no_more_processes_are_written_than_the_kernel_takes(v1: Cgroups) -> None:
    group = Group.make(v1, 'box', GroupLimits(processes=4_194_304))
    group.hold('box')
    assert (v1.parents['pids'] / group.name / 'pids.max').read_text() == '4194304'


def test_a_setting_that_is_refused_names_its_file(v1: Cgroups, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, 'Invalid argument')  # as a write does, without a name

    group = Group.make(v1, 'box', GroupLimits(processes=7))
    monkeypatch.setattr(Path, 'write_text', refuse)
    with pytest.raises(SandboxStartError, match=rf'could not be set: Invalid argument: .*{group.name}/pids\.max'):
        group.hold('box')


def test_only_groups_of_the_dead_are_swept(v1: Cgroups) -> None:
    mine = Group.make(v1, 'mine', GroupLimits(processes=5))
    mine.hold('mine')
    here = current_owner()
    names = {
        'dead': cgroups._group_name('gone', evolve(here, started='1'), 1),
        'elsewhere': cgroups._group_name('far', evolve(here, host='another', started='1'), 1),
        'foreign': 'somebody-elses',
    }
    for name in names.values():
        (v1.parents['pids'] / name).mkdir()

    assert cgroups.sweep(v1) == 1

    left = {each.name for each in v1.parents['pids'].iterdir() if each.is_dir()}
    assert left == {mine.name, names['elsewhere'], names['foreign']}


def test_this_very_process_is_never_killed_with_a_group(v1: Cgroups, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group.make(v1, 'box', GroupLimits(processes=7))
    procs = [parent / group.name / 'cgroup.procs' for parent in v1.parents.values()]
    for file in procs:
        file.write_text(f'{os.getpid()}\n4242\n')
    killed = []

    def kill(pid: int, number: int) -> None:
        killed.append(pid)
        for file in procs:
            file.write_text('')

    monkeypatch.setattr(os, 'kill', kill)
    group.remove()
    assert killed == [4242]
    assert not any(file.exists() for file in procs)


V2 = '29 25 0:26 / {root} rw,relatime - cgroup2 cgroup2 rw\n'
V2_FILES = [
    *('cgroup.procs', 'cgroup.subtree_control', 'cgroup.controllers', 'memory.max', 'memory.swap.max', 'memory.events'),
    *('pids.max', 'cpu.max'),
]


@pytest.fixture
def v2_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    own = tmp_path / 'app.slice' / 'shell.scope'
    own.mkdir(parents=True)
    for place in (tmp_path, tmp_path / 'app.slice'):
        (place / 'cgroup.controllers').write_text('cpu memory pids io')
        (place / 'cgroup.subtree_control').touch()
    return FakeKernel(monkeypatch, {str(tmp_path): V2_FILES})


@pytest.fixture
def v2(v2_kernel: FakeKernel, tmp_path: Path) -> Cgroups:
    return look_for_cgroups(parse_mounts(V2.format(root=tmp_path)), '0::/app.slice/shell.scope\n')


def test_v2_groups_are_beside_the_own_one(v2: Cgroups, tmp_path: Path) -> None:
    assert v2.version == 2
    assert v2.directories == [tmp_path / 'app.slice' / 'enclave']


def test_v2_limits_are_written(v2: Cgroups) -> None:
    group = Group.make(v2, 'box', GroupLimits(memory_bytes=1000, processes=7, cpus=1.5))
    group.hold('box')
    place = v2.directories[0] / group.name
    assert (place / 'memory.max').read_text() == '1000'
    assert (place / 'memory.swap.max').read_text() == '0'
    assert (place / 'pids.max').read_text() == '7'
    assert (place / 'cpu.max').read_text() == '150000 100000'
    assert group.oom_events == place / 'memory.events'
    group.remove()


@pytest.mark.parametrize('version', [1, 2])
def test_a_family_that_another_process_removes_at_its_end_is_made_again(
    request: pytest.FixtureRequest, tmp_path: Path, version: int
) -> None:
    kernel: FakeKernel = request.getfixturevalue(f'v{version}_kernel')
    text, groups = (V1, V1_GROUPS) if version == 1 else (V2, '0::/app.slice/shell.scope\n')

    kernel.steals = 3
    found = look_for_cgroups(parse_mounts(text.format(root=tmp_path)), groups)
    kernel.steals = 3
    group = Group.make(found, 'box', GroupLimits(processes=7))

    assert (set(found.parents), found.missing) == ({'memory', 'pids', 'cpu'}, {})
    group.hold('box')
    group.remove()


def test_a_family_that_another_process_has_just_made_is_given_its_controllers(v2: Cgroups) -> None:
    """It makes the directory first, and a group that is made in it then has no files of any controller."""
    (family,) = v2.directories
    (family / 'cgroup.controllers').write_text('cpu memory pids io')
    (family / 'cgroup.subtree_control').write_text('')
    group = Group.make(v2, 'box', GroupLimits(processes=7))
    assert (family / 'cgroup.subtree_control').read_text() in (
        '+cpu',
        '+memory',
        '+pids',
    )  # a file keeps what came last
    group.remove()


def test_a_family_that_is_gone_has_nothing_to_sweep(v1: Cgroups) -> None:
    for family in v1.directories:
        family.rmdir()
    assert cgroups.sweep(v1) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_where_nothing_may_be_made_it_is_said_why(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    found = look_for_cgroups(parse_mounts(V2.format(root=tmp_path)), '0::/\n')
    assert (found.version, found.parents) == (0, {})
    assert 'Permission' in found.missing['memory']


def test_without_any_hierarchy_there_are_no_groups() -> None:
    found = look_for_cgroups([], '')
    assert (found.version, found.parents) == (0, {})
    assert set(found.missing) == {'memory', 'pids', 'cpu'}


def test_groups_of_dead_owners_are_swept_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKernel(monkeypatch, {str(tmp_path): ['cgroup.procs', 'pids.max']})
    own = tmp_path / 'own/enclave'
    far = tmp_path / 'a.slice/b.scope/enclave'
    here = current_owner()
    short = cgroups._short(here.host)
    living = f'alive@{short}.{here.pid}.{here.started}.1'
    for place in (
        own / living,
        far / f'dead@{short}.{here.pid}.1.1',
        far / f'elsewhere@00000000.{here.pid}.1.1',
        tmp_path / f'c/enclave/other@{short}.{here.pid}.1.1',
        tmp_path / 'd/enclave/trial.4194303.5',
        tmp_path / 'e/enclave',
    ):
        for each in (*reversed(place.relative_to(tmp_path).parents), place.relative_to(tmp_path)):
            (tmp_path / each).is_dir() or (tmp_path / each).mkdir()

    swept = cgroups.sweep_groups(Cgroups(version=1, parents={'pids': own}, roots=(tmp_path,)))

    assert sorted(swept) == ['dead', 'other']
    assert [each.name for each in own.iterdir() if each.is_dir()] == [living]
    assert [each.name[:9] for each in far.iterdir() if each.is_dir()] == ['elsewhere']
    for name in 'cde':
        assert not (tmp_path / name / 'enclave').exists(), name


def test_the_family_goes_with_its_last_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKernel(monkeypatch, {str(tmp_path): ['cgroup.procs', 'pids.max']})
    family = tmp_path / 'enclave'
    family.mkdir()
    found = Cgroups(version=1, parents={'pids': family})
    monkeypatch.setattr(cgroups, '_alive', set())

    first, second = (Group.make(found, name, GroupLimits()) for name in ('first', 'second'))
    first.remove()
    assert family.is_dir()
    second.remove()
    assert not family.exists()
    third = Group.make(found, 'third', GroupLimits())
    assert family.is_dir()
    third.remove()
    assert not family.exists()


def test_a_group_whose_making_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKernel(monkeypatch, {str(tmp_path): ['cgroup.procs', 'pids.max']})
    families = [tmp_path / 'a/enclave', tmp_path / 'b/enclave']
    for family in families:
        family.parent.mkdir()
        family.mkdir()
    group = Group.prepare(Cgroups(version=1, parents={'pids': families[0], 'memory': families[1]}), 'x', GroupLimits())
    make = Path.mkdir
    made: list[Path] = []

    def interrupt(path: Path, *args: int, **named: bool) -> None:
        make(path, *args, **named)
        made.append(path)
        if len(made) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'mkdir', interrupt)
    with pytest.raises(KeyboardInterrupt):
        group.create('x')

    assert len(made) == 2
    assert not any(place.exists() for place in made)
