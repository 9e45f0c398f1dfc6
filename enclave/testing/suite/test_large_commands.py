"""Commands, arguments and variables of any size run, or fail for what is the matter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from enclave.errors import EnclaveError
from enclave.sandboxes.agent_backed import AgentBackedSandbox

Start = Callable[..., AgentBackedSandbox]
KIB = 1024


def heredoc(size: int) -> tuple[str, str]:
    """Return a command of about a size and what it prints."""
    line = 'word $HOME `date` "quoted" \'too\' \\ $(x) ünïcödé\n'
    text = line * (size // len(line.encode()))
    return f"sha256sum <<'END' | cut -c1-64\n{text}END\n", f'{hashlib.sha256(text.encode()).hexdigest()}\n'


@pytest.mark.parametrize('size', [60, 120, 127, 128, 129, 200, 1024, 2048, 3000])
def test_a_command_of_any_size_runs(sandbox: AgentBackedSandbox, size: int) -> None:
    command, expected = heredoc(size * KIB)

    result = sandbox.execute_command(command, 60)

    assert (result.exit_code, result.stdout, result.stderr) == (0, expected, '')


def test_a_large_command_is_run_as_a_small_one_is(sandbox: AgentBackedSandbox, place: str) -> None:
    tail = 'echo "$0" "$#" "$PWD"; cat; false; (exit 7)'
    outcomes = [
        sandbox.execute_command(f'{padding}\n{tail}', cwd=place, stdin='input', env={'A': 'b'})
        for padding in ('# small', f'# {"x" * 300 * KIB}')
    ]

    assert outcomes[0].stdout.endswith(f' 0 {place}\ninput')
    assert outcomes[0].exit_code == 7
    assert [(each.stdout, each.exit_code, each.stderr) for each in outcomes[:1]] == [
        (each.stdout, each.exit_code, each.stderr) for each in outcomes[1:]
    ]


def test_a_large_command_runs_by_every_way(sandbox: AgentBackedSandbox) -> None:
    command, expected = heredoc(400 * KIB)

    assert sandbox.execute_tool('shell_executor', {'command': command}).output == expected
    assert sandbox.start_process(command).wait(60).stdout == expected


@pytest.mark.isolation
def test_a_large_command_leaves_no_file(start: Start) -> None:
    sandbox = start()
    sandbox.execute_command(heredoc(300 * KIB)[0])

    assert sandbox.execute_command('ls -A /dev/shm /tmp | grep enclave').stdout == ''


def test_a_large_command_runs_for_a_tool_with_a_shell_of_its_own(start: Start) -> None:
    sandbox = start(tools_config={'shell_executor': {'shell': 'bash'}})
    command, expected = heredoc(400 * KIB)

    result = sandbox.execute_tool('shell_executor', {'command': command + 'echo ${BASH_VERSION:+bash}'})

    assert (result.output, result.error) == (f'{expected}bash\n', None)


@pytest.mark.parametrize('size', [128 * KIB, 1024 * KIB])
def test_what_no_program_can_be_given_is_named(sandbox: AgentBackedSandbox, size: int) -> None:
    large = 'x' * size

    word = sandbox.execute_command(['echo', large])
    variable = sandbox.execute_command(['echo'], env={'BIG': large})
    process = sandbox.start_process(['echo', large]).wait(60)

    assert 'word 1 of the command' in word.stderr
    assert "env['BIG']" in variable.stderr
    for result in (word, variable, process):
        assert result.exit_code == 126
        assert 'cannot run' in result.stderr
        assert str(size)[:3] in result.stderr
        assert len(result.stderr) < 600


def test_a_tool_reports_too_large_variables_as_what_they_are(sandbox: AgentBackedSandbox) -> None:
    one = sandbox.execute_tool('python_executor', {'code': 'print(1)', 'env': {'BIG': 'x' * 200 * KIB}})
    many = sandbox.execute_tool(
        'python_executor', {'code': 'print(1)', 'env': {f'BIG_{n}': 'x' * 100 * KIB for n in range(70)}}
    )

    assert "env['BIG']" in (one.error or '')
    assert 'too large together' in (many.error or '')
    assert many.exit_code == 126
    for result in (one, many):
        assert 'image' not in (result.error or '')
        assert len(result.error or '') < 1000


def test_arguments_up_to_what_linux_takes_run(sandbox: AgentBackedSandbox) -> None:
    args = ['x' * 100 * KIB for _ in range(15)]

    result = sandbox.execute_command(['sh', '-c', 'printf %s "$@" | wc -c', 'sh', *args], 60)

    assert int(result.stdout) == 15 * 100 * KIB


def test_no_error_repeats_a_huge_command(sandbox: AgentBackedSandbox) -> None:
    large = 'x' * 3_000_000
    errors: list[str] = []
    for call in (
        lambda: sandbox.execute_command([f'/{large}']),
        lambda: sandbox.execute_command(['y' * 100_000]),
        lambda: sandbox.execute_command(['sh', large]),
        lambda: sandbox.execute_command(large.encode()),  # type: ignore[arg-type]
        lambda: sandbox.execute_command('true', cwd=large),
        lambda: sandbox.execute_command('true', user=large),
        lambda: sandbox.read_file(large),
        lambda: sandbox.execute_command('true', env={large: 'x', 'A': 1}),  # type: ignore[dict-item]
    ):
        try:
            errors.append(call().stderr)  # type: ignore[attr-defined]
        except EnclaveError as error:
            errors.append(str(error))

    assert all(0 < len(error) < 2000 for error in errors), [len(error) for error in errors]
