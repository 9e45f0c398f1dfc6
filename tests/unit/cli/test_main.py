from __future__ import annotations

import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from enclave import __version__
from enclave.cli import server
from enclave.cli.main import COMMANDS, main
from enclave.doctor import Check, Diagnosis
from enclave.errors import EngineUnavailableError


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.processes
def test_help_lists_every_command_and_imports_no_engine_library() -> None:
    program = (
        'import sys\n'
        'from enclave.cli.main import main\n'
        'try:\n'
        "    main(['--help'])\n"
        'finally:\n'
        "    heavy = {'docker', 'requests', 'flask', 'rich', 'jupyter_client'} & set(sys.modules)\n"
        '    assert not heavy, heavy\n'
    )

    shown = subprocess.run([sys.executable, '-c', program], check=True, capture_output=True, text=True).stdout

    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize('name', sorted(COMMANDS))
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, '--help') == 0
    assert 'Usage: ms-enclave' in capsys.readouterr().out


def test_version_is_reported_by_option_and_by_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('--version') == 0
    assert __version__ in capsys.readouterr().out

    assert run('version', '--json') == 0
    assert json.loads(capsys.readouterr().out)['ms-enclave'] == __version__


def test_unknown_command_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('nosuch') == 2
    assert "No such command 'nosuch'" in capsys.readouterr().err


@pytest.mark.parametrize('more', [(), ('--pool-size', '2')])
def test_a_server_of_a_kind_that_nobody_knows_does_not_begin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(server, 'serve', lambda *_: pytest.fail('it serves'))

    assert run('server', '--type', 'foo', *more) == 1

    message = capsys.readouterr().err
    assert "sandbox type 'foo' is not registered; known: " in message
    assert 'bubblewrap' in message


def test_failure_is_a_message_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('ENCLAVE_DEBUG', raising=False)

    assert run('images', 'build', 'nosuch') == 1

    shown = capsys.readouterr().err
    assert shown.startswith('Error: There is no recipe')
    assert 'Traceback' not in shown


def test_debugging_shows_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ENCLAVE_DEBUG', '1')

    with pytest.raises(LookupError, match='There is no recipe'):
        main(['images', 'build', 'nosuch'])


ENGINE = Check(name='engine', status='failed', summary='nothing answers', remedy='start it', required=True)


@pytest.mark.parametrize(
    ('backends', 'code', 'end'),
    [
        ([], 1, 'No code can run here yet. Docker lacks: engine.\n'),
        (['bubblewrap'], 0, 'Code can run here in sandboxes of bubblewrap.\nDocker lacks: engine.\n'),
        (['docker', 'bubblewrap'], 0, 'Code can run here in sandboxes of docker and bubblewrap.\n'),
    ],
)
def test_doctor_succeeds_where_any_code_can_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], backends: list[str], code: int, end: str
) -> None:
    found = Diagnosis(can_run=bool(backends), backends=backends, checks=[ENGINE])
    monkeypatch.setattr('enclave.doctor.examine', lambda base_url: found)

    assert run('doctor') == code
    shown = capsys.readouterr().out
    assert '-> start it' in shown
    assert shown.endswith(end)

    assert run('doctor', '--json') == code
    assert json.loads(capsys.readouterr().out)['backends'] == backends


@pytest.mark.processes
def test_reader_that_goes_away_is_no_traceback() -> None:
    command = [sys.executable, '-m', 'enclave.cli.main', 'version']
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    _, errors = child.communicate(timeout=30)

    assert b'Traceback' not in errors


@pytest.mark.docker
def test_doctor_with_an_engine_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('doctor', '--json') == 0
    assert json.loads(capsys.readouterr().out)['can_run'] is True


def test_images_that_need_no_engine_are_listed_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_engine() -> Any:
        raise EngineUnavailableError('nothing listens')

    monkeypatch.setattr('enclave.sandboxes.docker.engine.get_engine', no_engine)
    monkeypatch.setenv('ENCLAVE_CACHE_DIR', str(tmp_path))
    assert run('images', 'list') == 0
    shown = capsys.readouterr()
    assert 'nothing listens' in shown.err
    assert ['python:3.11-slim', 'not', 'there'] in [line.split()[:3] for line in shown.out.splitlines()]

    folder = tmp_path / 'images' / 'lab:latest'
    folder.mkdir(parents=True)
    (folder / 'enclave.json').write_text('{"name": "lab", "size_bytes": 5000000}')
    assert run('images', 'list') == 0
    shown = capsys.readouterr()
    assert 'lab' in shown.out
    assert 'unpacked' in shown.out
    assert 'nothing listens' in shown.err

    assert run('images', 'list', '--json') == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed['unpacked'] == [{'name': 'lab', 'root': str(folder / 'root'), 'size_bytes': 5000000}]


def test_an_archive_that_is_cut_off_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('ENCLAVE_CACHE_DIR', str(tmp_path))
    (tmp_path / 'noise').write_bytes(random.Random(5).randbytes(50_000))
    with tarfile.open(tmp_path / 'whole.tar.gz', 'w:gz') as archive:
        archive.add(tmp_path / 'noise', 'noise')
    (tmp_path / 'a.tar.gz').write_bytes((tmp_path / 'whole.tar.gz').read_bytes()[:20_000])

    assert run('images', 'unpack', str(tmp_path / 'a.tar.gz')) == 1

    assert 'not an image archive' in capsys.readouterr().err


@pytest.mark.docker
def test_images_are_listed_with_their_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('images', 'list', '--json') == 0
    listed = json.loads(capsys.readouterr().out)['images']
    assert any('python:3.11-slim' in each['names'] and each['origin'] for each in listed)

    assert run('images', 'list') == 0
    assert 'python:3.11-slim' in capsys.readouterr().out


@pytest.mark.docker
def test_image_that_no_registry_gives_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('images', 'pull', 'localhost:1/nosuch:1') == 1
    assert 'could not be pulled' in capsys.readouterr().err


@pytest.mark.docker
def test_ensure_leaves_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('images', 'ensure', 'python:3.11-slim') == 0
    assert 'python:3.11-slim is there' in capsys.readouterr().err


def test_standard_streams_that_the_caller_closed_are_empty_and_keep_their_numbers(tmp_path: Path) -> None:
    program = (
        'import sys\n'
        'from enclave.cli.main import main\n'
        'try:\n'
        "    main(['version'])\n"
        'finally:\n'
        "    reported = f'{sys.stdin.buffer.read()!r} {sys.stdin.fileno()} {sys.stdout.fileno()} {sys.stderr.fileno()}'\n"
        "    open(sys.argv[1], 'w').write(reported)\n"
    )
    command = ['sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh', sys.executable, '-c', program, str(tmp_path / 'written')]

    assert subprocess.run(command, check=False).returncode == 0

    assert (tmp_path / 'written').read_text() == "b'' 0 1 2"
