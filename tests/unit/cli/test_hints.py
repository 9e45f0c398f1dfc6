"""Calls that are another program's, and mistyped ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enclave.cli.place import LocalPlace
from tests.unit.cli.conftest import Invoke


@pytest.mark.parametrize(
    ('arguments', 'hint'),
    [
        (['exec', '-it', 'abc', 'ls'], '-i runs the command on this terminal'),
        (['exec', '-ti', 'abc', 'ls'], '-i runs the command on this terminal'),
        (['exec', '--interactive', 'abc', 'ls'], '-i runs the command on this terminal'),
        (['run', '-it', 'x.py'], '`ms-enclave shell` opens a terminal'),
        (['shell', '-it'], 'shell is always on this terminal'),
        (['run', '--rm', 'x.py'], 'always gone afterwards'),
        (['shell', '-d'], '`ms-enclave run -d`'),
        (['run', '-p', '80:80', 'x.py'], 'ports are published by'),
        (['run', '--name', 'x', 'x.py'], 'a sandbox has an id'),
        (['run', '--name=x', 'x.py'], 'a sandbox has an id'),
        (['ps', '-a'], '`ps` lists all that there are anyway'),
        (['rm', '-f', 'abc'], '`rm` ends what runs by itself'),
        (['stop', '--all'], '`rm --all` removes them'),
        (['run', '--privileged', 'x.py'], '-o privileged=true'),
        (['run', '--network', 'host', 'x.py'], '--no-network take no name'),
        (['run', 'python:3.11', 'ls'], '--image python:3.11'),
    ],
)
def test_an_option_of_docker_is_answered_with_what_there_is_here(
    invoke: Invoke, arguments: list[str], hint: str
) -> None:
    result = invoke(*arguments)

    assert result.exit_code in (2, 125)
    assert hint in result.stderr
    assert 'float' not in result.stderr


@pytest.mark.parametrize(
    ('arguments', 'hint'),
    [
        (['lst'], 'Did you mean `ms-enclave ps`?'),
        (['ls'], 'Did you mean `ms-enclave ps`?'),
        (['serve'], 'Did you mean `ms-enclave server`?'),
        (['verion'], 'Did you mean `ms-enclave version`?'),
        (['pull', 'x'], 'Did you mean `ms-enclave images pull`?'),
        (['images', 'lst'], 'Did you mean `ms-enclave images list`?'),
        (['notebook', 'rn'], 'Did you mean `ms-enclave notebook run`?'),
        (['images', 'ls'], 'Did you mean `ms-enclave images list`?'),
        (['pool', 'create', '--size', '3'], 'Did you mean `ms-enclave pool init`?'),
        (['mcp', 'instal'], 'Did you mean `ms-enclave mcp install`?'),
        (['logs', 'abc'], 'cat /tmp/enclave-program/output'),
        (['start'], 'Did you mean `ms-enclave create`?'),
        (['help'], 'Did you mean `ms-enclave --help`?'),
        (['help', 'run'], 'Did you mean `ms-enclave run --help`?'),
        (['pool', 'help'], 'Did you mean `ms-enclave pool --help`?'),
        (['qqqq'], '`ms-enclave --help` lists the commands.'),
    ],
)
def test_a_command_that_there_is_not_names_the_one_that_was_meant(
    invoke: Invoke, arguments: list[str], hint: str
) -> None:
    result = invoke(*arguments)

    assert result.exit_code == 2
    assert hint in result.stderr


@pytest.mark.parametrize(
    ('given', 'meant'), [('--kind', '--type'), ('--lang', '--interpreter'), ('--no-net', '--no-network')]
)
def test_another_word_for_an_option_names_ours(invoke: Invoke, given: str, meant: str) -> None:
    assert f'Did you mean {meant!r}?' in invoke('run', given, 'x', 'x.py').stderr


def test_a_word_for_an_option_that_a_command_has_not_is_no_hint(invoke: Invoke) -> None:
    assert 'Did you mean' not in invoke('version', '--no-net').stderr


def test_a_file_in_the_place_of_a_command_is_to_be_run(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('a.py').touch()
    Path('a.ipynb').touch()

    assert 'Did you mean `ms-enclave run a.py`?' in invoke('a.py').stderr
    assert 'Did you mean `ms-enclave notebook run a.ipynb`?' in invoke('a.ipynb').stderr
    assert 'Did you mean `ms-enclave notebook run a.ipynb`?' in invoke('notebook', 'a.ipynb').stderr


def test_an_unknown_option_is_named_with_its_like(invoke: Invoke) -> None:
    assert '--timeout' in invoke('run', '--timeuot', '3', 'x.py').stderr


@pytest.mark.processes
def test_the_module_is_the_command_line() -> None:
    found = subprocess.run([sys.executable, '-m', 'enclave', '--version'], capture_output=True, text=True, check=True)

    assert found.stdout.startswith('ms-enclave')


def test_a_sandbox_that_is_not_found_may_be_its_makers_alone() -> None:
    assert 'bubblewrap' in LocalPlace().unseen


@pytest.mark.parametrize('words', [['run', '-d', 'nosuch.py'], ['run', '-d', '--ttl', 'abc', 'x.py']])
def test_an_option_that_the_command_has_is_not_said_to_be_dockers(invoke: Invoke, words: list[str]) -> None:
    assert 'docker' not in invoke(*words).stderr


@pytest.mark.parametrize(
    ('words', 'place'), [(['--url', 'http://x', 'run', 'a.py'], 'run --url'), (['--json', 'ps'], 'ps --json')]
)
def test_an_option_before_its_command_is_to_be_written_after_it(invoke: Invoke, words: list[str], place: str) -> None:
    assert f'it comes after the command: ms-enclave {place} ...' in invoke(*words).stderr


def test_ways_to_name_what_runs_a_program_exclude_each_other(invoke: Invoke) -> None:
    assert 'exclude each other' in invoke('run', '--python', '--shell', '-c', '1').stderr
    assert 'exclude each other' in invoke('run', '--shell', '--interpreter', 'node', '-c', '1').stderr
