"""Kernels under control: time limits, death, several of them, and many callers."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from enclave.cancellation import Cancellation
from enclave.cells import CellResult
from enclave.deadline import Deadline
from enclave.enums import ExecutionStatus
from enclave.errors import (
    CallCancelledError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    OperationTimeoutError,
    SandboxGoneError,
    SandboxStateError,
    UnsupportedError,
)
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.sandboxes.docker.sandbox import DockerSandbox
from enclave.sandboxes.notebook.kernel import NotebookKernel
from enclave.sandboxes.notebook.kernel_process import KernelProcess
from enclave.sandboxes.notebook.messages import Messenger, make_key
from enclave.sandboxes.notebook.sandbox import NotebookSandbox
from enclave.sandboxes.notebook.zmtp import ZmtpSocket
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.support.backends import NOTEBOOK_BACKENDS, Backend

Start = Callable[..., NotebookSandbox]
LONG = 'import time\ntime.sleep(600)'
STUBBORN = 'import time\nwhile True:\n    try:\n        time.sleep(600)\n    except KeyboardInterrupt:\n        pass'
PATIENCE = 120.0


def wait_busy(sandbox: NotebookSandbox, kernel: str = 'default') -> None:
    """Return when a cell of the kernel runs, which it says by a file."""
    pause, deadline = threading.Event(), Deadline.after(PATIENCE)
    while not sandbox.path_exists(f'busy-{kernel}'):
        deadline.check('the cell')
        pause.wait(0.02)
    sandbox.remove_path(f'busy-{kernel}')


def says_busy(code: str, kernel: str = 'default') -> str:
    return f"open('/sandbox/busy-{kernel}', 'w').close()\n{code}"


# Ends -----------------------------------------------------------------------------------------------------------------


def test_a_time_limit_interrupts_the_cell_and_keeps_the_state(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell('kept = 5')

    result = sandbox.execute_tool('notebook_executor', {'code': f"print('so far')\n{LONG}", 'timeout': 0.5})

    assert result.status is ExecutionStatus.TIMEOUT
    assert result.output == 'so far\n'
    assert result.error is not None
    assert result.error.startswith('Timed out after 0.5 seconds')
    assert sandbox.execute_cell('kept').text == '5'


ASYNC = """
import asyncio
async def wait():
    await asyncio.sleep(600)
async def spin():
    while True: pass
