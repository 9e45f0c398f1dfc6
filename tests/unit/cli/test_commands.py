from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from enclave.cli.main import cli, explain
from enclave.errors import SandboxNotFoundError
from tests.support.place import FakePlace, make_info
from tests.unit.cli.conftest import Invoke


@pytest.fixture(autouse=True)
def _sandboxes(place: FakePlace) -> None:
    place.infos = [
        make_info('abc111', age=100),
        make_info('abd222', is_orphan=True, owner={'host': 'here', 'pid': 7, 'alive': False}),
        make_info('kept33', kept=True, owner={'host': 'there', 'pid': 8, 'alive': None}),
    ]


def test_list_distinguishes_owners(invoke: Invoke) -> None:
    head, *rows = invoke('ps').stdout.splitlines()

    assert head.split() == ['ID', 'TYPE', 'IMAGE', 'STATUS', 'AGE', 'OWNER']
    assert rows[0].split()[-3:] == ['40s', 'pid', '42']
    assert rows[1].endswith('dead, was pid 7: orphan')
    assert rows[2].endswith('pid 8 on there, kept')


def test_list_can_be_filtered_and_short(invoke: Invoke) -> None:
    assert invoke('ps', '-q').stdout.split() == ['abc111', 'abd222', 'kept33']
    assert invoke('ps', '-q', '--orphans').stdout.split() == ['abd222']
    assert invoke('ps', '-q', '--status', 'stopped').stdout == ''
    assert [each['id'] for each in json.loads(invoke('ps', '--json').stdout)] == ['abc111', 'abd222', 'kept33']


def test_beginning_of_an_id_is_enough_if_it_is_one(invoke: Invoke, place: FakePlace) -> None:
    assert invoke('stop', 'abc').stdout == 'abc111\n'
    assert place.calls == [('stop', 'abc111')]

    several = invoke('stop', 'ab')

    assert several.exit_code == 1
    assert 'begins the ids of 2 sandboxes: abc111, abd222' in several.stderr


def test_one_failure_keeps_no_other_from_its_turn(invoke: Invoke, place: FakePlace) -> None:
    done = invoke('rm', 'none', 'kept33', '--json')

    assert done.exit_code == 1
    assert json.loads(done.stdout)['removed'] == ['kept33']
    assert 'no sandbox' in json.loads(done.stdout)['failed']['none']
    assert place.calls == [('remove', 'kept33')]


def test_orphans_are_removed_without_a_question(invoke: Invoke, place: FakePlace) -> None:
    assert invoke('rm', '--orphans').stdout == 'abd222\n'
    assert place.calls == [('remove', 'abd222')]


def test_removing_all_is_asked_for(invoke: Invoke, place: FakePlace) -> None:
    assert invoke('rm', '--all', input='n\n').exit_code == 1
    assert place.calls == []

    assert len(invoke('rm', '--all', '--yes').stdout.split()) == 3
    assert len(place.calls) == 3


def test_a_question_that_nobody_answers_names_the_option_that_asks_none(invoke: Invoke, place: FakePlace) -> None:
    result = invoke('rm', '--all', input='')

    assert (result.exit_code, place.calls) == (2, [])
    assert '--yes' in result.stderr


@pytest.mark.parametrize('arguments', [(), ('--all', 'abc'), ('--all', '--orphans')])
def test_what_to_remove_is_said_in_one_way(invoke: Invoke, place: FakePlace, arguments: tuple[str, ...]) -> None:
    assert invoke('rm', *arguments).exit_code == 2
    assert place.calls == []


def test_orphans_of_a_server_are_a_wrong_call(invoke: Invoke, place: FakePlace) -> None:
    place.is_remote = True

    assert invoke('ps', '--orphans').exit_code == 2
    assert invoke('rm', '--orphans').exit_code == 2


def test_facts_show_no_control_characters_and_no_values(invoke: Invoke, place: FakePlace) -> None:
    place.infos = [
        make_info('abc111', image='evil\x1b[31m').model_copy(update={'config': {'env_vars': {'KEY': '***'}}})
    ]

    shown = invoke('info', 'abc').stdout

    assert '\x1b' not in shown
    assert 'evil\\x1b[31m' in shown
    assert 'KEY' in shown
    assert '***' not in shown
    assert json.loads(invoke('info', 'abc', '--json').stdout)[0]['id'] == 'abc111'


def test_command_is_run_in_a_sandbox_that_continues(invoke: Invoke, place: FakePlace) -> None:
    done = invoke('exec', '-e', 'A=1', 'abc', '--', 'sh', '-c', 'echo $A; exit 4')

    assert (done.exit_code, done.stdout) == (4, '1\n')
    assert place.calls == [('attach', 'abc111')]
    assert invoke('exec', '--shell', 'abc', 'echo a | tr a b').stdout == 'b\n'


