"""Large outputs are sent while their programs run; what a client gets is what it would get from a sandbox of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.cancellation import Cancellation
from enclave.errors import EnclaveError, SandboxGoneError
from enclave.languages.values import CodeRequest, CodeResult
from enclave.managers.http import HttpSandboxManager
from enclave.managers.http_transport import HttpTransport
from enclave.managers.output_frames import OUTPUT_FRAMES, FrameReader
from enclave.managers.protocol import IDEMPOTENCY_HEADER, PROTOCOL_HEADER, REPLAYED_HEADER
from enclave.outlet import HandedOn, Offered
from enclave.records import CommandResult, ToolResult
from enclave.rulings import SHARED
from enclave.sandboxes.kinds import KINDS, SandboxKind, register_kind
from enclave.server.serve import SandboxServer, create_server
from enclave.tools.base import Tool
from enclave.tools.budget import OUTPUT_DIR
from enclave.wire import PARTS, from_parts
from tests.support.process_kind import ProcessSandbox

pytestmark = pytest.mark.processes
PATIENCE = 300.0
OPTIONS: dict[str, Any] = {'tools_config': ['shell_executor', 'python_executor'], 'max_output_bytes': 1 << 20}
LARGE = 300_000
PRINTS = f'head -c {LARGE} /dev/zero | tr "\\0" x'


@pytest.fixture(scope='module', autouse=True)
def whole_outputs() -> Iterator[None]:
    """Remove what these sandboxes, which have no file system of their own, kept of long outputs."""
    place = Path(OUTPUT_DIR)
    before = set(place.glob('*'))
    yield
    for file in set(place.glob('*')) - before:
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        place.rmdir()


@pytest.fixture(scope='module')
def server() -> Iterator[SandboxServer]:
    KINDS.all()
    registered = dict(KINDS.registered)
    register_kind(SandboxKind(name='process', sandbox=ProcessSandbox, rulings=SHARED))
    made = create_server(stop_grace=0.0, policy={'max_output_bytes': 1 << 26, 'max_output_memory': 1 << 30})
    made.start('127.0.0.1', 0)
    yield made
    made.stop()
    KINDS.registered = registered  # other tests have a kind of this name too


@pytest.fixture(scope='module')
def manager(server: SandboxServer) -> Iterator[HttpSandboxManager]:
    with HttpSandboxManager(base_url=server.url) as made:
        yield made


@pytest.fixture(scope='module')
def remote(manager: HttpSandboxManager) -> Iterator[Any]:
    with manager.open('process', OPTIONS) as made:
        yield made


@pytest.fixture(scope='module')
def local(server: SandboxServer) -> Iterator[ProcessSandbox]:
    with ProcessSandbox(OPTIONS) as made:
        yield made


class Gate:
    """Keeps a program from going on until the test lets it."""

    def __init__(self, place: Path) -> None:
        self._path = place / 'gate'
        self.line = f'while [ ! -e {self._path} ]; do sleep 0.05; done'

    def open(self) -> None:
        self._path.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@contextlib.contextmanager
def asking(
    server: SandboxServer, sandbox_id: str, command: str, accept: str = OUTPUT_FRAMES, *, key: str = '', code: str = ''
) -> Iterator[http.client.HTTPResponse]:
    """Ask a server, as this library's client does, to run a command, or a program; gives the answer as soon as it begins."""
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=PATIENCE)
    headers = {'Content-Type': 'application/json', PROTOCOL_HEADER: '1', 'Accept': accept}
    if key:
        headers[IDEMPOTENCY_HEADER] = key
    what = {'code': code, 'language': 'python', 'timeout': 0} if code else {'command': command}
    body = json.dumps({**what, 'max_output_bytes': 1 << 24})
    try:
        connection.request('POST', f'/sandbox/{sandbox_id}/{"code" if code else "command"}', body, headers)
        yield connection.getresponse()
    finally:
        connection.close()


def read_frames(data: bytes) -> CommandResult:
    reader = FrameReader()
    reader.take(memoryview(data))
    assert reader.error is None
    return CommandResult.model_validate(reader.shapes())


def read_parts(data: bytes) -> CommandResult:
    return CommandResult.model_validate(from_parts(data, what='the answer'))


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again, for as long as a slow machine may take."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.05)):
        if is_so():
            return
        pause.wait(0.05)
    raise AssertionError('it did not come to that')


# While it runs --------------------------------------------------------------------------------------------------------


def test_output_comes_while_its_program_runs(server: SandboxServer, remote: Any, gate: Gate) -> None:
    with asking(server, remote.id, f'{PRINTS}; {gate.line}; echo end') as answer:
        begun = answer.read(1000)
        gate.open()
        result = read_frames(begun + answer.read())

    assert answer.headers['Content-Type'] == OUTPUT_FRAMES
    assert result.stdout == 'x' * LARGE + 'end\n'
    assert (result.exit_code, result.stdout_bytes) == (0, LARGE + 4)