"""


@pytest.mark.parametrize(
    ('code', 'name'),
    [
        ('await wait()', 'CancelledError'),
        ('await asyncio.gather(wait(), wait())', 'CancelledError'),
        ('await spin()', 'KeyboardInterrupt'),
        ('await asyncio.create_task(spin())', 'CancelledError'),
    ],
)
def test_a_time_limit_interrupts_a_cell_that_awaits_and_keeps_the_state(
    sandbox: NotebookSandbox, code: str, name: str
) -> None:
    sandbox.execute_cell(ASYNC)

    result = sandbox.execute_cell(code, 0.5)

    assert (result.timed_out, result.state_lost) == (True, None)
    assert result.error is not None
    assert result.error.name == name
    assert 'interrupt_awaits' not in result.error.traceback
    assert sandbox.execute_cell('await asyncio.sleep(0, _used)').text == 'True'


def test_a_time_limit_ends_the_programs_that_a_cell_waits_for(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('!sleep 600', 0.5)

    assert result.timed_out
    assert result.state_lost is None


def test_a_cell_that_does_not_yield_costs_the_kernel(hasty: NotebookSandbox) -> None:
    hasty.execute_cell('gone = 5')

    result = hasty.execute_cell(STUBBORN, 0.3)

    assert result.status is ExecutionStatus.TIMEOUT
    assert result.state_lost is not None
    after = hasty.execute_cell("'gone' in globals()")
    assert after.text == 'False'
    assert after.note is not None
    assert after.execution_count == 1


def test_a_flood_of_output_is_ended_by_its_time_limit(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell("while True: print('x' * 1000)", 1, max_output_bytes=10_000)

    assert result.timed_out
    assert len(result.stdout) < 11_000
    assert sandbox.execute_cell('1+1').text == '2'


def test_a_kernel_that_exits_is_reported_and_replaced(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_tool('notebook_executor', {'code': "print('bye', flush=True)\nimport os\nos._exit(3)"})

    assert result.status is ExecutionStatus.ERROR
    assert result.error is not None
    assert 'ended with exit code 3' in result.error
    assert 'lost' in result.error
    assert result.metadata['state_lost'] == 'ended with exit code 3'
    assert sandbox.execute_cell('1+1').text == '2'


@pytest.mark.parametrize('code', ['exit()', 'quit()'])
def test_a_cell_that_exits_learns_that_its_kernel_is_gone_and_a_later_one_is_not_blamed(
    sandbox: NotebookSandbox, code: str
) -> None:
    result = sandbox.execute_cell(f"print('bye')\n{code}")
    after = sandbox.execute_cell("'_used' in globals()")

    assert (result.status, result.text) == (ExecutionStatus.ERROR, 'bye\n')
    assert result.state_lost == 'was ended by exit()'
    assert (after.status, after.text) == (ExecutionStatus.SUCCESS, 'False')
    assert after.note is not None
    assert 'was ended by exit()' in after.note


def test_an_exit_that_a_thread_holds_up_ends_the_kernel_all_the_same(hasty: NotebookSandbox) -> None:
    result = hasty.execute_cell(
        'import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nexit()'
    )

    assert result.state_lost == 'was ended by exit()'
    assert hasty.execute_cell('1+1').text == '2'


def test_an_exit_that_keeps_the_kernel_keeps_it(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('exit(keep_kernel=True)')

    assert result.success
    assert sandbox.execute_cell('_used').text == 'True'


def test_a_kernel_that_is_deleted_leaves_no_files(sandbox: NotebookSandbox) -> None:
    def directories() -> set[str]:
        return {entry.path for entry in sandbox.list_dir('/tmp') if 'enclave-kernel-' in entry.path}

    before = directories()
    sandbox.create_kernel('brief')
    assert len(directories() - before) == 1
    sandbox.delete_kernel('brief')

    assert directories() == before


def test_a_kernel_whose_working_directory_was_removed_is_had_again(sandbox: NotebookSandbox) -> None:
    sandbox.make_dir('/tmp/place')
    sandbox.create_kernel('moved', cwd='/tmp/place')
    sandbox.remove_path('/tmp/place', recursive=True)

    sandbox.restart_kernel('moved')

    assert sandbox.execute_cell('import os\nprint(os.getcwd())', kernel='moved').stdout == '/tmp/place\n'
    sandbox.delete_kernel('moved')


def test_a_cell_whose_kernel_is_deleted_says_how_to_get_a_new_one(sandbox: NotebookSandbox) -> None:
    with ThreadPoolExecutor() as pool:
        cell = {'code': says_busy(LONG, 'side'), 'kernel': 'side'}
        running = pool.submit(sandbox.execute_tool, 'notebook_executor', cell)
        wait_busy(sandbox, 'side')
        sandbox.delete_kernel('side')
        result = running.result(PATIENCE)

    assert result.error == (
        'The kernel was deleted. Its variables and imports are lost; a call that names it as its `kernel` makes a new one.'
    )
    with pytest.raises(NotFoundError):
        sandbox.execute_cell('1', kernel='side')
    assert sandbox.execute_tool('notebook_executor', {'code': '1', 'kernel': 'side'}).output == '1'
    sandbox.delete_kernel('side')


def test_a_cell_whose_sandbox_is_stopped_promises_no_further_call(start: Start) -> None:
    sandbox = start(tools_config=['notebook_executor'])
    with ThreadPoolExecutor() as pool:
        running = pool.submit(sandbox.execute_tool, 'notebook_executor', {'code': says_busy(LONG)})
        wait_busy(sandbox)
        sandbox.stop()
        result = running.result(PATIENCE)

    assert result.error == (
        'The kernel was ended with its sandbox. Its variables and imports are lost; '
        'the sandbox takes no calls while it is stopped.'
    )
    with pytest.raises(SandboxStateError):
        sandbox.execute_tool('notebook_executor', {'code': '1'})


def test_a_kernel_whose_child_holds_its_sockets_is_found_dead_all_the_same(sandbox: NotebookSandbox) -> None:
    result = sandbox.execute_cell('import os, time\nif os.fork() == 0:\n    time.sleep(600)\nos._exit(4)', 30)

    assert result.state_lost == 'ended with exit code 4'
    assert sandbox.execute_cell('1+1').text == '2'


def test_a_kernel_that_runs_out_of_memory_is_reported_as_that(start: Start) -> None:
    sandbox = start(memory_limit='256m')
    if 'rlimits' in sandbox.metadata.get('limits', {}).get('memory', ''):
        pytest.skip('no memory cgroup may be made here')

    result = sandbox.execute_cell('x = bytearray(2_000_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1', 60)

    assert result.oom_killed
    assert result.state_lost is not None
    assert 'memory' in result.state_lost
    assert sandbox.execute_cell('1+1').text == '2'


BOMB = "import os\nopen('/sandbox/lit', 'w').close()\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"


def test_a_fork_bomb_in_a_cell_ends_with_its_kernel(start: Start) -> None:
    sandbox = start(pids_limit=64, interrupt_grace=0.5)

    result = sandbox.execute_cell(BOMB, 2)

    assert result.status is ExecutionStatus.TIMEOUT
    assert sandbox.path_exists('lit')
    assert sandbox.execute_cell('1+1', 60).text == '2'
    names = sandbox.execute_command('cat /proc/[0-9]*/comm').stdout.split()
    assert len(names) < 16


def test_a_death_between_two_cells_is_reported_by_the_next(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell('import os, threading\nthreading.Timer(0.2, lambda: os._exit(7)).start()')
    pause, deadline = threading.Event(), Deadline.after(PATIENCE)
    while sandbox.list_kernels()[0].status != 'stopped':
        deadline.check('the end of the kernel')
        pause.wait(0.02)

    result = sandbox.execute_cell('1+1')

    assert result.text == '2'
    assert result.note is not None
    assert 'exit code 7' in result.note


# Control --------------------------------------------------------------------------------------------------------------


def test_an_interrupt_ends_the_cell_and_not_the_kernel(sandbox: NotebookSandbox) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(sandbox.execute_cell, says_busy(f'mine = 1\n{LONG}'))
        wait_busy(sandbox)
        assert sandbox.list_kernels()[0].status == 'busy'
        assert sandbox.active_calls == 1
        sandbox.interrupt_kernel()
        result = running.result(PATIENCE)

    assert result.error is not None
    assert result.error.name == 'KeyboardInterrupt'
    assert sandbox.execute_cell('mine').text == '1'
    assert sandbox.active_calls == 0


def test_an_interrupt_ends_a_cell_that_awaits(sandbox: NotebookSandbox) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(sandbox.execute_cell, says_busy('import asyncio\nawait asyncio.sleep(600)'))
        wait_busy(sandbox)
        sandbox.interrupt_kernel()
        result = running.result(PATIENCE)

    assert result.error is not None
    assert result.error.name == 'CancelledError'
    assert sandbox.execute_cell('_used').text == 'True'


@pytest.mark.parametrize(('owner', 'step'), [(NotebookKernel, '_living'), (KernelProcess, '_send')])
def test_an_interrupt_of_a_cell_that_is_on_its_way_ends_it(
    owner: type, step: str, sandbox: NotebookSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.execute_cell('mine = 1')
    take_step = getattr(owner, step)

    def interrupt_first(*args: Any) -> Any:
        monkeypatch.undo()
        sandbox.interrupt_kernel()
        return take_step(*args)

    monkeypatch.setattr(owner, step, interrupt_first)
    result = sandbox.execute_cell(LONG, PATIENCE)

    assert not result.timed_out
    assert result.error is not None
    assert result.error.name == 'KeyboardInterrupt'
    assert sandbox.execute_cell('mine').text == '1'


def test_an_interrupt_of_an_idle_kernel_does_nothing(sandbox: NotebookSandbox) -> None:
    sandbox.interrupt_kernel()

    assert sandbox.execute_cell('_used').text == 'True'


def test_a_restart_ends_the_cell_and_what_waits_runs_in_the_new_kernel(sandbox: NotebookSandbox) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(sandbox.execute_cell, says_busy(LONG))
        wait_busy(sandbox)
        waiting = pool.submit(sandbox.execute_cell, "'_used' in globals()")
        sandbox.restart_kernel()
        assert running.result(PATIENCE).state_lost == 'was restarted'
        assert waiting.result(PATIENCE).text == 'False'


def test_cancelling_interrupts_the_cell(sandbox: NotebookSandbox) -> None:
    cancellation = Cancellation()

    def run() -> CellResult:
        with cancellation.applied():
            return sandbox.execute_cell(says_busy(LONG))

    with ThreadPoolExecutor() as pool:
        running = pool.submit(run)
        wait_busy(sandbox)
        cancellation.cancel()
        result = running.result(PATIENCE)

    assert result.status is ExecutionStatus.CANCELLED
    assert sandbox.execute_cell('_used').text == 'True'


def test_cancelling_takes_a_waiting_cell_out_of_the_queue(sandbox: NotebookSandbox) -> None:
    cancellation = Cancellation()

    def run() -> CellResult:
        with cancellation.applied():
            return sandbox.execute_cell('ran = True')

    with ThreadPoolExecutor() as pool:
        running = pool.submit(sandbox.execute_cell, says_busy(LONG))
        wait_busy(sandbox)
        waiting = pool.submit(run)
        cancellation.cancel()
        with pytest.raises(CallCancelledError):
            waiting.result(PATIENCE)
        sandbox.interrupt_kernel()
        running.result(PATIENCE)
    assert sandbox.execute_cell("'ran' in globals()").text == 'False'


def test_closing_a_stream_early_interrupts_the_cell(sandbox: NotebookSandbox) -> None:
    steps = sandbox.stream_cell(f"print('x', flush=True)\n{LONG}", 300)
    next(steps)
    steps.close()

    assert sandbox.execute_cell('1+1', 30).text == '2'


def test_the_interrupt_of_a_cell_that_was_left_never_hits_the_next(sandbox: NotebookSandbox) -> None:
    for _ in range(3):
        steps = sandbox.stream_cell("while True: print('x' * 1000)", 300)
        next(steps)
        steps.close()

        result = sandbox.execute_cell('1+1', PATIENCE)
        assert (result.text, result.error) == ('2', None)


def test_ctrl_c_twice_at_a_stubborn_cell_costs_its_kernel_and_not_the_next_cell(start: Start) -> None:
    sandbox = start(interrupt_grace=PATIENCE)
    main = threading.get_ident()
    stubborn = says_busy(STUBBORN.replace('pass', "open('/sandbox/busy-default', 'w').close()"))

    def press_twice() -> None:
        for _ in range(2):
            wait_busy(sandbox)
            signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor() as pool:
        pressing = pool.submit(press_twice)
        with pytest.raises(KeyboardInterrupt):
            sandbox.execute_cell(f'mine = 1\n{stubborn}', 0)
        pressing.result(PATIENCE)

    result = sandbox.execute_cell("'mine' in globals()", PATIENCE / 2)
    assert result.text == 'False'
    assert result.note is not None
    assert 'was left before it had stopped' in result.note


def test_stopping_does_not_wait_for_a_cell(start: Start) -> None:
    sandbox = start()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(sandbox.execute_cell, says_busy(LONG), 0)
        wait_busy(sandbox)
        waiting = pool.submit(sandbox.execute_cell, '1')
        sandbox.stop()
        for each in (running, waiting):
            try:
                result = each.result(PATIENCE)
            except (SandboxGoneError, RuntimeError):
                continue
            assert not result.success
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if sandbox.id in name]


# Several --------------------------------------------------------------------------------------------------------------


def test_kernels_have_states_of_their_own(sandbox: NotebookSandbox) -> None:
    sandbox.create_kernel('other', env={'WHO': 'other'}, cwd='/tmp')
    sandbox.execute_cell('x = 1')

    result = sandbox.execute_cell("import os\n('x' in globals(), os.environ['WHO'], os.getcwd())", kernel='other')

    assert result.text == "(False, 'other', '/tmp')"
    assert result.kernel == 'other'
    assert [each.name for each in sandbox.list_kernels()] == ['default', 'other']
    with pytest.raises(ConflictError):
        sandbox.create_kernel('other')
    sandbox.delete_kernel('other')
    with pytest.raises(NotFoundError, match='it has: default'):
        sandbox.execute_cell('1', kernel='other')


def test_the_tool_makes_the_kernel_it_is_asked_for(sandbox: NotebookSandbox) -> None:
    sandbox.execute_tool('notebook_executor', {'code': 'y = 3', 'kernel': 'side'})
    result = sandbox.execute_tool('notebook_executor', {'code': 'y', 'kernel': 'side'})

    assert result.output == '3'
    assert sandbox.execute_cell("'y' in globals()").text == 'False'
    sandbox.delete_kernel('side')


def test_concurrent_callers_of_one_kernel_never_see_each_others_output(sandbox: NotebookSandbox) -> None:
    def run(number: int) -> CellResult:
        return sandbox.execute_cell(f'for i in range(200): print({number})\n{number}')

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, range(24)))

    for number, result in enumerate(results):
        assert result.stdout == f'{number}\n' * 200
        assert result.text.endswith(f'\n{number}')
    assert len({result.execution_count for result in results}) == 24


def test_a_thread_left_behind_does_not_disturb_later_cells(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell(
        'import threading, time\nstop = False\n'
        "def chat():\n    while not stop:\n        print('chatter', flush=True)\n        time.sleep(0.005)\n"
        'threading.Thread(target=chat, daemon=True).start()'
    )

    results = [sandbox.execute_cell(f'time.sleep(0.05)\n{number}') for number in range(5)]
    sandbox.execute_cell('stop = True')

    # Whose output a thread's is, the kernel says; it may say that it is a later cell's.
    values = [[each['data']['text/plain'] for each in result.outputs if 'data' in each] for result in results]
    assert values == [['0'], ['1'], ['2'], ['3'], ['4']]


ECHO_KERNEL = """
from ipykernel.kernelbase import Kernel
class EchoKernel(Kernel):
    implementation = 'echo'; implementation_version = '1'; banner = 'echo'
    language_info = {'name': 'echo', 'mimetype': 'text/plain', 'file_extension': '.txt'}
    def do_execute(self, code, silent, store_history=True, user_expressions=None, allow_stdin=False, **kwargs):
        self.send_response(self.iopub_socket, 'stream', {'name': 'stdout', 'text': code[::-1]})
        return {'status': 'ok', 'execution_count': self.execution_count, 'payload': [], 'user_expressions': {}}
