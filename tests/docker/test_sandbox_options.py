"""Every option of a Docker sandbox does on a real container what it says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from enclave.errors import EngineError, SandboxStartError
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.engine import get_engine
from enclave.sandboxes.docker.network import QUICK
from enclave.sandboxes.docker.sandbox import DockerSandbox

pytestmark = pytest.mark.docker


def shell(command: str, **options: object) -> str:
    """Return what a command prints in a sandbox of its own with these options."""
    options = {'network_enabled': False, **options}
    with DockerSandbox(options) as sandbox:
        result = sandbox.execute_command(command)
        assert result.success, result
        return result.stdout.strip()


def test_memory_limit_is_the_containers_and_swap_is_off() -> None:
    with DockerSandbox({'memory_limit': '64m', 'network_enabled': False}) as sandbox:
        found = sandbox.backend.inspect(get_engine(), sandbox.backend.container)

    assert found is not None
    assert found['HostConfig']['Memory'] == 64 * 1024 * 1024
    assert found['HostConfig']['MemorySwap'] == 64 * 1024 * 1024


def test_cpu_limit_sets_the_quota() -> None:
    with DockerSandbox({'cpu_limit': '0.5', 'network_enabled': False}) as sandbox:
        found = sandbox.backend.inspect(get_engine(), sandbox.backend.container)

    assert found is not None
    assert found['HostConfig']['NanoCpus'] == 500_000_000


def test_a_cpu_limit_beyond_the_engines_processors_is_all_of_them() -> None:
    engine = get_engine()
    engine.memory.pop('cpus', None)
    for command in (None, ['sleep', 'infinity']):
        with DockerSandbox({'cpu_limit': 100_000, 'command': command, 'network_enabled': False}) as sandbox:
            found = sandbox.backend.inspect(engine, sandbox.backend.container)

        assert found is not None
        assert found['HostConfig']['NanoCpus'] == engine.describe().cpus * 1_000_000_000


def test_pids_limit_stops_a_crowd() -> None:
    program = (
        'import os, signal\n'
        'children = []\n'
        'try:\n'
        '    while len(children) < 100:\n'
        '        pid = os.fork()\n'
        '        if not pid: signal.pause()\n'
        '        children.append(pid)\n'
        'except BlockingIOError: print(len(children))\n'
        'for pid in children: os.kill(pid, 9)\n'
    )
    with DockerSandbox({'pids_limit': 40, 'network_enabled': False}) as sandbox:
        result = sandbox.run_script(['python3'], program)

    assert 10 < int(result.stdout) < 40


def test_environment_is_every_calls_and_never_shown() -> None:
    config = DockerSandboxConfig(env_vars={'TOKEN': 'geheim', 'PORT': 8000}, network_enabled=False)  # type: ignore[dict-item]

    with DockerSandbox(config) as sandbox:
        assert sandbox.execute_command('echo $TOKEN $PORT').stdout == 'geheim 8000\n'
        assert 'geheim' not in repr(sandbox.get_info()) + repr(config) + sandbox.get_info().model_dump_json()


def test_working_dir_is_made_and_relative_paths_begin_there() -> None:
    with DockerSandbox({'working_dir': '/srv/work', 'network_enabled': False}) as sandbox:
        sandbox.write_file('a/b.txt', b'x')

        assert sandbox.execute_command('pwd; cat a/b.txt').stdout == '/srv/work\nx'


def test_volumes_are_bound_read_write_and_read_only(tmp_path: Path) -> None:
    (tmp_path / 'rw').mkdir()
    (tmp_path / 'ro').mkdir()
    (tmp_path / 'ro' / 'given').write_text('host')
    volumes = {
        str(tmp_path / 'rw'): {'bind': '/rw', 'mode': 'rw'},
        str(tmp_path / 'ro'): {'bind': '/ro', 'mode': 'ro'},
    }

    with DockerSandbox({'volumes': volumes, 'network_enabled': False}) as sandbox:
        assert sandbox.execute_command('cat /ro/given && echo back > /rw/made').success
        assert 'Read-only' in sandbox.execute_command('echo x > /ro/no').stderr

    assert (tmp_path / 'rw' / 'made').read_text() == 'back\n'


def test_a_missing_host_path_is_named_and_not_made(tmp_path: Path) -> None:
    missing = tmp_path / 'nowhere'
    sandbox = DockerSandbox({'volumes': {str(missing): {'bind': '/data'}}, 'network_enabled': False})

    with pytest.raises(SandboxStartError, match='nowhere'):
        sandbox.start()

    assert not missing.exists()


def test_no_network_means_loopback_alone() -> None:
    assert shell('ls /sys/class/net') == 'lo'


def test_network_joins_our_bridge_where_neighbours_cannot_talk() -> None:
    config = {'network_enabled': True}
    with DockerSandbox(config) as one, DockerSandbox(config) as two:
        address = one.execute_command('hostname -I').stdout.strip()
        server = one.start_process(['python3', '-m', 'http.server', '8000'], live=False)
        probe = (
            'import socket, sys\n'
            's = socket.socket(); s.settimeout(2)\n'
            'sys.exit(0 if s.connect_ex((sys.argv[1], 8000)) == 0 else 7)'
        )
        server.wait_started()
        wait = 'until (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; do :; done'
        assert one.execute_command(['bash', '-c', wait], timeout=20).success

        reached = two.run_script(['python3'], probe, args=[address])

        assert one.metadata['network'] == 'enclave'
        assert reached.exit_code == 7
        # The engine's own name server in each container takes a quarter of its start; there is nobody to look up.
        assert '127.0.0.11' not in two.execute_command('cat /etc/resolv.conf').stdout


def test_network_removed_between_two_sandboxes_is_made_again() -> None:
    engine = get_engine()
    name = f'enclave-test-{uuid.uuid4().hex[:8]}'
    gone = engine.api.create_network(name, driver='bridge')['Id']
    engine.api.remove_network(gone)
    engine.memory[f'network:{QUICK.name}'] = gone

    with DockerSandbox({'network_enabled': True}) as sandbox:
        assert sandbox.execute_command('hostname -I').stdout.strip()


def test_published_ports_go_to_loopback() -> None:
    with DockerSandbox({'ports': {'8000/tcp': None}}) as sandbox:
        sandbox.start_process(['python3', '-m', 'http.server', '8000'], live=False)
        wait = 'until (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; do :; done'
        assert sandbox.execute_command(['bash', '-c', wait], timeout=20).success

        host, port = sandbox.get_published_ports()['8000/tcp']
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.sendall(b'GET / HTTP/1.0\r\n\r\n')
            answer = connection.recv(100)

    assert host == '127.0.0.1'
    assert answer.startswith(b'HTTP/1.0 200')


def test_extra_hosts_are_in_the_hosts_file() -> None:
    assert '10.1.2.3\tdatabase' in shell('cat /etc/hosts', extra_hosts={'database': '10.1.2.3'}, network_enabled=True)


def test_user_runs_everything_and_owns_the_working_directory() -> None:
    with DockerSandbox({'user': '1000:1000', 'network_enabled': False}) as sandbox:
        sandbox.write_file('made-by-file-verb', b'x')
        result = sandbox.execute_command('id -u; touch made-by-command; stat -c %u *; cat /etc/shadow')

        assert result.stdout == '1000\n1000\n1000\n'
        assert 'Permission denied' in result.stderr


@pytest.mark.parametrize(('user', 'what'), [('nosuch', "user 'nosuch'"), ('0:nosuch', "group 'nosuch'")])
def test_a_user_that_the_image_does_not_have_is_named(user: str, what: str) -> None:
    with pytest.raises(SandboxStartError, match=f'has no {what}'), DockerSandbox({'user': user}):
        pass


def test_capabilities_are_the_few_that_installing_packages_needs() -> None:
    assert capabilities() == 0xFB


def test_privileged_gives_all_capabilities_of_the_machine() -> None:
    of_the_machine = int(Path('/proc/self/status').read_text().split('CapBnd:')[1].split()[0], 16)
    refusal = ''
    try:
        assert capabilities(privileged=True) == of_the_machine
    except EngineError as error:
        refusal = str(error)

    if refusal:
        # A machine that lacks some itself cannot give them, and runc says so when asked for all.
        assert 'unable to apply caps' in refusal
        assert of_the_machine & 0xFFFFFFFF != 0xFFFFFFFF


def capabilities(**options: object) -> int:
    return int(shell('grep CapEff /proc/self/status', **options).split()[1], 16)


def test_cap_add_adds_one() -> None:
    assert capabilities(cap_add=['NET_RAW']) == 0xFB | 1 << 13


def test_no_new_privileges_and_seccomp_hold() -> None:
    facts = shell('cat /proc/self/status')

    assert 'NoNewPrivs:\t1' in facts
    assert 'Seccomp:\t2' in facts


def test_security_opt_reaches_the_engine() -> None:
    assert 'Seccomp:\t0' in shell('cat /proc/self/status', security_opt=['seccomp=unconfined'])


def test_read_only_leaves_only_tmp_and_the_working_directory_writable() -> None:
    with DockerSandbox({'read_only': True, 'network_enabled': False, 'tools_config': ['python_executor']}) as sandbox:
        assert 'Read-only' in sandbox.execute_command('touch /etc/x').stderr
        assert sandbox.execute_command('touch /tmp/x here').success
        assert sandbox.write_file('big', b'x' * (9 << 20)) == 9 << 20
        assert sandbox.execute_tool('python_executor', {'code': 'print(1)'}).output == '1\n'


def test_tmpfs_is_mounted_with_its_size() -> None:
    assert '4096' in shell('df -k /scratch | tail -1', tmpfs={'/scratch': 'size=4m'})


def test_files_reach_a_tmpfs_also_when_they_are_large(tmp_path: Path) -> None:
    data = os.urandom(10 << 20)
    with DockerSandbox({'tmpfs': ['/scratch'], 'network_enabled': False}) as sandbox:
        sandbox.put_file(data, '/scratch/big')

        assert sandbox.get_file('/scratch/big') == data


def test_ulimits_hold_and_open_files_are_limited_by_default() -> None:
    assert shell('ulimit -n') == '4096'
    assert shell('ulimit -n; ulimit -Hn', ulimits={'nofile': (100, 200)}).split() == ['100', '200']


def test_shm_size_is_the_size_of_shared_memory() -> None:
    assert '16384' in shell('df -k /dev/shm | tail -1', shm_size='16m')


def test_runtime_is_asked_for_by_name() -> None:
    assert shell('echo yes', runtime='runc') == 'yes'
    with pytest.raises(Exception, match='no-such-runtime'):
        DockerSandbox({'runtime': 'no-such-runtime', 'network_enabled': False}).start()


def test_platform_is_asked_for() -> None:
    assert shell('uname -m', platform='linux/amd64' if os.uname().machine == 'x86_64' else None)


def test_storage_opt_is_passed_on_and_the_engines_refusal_reported() -> None:
    with pytest.raises(Exception, match='storage'):
        DockerSandbox({'storage_opt': {'size': 'nonsense'}, 'network_enabled': False}).start()


def test_network_by_name_is_joined(engine: object) -> None:
    assert shell('ls /sys/class/net', network='none', network_enabled=True) == 'lo'


def test_a_named_network_that_is_missing_is_reported() -> None:
    sandbox = DockerSandbox({'network': 'no-such-network-here'})

    with pytest.raises(Exception, match='no-such-network-here'):
        sandbox.start()


def test_timeout_of_the_configuration_is_the_default_of_every_call() -> None:
    with DockerSandbox({'timeout': 0.3, 'network_enabled': False}) as sandbox:
        assert sandbox.execute_command('sleep 30').timed_out
        assert sandbox.execute_command('sleep 0.5', timeout=0).success


def test_output_cap_of_the_configuration_is_the_default_of_every_call() -> None:
    with DockerSandbox({'max_output_bytes': 1000, 'network_enabled': False}) as sandbox:
        result = sandbox.execute_command('seq 10000')

    assert result.stdout_truncated
    assert result.stdout_bytes == 48894
    assert len(result.stdout) < 1100


def test_a_command_of_its_own_runs_beside_an_agent() -> None:
    with DockerSandbox({'command': 'echo ready; exec sleep 1000', 'network_enabled': False}) as sandbox:
        result = sandbox.execute_command('tr "\\0" " " < /proc/1/cmdline')

        assert result.stdout == 'sleep 1000 '
        assert sandbox.execute_command('cat; exit 3', stdin='given').stdout == 'given'


def test_an_agent_beside_a_command_comes_back_after_a_guest_killed_it() -> None:
    with DockerSandbox({'command': ['sleep', '1000'], 'network_enabled': False}) as sandbox:
        with pytest.raises(ConnectionError):
            sandbox.execute_command('kill -9 -1; sleep 5')

        assert sandbox.execute_command('echo again').stdout == 'again\n'


def test_a_command_that_ends_at_once_is_reported_with_code_and_output(engine: object) -> None:
    sandbox = DockerSandbox({'command': 'echo the reason >&2; exit 42', 'network_enabled': False})

    with pytest.raises(SandboxStartError, match='42') as caught:
        sandbox.start()

    assert 'the reason' in str(caught.value)
    assert caught.value.details['exit_code'] == 42
    assert not containers_of(sandbox.id)


def containers_of(sandbox_id: str) -> list[str]:
    out = subprocess.run(
        ['docker', 'ps', '-a', '--filter', f'label=enclave.sandbox={sandbox_id}', '--format', '{{.State}}'],
        capture_output=True,
        text=True,
        check=True,
    )
    return out.stdout.split()


def test_kept_container_is_started_and_attached_to_again() -> None:
    options = {'remove_on_exit': False, 'network_enabled': False}
    first = DockerSandbox(options)
    try:
        with first:
            first.write_file('kept.txt', b'still here')
        assert containers_of(first.id) == ['exited']

        first.start()
        assert first.read_file('kept.txt') == b'still here'
        first.stop()
        with DockerSandbox(options, first.id) as second:
            assert second.read_file('kept.txt') == b'still here'
    finally:
        first.cleanup()
    assert containers_of(first.id) == []


def test_a_client_killed_by_sigkill_leaves_no_container(tmp_path: Path) -> None:
    program = (
        'import json, sys, threading\n'
        'from enclave import SandboxFactory, SandboxType\n'
        "box = SandboxFactory.create_sandbox(SandboxType.DOCKER, {'network_enabled': False})\n"
        'box.start()\n'
        "box.start_process('sleep 1000')\n"
        'print(json.dumps(box.id), flush=True)\n'
        "box.execute_command('sleep 1000', timeout=0)\n"
    )
    with subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        sandbox_id = json.loads(child.stdout.readline())
        assert containers_of(sandbox_id) == ['running']
        events = subprocess.Popen(
            ['docker', 'events', '--filter', f'label=enclave.sandbox={sandbox_id}', '--filter', 'event=destroy']
            + ['--since', '0', '--format', '{{.Action}}'],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            child.kill()
            child.wait()

            assert events.stdout is not None
            assert events.stdout.readline() == 'destroy\n'
        finally:
            events.kill()
            events.communicate()
    assert containers_of(sandbox_id) == []