def test_a_small_output_is_part_of_one_answer(server: SandboxServer, remote: Any) -> None:
    with asking(server, remote.id, 'echo few') as answer:
        body = answer.read()

    assert answer.headers['Content-Type'] == 'application/json'
    assert answer.headers['Content-Length'] == str(len(body))
    assert json.loads(body)['stdout'] == 'few\n'


@pytest.mark.parametrize('accept', ['*/*', 'application/json', ''])
def test_other_clients_get_json(server: SandboxServer, remote: Any, accept: str) -> None:
    with asking(server, remote.id, PRINTS, accept) as answer:
        body = answer.read()

    assert answer.headers['Content-Type'] == 'application/json'
    assert answer.headers['Content-Length'] == str(len(body))
    assert json.loads(body)['stdout'] == 'x' * LARGE


def test_its_connection_serves_further_calls(manager: HttpSandboxManager, remote: Any) -> None:
    remote.execute_command('true')
    quick = manager._transport._quick
    assert quick is not None
    before = list(quick._resting)

    remote.execute_command(PRINTS)
    remote.execute_command('true')

    assert quick._resting == before


# The same as in a sandbox of one's own --------------------------------------------------------------------------------

COMMANDS = {
    'ascii': PRINTS,
    'both streams': f'{PRINTS}; {PRINTS} >&2; exit 3',
    'stderr alone': f'{PRINTS} >&2; exit 3',
    'characters of several bytes': 'yes "x äöü € 🐍" | head -c 500000',
    'ascii, and then others': f'{PRINTS}; printf "ä"; {PRINTS}',
    'bytes that are no text': "yes \"$(printf 'a\\377\\300\\200')\" | head -c 300000; printf '\\342\\202'",
    'a surrogate': 'yes "$(printf \'\\355\\240\\200\')" | head -c 300000',
    'more than the cap': 'head -c 5000000 /dev/zero | tr "\\0" x',
    'more than the cap, of several bytes': 'yes "€" | head -c 5000000',
    'an end by a signal': f'{PRINTS} >&2; kill -9 $$',
    'zeros': f'head -c {LARGE} /dev/zero',
}


def measured(result: CodeResult) -> dict[str, Any]:
    found = result.model_dump()
    for name in ('cpu_time', 'peak_memory_bytes', 'execution_time'):
        del found['run'][name]
    return found


def facts(result: CommandResult | ToolResult) -> dict[str, Any]:
    return result.model_dump(exclude=('execution_time', 'timestamp'))


@pytest.mark.parametrize('command', COMMANDS.values(), ids=COMMANDS.keys())
def test_results_are_those_of_a_sandbox_of_ones_own(remote: Any, local: ProcessSandbox, command: str) -> None:
    assert facts(remote.execute_command(command)) == facts(local.execute_command(command))
    arguments = {'command': command}
    assert facts(remote.execute_tool('shell_executor', arguments)) == facts(
        local.execute_tool('shell_executor', arguments)
    )
    assert remote.execute_command(command, max_chars=500).stdout_bytes == local.execute_command(command).stdout_bytes


def test_results_are_the_same_by_the_way_of_urllib3(
    remote: Any, local: ProcessSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpTransport, '_ask_quickly', lambda *_: None)

    for command in (COMMANDS['both streams'], COMMANDS['more than the cap, of several bytes']):
        assert facts(remote.execute_command(command)) == facts(local.execute_command(command))


def test_python_and_pools_give_the_same(manager: HttpSandboxManager, remote: Any, local: ProcessSandbox) -> None:
    code = {'code': f'import sys; print("ä" * {LARGE}); sys.stderr.write("e" * {LARGE}); sys.exit(4)'}
    expected = facts(local.execute_tool('python_executor', code))
    manager.initialize_pool(1, 'process', OPTIONS)

    assert facts(remote.execute_tool('python_executor', code)) == expected
    assert facts(manager.execute_tool_in_pool('python_executor', code)) == expected


@pytest.mark.parametrize('expected', [None, 'ä' * LARGE])
def test_programs_in_a_language_give_the_same(
    manager: HttpSandboxManager, remote: Any, local: ProcessSandbox, expected: str | None
) -> None:
    code = f'import sys; print("ä" * {LARGE}); sys.stderr.write("e" * {LARGE}); sys.exit(4)'
    request = CodeRequest(code=code, max_output_bytes=SIZE, expected_output=expected)
    wanted = measured(local.run_code(request))
    manager.initialize_pool(1, 'process', OPTIONS)

    assert measured(remote.run_code(request)) == wanted
    assert measured(manager.run_code_in_pool(request)) == wanted


