"""The system call filter of a bubblewrap sandbox (layer 4; the one entry to pyseccomp, and so to libseccomp).

What is let through is what Docker's default profile lets through to a container without capabilities (moby,
``profiles/seccomp/default.json``), and nothing of another architecture than the machine's own. A call that the profile
refuses fails with EPERM; one that is unknown here, because it is newer than this list, with ENOSYS, so that programs
fall back as they would on an older kernel. libseccomp turns the rules into the kernel's program; ours are only the
names.

Two things are stricter than Docker's. AF_VSOCK cannot be had by setting bits that the kernel does not look at. And since
the agent and the guest are one user, to whom the kernel lets each set the other's limits and priorities, the calls that do
it are refused where they name process 1, or all processes of the user; with a limit of no CPU time on it the guest could end
the agent, which no signal can.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import os
import sys
import tempfile
from functools import lru_cache
from typing import Any

from enclave.errors import UnsupportedError
from enclave.sandboxes.bubblewrap.places import cache_dir, keep_file

_ALLOWED_TEXT = """
accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind breakpoint brk cachestat
cacheflush capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat
dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark
fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork
fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue
futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents
getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid
getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid
getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
ioctl ioprio_get ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr
link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64
madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync multiplexer munlock munlockall munmap
name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 process_mrelease
process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename
renameat renameat2 restart_syscall riscv_flush_icache riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg
sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setregid
setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt
set_thread_area set_tid_address set_tls setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
sigaltstack signalfd signalfd4 sigpending sigprocmask sigreturn socketpair splice stat stat64 statfs statfs64 statmount
statx symlink symlinkat sync sync_file_range sync_file_range2 syncfs sysinfo syscall tee tgkill time timer_create
timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
uname unlink unlinkat uretprobe usr26 usr32 utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid
write writev
"""

_REFUSED_TEXT = """
acct add_key bpf chroot clock_settime clock_settime64 create_module delete_module fanotify_init finit_module fsconfig
fsmount fsopen fspick get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm
iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount
move_pages nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise query_module
quotactl quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns
settimeofday socketcall stime swapoff swapon sysfs _sysctl syslog umount umount2 unshare uselib userfaultfd ustat
vhangup vm86 vm86old vserver
"""

_ALLOWED, _REFUSED = _ALLOWED_TEXT.split(), _REFUSED_TEXT.split()

NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2), and Docker's own mask)."""
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_VSOCK = 40
_FAMILY_BITS = 6  # AF_MAX is 46
_PID_BITS = 22  # PID_MAX_LIMIT, proc(5)
_LOW = 0xFFFFFFFF
"""What the kernel looks at of an int, however much stands above it in the register."""
_SHIELDED = {
    'ioprio_set': 1,
    'prlimit64': 0,
    'sched_setaffinity': 0,
    'sched_setattr': 0,
    'sched_setparam': 0,
    'sched_setscheduler': 0,
    'setpriority': 1,
}
"""What may not be done to process 1, and in which argument the process, or its group, stands."""
_OF_USERS = {'ioprio_set': 3, 'setpriority': 2}
"""The first argument with which these calls are for all processes of a user, process 1 among them (IOPRIO_WHO_USER, PRIO_USER).
A group is no way around: process 1 is alone in its session, which nobody can join, setpgid(2)."""
_FORMAT = 4
"""To be raised when `_make_filter` changes: a filter that is kept is used for as long as this and the names stay."""


def _library() -> Any:
    """Return pyseccomp with libseccomp under it; UnsupportedError says what is missing."""
    try:
        return importlib.import_module('pyseccomp')
    except ImportError:
        raise UnsupportedError(
            f'the system call filter needs the package pyseccomp; run: {sys.executable} -m pip install pyseccomp '
            '(or, with more risk, set seccomp=False)'
        ) from None
    except (RuntimeError, OSError, AttributeError) as error:
        raise UnsupportedError(
            f'the system call filter needs the library libseccomp ({error}); run: apt-get install libseccomp2 '
            '(or, with more risk, set seccomp=False)'
        ) from None


@lru_cache(maxsize=1)
def get_filter() -> bytes:
    """Return the filter as the kernel takes it: an array of ``struct sock_filter`` (seccomp(2)), eight bytes each.

    It is made once and kept in the cache: making it takes 5 ms, but finding libseccomp, as ctypes does it, a tenth of a second.

    Raises:
        UnsupportedError: The library that makes it is not there; the message says how to get it.
    """
    key = f'{os.uname().machine} {_FORMAT} {_ALLOWED} {_REFUSED}'
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return keep_file(cache_dir('seccomp') / name, lambda: _make_filter(_library()))


def _make_filter(library: Any) -> bytes:
    rules = library.SyscallFilter(library.ERRNO(errno.ENOSYS))
    rules.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.ENOSYS))
    with contextlib.suppress(OSError):  # libseccomp before 2.5 knows only the linear order
        rules.set_attr(library.Attr.CTL_OPTIMIZE, 2)
    refuse, masked = library.ERRNO(errno.EPERM), library.MASKED_EQ
    for name in _ALLOWED:
        _add(rules, library.ALLOW, name)
    for name in _REFUSED:
        _add(rules, refuse, name)
    # These go by their arguments; other values of those meet the default. clone3 is not here: it hides its flags in
    # memory, which no filter can read, and at ENOSYS the C library uses clone.
    at = 1 if os.uname().machine.startswith('s390') else 0
    _add(rules, library.ALLOW, 'clone', library.Arg(at, masked, NAMESPACE_FLAGS, 0))
    for value in _PERSONALITIES:
        _add(rules, library.ALLOW, 'personality', library.Arg(0, masked, _LOW, value))
    _add_all_but(library, rules, 'socket', 0, _AF_VSOCK, _FAMILY_BITS)
    for name, at in _SHIELDED.items():
        of_user = _OF_USERS.get(name)
        allowed: list[tuple[Any, ...]] = [()]
        if of_user is not None:
            # Both are two bits, of which one differs where the call is for a process or a group.
            allowed = [(library.Arg(0, masked, bit, ~of_user & bit),) for bit in (1, 2)]
            _add(rules, refuse, name, library.Arg(0, masked, _LOW, of_user))
        for more in allowed:
            _add_all_but(library, rules, name, at, 1, _PID_BITS, *more)
        arguments = [library.Arg(at, masked, _LOW, 1)]
        if name == 'prlimit64':  # without new limits, the third argument, it only reads
            _add(rules, library.ALLOW, name, *arguments, library.Arg(2, library.EQ, 0))
            arguments.append(library.Arg(2, library.NE, 0))
        _add(rules, refuse, name, *arguments)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _add_all_but(library: Any, rules: Any, name: str, at: int, value: int, bits: int, *more: Any) -> None:
    """Allow a call unless an argument is ``value`` in its lowest bits: each rule is for those that differ in one of them.

    A rule for what is *not equal* would compare all 64 bits, of which the kernel takes half.
    """
    for bit in (1 << number for number in range(bits)):
        _add(rules, library.ALLOW, name, library.Arg(at, library.MASKED_EQ, bit, ~value & bit), *more)


def _add(rules: Any, action: int, name: str, *arguments: Any) -> None:
    """Add a rule; a name that this architecture, or this version of the library, does not know has none."""
    try:
        rules.add_rule(action, name, *arguments)
    except OSError as error:
        if error.errno not in (errno.EFAULT, errno.EINVAL, errno.ENOENT, errno.EDOM):
            raise
