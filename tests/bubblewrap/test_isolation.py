"""What code in a bubblewrap sandbox can see and do."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from enclave.sandboxes.bubblewrap.sandbox import BubblewrapSandbox
from tests.support.host import PATIENCE

Start = Callable[..., BubblewrapSandbox]
NAMESPACES = ('cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts')
NICENESS = os.getpriority(os.PRIO_PROCESS, 0)
"""Of these tests, which sandboxes inherit."""


def facts_of(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(':') for line in text.splitlines())}


def test_every_namespace_is_its_own(sandbox: BubblewrapSandbox) -> None:
    reported = sandbox.execute_command('for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done')
    inside = reported.stdout.split()
    assert len(inside) == len(NAMESPACES)
    assert not set(inside) & {os.readlink(f'/proc/self/ns/{name}') for name in NAMESPACES}


def test_the_agent_is_process_1_and_shielded(sandbox: BubblewrapSandbox) -> None:
    assert '-I\n-S\n-c\n' in sandbox.execute_command("tr '\\0' '\\n' < /proc/1/cmdline").stdout
    assert not sandbox.execute_command('cat /proc/1/environ').success


def test_there_are_no_capabilities_and_none_to_gain(sandbox: BubblewrapSandbox) -> None:
    facts = facts_of(sandbox.execute_command('cat /proc/self/status').stdout)
    for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'):
        assert int(facts[name], 16) == 0, name
    assert facts['NoNewPrivs'] == '1'
    assert facts['Seccomp'] == '2'


def test_nothing_in_it_is_root_outside(sandbox: BubblewrapSandbox) -> None:
    status = Path(f'/proc/{sandbox.metadata["pid"]}/status').read_text()
    assert facts_of(status)['Uid'].split() == [str(sandbox.metadata['host_uid'])] * 4
    assert sandbox.metadata['host_uid'] != 0
    assert sandbox.execute_command('id -un; id -u').stdout == 'sandbox\n1000\n'


def test_the_hosts_homes_and_state_are_not_there(sandbox: BubblewrapSandbox) -> None:
    names = sandbox.execute_command('ls -A / /home /run /var').stdout.split()
    assert not set(names) & {'root', 'work', 'mnt', 'boot', 'docker.sock', 'lib/docker', 'cache', 'log'}
    assert sandbox.execute_command('ls -A /home').stdout == 'sandbox\n'
    assert not sandbox.execute_command(['ls', str(Path.home())]).success
    assert not sandbox.path_exists('/etc/shadow')
    assert not sandbox.path_exists('/etc/ssl/private')


@pytest.mark.parametrize('path', ['/', '/usr', '/etc', '/dev', '/run', '/var', '/home', '/sys', '/proc'])
def test_only_the_private_directories_can_be_written(sandbox: BubblewrapSandbox, path: str) -> None:
    assert not sandbox.execute_command(['touch', f'{path}/made']).success


@pytest.mark.parametrize('path', ['/tmp', '/var/tmp', '/sandbox', '/home/sandbox', '/dev/shm'])
def test_the_private_directories_can_be_written(sandbox: BubblewrapSandbox, path: str) -> None:
    assert sandbox.execute_command(f'echo x > {path}/made && rm {path}/made').success


def test_two_sandboxes_share_nothing_they_write(start: Start) -> None:
    one, other = start(), start()
    one.execute_command('touch /tmp/mark /dev/shm/mark /sandbox/mark')
    assert not other.execute_command('ls /tmp/mark || ls /dev/shm/mark || ls /sandbox/mark').success


def test_devices_are_few_and_none_can_be_made(sandbox: BubblewrapSandbox) -> None:
    assert set(sandbox.execute_command('ls /dev').stdout.split()) == {
        'core',
        'fd',
        'full',
        'mqueue',
        'null',
        'ptmx',
        'pts',
        'random',
        'shm',
        'stderr',
        'stdin',
        'stdout',
        'tty',
        'urandom',
        'zero',
    }
    assert not sandbox.execute_command('mknod /tmp/disk b 254 0').success


def test_the_terminal_of_the_host_cannot_be_reached(sandbox: BubblewrapSandbox) -> None:
    code = 'import os\ntry: os.open("/dev/tty", os.O_RDWR); print("REACHED")\nexcept OSError: print("none")'
    assert sandbox.execute_command(['python3', '-c', code]).stdout == 'none\n'


# System calls ---------------------------------------------------------------------------------------------------------

ATTEMPTS = {
    'mount': 'libc.mount(b"x", b"/tmp", b"tmpfs", 0, None)',
    'unshare user': 'libc.unshare(0x10000000)',
    'unshare mount': 'libc.unshare(0x00020000)',
    'setns': 'libc.setns(0, 0)',
    'clone user': 'libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)',
    'clone3': 'libc.syscall(435, 0, 0)',
    'keyctl': 'libc.syscall(250, 0, 0, 0, 0, 0)',
    'add_key': 'libc.syscall(248, b"user", b"x", b"y", 1, -2)',
    'bpf': 'libc.syscall(321, 0, 0, 0)',
    'userfaultfd': 'libc.syscall(323, 0)',
    'perf_event_open': 'libc.syscall(298, 0, 0, -1, -1, 0)',
    'io_uring_setup': 'libc.syscall(425, 1, 0)',
    'kexec_load': 'libc.syscall(246, 0, 0, 0, 0)',
    'open_by_handle_at': 'libc.syscall(304, -100, 0, 0)',
    'init_module': 'libc.syscall(175, 0, 0, b"")',
    'reboot': 'libc.syscall(169, 0, 0, 0, 0)',
    'personality': 'libc.personality(0x0400000)',
    'vsock': 'libc.socket(40, 1, 0)',
    'vsock with more bits': 'libc.syscall(ctypes.c_long(41), ctypes.c_long(0x100000028), ctypes.c_long(1), ctypes.c_long(0))',
    'chroot': 'libc.chroot(b"/tmp")',
    'sethostname': 'libc.sethostname(b"x", 1)',
    'swapon': 'libc.swapon(b"/tmp/x", 0)',
    'syslog': 'libc.klogctl(3, None, 0)',
    'pivot_root': 'libc.syscall(155, b"/tmp", b"/tmp")',
    'fsopen': 'libc.syscall(430, b"tmpfs", 0)',
    'quotactl': 'libc.syscall(179, 0, 0, 0, 0)',
}


@pytest.mark.skipif(os.uname().machine != 'x86_64', reason='the numbers are those of x86_64')
@pytest.mark.parametrize('name', list(ATTEMPTS))
def test_a_system_call_that_docker_refuses_is_refused(sandbox: BubblewrapSandbox, name: str) -> None:
    code = (
        'import ctypes, errno\n'
        'libc = ctypes.CDLL(None, use_errno=True)\n'
        f'r = {ATTEMPTS[name]}\n'
        'print(r, errno.errorcode.get(ctypes.get_errno()))\n'
    )
    result, error = sandbox.execute_command(['python3', '-c', code]).stdout.split()
    assert result == '-1'
    assert error in ('EPERM', 'ENOSYS')


HARM = {
    'limit CPU time': 'resource.prlimit(PID, resource.RLIMIT_CPU, (0, 0))',
    'limit memory': 'resource.prlimit(PID, resource.RLIMIT_AS, (1 << 20, 1 << 20))',
    'limit files': 'resource.prlimit(PID, resource.RLIMIT_NOFILE, (0, 0))',
    'nice': 'os.setpriority(os.PRIO_PROCESS, PID, 19)',
    'nice group': 'os.setpriority(os.PRIO_PGRP, PID, 19)',
    'idle': 'os.sched_setscheduler(PID, os.SCHED_IDLE, os.sched_param(0))',
    'parameters': 'os.sched_setparam(PID, os.sched_param(0))',
    'processors': 'os.sched_setaffinity(PID, {0})',
    'input and output': 'call(251, 1, PID, 3 << 13)',
    'idle by attributes': 'call(314, PID, bytes([48, 0, 0, 0, 5, 0, 0, 0]) + bytes(40), 0)',
    'more bits': 'call(302, 1 << 32 | PID, 0, bytes(16), 0)',
}
HARMING = """
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    if libc.syscall(*(ctypes.c_long(word) if isinstance(word, int) else word for word in args)) < 0:
        raise OSError(ctypes.get_errno(), '')
