from __future__ import annotations

import gc
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.tls import TLSConfig

from enclave.errors import EngineError, EngineUnavailableError, ImageNotFoundError
from enclave.sandboxes.docker.dial import Endpoint, RawStream, take_over
from enclave.sandboxes.docker.engine import Engine, get_engine
from enclave.sandboxes.docker.network import Bridge, ensure_network, forget_network
from tests.support.relay import Relay, make_certificates

pytestmark = pytest.mark.docker

IMAGE = 'python:3.11-slim'
PATIENCE = 120.0

Launch = Callable[..., str]


@pytest.fixture
def launch(engine: Engine) -> Iterator[Launch]:
    """Create a container that goes when its standard input ends, and remove it at the end in any case."""
    made: list[str] = []

    def create(*command: str) -> str:
        host_config = engine.api.create_host_config(network_mode='none')
        container = engine.api.create_container(
            IMAGE, list(command or ('cat',)), stdin_open=True, host_config=host_config, labels={'enclave.test': '1'}
        )
        made.append(container['Id'])
        return str(container['Id'])

    yield create
    for container_id in made:
        engine.api.remove_container(container_id, force=True)


def read_exactly(stream: RawStream, size: int) -> bytes:
    data = b''
    while len(data) < size:
        piece = stream.read(size - len(data))
        assert piece, f'the stream ended after {len(data)} of {size} bytes'
        data += piece
    return data


def read_payload(stream: RawStream) -> bytes:
    header = read_exactly(stream, 8)
    return read_exactly(stream, int.from_bytes(header[4:], 'big'))


def echo(stream: RawStream, data: bytes) -> bytes:
    stream.write(data)
    answer = b''
    while len(answer) < len(data):
        answer += read_payload(stream)
    return answer


def test_describes_itself(engine: Engine) -> None:
    info = engine.describe()

    assert info.version
    assert info.os == 'linux'
    assert info.api_version.startswith('1.')
    assert info.runtimes


def test_attached_stream_carries_bytes_both_ways(engine: Engine, launch: Launch) -> None:
    container = launch('cat')

    with engine.attach_stream(container) as stream:
        engine.api.start(container)
        answer = echo(stream, bytes(range(256)) * 4096)

    assert answer == bytes(range(256)) * 4096


def test_close_wakes_a_blocked_reader(engine: Engine, launch: Launch) -> None:
    container = launch('cat')
    stream = engine.attach_stream(container)
    engine.api.start(container)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(stream.read()))
    reader.start()

    stream.close()
    reader.join(PATIENCE)

    assert got == [b'']
    assert stream.read() == b''
    with pytest.raises(ConnectionError):
        stream.write(b'late')


def test_close_frees_the_descriptor_and_leaks_nothing(engine: Engine, launch: Launch) -> None:
    container = launch('cat')
    engine.api.start(container)
    gc.collect()
    before = len(os.listdir('/proc/self/fd'))

    with warnings.catch_warnings():
        warnings.simplefilter('error', ResourceWarning)
        for _ in range(20):
            engine.attach_stream(container, stdin=False).close()
        gc.collect()

    assert len(os.listdir('/proc/self/fd')) == before


def test_stream_ends_when_the_container_does(engine: Engine, launch: Launch) -> None:
    container = launch('true')

    with engine.attach_stream(container) as stream:
        engine.api.start(container)

        assert stream.read() == b''


def test_half_close_ends_standard_input_and_output_still_arrives(engine: Engine, launch: Launch) -> None:
    container = launch('cat')
    engine.api.start(container)
    execution = engine.api.exec_create(container, ['sh', '-c', 'cat; echo end'], stdin=True)['Id']

    with engine.exec_stream(execution) as stream:
        assert echo(stream, b'before') == b'before'
        stream.close_write()
        rest = read_payload(stream)
        end = stream.read()

    assert rest == b'end\n'
    assert end == b''


