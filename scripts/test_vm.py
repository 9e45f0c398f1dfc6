"""Run the tests of limits in a virtual machine of Debian 12, where control groups are of version 2, for `make test-vm`.

    python scripts/test_vm.py [--accel tcg|kvm] [--only PART ...] [--rebuild] [-- PYTEST-ARGUMENT ...]

The machine is built once, with mmdebstrap, from the Debian package sources of this host; what the tests need from PyPI is
downloaded by pip then. It is kept in ``.cache/vm`` and made again when the lists of packages change. Each run boots it with
qemu, without a network, from a copy-on-write view of its disk, with this checkout on a second disk. `tests/vm/guest.py` runs in
it, and all that it prints comes out over the serial console, which is this program's standard output.

Without acceleration a program takes ten to twenty times longer than natively. Each line has the minutes and seconds since the
boot before it. The exit code is 0 when every part has passed, 1 when one has failed or was not reached, 2 when the machine cannot
be built or booted here.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / '.cache' / 'vm'
SUITE = 'bookworm'
PYTHON = '3.11'
DISK_SIZE = '4G'
TOOLS = {'mmdebstrap': 'mmdebstrap', 'qemu-system-x86_64': 'qemu-system-x86', 'mke2fs': 'e2fsprogs'}
PACKAGES = (
    # A kernel for virtual machines, and the system that hands control groups down to users.
    'linux-image-cloud-amd64 initramfs-tools zstd systemd-sysv libpam-systemd dbus-user-session dbus kmod udev',
    # What the tests call: users, processes, another Python than the sandboxes'.
    'passwd procps util-linux python3 python3-venv iproute2',
    'docker.io iptables ca-certificates',
)
IMAGE_PACKAGES = 'python3-minimal libpython3-stdlib procps'
HOURS = 6.0
"""How long all of it may take before the machine is switched off."""
MARK = '=== vm: '
"""What a line of `tests/vm/guest.py` for this program begins with: the name of a part that begins, or JSON when one has ended."""


class VmError(Exception):
    """The machine cannot be built or booted; the message says what to do."""


def say(text: str) -> None:
    """Print a line at once, whatever standard output is."""
    print(f'==> {text}', flush=True)


def main() -> int:
    """Build what is missing, run the tests in the machine, and return the exit code."""
    parser = argparse.ArgumentParser(description='Run the tests of limits in a virtual machine with cgroup v2.')
    parser.add_argument('--accel', default='tcg', help="qemu's accelerator  [default: tcg, which works everywhere]")
    parser.add_argument('--only', nargs='*', default=[], metavar='PART', help='the parts to run; see tests/vm/guest.py')
    parser.add_argument('--rebuild', action='store_true', help='make the machine again')
    parser.add_argument('--memory', default='3G', help='memory of the machine  [default: 3G]')
    parser.add_argument('arguments', nargs='*', metavar='PYTEST-ARGUMENT', help='in place of the usual tests, after --')
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machine ends with this program
    try:
        check_tools()
        machine = ensure_machine(again=given.rebuild)
        ended, is_whole = run(machine, given.accel, given.memory, {'only': given.only, 'arguments': given.arguments})
    except VmError as error:
        say(str(error))
        return 2
    for part in ended:
        what = 'passed' if part['code'] == 0 else f'failed, exit code {part["code"]}'
        say(f'{part["part"]}: {what}, {part["minutes"]} minutes')
    if not is_whole:
        say('The machine ended before all parts had; what it printed is above')
    return 0 if is_whole and not any(part['code'] for part in ended) else 1


def check_tools() -> None:
    """Return if what builds and boots the machine is installed."""
    search = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool, path=search) is None]
    if missing:
        raise VmError(f'the machine needs tools that are not installed; run: apt-get install {" ".join(missing)}')
    os.environ['PATH'] = search


# The machine ----------------------------------------------------------------------------------------------------------


def requirements() -> list[str]:
    """Return what the library and its tests need from PyPI, as setup.cfg says."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    lines = settings['options']['install_requires'] + settings['options.extras_require']['dev']
    return [line.strip() for line in lines.splitlines() if line.strip()]