def test_the_output_of_a_program_in_a_language_comes_while_it_runs(
    server: SandboxServer, remote: Any, gate: Gate
) -> None:
    code = f'import subprocess\nsubprocess.run({f"{PRINTS}; {gate.line}; echo end"!r}, shell=True)'
    with asking(server, remote.id, '', code=code) as answer:
        begun = answer.read(1000)
        gate.open()
        reader = FrameReader()
        reader.take(memoryview(begun + answer.read()))

    assert answer.headers['Content-Type'] == OUTPUT_FRAMES
    result = CodeResult.model_validate(reader.shapes())
    assert result.stdout == 'x' * LARGE + 'end\n'
    assert result.success


# Repeats, errors, and clients that go away or take nothing ------------------------------------------------------------


def test_a_repeat_gets_the_same_answer(server: SandboxServer, remote: Any, gate: Gate, tmp_path: Path) -> None:
    command = f'echo once >> {tmp_path}/done; {PRINTS}; {gate.line}; echo $$'
    answers = []
    for _ in range(2):
        with asking(server, remote.id, command, key='repeated') as answer:
            begun = answer.read(1000)
            gate.open()
            answers.append((read_frames(begun + answer.read()), answer.headers.get(REPLAYED_HEADER)))

    assert answers[0][0] == answers[1][0]
    assert (answers[0][1], answers[1][1]) == (None, 'true')
    assert (tmp_path / 'done').read_text() == 'once\n'


def test_a_client_that_goes_away_ends_the_program(
    server: SandboxServer, manager: HttpSandboxManager, remote: Any
) -> None:
    with asking(server, remote.id, f'{PRINTS}; exec sleep 100000') as answer:
        assert answer.read(1000)

    wait_until(lambda: not manager._transport.call('GET', '/calls', list[dict[str, Any]]))


