"""The ways that the SDK keeps when it drops its variables for addresses: E2B_DEBUG's ports, and names of a domain over TLS."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.errors import ServerUnavailableError
from tests.e2b.test_sdk import BACKENDS, KEY, run
from tests.support.server import serving

DOMAIN = 'boxes.test'
pytestmark = pytest.mark.e2b


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('E2B_', 'PYTHON'))}
    return {**kept, 'E2B_API_KEY': KEY, **more}


@pytest.mark.parametrize('kind', BACKENDS)
def test_the_sdk_finds_the_debug_ports(kind: str) -> None:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(serving(sandbox_type=kind, e2b={'debug': True}))
        except ServerUnavailableError:
            pytest.skip('one of the three ports is in use')
        output = run('names_program.py', env=environment(E2B_DEBUG='true'))

    assert output.splitlines() == [
        'command here',
        "file written ['a.txt']",
        'code 42 1',
        'running True',
        'listed True',
        'signed written',
        'killed True',
    ]


@pytest.mark.parametrize('kind', BACKENDS)
def test_the_sdk_finds_names_behind_a_proxy_with_tls(kind: str, tmp_path: Path) -> None:
    if shutil.which('openssl') is None:
        pytest.skip('openssl makes the certificate')
    authority, certificate = make_certificate(tmp_path)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(sandbox_type=kind, api_key=KEY, e2b={'domain': DOMAIN}))
        port = stack.enter_context(proxying(certificate, server.port))
        variables = {
            'E2B_TEST_PROXY': f'http://127.0.0.1:{port}',
            'SSL_CERT_FILE': str(authority),
            'E2B_DOMAIN': DOMAIN,
        }
        output = run('names_program.py', env=environment(**variables))

    assert output.splitlines() == [
        'command here',
        "file written ['a.txt']",
        'code 42 1',
        'running True',
        'listed True',
        'signed written',
        'port written 401',
        'killed True True False',
    ]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return an authority's certificate, and one that it signed for the names of the domain, with its key."""

    def openssl(*args: str) -> None:
        subprocess.run(['openssl', *args], cwd=folder, check=True, capture_output=True)

    key = ('-newkey', 'rsa:2048', '-nodes')
    openssl('req', '-x509', *key, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=tests')
    openssl('req', *key, '-keyout', 'leaf.key', '-out', 'leaf.csr', '-subj', f'/CN={DOMAIN}')
    (folder / 'names').write_text(f'subjectAltName=DNS:*.{DOMAIN}\nbasicConstraints=CA:FALSE\n')
    signing = ('-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'names')
    openssl('x509', '-req', '-in', 'leaf.csr', '-out', 'leaf.pem', *signing)
    both = folder / 'both.pem'
    both.write_text((folder / 'leaf.pem').read_text() + (folder / 'leaf.key').read_text())
    return folder / 'ca.pem', both


@contextlib.contextmanager
def proxying(certificate: Path, port: int) -> Iterator[int]:
    """Serve as a proxy that takes CONNECT to any name, speaks TLS with its client and plain HTTP with the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(('127.0.0.1', 0))

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = b''
            while b'\r\n\r\n' not in head and (data := client.recv(4096)):
                head += data
            client.sendall(b'HTTP/1.1 200 Connection established\r\n\r\n')
            with (
                context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(('127.0.0.1', port)) as plain,
            ):
                back = threading.Thread(target=pump, args=(plain, secure), daemon=True)
                back.start()
                pump(secure, plain)
                back.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