def test_output_that_comes_with_the_answer_is_not_lost(engine: Engine, launch: Launch) -> None:
    container = launch('cat')
    engine.api.start(container)

    for number in range(10):
        execution = engine.api.exec_create(container, ['echo', str(number)])['Id']
        with engine.exec_stream(execution) as stream:
            assert read_payload(stream) == f'{number}\n'.encode()


def test_connection_of_docker_py_can_be_taken_over(engine: Engine, launch: Launch) -> None:
    container = launch('cat')
    engine.api.start(container)
    url = f'{engine.api.base_url}/v{engine.api.api_version}/containers/{container}/attach?stream=1&stdin=1&stdout=1'
    headers = {'Connection': 'Upgrade', 'Upgrade': 'tcp'}
    stream = take_over(engine.api.post(url, headers=headers, stream=True, timeout=None))
    got: list[bytes] = []

    assert echo(stream, b'hello') == b'hello'
    reader = threading.Thread(target=lambda: got.append(stream.read()))
    reader.start()
    stream.close()
    reader.join(PATIENCE)

    assert got == [b'']


def test_two_hundred_streams_and_calls_at_once(
    engine: Engine, launch: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    container = launch('cat')
    engine.api.start(container)
    streams: list[RawStream] = []
    failures: list[BaseException] = []

    def call() -> None:
        try:
            for _ in range(10):
                engine.api.inspect_container(container)
        except BaseException as error:
            failures.append(error)

    with caplog.at_level(logging.WARNING, logger='urllib3'):
        try:
            streams += [engine.attach_stream(container, stdin=False) for _ in range(200)]
            callers = [threading.Thread(target=call) for _ in range(64)]
            for each in callers:
                each.start()
            for each in callers:
                each.join(PATIENCE)
        finally:
            for stream in streams:
                stream.close()

    assert failures == []
    assert [record for record in caplog.records if 'pool' in record.getMessage()] == []


def test_missing_container_is_named_with_its_status(engine: Engine) -> None:
    with pytest.raises(EngineError, match='nosuch') as caught:
        engine.attach_stream('nosuch')

    assert caught.value.details['status'] == 404


def test_missing_image_is_an_error_of_its_own(engine: Engine) -> None:
    with pytest.raises(ImageNotFoundError, match='no/such'), engine.translate('create a container'):
        engine.api.create_container('no/such:1', 'true')


def test_refusal_carries_the_words_of_the_engine(engine: Engine) -> None:
    with pytest.raises(EngineError, match='Could not start it') as caught, engine.translate('start it'):
        engine.api.start('nosuch')

    assert 'No such container' in caught.value.details['reason']


def test_engine_that_goes_away_ends_the_stream_and_fails_the_next_call(launch: Launch) -> None:
    container = launch('cat')
    with Relay('/var/run/docker.sock') as relay, Engine(f'tcp://127.0.0.1:{relay.port}') as engine:
        engine.api.start(container)
        stream = engine.attach_stream(container)
        assert echo(stream, b'hello') == b'hello'

        relay.stop()

        assert stream.read() == b''
        stream.close()
        with pytest.raises(EngineUnavailableError, match=str(relay.port)), engine.translate('look'):
            engine.api.inspect_container(container)


def test_reaches_an_engine_over_tcp(launch: Launch) -> None:
    container = launch('cat')

    with (
        Relay('/var/run/docker.sock') as relay,
        Engine(f'tcp://127.0.0.1:{relay.port}') as engine,
        engine.attach_stream(container) as stream,
    ):
        engine.api.start(container)
        answer = echo(stream, b'over tcp')

    assert answer == b'over tcp'


@pytest.mark.skipif(shutil.which('openssl') is None, reason='openssl makes the certificates')
def test_reaches_an_engine_over_tls_reading_and_writing_at_once(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = launch('cat')
    make_certificates(tmp_path)
    monkeypatch.setenv('DOCKER_TLS_VERIFY', '1')
    monkeypatch.setenv('DOCKER_CERT_PATH', str(tmp_path))
    block, count = os.urandom(65536), 64
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / 'ca.pem'))
    server.load_cert_chain(tmp_path / 'cert.pem', tmp_path / 'key.pem')
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the certificates are as plain as those of Docker's instructions

    with Relay('/var/run/docker.sock', context=server) as relay:
        monkeypatch.setenv('DOCKER_HOST', f'tcp://127.0.0.1:{relay.port}')
        with Engine() as engine, engine.attach_stream(container) as stream:
            engine.api.start(container)
            writer = threading.Thread(target=lambda: [stream.write(block) for _ in range(count)])
            writer.start()
            received = b''
            while len(received) < len(block) * count:
                received += read_payload(stream)
            writer.join(PATIENCE)

    assert received == block * count