def ensure_machine(*, again: bool = False) -> Path:
    """Return the directory of the machine, with ``disk.img``, ``vmlinuz`` and ``initrd.img``; build it if need be."""
    wanted = json.dumps([SUITE, PYTHON, DISK_SIZE, PACKAGES, IMAGE_PACKAGES, requirements()])
    key = hashlib.sha256(wanted.encode()).hexdigest()[:16]
    place = CACHE / key
    if place.is_dir() and not again:
        say(f'Using the machine in {place}')
        return place
    say('Building the machine; this takes some minutes once')
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix='build-') as name:
        work = Path(name, 'machine')
        work.mkdir()
        build_machine(work)
        for old in CACHE.iterdir():
            if old != Path(name):
                shutil.rmtree(old)
        work.rename(place)
    return place


def build_machine(work: Path) -> None:
    """Make the disk, and the kernel and initial file system to boot it with."""
    wheels = work.parent / 'wheels'
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'download', '--quiet', '--dest', str(wheels)]
    target = ['--only-binary=:all:', '--python-version', PYTHON, '--platform', 'manylinux_2_28_x86_64']
    older = ['--platform', 'manylinux2014_x86_64', '--platform', 'manylinux1_x86_64', '--platform', 'linux_x86_64']
    call([*pip, *target, *older, *requirements(), 'setuptools', 'wheel'], 'downloading what the tests need from PyPI')
    image = work.parent / 'image.tar'
    bootstrap = ['nice', 'mmdebstrap', '--quiet', '--variant=minbase']
    trim = '--dpkgopt=path-exclude=/usr/share/{doc,man,locale}/*'
    call(
        [*bootstrap, trim, f'--include={",".join(IMAGE_PACKAGES.split())}', SUITE, str(image)],
        "building the containers' image",
    )
    hooks = [
        f'--customize-hook=copy-in {wheels} /opt',
        f'--customize-hook=copy-in {image} /opt',
        '--customize-hook=chroot "$1" python3 -m venv /opt/venv',
        '--customize-hook=chroot "$1" sh -c "/opt/venv/bin/pip install -q --no-index --no-compile --no-deps /opt/wheels/*.whl"',
        '--customize-hook=rm -r "$1"/opt/wheels',
        '--customize-hook=echo /srv/enclave > "$1"/opt/venv/lib/python3.11/site-packages/enclave-checkout.pth',
        '--customize-hook=chroot "$1" /opt/venv/bin/python -m compileall -q -j 0 /opt/venv/lib /usr/lib/python3.11 || true',
        '--customize-hook=chroot "$1" useradd --create-home --shell /bin/bash --uid 1000 tester',
        '--customize-hook=mkdir -p "$1"/var/lib/systemd/linger && touch "$1"/var/lib/systemd/linger/tester',
        f'--customize-hook=copy-in {ROOT / "tests" / "vm" / "enclave-tests.service"} /etc/systemd/system',
        # What is not needed costs time at the boot. The serial console is the tests' own.
        '--customize-hook=chroot "$1" systemctl enable enclave-tests.service',
        '--customize-hook=chroot "$1" systemctl disable docker.service docker.socket containerd.service',
        '--customize-hook=chroot "$1" systemctl mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer '
        'apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service',
        '--customize-hook=echo vm > "$1"/etc/hostname && echo "127.0.0.1 localhost vm" > "$1"/etc/hosts',
        f'--customize-hook=cp "$1"/boot/vmlinuz-* {work}/vmlinuz && cp "$1"/boot/initrd.img-* {work}/initrd.img',
        # Without what is mounted in it meanwhile, such as /proc.
        f'--customize-hook=mkdir {work}/tree && mount --bind "$1" {work}/tree',
        f'--customize-hook=mke2fs -q -t ext4 -d {work}/tree {work}/disk.img {DISK_SIZE}',
        f'--customize-hook=umount {work}/tree && rmdir {work}/tree',
    ]
    packages = ','.join(' '.join(PACKAGES).split())
    call([*bootstrap, f'--include={packages}', '--format=null', *hooks, SUITE, '/dev/null'], 'building the machine')


