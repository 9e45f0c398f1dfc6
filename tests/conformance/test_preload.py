"""Preloaded interpreters, over each backend: the same results, and a template out of the guest's reach."""

from __future__ import annotations

import pytest

from enclave import open_sandbox
from enclave.errors import ConfigurationError, InvalidArgumentError
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.tools.python import PythonExecutor

PRELOAD: list[str] = ['decimal']


def run(sandbox: AgentBackedSandbox, source: str, preload: list[str] | None = PRELOAD) -> str:
    result = sandbox.run_script(['python3'], source, 60, suffix='.py', import_path_env='PYTHONPATH', preload=preload)
    assert result.success, result.stderr
    return result.stdout


def test_modules_are_there_and_programs_do_not_meet(sandbox: AgentBackedSandbox) -> None:
    first = run(sandbox, 'import decimal, sys; decimal.left = 1; print(__name__, sys.argv[1:])')
    second = run(sandbox, 'import decimal; print(hasattr(decimal, "left"))')

    assert first == '__main__ []\n'
    assert second == 'False\n'


def test_errors_look_as_they_do_without(sandbox: AgentBackedSandbox) -> None:
    source = 'def f():\n    raise ValueError("deep")\nf()\n'
    forked, alone = (
        sandbox.run_script(['python3'], source, 60, suffix='.py', preload=each) for each in (PRELOAD, None)
    )

    assert (forked.exit_code, forked.stdout) == (alone.exit_code, alone.stdout) == (1, '')
    assert forked.stderr.splitlines()[-1] == alone.stderr.splitlines()[-1]
    assert len(forked.stderr.splitlines()) == len(alone.stderr.splitlines())


def test_the_template_is_out_of_the_guests_reach(sandbox: AgentBackedSandbox) -> None:
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, os.getppid(), 0, 0))  # PTRACE_ATTACH
try:
    open(f'/proc/{os.getppid()}/mem', 'r+b')
except OSError as error:
    print(type(error).__name__)
"""

    assert run(sandbox, source) == '-1\nPermissionError\n'


def test_a_killed_template_costs_nobody_a_call(sandbox: AgentBackedSandbox) -> None:
    assert run(sandbox, 'import os\nos.kill(os.getppid(), 9)\nprint("alive")') == 'alive\n'
    assert run(sandbox, 'print("next")') == 'next\n'


@pytest.mark.parametrize('names', ['json', ['no-module'], [1], ['a'] * 101])
def test_what_is_no_list_of_modules_is_refused(sandbox: AgentBackedSandbox, names: object) -> None:
    with pytest.raises(InvalidArgumentError, match='preload'):
        sandbox.run_script(['python3'], 'pass', suffix='.py', preload=names)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match='preload'):
        PythonExecutor(preload=names)


@pytest.mark.bubblewrap
def test_modules_on_the_sandboxs_own_search_path_are_preloaded() -> None:
    with open_sandbox('bubblewrap', {'env_vars': {'PYTHONPATH': '/sandbox/own'}}) as sandbox:
        sandbox.make_dir('/sandbox/own')
        sandbox.write_file('/sandbox/own/mine.py', 'import os\npid = os.getpid()\n')
        source = 'import mine, os, sys\nprint(mine.pid == os.getpid(), os.environ["PYTHONPATH"], sys.path[1:3])'
        forked, alone = (
            sandbox.run_script(['python3'], source, 60, suffix='.py', preload=each).stdout.split(' ', 1)
            for each in (['mine'], None)
        )

    assert (forked[0], alone[0]) == ('False', 'True')
    assert forked[1] == alone[1]


def test_programs_of_run_code_are_forks_too(sandbox: AgentBackedSandbox) -> None:
    source = 'import sys; print("decimal" in sys.modules, sys.argv, __name__, sys.argv[0] in __file__)'
    forked, alone = (
        sandbox.run_code(source, args=['a'], memory_limit='1g', cpu_time_limit=30, preload=each)
        for each in (PRELOAD, None)
    )

    assert (forked.success, forked.stdout) == (True, "True ['main.py', 'a'] __main__ True\n")
    assert (alone.success, alone.stdout) == (True, "False ['main.py', 'a'] __main__ True\n")
    with pytest.raises(InvalidArgumentError, match='preload'):
        sandbox.run_code('true', 'bash', preload=PRELOAD)


@pytest.mark.bubblewrap
def test_programs_find_preloaded_what_those_of_the_python_executor_do() -> None:
    options = {'tools_config': {'python_executor': {'preload': PRELOAD}, 'multi_code_executor': {}}}
    source = 'import sys; print("decimal" in sys.modules)'
    with open_sandbox('bubblewrap', options) as sandbox:
        with sandbox.run_many([source]) as outcomes:
            found = [sandbox.run_code(source).stdout, *(each.result.stdout for each in outcomes if each.result)]
        by_tool = sandbox.execute_tool('multi_code_executor', {'code': source, 'language': 'python'})

        assert found == ['True\n'] * 2
        assert 'True' in str(by_tool.output)
        assert sandbox.run_code(source, preload=['json']).stdout == 'False\n'
        assert sandbox.run_code(source, files={'data': 'x'}).stdout == 'False\n'