@pytest.mark.skipif(shutil.which('openssl') is None, reason='openssl makes the certificates')
def test_refuses_an_engine_whose_certificate_it_cannot_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
    make_certificates(ours)
    make_certificates(theirs)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(theirs / 'cert.pem', theirs / 'key.pem')
    monkeypatch.setenv('DOCKER_TLS_VERIFY', '1')
    monkeypatch.setenv('DOCKER_CERT_PATH', str(ours))

    with Relay('/var/run/docker.sock', context=server) as relay, Engine(f'tcp://127.0.0.1:{relay.port}') as engine:
        assert isinstance(engine.endpoint, Endpoint)
        assert isinstance(engine.endpoint.tls, TLSConfig)
        with pytest.raises(EngineUnavailableError, match=r'(?i)certificate'):
            engine.ping()


@pytest.mark.skipif(shutil.which('docker') is None, reason='the other machine of ssh runs docker system dial-stdio')
def test_reaches_an_engine_over_ssh(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ssh here runs the command it is given on this machine, as the other machine would."""
    program = tmp_path / 'ssh'
    program.write_text('#!/bin/sh\nunset DOCKER_HOST\nfor last; do :; done\nexec $last\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    container = launch('cat')

    with Engine('ssh://somebody@somewhere') as engine, engine.attach_stream(container) as stream:
        engine.api.start(container)
        answer = echo(stream, b'over ssh')

    assert answer == b'over ssh'


def test_ssh_that_fails_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / 'ssh'
    program.write_text('#!/bin/sh\necho "Host key verification failed." >&2\nexit 255\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')

    with Engine('ssh://somebody@somewhere') as engine, pytest.raises(EngineUnavailableError, match='Host key'):
        engine.ping()


def test_forked_child_has_a_client_of_its_own() -> None:
    program = textwrap.dedent("""
        import os
        from enclave.sandboxes.docker.engine import get_engine

        parent = get_engine()
        parent.ping()
        child = os.fork()
        if child == 0:
            assert get_engine() is not parent
            get_engine().ping()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert get_engine() is parent
        parent.ping()
    """)

    subprocess.run([sys.executable, '-W', 'ignore::DeprecationWarning', '-c', program], check=True, timeout=PATIENCE)


def test_process_has_one_client() -> None:
    assert get_engine() is get_engine()


def test_docker_context_chooses_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which('docker') is None:
        pytest.skip('the docker command makes the context')
    monkeypatch.setenv('DOCKER_CONFIG', str(tmp_path))
    (tmp_path / 'config.json').write_text('{}')
    monkeypatch.delenv('DOCKER_HOST', raising=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / 'other.sock'))
    listener.close()
    make = ['docker', 'context', 'create', 'elsewhere', '--docker', f'host=unix://{tmp_path}/other.sock']
    subprocess.run(make, check=True, capture_output=True)
    monkeypatch.setenv('DOCKER_CONTEXT', 'elsewhere')

    with Engine() as engine, pytest.raises(EngineUnavailableError, match="docker context 'elsewhere'"):
        engine.ping()


def test_network_is_made_once_by_many_processes_at_once(engine: Engine) -> None:
    suffix = uuid.uuid4().hex[:8]
    name, device = f'container:enclave-test-{suffix}', f'enct{suffix}'
    program = textwrap.dedent(f"""
        import sys
        import threading
        from enclave.sandboxes.docker.engine import get_engine
        from enclave.sandboxes.docker.network import Bridge, ensure_network

        get_engine().ping()
        print('ready', flush=True)
        sys.stdin.readline()
        failures, found = [], set()
        def make():
            try:
                found.add(ensure_network(get_engine(), quick=Bridge({name!r}, {device!r})))
            except BaseException as error:
                failures.append(error)
        threads = [threading.Thread(target=make) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        print(*found)
        sys.exit(repr(failures) if failures else 0)
    """)
    command = [sys.executable, '-c', program]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == 'ready\n'
        for child in children:
            assert child.stdin is not None
            child.stdin.write('go\n')
            child.stdin.flush()
        codes, found = [], []
        for child in children:
            found += child.communicate(timeout=PATIENCE)[0].split()
            codes.append(child.returncode)
        networks = [each for each in engine.api.networks(names=[name]) if each['Name'] == name]

        assert codes == [0] * 8
        assert len(networks) == 1
        assert found == [networks[0]['Id']] * 8
        assert networks[0]['Options']['com.docker.network.bridge.enable_icc'] == 'false'
    finally:
        for each in engine.api.networks(names=[name]):
            engine.api.remove_network(each['Id'])


@pytest.fixture
def bridges(engine: Engine) -> Iterator[tuple[Bridge, Bridge]]:
    suffix = uuid.uuid4().hex[:8]
    yield (
        Bridge(f'container:enclave-test-{suffix}', f'enctq{suffix}'),
        Bridge(f'enclave-test-{suffix}', f'enctp{suffix}'),
    )
    engine.memory.clear()
    for each in engine.api.networks():
        if suffix in each['Name']:
            engine.api.remove_network(each['Id'])


def networks_like(engine: Engine, bridge: Bridge) -> list[str]:
    return [each['Id'] for each in engine.api.networks() if each['Name'] == bridge.name]


def test_network_removed_behind_our_back_is_made_again(engine: Engine, bridges: tuple[Bridge, Bridge]) -> None:
    quick, plain = bridges
    lost = ensure_network(engine, quick=quick, plain=plain)
    engine.api.remove_network(lost)

    forget_network(engine, lost, quick=quick)
    found = ensure_network(engine, quick=quick, plain=plain)

    assert found != lost
    assert networks_like(engine, quick) == [found]


def test_network_that_containers_cannot_join_is_replaced_by_one_with_an_ordinary_name(
    engine: Engine, bridges: tuple[Bridge, Bridge]
) -> None:
    quick, plain = bridges
    useless = ensure_network(engine, quick=quick, plain=plain)

    forget_network(engine, useless, quick=quick)
    found = ensure_network(engine, quick=quick, plain=plain)

    assert found != useless
    assert networks_like(engine, plain) == [found]


def test_engine_that_refuses_the_network_gets_a_network_with_an_ordinary_one(
    engine: Engine, bridges: tuple[Bridge, Bridge]
) -> None:
    quick, plain = bridges
    refused = Bridge(quick.name, 'a-device-name-that-is-too-long')

    found = ensure_network(engine, quick=refused, plain=plain)

    assert networks_like(engine, plain) == [found]


def test_network_of_somebody_else_is_not_taken_for_ours(engine: Engine, bridges: tuple[Bridge, Bridge]) -> None:
    quick, plain = bridges
    for each in (quick, plain):
        engine.api.create_network(each.name, driver='bridge')

    with pytest.raises(EngineError, match='not ours'):
        ensure_network(engine, quick=quick, plain=plain)
