"""What running a program promises, over every kind of sandbox."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from enclave import aio
from enclave.cancellation import Cancellation
from enclave.enums import ExecutionStatus, Verdict
from enclave.errors import (
    CallCancelledError,
    InvalidArgumentError,
    NotRegisteredError,
    SandboxStateError,
    UnsupportedError,
)
from enclave.languages import table
from enclave.languages.table import Language, register_language
from enclave.languages.values import CodeRequest, CodeResult
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.testing.kinds import KindUnderTest
from enclave.tools.tool_factory import ToolFactory

LEFT = 'ls -d /tmp/enclave-* /dev/shm/enclave-* 2>/dev/null; true'


def left(sandbox: AgentBackedSandbox) -> str:
    """Return what programs have left, besides what a still running test of a neighbour has."""
    return sandbox.execute_command(LEFT).stdout


def test_a_program_runs_to_its_end(sandbox: AgentBackedSandbox) -> None:
    result = sandbox.run_code('print(1 + 1)')

    assert (result.language, result.compile, result.verdict) == ('python', None, None)
    assert result.success
    assert result.run is not None
    assert (result.run.status, result.run.exit_code, result.run.stdout) == (ExecutionStatus.SUCCESS, 0, '2\n')
    assert result.run.cpu_time is not None
    assert 0 < result.run.cpu_time < 10
    assert (result.run.peak_memory_bytes or 0) > 1 << 20
    assert result.run.execution_time > 0


def test_it_reads_its_input_its_arguments_and_its_environment(sandbox: AgentBackedSandbox) -> None:
    code = 'import os, sys; print(sys.stdin.read(), sys.argv[1:], os.environ["WORD"])'
    result = sandbox.run_code(code, stdin='in', args=['a b', '$c'], env={'WORD': 'w'})

    assert result.stdout == "in ['a b', '$c'] w\n"


def test_without_input_it_sees_the_end_of_it_at_once(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.run_code('import sys; print(repr(sys.stdin.read()))').stdout == "''\n"


def test_input_that_is_no_text_arrives_as_it_is(sandbox: AgentBackedSandbox) -> None:
    code = 'import sys; print(sys.stdin.buffer.read())'

    assert sandbox.run_code(code, stdin=b'\xff\x00').stdout == "b'\\xff\\x00'\n"


def test_its_files_are_beside_it_and_those_asked_for_come_back(sandbox: AgentBackedSandbox) -> None:
    code = (
        'import os, deep.module\n'
        'print(open("data/in.bin", "rb").read(), deep.module.x)\n'
        'os.makedirs("out/a"); open("out/a/b", "wb").write(b"\\xff\\0"); open("t", "w").write("text")\n'
        'os.mkdir("folder"); open("large", "wb").write(b"x" * 2000)'
    )
    result = sandbox.run_code(
        code,
        files={'data/in.bin': b'\x00\xfe', 'deep/module.py': 'x = 5'},
        fetch_files=['out/a/b', 't', 'missing', 'folder', 'large', '/etc/hostname-that-is-not'],
        max_fetch_bytes=1000,
    )

    assert result.stdout == "b'\\x00\\xfe' 5\n"
    assert result.files == {'out/a/b': b'\xff\0', 't': b'text'}
    assert sorted(result.file_errors) == ['/etc/hostname-that-is-not', 'folder', 'large', 'missing']
    assert '1000 bytes' in result.file_errors['large']


def test_each_program_has_a_directory_of_its_own_that_is_gone_afterwards(start: Any) -> None:
    sandbox = start()
    places = []
    for files in ({}, {'x': b''}):
        ran = sandbox.run_code('import os; open("mine", "w"); print(os.getcwd(), sorted(os.listdir()))', files=files)
        place, _, listed = ran.stdout.partition(' ')
        places.append(place)
        assert listed.strip() == str(sorted(['main.py', 'mine', *files]))

    assert len(set(places)) == 2
    assert not any(sandbox.path_exists(place) for place in places)
    assert left(sandbox) == ''


def test_nothing_of_a_program_is_left_running(sandbox: AgentBackedSandbox) -> None:
    code = (
        'import os, sys, time\n'
        'if os.fork() == 0:\n'
        '    os.setsid()\n'
        '    if os.fork() == 0:\n'
        '        os.execvp("sleep", ["sleep", "98765"])\n'
        '    os._exit(0)\n'
        'time.sleep(0.1); print("done")'
    )

    assert sandbox.run_code(code).stdout == 'done\n'
    counted = (
        'n=0; for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline | grep -q "^sleep 98765" && n=$((n+1)); done; echo $n'
    )
    assert sandbox.execute_command(counted).stdout == '0\n'


@pytest.mark.parametrize(
    ('code', 'options', 'verdict'),
    [
        ('print(42)', {'expected_output': '42'}, Verdict.ACCEPTED),
        ('print(41)', {'expected_output': '42'}, Verdict.WRONG_ANSWER),
        ('raise SystemExit(3)', {'expected_output': '42'}, Verdict.RUNTIME_ERROR),
        ('import os; os.abort()', {}, Verdict.RUNTIME_ERROR),
        ('while True: pass', {'timeout': 0.3}, Verdict.TIME_LIMIT),
        ('import time; time.sleep(60)', {'timeout': 0.3}, Verdict.TIME_LIMIT),
        ('while True: pass', {'cpu_time_limit': 0.2, 'timeout': 60}, Verdict.TIME_LIMIT),
        (
            'import subprocess, sys\nsubprocess.run([sys.executable, "-c", "while True: pass"])',
            {'cpu_time_limit': 0.2, 'timeout': 60},
            Verdict.TIME_LIMIT,
        ),
        (
            'x = bytearray(200 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1',
            {'memory_limit': '64m'},
            Verdict.MEMORY_LIMIT,
        ),
        ('while True: print("x" * 4000)', {'output_limit': 100_000, 'timeout': 60}, Verdict.OUTPUT_LIMIT),
        ('print("x" * 5000)', {'max_output_bytes': 1000, 'expected_output': 'x' * 5000}, Verdict.OUTPUT_LIMIT),
        ('import sys; sys.exit(127)', {}, Verdict.RUNTIME_ERROR),
    ],
)
def test_each_verdict_on_a_real_program(
    sandbox: AgentBackedSandbox, code: str, options: dict[str, Any], verdict: Verdict
) -> None:
    result = sandbox.run_code(code, **options)

    assert result.verdict is verdict
    assert result.success is (verdict is Verdict.ACCEPTED)


def test_programs_of_a_batch_do_what_single_ones_do(sandbox: AgentBackedSandbox) -> None:
    shows = (
        'import os, sys; print(sys.argv, os.path.basename(__file__), os.path.dirname(__file__) == os.getcwd() == sys.path[0], '
        'repr(sys.stdin.read()), sorted(os.listdir()), os.environ.get("WORD"))'
    )
    programs: list[dict[str, Any]] = [
        {'code': shows, 'args': ['a b'], 'env': {'WORD': 'w'}, 'stdin': 'in'},
        {'code': shows},
        {'code': shows, 'files': {'data.txt': b'x'}},
        {'code': 'import sys\nprint("out")\nprint("err", file=sys.stderr)\nsys.exit(3)'},
        {'code': 'open("left", "w").write("x")\n1 / 0'},
        {'code': 'print(', 'expected_output': ''},
        {'code': 'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)'},
        {'code': 'import os, time\nif os.fork() == 0: time.sleep(600)\nprint("parent")', 'expected_output': 'parent'},
        {'code': 'while True: pass', 'cpu_time_limit': 0.2, 'timeout': 60},
        {'code': 'import time; time.sleep(600)', 'timeout': 0.3},
        {'code': 'while True: print("x" * 4000)', 'output_limit': 100_000, 'max_output_bytes': 100},
        {
            'code': 'x = bytearray(200 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(600)',
            'memory_limit': '64m',
        },
        {'code': 'print(1)', 'memory_limit': '64m', 'cpu_time_limit': 60, 'expected_output': '1'},
        {'code': 'import os; print("PYTHONHASHSEED" in os.environ)', 'env': {'PYTHONHASHSEED': '0'}},
    ]

    def seen(result: CodeResult) -> tuple[Any, ...]:
        lines = [line for line in result.stderr.splitlines() if ' File "' not in line]  # those name the directory
        measured = result.last.cpu_time is not None, result.last.peak_memory_bytes is not None
        stdout = None if result.last.exceeded == 'output' else result.stdout
        return result.verdict, result.exit_code, result.last.signal, result.last.exceeded, stdout, lines, measured

    outcomes = list(sandbox.run_many(programs, concurrency=2, in_order=True))

    assert [seen(each.unwrap()) for each in outcomes] == [seen(sandbox.run_code(**each)) for each in programs]
    assert left(sandbox) == ''


def test_processes_that_share_memory_are_not_counted_twice(sandbox: AgentBackedSandbox) -> None:
    code = (
        'import os, time\n'
        'x = bytearray(40 << 20)\n'
        'for i in range(0, len(x), 4096): x[i] = 1\n'
        'children = [os.fork() for _ in range(1)]\n'
        'time.sleep(0.3)\n'
        'print("ok")'
    )

    assert sandbox.run_code(code, memory_limit='80m').verdict is None


def test_a_whole_request_may_be_handed_in(sandbox: AgentBackedSandbox) -> None:
    assert sandbox.run_code(CodeRequest(code='echo hi', language='bash')).stdout == 'hi\n'


def test_an_unknown_language_and_wrong_arguments_are_refused(sandbox: AgentBackedSandbox) -> None:
    with pytest.raises(NotRegisteredError, match='klingon'):
        sandbox.run_code('x', 'klingon')
    with pytest.raises(InvalidArgumentError, match=r'main\.py'):
        sandbox.run_code('x', files={'main.py': b''})


def test_a_toolchain_that_is_not_there_is_named_with_its_package(
    sandbox: AgentBackedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, '_languages', dict(table._languages))
    monkeypatch.setattr(table, '_names', dict(table._names))
    for compile_command in ((), ('enclave-klingonc', '{file}')):
        entry = Language(
            name='klingon',
            title='Klingon',
            file='main.kl',
            compile=compile_command,
            run=('enclave-klingonc', '{file}'),
            packages=('klingon-dev',),
        )
        register_language(entry, replace=True)

        with pytest.raises(UnsupportedError, match=r"cannot run Klingon: it has no 'enclave-klingonc'.*klingon-dev"):
            sandbox.run_code('x', 'klingon')


def test_a_cancelled_program_is_killed_and_leaves_no_files(start: Any) -> None:
    sandbox = start()
    for files in ({}, {'x': b''}):
        cancellation = Cancellation()
        with cancellation.applied():
            cancellation.cancel()
            with contextlib.suppress(CallCancelledError):  # it may be cancelled before it could begin
                assert sandbox.run_code('import time; time.sleep(60)', files=files).status is ExecutionStatus.CANCELLED

    assert left(sandbox) == ''


def test_a_sandbox_that_does_not_run_runs_no_programs(backend: KindUnderTest) -> None:
    with pytest.raises(SandboxStateError):
        backend.make().run_code('print(1)')


def test_an_asynchronous_program_has_the_same_result(backend: KindUnderTest) -> None:
    async def main() -> str:
        async with aio.SandboxFactory.create_sandbox(backend.sandbox_type, {'network_enabled': False}) as sandbox:
            return (await sandbox.run_code('print(input())', stdin='hello')).stdout

    assert asyncio.run(main()) == 'hello\n'


# The tool -------------------------------------------------------------------------------------------------------------


def call_tool(sandbox: AgentBackedSandbox, **parameters: Any) -> Any:
    return ToolFactory.create_tool('multi_code_executor').execute(sandbox, **parameters)


def test_the_tool_runs_programs_with_files_by_their_base_names(sandbox: AgentBackedSandbox) -> None:
    code = 'import helper, sys; print(helper.x, open("data.txt").read()); print("err", file=sys.stderr)'
    result = call_tool(sandbox, language='Python', code=code, files={'a/helper.py': 'x = 5', '/b/data.txt': 'data'})

    assert (str(result.status), result.output, result.error) == ('success', '5 data\n', None)
    assert result.metadata['stderr'] == 'err\n'
    assert left(sandbox) == ''


def test_the_tool_reports_failures(sandbox: AgentBackedSandbox) -> None:
    failed = call_tool(sandbox, language='bash', code='echo out; echo err >&2; exit 3')
    slow = call_tool(sandbox, language='bash', code='echo out; sleep 60', run_timeout=0.5)
    silent = call_tool(sandbox, language='bash', code='exit 3')

    assert (str(failed.status), failed.output, failed.error, failed.exit_code) == ('error', 'out\n', 'err\n', 3)
    assert (str(slow.status), slow.output) == ('timeout', 'out\n')
    assert 'out after 0.5 seconds' in slow.error
    assert silent.error == 'Command failed with exit code 3'


def test_the_tool_names_a_toolchain_that_the_image_lacks(sandbox: AgentBackedSandbox) -> None:
    result = call_tool(sandbox, language='swift', code='print(1)')

    assert str(result.status) == 'error'
    assert "no 'swiftc'" in result.error


def test_the_tool_joins_what_was_built_and_what_was_printed(
    sandbox: AgentBackedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, '_languages', dict(table._languages))
    monkeypatch.setattr(table, '_names', dict(table._names))
    entry = Language(
        name='built',
        title='Built',
        file='main.sh',
        compile=('sh', '-c', 'printf built; exec sh -n main.sh'),
        run=('sh', '{file}'),
    )
    register_language(entry)

    assert call_tool(sandbox, language='built', code='echo ran').output == 'built\nran\n'
    broken = call_tool(sandbox, language='built', code='if')
    assert (str(broken.status), broken.output) == ('error', 'built')
    assert 'yntax' in broken.error