def do(PID):
    try: WHAT
    except PermissionError: return 'refused'
    except OSError as error: return error
    return 'done'
pid = os.fork()
if pid == 0:
    signal.pause()
os.setpgid(pid, pid)
print(do(1), do(pid))
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""


@pytest.mark.skipif(os.uname().machine != 'x86_64', reason='the numbers are those of x86_64')
@pytest.mark.parametrize('name', list(HARM))
def test_what_is_done_to_other_processes_cannot_be_done_to_the_agent(sandbox: BubblewrapSandbox, name: str) -> None:
    """They are one user, so the kernel alone would allow it."""
    code = HARMING.replace('WHAT', HARM[name])
    assert sandbox.execute_command(['python3', '-c', code]).stdout == 'refused done\n'
    assert sandbox.is_alive()


OF_ALL = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    done = libc.syscall(*map(ctypes.c_long, args))
    return errno.errorcode[ctypes.get_errno()] if done < 0 else 'done'
for who in 0, 1000:
    print(call(141, 2, who, 19), call(141, 1 << 32 | 2, who, 19))
    print(call(251, 3, who, 3 << 13), call(251, 1 << 32 | 3, who, 3 << 13))
print(call(141, 1, 0, 19), call(141, 1, os.getpgrp(), 19), call(251, 2, 0, 3 << 13), call(251, 1, 0, 3 << 13))
print(os.getpriority(os.PRIO_PROCESS, 0), os.getpriority(os.PRIO_PROCESS, 1))
"""


@pytest.mark.skipif(os.uname().machine != 'x86_64', reason='the numbers are those of x86_64')
def test_what_is_done_to_all_processes_of_the_user_would_be_done_to_the_agent_too(sandbox: BubblewrapSandbox) -> None:
    lines = sandbox.execute_command(['python3', '-c', OF_ALL]).stdout.splitlines()
    assert lines == [*['EPERM EPERM'] * 4, 'done done done done', f'19 {NICENESS}']


def test_programs_make_themselves_and_their_own_nice(sandbox: BubblewrapSandbox) -> None:
    command = (
        'sleep 1000 & nice -n 5 nice; renice -n 19 -p $! >&2; cut -d" " -f19 /proc/$!/stat; '
        'ionice -c 3 ionice; ionice -c 3 -p $!; ionice -p $!; renice -n 19 -g 0 >&2; nice; kill $!'
    )
    done = sandbox.execute_command(command)
    assert done.stdout.split() == [str(min(NICENESS + 5, 19)), '19', 'idle', 'idle', '19'], done.stderr


def test_process_1_is_one_thread_alone_in_its_session(sandbox: BubblewrapSandbox) -> None:
    """A thread's number would be another name for it, and a group in its session could be joined."""
    assert sandbox.execute_command('ls /proc/1/task').stdout == '1\n'
    for command in ('exec cut -d" " -f5,6 /proc/self/stat', ['cut', '-d ', '-f5,6', '/proc/self/stat']):
        group, session = sandbox.execute_command(command).stdout.split()
        assert '1' not in (group, session)