def test_a_client_that_comes_back_gets_all_of_it(
    server: SandboxServer, remote: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('enclave.server.idempotency.RETURN_SECONDS', PATIENCE)
    command = f'{PRINTS}; {gate.line}; echo end'
    with asking(server, remote.id, command, key='back') as answer:
        assert answer.read(1000)
    gate.open()

    with asking(server, remote.id, command, key='back') as answer:
        result = read_frames(answer.read())

    assert result.stdout == 'x' * LARGE + 'end\n'


def test_a_call_that_is_cancelled_gives_what_one_with_little_output_does(remote: Any, tmp_path: Path) -> None:
    outcomes = []
    for number, prints in enumerate(('echo few', PRINTS)):
        cancellation, mark = Cancellation(), tmp_path / str(number)
        caught: list[Any] = []

        def call(command: str, cancellation: Cancellation = cancellation, caught: list[Any] = caught) -> None:
            try:
                with cancellation.applied():
                    caught.append(remote.execute_command(command, 0).status)
            except EnclaveError as error:
                caught.append(type(error))

        thread = threading.Thread(target=call, args=(f'{prints}; : > {mark}; exec sleep 100000',))
        thread.start()
        wait_until(mark.exists)
        cancellation.cancel()
        thread.join(PATIENCE)
        outcomes += caught

    assert len(outcomes) == 2
    assert outcomes[0] == outcomes[1]


def test_an_error_after_the_beginning_is_raised_and_written_down(
    server: SandboxServer, manager: HttpSandboxManager, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    mark = tmp_path / 'mark'
    with manager.open('process', OPTIONS) as box, caplog.at_level('INFO', 'enclave.server.audit'):
        raised: list[BaseException] = []

        def call() -> None:
            try:
                box.execute_command(f'{PRINTS}; : > {mark}; exec sleep 100000', 0)
            except EnclaveError as error:
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        wait_until(mark.exists)
        assert server.service is not None
        found: Any = server.service.tenant(None).manager.get_sandbox(box.id)
        found._operations.channel._stream.process.kill()
        thread.join(PATIENCE)

    assert [type(error) for error in raised] == [SandboxGoneError]
    lines = [json.loads(each.getMessage()) for each in caplog.records if each.name == 'enclave.server.audit']
    line = next(each for each in lines if each['route'].endswith('/command'))
    assert (line['status'], line['code']) == (410, SandboxGoneError.code)


SIZE = 1 << 24


@contextlib.contextmanager
def asking_slowly(
    server: SandboxServer, sandbox_id: str, command: str, accept: str, *, key: str = '', times: int = 1
) -> Iterator[socket.socket]:
    """Ask for more output than any buffers hold, and take nothing of it: gives the connection when the work is done.

    No place and no thread of the server is held by then.
    """
    assert server.service is not None
    lanes, waitress = server.service.lanes, server._waitress
    body = json.dumps({'command': command, 'max_output_bytes': SIZE, 'timeout': 0}).encode()
    head = (
        f'POST /sandbox/{sandbox_id}/command HTTP/1.1\r\nHost: localhost\r\n{PROTOCOL_HEADER}: 1\r\nAccept: {accept}\r\n'
        f'Content-Type: application/json\r\nContent-Length: {len(body)}\r\n'
    )
    if key:
        head += f'{IDEMPOTENCY_HEADER}: {key}\r\n'
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.settimeout(PATIENCE)
        link.connect(('127.0.0.1', server.port))
        link.sendall((head.encode() + b'\r\n' + body) * times)
        assert link.recv(1, socket.MSG_PEEK)
        wait_until(lambda: lanes.counts()['call'] == 0 and waitress.task_dispatcher.active_count == 0)
        yield link


def read_result(link: socket.socket, accept: str) -> CommandResult:
    answer = http.client.HTTPResponse(link)
    answer.begin()
    read = {OUTPUT_FRAMES: read_frames, PARTS: read_parts}.get(accept, CommandResult.model_validate_json)
    return read(answer.read())


MUCH = f'head -c {SIZE} /dev/zero | tr "\\0" x'
MUCH_OF_BOTH = f'head -c {SIZE} /dev/zero | tr "\\0" x | tee /dev/stderr'


@pytest.mark.parametrize('accept', [OUTPUT_FRAMES, PARTS, 'application/json'])
@pytest.mark.parametrize('takes_it', [True, False])
def test_a_client_that_takes_nothing_holds_no_place_and_no_thread_but_memory(
    server: SandboxServer, remote: Any, accept: str, takes_it: bool
) -> None:
    assert server.service is not None
    lanes = server.service.lanes
    wait_until(lambda: lanes.memory_held == 0)

    with asking_slowly(server, remote.id, MUCH_OF_BOTH, accept) as link:
        assert lanes.memory_held >= 2 * SIZE
        if takes_it:
            result = read_result(link, accept)
            assert result.stdout == result.stderr == 'x' * SIZE
            wait_until(lambda: lanes.memory_held == 0)

    wait_until(lambda: lanes.memory_held == 0)


def test_a_repeat_that_takes_nothing_holds_no_thread(server: SandboxServer, remote: Any) -> None:
    with asking_slowly(server, remote.id, MUCH, OUTPUT_FRAMES, key='slow') as link:
        first = read_result(link, OUTPUT_FRAMES)

    assert server.service is not None
    lanes = server.service.lanes
    wait_until(lambda: lanes.memory_held == 0)
    with asking_slowly(server, remote.id, MUCH, OUTPUT_FRAMES, key='slow') as link:
        assert lanes.memory_held >= SIZE, 'it is kept as long as it is being sent'
        assert read_result(link, OUTPUT_FRAMES) == first
    wait_until(lambda: lanes.memory_held == 0)


def test_requests_behind_an_answer_that_is_not_taken_hold_no_thread(server: SandboxServer, remote: Any) -> None:
    with asking_slowly(server, remote.id, MUCH, PARTS, times=2) as link:
        assert read_result(link, PARTS).stdout == 'x' * SIZE
        assert link.recv(1) == b''


# Who hands it on ------------------------------------------------------------------------------------------------------


class Outlet:
    """Takes output, keeps how much of each stream it saw, and lets the program end."""

    def __init__(self, gate: Gate) -> None:
        self.taken: dict[int, int] = {}
        self._gate = gate

    def take(self, stream: int, output: HandedOn) -> bool:
        self.taken[stream] = sum(map(len, output.pieces))
        self._gate.open()
        return True


class Counter(Tool):
    """Count what a command prints."""

    name = 'counter'

    def run(self, workspace: Any, arguments: Any) -> int:
        return len(workspace.execute_command(PRINTS).stdout)


def test_only_output_that_is_given_back_is_handed_on(local: ProcessSandbox, gate: Gate) -> None:
    local.add_tool(Counter())
    seen: list[dict[int, int]] = []
    for tool, arguments, budget in (
        ('shell_executor', {'command': f'{PRINTS}; {gate.line}'}, None),
        ('shell_executor', {'command': PRINTS}, 1000),
        ('counter', {}, None),
    ):
        outlet = Outlet(gate)
        with Offered(lambda outlet=outlet: outlet):
            assert local.execute_tool(tool, arguments, max_chars=budget).success
        seen.append(outlet.taken)

    assert seen[0].keys() == {1}
    assert seen[1:] == [{}, {}]