def test_sandbox_that_is_not_there_is_125_for_exec(invoke: Invoke) -> None:
    done = invoke('exec', 'none', 'true')

    assert done.exit_code == 125
    assert '`ms-enclave ps` lists' in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('exec', 'abc'), 'Missing argument'),
        (('exec', 'abc', '--shell', 'ls'), 'Options go before the ID'),
        (('exec', '--shell', 'abc', 'ls', '-l'), 'quote it'),
        (('exec', '--tty', '--json', 'abc', 'ls'), 'do not go together'),
        (('shell', '--image', 'x', 'abc'), 'Options of a new sandbox'),
        (('shell', '--type', 'docker', 'abc'), 'Options of a new sandbox'),
        (('cp', 'a', 'b'), 'One of SRC and DST'),
        (('cp', 'x:a', 'y:b'), 'One of SRC and DST'),
        (('cp', './x:a', '/y:b'), 'One of SRC and DST'),
        (('pool', 'init', '--size', '2'), 'name it by --url'),
        (('pool', 'run', 'nosuch'), 'does not exist'),
        (('completion', 'tcsh'), 'tcsh'),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    invoke: Invoke, place: FakePlace, arguments: tuple[str, ...], message: str
) -> None:
    done = invoke(*arguments)

    assert done.exit_code == 2
    assert message in done.stderr
    assert place.calls == []


def test_shell_without_a_terminal_says_what_to_use_instead(invoke: Invoke, place: FakePlace) -> None:
    done = invoke('shell')

    assert done.exit_code == 125
    assert 'not a terminal' in done.stderr
    assert place.calls == []


@pytest.mark.parametrize('report', ['nowhere/report.xml', 'one.py/report.json'])
def test_a_report_that_cannot_be_written_is_refused_before_any_program_runs(
    invoke: Invoke, place: FakePlace, tmp_path: Path, report: str
) -> None:
    program = tmp_path / 'one.py'
    program.write_text('print(1)')

    result = invoke('pool', 'run', str(program), '--report', str(tmp_path / report))

    assert result.exit_code == 2
    assert 'cannot be written' in result.stderr
    assert place.calls == []


def test_failures_are_reported_without_their_class_but_faults_of_ours_with_it() -> None:
    assert explain(SandboxNotFoundError('no sandbox x')) == 'no sandbox x'
    assert explain(FileNotFoundError(2, 'No such file or directory', 'a.txt')) == 'No such file or directory: a.txt'
    assert 'ZeroDivisionError' in explain(ZeroDivisionError('division by zero'))
    assert 'ENCLAVE_DEBUG=1' in explain(ZeroDivisionError('division by zero'))


@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
def test_completion_script_is_for_both_names(shell: str) -> None:
    script = CliRunner().invoke(cli, ['completion', shell]).stdout

    assert '_MS_ENCLAVE_COMPLETE' in script
    assert any(' enclave' in line for line in script.splitlines()[-2:])
    assert 'ms-enclave' in script


def test_bash_understands_the_completion_script(tmp_path: Path) -> None:
    script = tmp_path / 'completion.bash'
    script.write_text(CliRunner().invoke(cli, ['completion', 'bash']).stdout)

    done = subprocess.run(
        ['bash', '-c', f'. {script} && complete -p enclave ms-enclave'], capture_output=True, text=True
    )

    assert done.stdout.count('_ms_enclave_completion') == 2


def test_ids_are_completed(invoke: Invoke) -> None:
    variables = {'_MS_ENCLAVE_COMPLETE': 'bash_complete', 'COMP_WORDS': 'ms-enclave stop ab', 'COMP_CWORD': '2'}

    done = CliRunner(env=variables).invoke(cli, [], prog_name='ms-enclave')

    assert done.stdout.split() == ['plain,abc111', 'plain,abd222']


@pytest.mark.parametrize(('command', 'done'), [('pause', 'paused'), ('resume', 'resumed')])
def test_pausing_and_resuming_report_each_sandbox(invoke: Invoke, place: FakePlace, command: str, done: str) -> None:
    assert invoke(command, 'abc').stdout == 'abc111\n'
    assert place.calls == [(command, 'abc111')]
    assert json.loads(invoke(command, 'abc', '--json').stdout) == {done: ['abc111'], 'failed': {}, 'errors': {}}


@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
def test_kinds_are_completed(shell: str) -> None:
    variables = {
        '_MS_ENCLAVE_COMPLETE': f'{shell}_complete',
        'COMP_WORDS': 'ms-enclave run --type docker',
        'COMP_CWORD': 'docker' if shell == 'fish' else '3',  # fish says the word itself
    }

    done = CliRunner(env=variables).invoke(cli, [], prog_name='ms-enclave')

    assert {'docker', 'docker_notebook'} <= set(done.stdout.replace(',', '\n').split())


@pytest.mark.docker
@pytest.mark.parametrize('command', ['run --image', 'shell --image', 'notebook run --image'])
def test_images_of_the_engine_are_completed(command: str) -> None:
    line = f'ms-enclave {command} python:3.11'
    environment = {
        '_MS_ENCLAVE_COMPLETE': 'bash_complete',
        'COMP_WORDS': line,
        'COMP_CWORD': str(len(line.split()) - 1),
    }

    done = CliRunner(env=environment).invoke(cli, [], prog_name='ms-enclave')

    assert 'plain,python:3.11-slim' in done.stdout.splitlines()


def test_images_of_a_server_are_not_asked_for() -> None:
    environment = {
        '_MS_ENCLAVE_COMPLETE': 'bash_complete',
        'COMP_WORDS': 'ms-enclave run --image python',
        'COMP_CWORD': '3',
        'ENCLAVE_URL': 'http://127.0.0.1:9',
    }

    assert CliRunner(env=environment).invoke(cli, [], prog_name='ms-enclave').stdout.strip() == ''
