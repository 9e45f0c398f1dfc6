"""What comes out of a sandbox is bounded, and what goes in is files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclave.errors import EnclaveError, InvalidArgumentError, NotFoundError, SandboxPathError, ToolNotFoundError
from enclave.sandboxes import listing
from enclave.sandboxes.agent_backed import AgentBackedSandbox

Start = Callable[..., AgentBackedSandbox]
MIB = 1 << 20


def test_a_sparse_file_fills_neither_memory_nor_disk(sandbox: AgentBackedSandbox, place: str, tmp_path: Path) -> None:
    sandbox.execute_command(
        'mkdir -p deep && truncate -s 1T huge && truncate -s 64M deep/some && echo end >> deep/some', cwd=place
    )

    for get in (
        lambda: sandbox.get_file(f'{place}/huge', max_bytes=8 * MIB),
        lambda: sandbox.get_file(f'{place}/huge', tmp_path / 'huge', max_bytes=8 * MIB),
        lambda: sandbox.get_file(f'{place}/huge', io.BytesIO(), max_bytes=8 * MIB),
        lambda: sandbox.get_archive(place, tmp_path / 'tar', max_bytes=8 * MIB),
        lambda: sandbox.get_dir(place, tmp_path / 'tree', max_bytes=8 * MIB),
    ):
        with pytest.raises(SandboxPathError, match='max_bytes'):
            get()
    size = sandbox.get_file(f'{place}/deep/some', tmp_path / 'some')

    assert {each.name for each in tmp_path.iterdir()} <= {'some', 'tree'}
    assert size == (tmp_path / 'some').stat().st_size == 64 * MIB + 4
    assert (tmp_path / 'some').stat().st_blocks * 512 < 4 * MIB
    assert sandbox.read_file(f'{place}/huge', max_bytes=5) == bytes(5)


def test_a_directory_of_many_files_is_listed_as_far_as_was_asked_for(
    sandbox: AgentBackedSandbox, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.execute_command('mkdir d && cd d && for n in $(seq 30); do : > $n; done', cwd=place)
    assert len(sandbox.list_dir(place, recursive=True)) == 31

    monkeypatch.setattr(listing, 'LISTED_ENTRIES', 20)
    for path, is_recursive in ((f'{place}/d', False), (place, True)):
        with pytest.raises(SandboxPathError, match=r'more than 20 entries.*max_entries=N') as caught:
            sandbox.list_dir(path, recursive=is_recursive)
        assert caught.value.details['max_entries'] == 20
        assert len(sandbox.list_dir(path, recursive=is_recursive, max_entries=25)) == 25
        assert len(sandbox.list_dir(path, recursive=is_recursive, max_entries=1000)) == 30 + is_recursive

    monkeypatch.setattr(listing, 'LISTED_CHARACTERS', 10)
    monkeypatch.setattr(listing, 'CHARACTERS_EACH', 1)
    with pytest.raises(SandboxPathError, match=r'names .* are too long'):
        sandbox.list_dir(f'{place}/d', max_entries=20)


@pytest.mark.parametrize('kind', ['fifo', 'device'])
def test_what_is_no_file_is_not_put(sandbox: AgentBackedSandbox, place: str, tmp_path: Path, kind: str) -> None:
    source = tmp_path / 'source'
    if kind == 'fifo':
        os.mkfifo(source)
    else:
        source = Path('/dev/zero')

    for put in (sandbox.put_file, sandbox.put_archive):
        with pytest.raises(InvalidArgumentError, match='regular file'):
            put(source, f'{place}/target')

    assert sandbox.list_dir(place) == []


def test_a_directory_with_pipes_in_it_is_put_without_them(
    sandbox: AgentBackedSandbox, place: str, tmp_path: Path
) -> None:
    (tmp_path / 'file').write_text('x')
    os.mkfifo(tmp_path / 'pipe')

    sandbox.put_dir(tmp_path, place)

    assert [each.path for each in sandbox.list_dir(place)] == ['file']


def test_write_file_leaves_a_file_that_its_user_may_not_write(start: Start) -> None:
    sandbox = start()
    sandbox.execute_command('mkdir d && echo old > d/file && chmod 400 d/file && echo old > d/mine')
    is_root = sandbox.execute_command('id -u').stdout == '0\n'

    for size in (3, 9 * MIB):
        if is_root:  # who may write whatever its mode is
            assert sandbox.write_file('d/file', b'x' * size) == size
            continue
        for options in ({}, {'append': True}):
            with pytest.raises(SandboxPathError) as caught:
                sandbox.write_file('d/file', b'x' * size, **options)
            assert caught.value.details['errno'] == 13
        assert sandbox.read_file('d/file') == b'old\n'
        sandbox.write_file('d/mine', b'x' * size)
    assert [each.path for each in sandbox.list_dir('d')] == ['file', 'mine']


WRONG: dict[str, Callable[[Any], object]] = {
    'tty=5': lambda box: box.start_process('ls', tty=5),
    "tty=('a', 2)": lambda box: box.start_process('ls', tty=('a', 2)),
    'tty=(True, 2)': lambda box: box.start_process('ls', tty=(True, 2)),
    'write_file(data=5)': lambda box: box.write_file('x', 5),
    'write_file(data=None)': lambda box: box.write_file('x', None),
    'write_file(path=5)': lambda box: box.write_file(5, b''),
    'write_file([1])': lambda box: box.write_file('x', [1]),
    "write_file(['text'])": lambda box: box.write_file('x', ['text']),
    'put_file(5)': lambda box: box.put_file(5, 'x'),
    'put_file(target=5)': lambda box: box.put_file(b'', 5),
    'put_archive(5)': lambda box: box.put_archive(5),
    'get_file(5)': lambda box: box.get_file(5),
    'get_file(max_bytes=-1)': lambda box: box.get_file('/etc/hosts', max_bytes=-1),
    "get_dir(max_bytes='1')": lambda box: box.get_dir('/etc', '/nowhere', max_bytes='1'),
    'put_file(NUL)': lambda box: box.put_file('a\0b', 'x'),
    'put_file(surrogate)': lambda box: box.put_file('\ud800', 'x'),
    'put_dir(5)': lambda box: box.put_dir(5),
    'put_dir(NUL)': lambda box: box.put_dir('a\0b'),
    "put_dir('')": lambda box: box.put_dir(''),
    'put_archive(NUL)': lambda box: box.put_archive('a\0b'),
    'get_file(target=5)': lambda box: box.get_file('/etc/passwd', 5),
    'get_file(target=NUL)': lambda box: box.get_file('/etc/passwd', 'a\0b'),
    "get_file(target='')": lambda box: box.get_file('/etc/passwd', ''),
    'get_archive(target=[])': lambda box: box.get_archive('/etc/passwd', []),
    'get_dir(target=5)': lambda box: box.get_dir('/etc', 5),
    'get_dir(target=NUL)': lambda box: box.get_dir('/etc', 'a\0b'),
    'execute_command(user=huge)': lambda box: box.execute_command('true', user=10**5000),
    'execute_command(on_stdout=huge)': lambda box: box.execute_command('true', on_stdout=10**5000),
    'execute_command(timeout=huge)': lambda box: box.execute_command('true', timeout=-(10**5000)),
    'run_code(cpu_time_limit=huge)': lambda box: box.run_code('1', cpu_time_limit=10**5000),
    'run_code(fetch_files=huge)': lambda box: box.run_code('1', fetch_files=[10**5000]),
    'run_many(5)': lambda box: box.run_many(5),
    'run_many(concurrency=huge)': lambda box: box.run_many(['1'], concurrency=10**5000),
    'read_file(offset=-1)': lambda box: box.read_file('/etc/hosts', offset=-1),
    'list_dir(5)': lambda box: box.list_dir(5),
    'make_dir(mode)': lambda box: box.make_dir('x', mode='755'),
    'execute_command(5)': lambda box: box.execute_command(5),
    'execute_command(timeout)': lambda box: box.execute_command('ls', timeout='1'),
    'execute_command(cwd=5)': lambda box: box.execute_command('ls', cwd=5),
    'execute_command(env=5)': lambda box: box.execute_command('ls', env=5),
    'execute_command(env)': lambda box: box.execute_command('ls', env={'A': 5}),
    'execute_command(stdin=5)': lambda box: box.execute_command('ls', stdin=5),
    'execute_command(user=:)': lambda box: box.execute_command('true', user=':'),
    'execute_command(user=+5)': lambda box: box.execute_command('true', user='+5'),
    'execute_command(user=0:+5)': lambda box: box.execute_command('true', user='0:+5'),
    'execute_command(user=[])': lambda box: box.execute_command('ls', user=[]),
    'connect_port': lambda box: box.connect_port('80'),
    'connect_port(host=name)': lambda box: box.connect_port(80, 'example.invalid'),
    'connect_port(host=bytes)': lambda box: box.connect_port(80, b'127.0.0.1'),
    'connect_port(host=long)': lambda box: box.connect_port(80, 'x' * 300),
    'wait_for_port(host)': lambda box: box.wait_for_port(80, 1.0, host='sandbox'),
    'forward_port': lambda box: box.forward_port(True),
    'forward_port(host)': lambda box: box.forward_port(80, host='::1::'),
    'run_script(source=5)': lambda box: box.run_script(['python3'], 5),
    'run_script(interpreter=5)': lambda box: box.run_script(5, 'x'),
}


@pytest.mark.parametrize('call', WRONG)
def test_an_argument_of_a_wrong_type_is_named_and_nothing_is_done(sandbox: AgentBackedSandbox, call: str) -> None:
    with pytest.raises(EnclaveError) as caught:
        WRONG[call](sandbox)

    assert isinstance(caught.value, InvalidArgumentError)
    assert sandbox.execute_command('true').exit_code == 0


@pytest.mark.parametrize(
    'name',
    [[], {}, 10**5000, 'x' * 100_000, None, '\ud800'],
    ids=['list', 'dict', 'huge', 'long', 'None', 'surrogate'],
)
def test_a_tool_or_process_of_an_impossible_name_is_not_found(sandbox: AgentBackedSandbox, name: Any) -> None:
    with pytest.raises(ToolNotFoundError) as no_tool:
        sandbox.execute_tool(name, {})
    with pytest.raises(NotFoundError) as no_process:
        sandbox.find_process(name)
    assert len(no_tool.value.message) < 2000
    assert len(no_process.value.message) < 2000


def test_numbers_and_paths_beyond_what_a_system_has_are_refused_as_such(sandbox: AgentBackedSandbox) -> None:
    for offset in (1 << 63, 10**30):
        with pytest.raises(InvalidArgumentError, match='offset must be at most'):
            sandbox.read_file('/etc/hosts', offset=offset)
    for path in ('/'.join(['d'] * 3000), '/tmp/' + 'd' * 5000):
        for verb in (
            lambda path: sandbox.write_file(path, b'x'),
            lambda path: sandbox.make_dir(path, parents=True),
            lambda path: sandbox.remove_path(path, recursive=True, missing_ok=True),
            sandbox.read_file,
        ):
            with pytest.raises(SandboxPathError, match='File name too long'):
                verb(path)
    for user in ('9' * 11, '4294967295', '9' * 5000):
        with pytest.raises(InvalidArgumentError):
            sandbox.execute_command('true', user=user)