def call(command: list[str], what: str) -> None:
    """Run a program to its end.

    Raises:
        VmError: It failed; its output has been printed.
    """
    say(what[0].upper() + what[1:])
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode:
        raise VmError(f'{what} failed: {Path(command[0]).name} ended with {done.returncode}; its output is above')


# The run --------------------------------------------------------------------------------------------------------------


def pack_checkout(path: Path, order: dict[str, object]) -> None:
    """Write this checkout as a tar file, as it is now, with what is to be run. The file is the machine's second disk."""
    listing = ['git', '-C', str(ROOT), 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    names = subprocess.run(listing, capture_output=True, check=True).stdout.decode().split('\0')
    with tarfile.open(path, 'w') as archive:
        for name in filter(None, names):
            if (ROOT / name).is_file():
                archive.add(ROOT / name, f'enclave/{name}')
        data = json.dumps(order).encode()
        member = tarfile.TarInfo('enclave/vm-order.json')
        member.size, member.mode = len(data), 0o644
        archive.addfile(member, io.BytesIO(data))


def run(machine: Path, accel: str, memory: str, order: dict[str, object]) -> tuple[list[dict[str, Any]], bool]:
    """Boot the machine, show what it prints, and return what it says of each part that ended, and whether it reached its end.

    Raises:
        VmError: It ended without a result.
    """
    with tempfile.TemporaryDirectory(prefix='enclave-vm-') as name:
        checkout = Path(name, 'checkout.tar')
        pack_checkout(checkout, order)
        threads = ',thread=multi' if accel == 'tcg' else ''
        processors = str(min(2, os.cpu_count() or 1))
        command = [
            # Wide vectors are emulated one by one; without them programs copy memory twice as fast.
            *('qemu-system-x86_64', '-accel', f'{accel}{threads}', '-cpu', 'Nehalem-v1' if accel == 'tcg' else 'host'),
            *('-smp', processors, '-m', memory, '-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio'),
            *('-nic', 'none', '-device', 'virtio-rng-pci'),
            *('-kernel', str(machine / 'vmlinuz'), '-initrd', str(machine / 'initrd.img')),
            # Any crash of its own kernel ends the machine. Its check of timers fails on a host that is busy.
            *(
                '-append',
                'root=/dev/vda rw console=ttyS0 quiet panic=-1 no_timer_check apparmor=0 mitigations=off systemd.show_status=no',
            ),
            *('-drive', f'file={machine}/disk.img,format=raw,if=virtio,snapshot=on,cache=unsafe'),
            *('-drive', f'file={checkout},format=raw,if=virtio,readonly=on'),
        ]
        say(f'Booting it ({accel}, {processors} processors, {memory})')
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout is not None
        timer = threading.Timer(HOURS * 3600, process.kill)
        timer.daemon = True
        timer.start()
        ended: list[dict[str, Any]] = []
        is_whole, began = False, time.monotonic()
        try:
            for line in process.stdout:
                text = line.decode('utf-8', 'replace').rstrip()
                minutes, seconds = divmod(int(time.monotonic() - began), 60)
                print(f'{minutes:3}:{seconds:02} {text}', flush=True)
                _, found, result = text.partition(MARK)
                if found and result.startswith('{'):
                    ended.append(json.loads(result))
                is_whole = is_whole or (bool(found) and result == 'end')
        finally:
            timer.cancel()
            process.kill()
            process.wait()
    if not ended:
        raise VmError(f'the machine ended without a result (qemu: {process.returncode}); what it printed is above')
    return ended, is_whole


if __name__ == '__main__':
    sys.exit(main())