HOGS = """
import os
def attempt(do, *args):
    try: do(*args)
    except OSError: pass
others = [int(each) for each in os.listdir('/proc') if each.isdigit()]
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        print(os.getpid(), flush=True)
        while True: pass
for pid in others:
    attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))
    attempt(os.setpriority, os.PRIO_PROCESS, pid, 19)
while True: pass
"""


def test_a_guest_that_burns_time_and_slows_all_others_is_ended_at_its_limit(sandbox: BubblewrapSandbox) -> None:
    result = sandbox.execute_command(['python3', '-c', HOGS], timeout=2)
    assert result.timed_out
    left = 'for pid in $0; do [ -e /proc/$pid ] && echo $pid; done'
    assert sandbox.execute_command(['sh', '-c', left, result.stdout], timeout=PATIENCE).stdout == ''


def test_what_process_1_may_use_can_be_asked(sandbox: BubblewrapSandbox) -> None:
    code = 'import os, resource\nprint(resource.prlimit(1, resource.RLIMIT_CORE), os.getpriority(os.PRIO_PROCESS, 1))'
    assert sandbox.execute_command(['python3', '-c', code]).stdout in (f'(0, -1) {NICENESS}\n', f'(0, 0) {NICENESS}\n')


def test_what_programs_need_is_let_through(sandbox: BubblewrapSandbox) -> None:
    code = (
        'import threading, multiprocessing, asyncio, socket, sqlite3, subprocess, tempfile, mmap, os, signal, resource\n'
        't = threading.Thread(target=print, args=("thread",)); t.start(); t.join()\n'
        'with multiprocessing.get_context("spawn").Pool(1) as p: print(p.map(abs, [-1]))\n'
        'print(asyncio.run(asyncio.sleep(0, "async")))\n'
        'socket.socketpair(); socket.socket(); socket.socket(socket.AF_UNIX)\n'
        'sqlite3.connect(tempfile.mktemp()).execute("create table t (x)")\n'
        'print(subprocess.check_output(["echo", "sub"], text=True).strip())\n'
        'mmap.mmap(-1, 4096); os.memfd_create("x"); signal.setitimer(signal.ITIMER_REAL, 0)\n'
    )
    result = sandbox.execute_command(['python3', '-c', code], timeout=PATIENCE)
    assert result.stdout == 'thread\n[1]\nasync\nsub\n', result.stderr