if __name__ == '__main__':
    from ipykernel.kernelapp import IPKernelApp
    IPKernelApp.launch_instance(kernel_class=EchoKernel)
"""


def test_kernels_of_other_languages_work(sandbox: NotebookSandbox) -> None:
    home = sandbox.execute_command('printf %s "$HOME"').stdout
    place = f'{home}/.local/share/jupyter/kernels/echo'
    spec = {
        'argv': ['python3', '{resource_dir}/echo_kernel.py', '--IPKernelApp.connection_file={connection_file}'],
        'display_name': 'Echo',
        'language': 'echo',
        'env': {'ECHO_HOME': '${HOME}/x'},
        'interrupt_mode': 'message',
    }
    sandbox.write_file(f'{place}/echo_kernel.py', ECHO_KERNEL)
    sandbox.write_file(f'{place}/kernel.json', json.dumps(spec))

    assert [each.name for each in sandbox.list_kernel_specs()] == ['echo', 'python3']
    info = sandbox.create_kernel('mirror', 'echo')
    assert info.language == 'echo'
    assert sandbox.execute_cell('olleh', kernel='mirror').stdout == 'hello'
    assert sandbox.list_kernel_specs()[0].env == {'ECHO_HOME': f'{home}/x'}
    with pytest.raises(UnsupportedError):
        sandbox.list_variables(kernel='mirror')
    sandbox.interrupt_kernel('mirror')
    assert sandbox.execute_cell('1', kernel='mirror').success
    sandbox.delete_kernel('mirror')
    with pytest.raises(NotFoundError, match='echo, python3'):
        sandbox.create_kernel('x', 'fortran')


def test_what_a_thread_prints_when_its_cell_is_over_is_not_shown_in_the_cell_of_another(
    sandbox: NotebookSandbox,
) -> None:
    sandbox.execute_cell(
        'import sys, threading\nfrom IPython.display import display\ngo = threading.Event()\n'
        "def late():\n    go.wait()\n    print('late')\n    print('late', file=sys.stderr)\n    display('late')\n"
        'thread = threading.Thread(target=late)\nthread.start()'
    )

    result = sandbox.execute_cell("go.set()\nthread.join()\nprint('mine')")

    assert [each.get('text') for each in result.outputs] == ['mine\n']


def test_what_threads_print_for_a_cell_is_shown_in_it_whichever_thread_started_them(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell(
        'import asyncio, concurrent.futures, threading\npool = concurrent.futures.ThreadPoolExecutor(1)\n'
        "pool.submit(print, 'earlier').result()"
    )

    result = sandbox.execute_cell(
        "pool.submit(print, 'of a pool').result()\nawait asyncio.to_thread(print, 'of a loop')\n"
        "thread = threading.Thread(target=print, args=('of a thread',))\nthread.start()\nthread.join()"
    )

    assert result.text == 'of a pool\nof a loop\nof a thread\n'


def test_what_is_handed_to_pools_and_futures_of_an_earlier_cell_is_shown_in_the_cell_that_did(
    sandbox: NotebookSandbox,
) -> None:
    sandbox.execute_cell(
        'import threading\nfrom concurrent.futures import Future\nfrom multiprocessing.pool import ThreadPool\n'
        'pool = ThreadPool(2)\nfuture = Future()\n'
        "resolver = threading.Timer(3600, print)\nresolver.function = lambda: future.set_result('done')"
    )

    result = sandbox.execute_cell(
        "pool.map(print, ['mapped'])\npool.apply_async(func=print, args=['applied']).wait()\n"
        'future.add_done_callback(lambda each: print(each.result()))\n'
        "pool.apply_async(abs, [-3], callback=lambda each: print('got', each)).wait()\n"
        'resolver.interval = 0\nresolver.start()\nresolver.join()\npool.close()\npool.join()'
    )

    assert result.stdout == 'mapped\napplied\ngot 3\ndone\n'


def test_pythons_kernel_spec_is_shown_as_its_file_has_it(start: Start) -> None:
    sandbox = start(env_vars={'JUPYTER_PATH': '/sandbox/jupyter'})
    (before,) = sandbox.list_kernel_specs()
    argv = ['/opt/python', '-X', 'dev', '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    spec = {'argv': argv, 'display_name': 'P', 'language': 'python'}
    sandbox.write_file('/sandbox/jupyter/kernels/python3/kernel.json', json.dumps(spec))

    (after,) = sandbox.list_kernel_specs()

    assert before.argv[1:] == argv[3:]
    assert (after.argv, after.display_name) == (argv, 'P')


# Questions ------------------------------------------------------------------------------------------------------------


def test_completion_inspection_and_variables(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell("import os\nalpha_beta = [1, 2, 3]\nname = 'x' * 5000\n_hidden = 1\ndef f(a): 'Doc of f.'")

    completion = sandbox.complete_code('x = alpha_', timeout=PATIENCE)
    inspection = sandbox.inspect_code('f(1)', 1, timeout=PATIENCE)
    variables = {each.name: each for each in sandbox.list_variables(timeout=PATIENCE)}

    assert completion.matches == ['alpha_beta']
    assert (completion.start, completion.end) == (4, 10)
    assert inspection.found
    assert 'Doc of f.' in inspection.text
    assert '\x1b' not in inspection.text
    assert set(variables) == {'alpha_beta', 'name', 'f'}
    assert (variables['alpha_beta'].type, variables['alpha_beta'].shape) == ('list', '3')
    assert variables['name'].shape == '5000'
    assert len(variables['name'].text) <= 200
    assert sandbox.check_complete('for i in x:', timeout=PATIENCE) == ('incomplete', '    ')
    assert sandbox.check_complete('1+1', timeout=PATIENCE)[0] == 'complete'


def test_odd_variables_do_not_hide_the_others(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell(
        'class Leaving:\n    def __repr__(self): raise SystemExit\n'
        "odd, exec, plain = Leaving(), 5, 6\nglobals()[1] = 2\nglobals()['\\ud800'] = 3"
    )

    variables = {each.name: each.text for each in sandbox.list_variables(timeout=PATIENCE)}

    del variables['Leaving']
    assert variables == {'odd': '<SystemExit>', 'exec': '5', 'plain': '6', '\\ud800': '3'}


def test_code_that_is_no_text_is_refused(sandbox: NotebookSandbox) -> None:
    for ask in (sandbox.execute_cell, sandbox.complete_code, sandbox.inspect_code, sandbox.check_complete):
        with pytest.raises(InvalidArgumentError, match='lone surrogate'):
            ask("'\ud800'")


def test_a_question_does_not_count_as_a_cell(sandbox: NotebookSandbox) -> None:
    before = sandbox.execute_cell('1').execution_count
    sandbox.list_variables(timeout=PATIENCE)

    assert sandbox.execute_cell('1').execution_count == (before or 0) + 1


SLOW = 'import time\nclass Slow:\n    def __repr__(self):\n        time.sleep(600)\nslow = Slow()'

STUBBORN_SLOW = """
import time
class Slow:
    def __repr__(self):
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                pass
slow = Slow()
"""


def test_a_question_out_of_time_leaves_the_kernel_free_and_its_state_kept(sandbox: NotebookSandbox) -> None:
    sandbox.execute_cell(SLOW)

    with pytest.raises(OperationTimeoutError):
        sandbox.list_variables(timeout=0.5)

    result = sandbox.execute_cell('_used')
    assert (result.text, result.error, result.note) == ('True', None, None)


def test_a_question_that_does_not_yield_costs_the_kernel(hasty: NotebookSandbox) -> None:
    hasty.execute_cell(STUBBORN_SLOW)

    with pytest.raises(OperationTimeoutError):
        hasty.list_variables(timeout=0.5)

    result = hasty.execute_cell("'slow' in globals()")
    assert result.text == 'False'
    assert result.note is not None
    assert 'would not stop' in result.note


def test_a_question_that_is_cancelled_leaves_the_kernel_free(start: Start) -> None:
    sandbox = start()
    sandbox.execute_cell(
        f'_used = True\n{SLOW}'.replace('time.sleep', "open('/sandbox/busy-default', 'w').close(); time.sleep")
    )
    cancellation = Cancellation()

    def ask() -> object:
        with cancellation.applied():
            return sandbox.list_variables(timeout=PATIENCE)

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask)
        wait_busy(sandbox)
        cancellation.cancel()
        with pytest.raises(CallCancelledError):
            asking.result(PATIENCE)

    assert sandbox.execute_cell('_used').text == 'True'


# Doors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('shared', NOTEBOOK_BACKENDS, indirect=True)
def test_a_request_with_another_key_is_refused_by_the_kernel(sandbox: NotebookSandbox) -> None:
    operations = sandbox._operations
    assert isinstance(operations, AgentOperations)
    before = sandbox.execute_cell('1').execution_count or 0
    life = sandbox._kernels['default']._life
    assert life is not None
    with operations.connect_path(f'{life._address["ip"]}-1', timeout=PATIENCE) as connection:
        socket = ZmtpSocket(connection, b'DEALER')
        content = {'code': 'forged = True', 'silent': False, 'allow_stdin': False}
        socket.send(Messenger(make_key()).make_request('execute_request', content)[1])
        with pytest.raises(OperationTimeoutError):
            socket.receive(Deadline.after(1))

    result = sandbox.execute_cell("'forged' in globals()")

    assert result.text == 'False'
    assert result.execution_count == before + 1


def test_connection_files_are_the_users_alone(sandbox: NotebookSandbox) -> None:
    modes = sandbox.execute_command(['sh', '-c', 'stat -c %a /tmp/enclave-kernel-* /tmp/enclave-kernel-*/*.json'])

    assert set(modes.stdout.split()) <= {'700', '600'}


def test_a_dead_kernels_files_are_gone_when_the_next_begins(start: Start) -> None:
    sandbox = start()

    sandbox.restart_kernel()

    found = sandbox.execute_command(['sh', '-c', 'cd /tmp/enclave-kernel-*; ls']).stdout.split()
    assert '2.json' in found
    assert [name for name in found if name.startswith('1')] == []


def test_four_at_once_work(start: Start) -> None:
    with ThreadPoolExecutor(4) as pool:
        sandboxes = list(pool.map(lambda _: start(cpu_limit=0.5), range(4)))
        texts = list(pool.map(lambda each: each[1].execute_cell(f'{each[0]}').text, enumerate(sandboxes)))

    assert texts == ['0', '1', '2', '3']
    assert [each.get_published_ports() for each in sandboxes if isinstance(each, DockerSandbox)] in ([], [{}] * 4)


def test_what_an_earlier_sandbox_kept_outlives_a_kernel_that_does_not_start(backend: Backend, start: Start) -> None:
    options = {'remove_on_exit': False, 'network_enabled': False}
    sandbox = start(**options)
    sandbox.execute_cell("open('kept.txt', 'w').write('x')")
    sandbox.stop()
    other = SandboxFactory.create_sandbox(backend.sandbox_type, {**options, 'kernel_name': 'fortran'}, sandbox.id)

    with pytest.raises(LookupError, match="no kernel of the kind 'fortran'"):
        other.start()

    sandbox.start()
    assert sandbox.execute_cell("open('kept.txt').read()").text == "'x'"
