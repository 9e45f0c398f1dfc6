"""A sandbox's own names and addresses can be bound and connected to, as distributed libraries do when they start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from enclave.enums import SandboxType
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from tests.support.backends import Backend

Start = Callable[..., AgentBackedSandbox]
BIND = (
    'import asyncio, socket, sys\n'
    'for family, host in ((2, "localhost"), (2, "127.0.0.1"), (2, socket.gethostname()), (10, "localhost"), (10, "::1")):\n'
    '  with socket.socket(family) as s: s.bind((host, 0))\n'
    'for host in ("localhost", socket.gethostname()):\n'
    '  for found in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):\n'
    '    with socket.socket(*found[:2]) as s: s.bind(found[4])\n'
    'async def main():\n'
    '  async with await asyncio.start_server(print, "localhost", 0): pass\n'
    'asyncio.run(main())\n'
    'with socket.create_server(("localhost", 0)) as s:\n'
    '  socket.create_connection(("localhost", s.getsockname()[1])).close()\n'
    'print("all")\n'
)


@pytest.mark.parametrize('network', [False, True])
def test_its_own_names_can_be_bound(start: Start, backend: Backend, network: bool) -> None:
    if network and backend.sandbox_type is not SandboxType.DOCKER:
        pytest.skip('its network is that of this machine')
    sandbox = start(network_enabled=network)

    result = sandbox.execute_command(['python3', '-c', BIND], 60)

    assert (result.stdout, result.stderr) == ('all\n', '')


@pytest.mark.parametrize('address', ['127.0.0.1', '::1', 'localhost'])
def test_a_server_at_any_of_its_addresses_can_be_connected_to(start: Start, address: str) -> None:
    sandbox = start()
    code = (
        'import socket, sys\n'
        f'found = socket.getaddrinfo({address!r}, 0, type=socket.SOCK_STREAM)[0]\n'
        'server = socket.socket(*found[:2])\n'
        'server.bind(found[4])\n'
        'server.listen()\n'
        'print(server.getsockname()[1], flush=True)\n'
        'for _ in range(2): connection, _ = server.accept(); connection.sendall(b"hello"); connection.close()\n'
    )
    with sandbox.start_process(['python3', '-c', code]) as server:
        port = int(next(server.chunks(60)).text)
        with sandbox.connect_port(port) as connection:
            assert connection.recv(timeout=60) == b'hello'
        with sandbox.connect_port(port, 'localhost') as connection:
            assert connection.recv(timeout=60) == b'hello'