def test_without_the_filter_further_user_namespaces_are_refused_all_the_same(start: Start) -> None:
    sandbox = start(seccomp=False)
    assert sandbox.metadata['seccomp'] is False
    assert not sandbox.execute_command('unshare -Ur true').success


# Network --------------------------------------------------------------------------------------------------------------


def test_off_the_hosts_services_are_out_of_reach(sandbox: BubblewrapSandbox) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        code = f'import socket; socket.create_connection(("127.0.0.1", {port}), 5)'
        assert 'ConnectionRefused' in sandbox.execute_command(['python3', '-c', code]).stderr


def test_off_abstract_sockets_of_the_host_are_out_of_reach(sandbox: BubblewrapSandbox) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        name = f'\0enclave-test-{os.getpid()}'
        server.bind(name)
        server.listen()
        code = f'import socket; socket.socket(socket.AF_UNIX).connect({name!r})'
        assert 'ConnectionRefused' in sandbox.execute_command(['python3', '-c', code]).stderr


def test_on_the_network_is_the_hosts_own(start: Start) -> None:
    sandbox = start(network_enabled=True)
    assert sandbox.metadata['network'] == 'that of this machine'
    with socket.create_server(('127.0.0.1', 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b'hello')

        answered = threading.Thread(target=answer)
        answered.start()
        code = f'import socket; print(socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 5).recv(5))'
        assert sandbox.execute_command(['python3', '-c', code]).stdout == "b'hello'\n"
        answered.join()
    assert sandbox.path_exists('/etc/resolv.conf')


# Secrets of the start -------------------------------------------------------------------------------------------------


def test_the_environment_is_not_on_any_command_line(start: Start) -> None:
    sandbox = start(env_vars={'TOKEN': 'hunter2-bwrap'})
    assert sandbox.execute_command('echo $TOKEN').stdout == 'hunter2-bwrap\n'
    for each in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            assert b'hunter2-bwrap' not in each.read_bytes()
        except OSError:
            continue


def test_no_descriptor_of_ours_is_left_open_inside(sandbox: BubblewrapSandbox) -> None:
    assert sandbox.execute_command(['ls', '-1', '/proc/self/fd']).stdout.split() == ['0', '1', '2', '3']


def test_this_python_is_unharmed_by_the_start() -> None:
    """Starting must not change the limits, the identity or the non-dumpable mark of this process."""
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1
    assert os.getuid() == os.geteuid()
    assert sys.is_finalizing() is False
