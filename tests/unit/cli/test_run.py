from __future__ import annotations

import json
from pathlib import Path

import pytest

from enclave.cli.run import _guess_interpreter
from tests.support.place import FakePlace
from tests.unit.cli.conftest import Invoke


@pytest.mark.processes
def test_file_is_run_with_its_own_arguments_and_exit_code(invoke: Invoke, place: FakePlace, tmp_path: Path) -> None:
    script = tmp_path / 'script.py'
    script.write_text('import sys; print(sys.argv[1:]); sys.exit(7)')

    done = invoke('run', '-m', '64m', str(script), '--memory', '-x')

    assert done.exit_code == 7
    assert done.stdout == "['--memory', '-x']\n"
    assert place.calls == [('open', None, {'memory_limit': '64m'}), ('gone',)]


@pytest.mark.processes
def test_program_lies_beside_the_files_that_were_copied_in(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / 'helper.py').write_text('WORD = "helped"')
    script = tmp_path / 'script.py'
    script.write_text('import helper; print(helper.WORD, open("data.txt").read())')
    (tmp_path / 'some.txt').write_text('data')

    done = invoke('run', '-f', f'{tmp_path}/helper.py', '-f', f'{tmp_path}/some.txt:data.txt', str(script))

    assert done.stdout == 'helped data\n'


@pytest.mark.processes
def test_text_is_run_with_all_words_its_arguments(invoke: Invoke) -> None:
    assert invoke('run', '-c', 'import sys; print(sys.argv)', 'a', '-b').stdout == "['-c', 'a', '-b']\n"
    assert invoke('run', '--shell', '-c', 'echo $0 $1 $#', 'a', '-b').stdout == 'sh a 2\n'


@pytest.mark.processes
def test_standard_input_is_the_program_or_its_input(invoke: Invoke) -> None:
    assert invoke('run', '-', 'a', input='import sys; print(sys.argv, sys.stdin.read())').stdout == "['-', 'a'] \n"
    assert invoke('run', '--shell', '-', 'a', input='echo $1').stdout == 'a\n'
    assert invoke('run', '-c', 'print(input())', input='typed\n').stdout == 'typed\n'


@pytest.mark.processes
def test_no_stdin_is_an_empty_one(invoke: Invoke, place: FakePlace) -> None:
    done = invoke('run', '-n', '-c', 'import sys; print(repr(sys.stdin.read()))', input='not for it')

    assert done.stdout == "''\n"
    assert place.sandbox.started[0]['open_stdin'] is False


@pytest.mark.processes
def test_bytes_come_out_as_they_are(invoke: Invoke) -> None:
    done = invoke('run', '-c', r'import os; os.write(1, b"\xff\x00\xc3"); os.write(1, b"\xa9"); os.write(2, b"\xfe")')

    assert done.stdout_bytes == b'\xff\x00\xc3\xa9'
    assert done.stderr_bytes == b'\xfe'


@pytest.mark.processes
def test_running_out_of_time_is_124_and_reported(invoke: Invoke) -> None:
    # Whether it has printed anything by then depends on the machine's load; that what it printed is kept is tested elsewhere.
    done = invoke('run', '-t', '0.5', '-c', 'import threading; threading.Event().wait()')

    assert done.exit_code == 124
    assert 'longer than 0.5 s' in done.stderr


@pytest.mark.processes
def test_death_by_a_signal_is_reported(invoke: Invoke) -> None:
    done = invoke('run', '-c', 'import os; os.kill(os.getpid(), 11)')

    assert done.exit_code == 139
    assert 'SIGSEGV' in done.stderr


@pytest.mark.processes
def test_json_is_the_result_with_the_kind_and_nothing_else(invoke: Invoke, place: FakePlace) -> None:
    place.sandbox.metadata['chosen_because'] = 'it is a test'
    done = invoke('run', '--json', '-c', 'import sys; print(1); print(2, file=sys.stderr); sys.exit(3)')

    assert done.exit_code == 3
    result = json.loads(done.stdout)
    assert (result['stdout'], result['stderr'], result['exit_code']) == ('1\n', '2\n', 3)
    assert (result['sandbox_type'], result['chosen_because']) == (place.sandbox.sandbox_type, 'it is a test')
    assert done.stderr == ''


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((), 'Give a FILE'),
        (('nosuch.py',), 'does not exist'),
        (('.',), 'is a directory'),
        (('-f', 'nosuch', '-c', '1'), 'does not exist'),
        (('--interpreter', 'node', '--shell', '-c', '1'), 'exclude each other'),
        (('--interpreter', '"', '-c', '1'), 'No closing quotation'),
        (('-o', 'x', '-c', '1'), 'NAME=VALUE'),
        (('-t', '-1', '-c', '1'), '-1'),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    invoke: Invoke, place: FakePlace, arguments: tuple[str, ...], message: str
) -> None:
    done = invoke('run', *arguments)

    assert done.exit_code == 2
    assert message in done.stderr
    assert place.calls == []


@pytest.mark.parametrize(
    ('name', 'text', 'command'),
    [
        ('a.py', b'#!/bin/sh\n', ['python3', '-u']),
        ('a.SH', b'', ['sh']),
        ('a.js', b'', ['node']),
        ('a', b'#!/usr/bin/env -S perl -w\n', ['/usr/bin/env', '-S', 'perl', '-w']),
        ('a', b'#!\n', ['python3', '-u']),
        ('a', b'print(1)', ['python3', '-u']),
    ],
)
def test_interpreter_follows_from_name_then_first_line(name: str, text: bytes, command: list[str]) -> None:
    assert _guess_interpreter(name, text) == command


def test_other_interpreters_get_a_file(invoke: Invoke, place: FakePlace) -> None:
    assert invoke('run', '--interpreter', 'cat', '-c', 'the text').stdout == 'the text'
    assert place.sandbox.started[0]['command'] == ['cat', 'program']


@pytest.mark.processes
def test_program_does_not_replace_another_file(invoke: Invoke, place: FakePlace, tmp_path: Path) -> None:
    (tmp_path / 'script.py').write_text('print(1)')
    (tmp_path / 'other.py').write_text('print(2)')

    same = invoke('run', '-f', f'{tmp_path}/script.py', f'{tmp_path}/script.py')
    other = invoke('run', '-f', f'{tmp_path}/other.py:script.py', f'{tmp_path}/script.py')

    assert same.stdout == '1\n'
    assert other.exit_code == 125
    assert 'is another file' in other.stderr


def test_program_is_not_written_to_a_mounted_host_directory(invoke: Invoke, place: FakePlace, tmp_path: Path) -> None:
    (tmp_path / 'script.py').write_text('import os; print(os.environ["PYTHONPATH"])')

    done = invoke('run', '-v', f'{tmp_path}:/sandbox', '--interpreter', 'echo', f'{tmp_path}/script.py')

    assert done.stdout == '/tmp/enclave-program/script.py\n'
    assert place.sandbox.started[0]['env'] == {'PYTHONPATH': '/sandbox'}
