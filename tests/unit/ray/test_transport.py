"""Requests to a shard, which is a plain server here: what is kept of them there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from enclave.errors import EnclaveError
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.ray.transport import ShardClient
from enclave.rulings import SHARED
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.server.serve import SandboxServer
from tests.support.sandbox import FakeBackend, FakeSandbox
from tests.support.server import serving


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    SandboxFactory.register_sandbox(
        'fake', type('TestSandbox', (FakeSandbox,), {'backend': FakeBackend()}), rulings=SHARED
    )
    with serving(sandbox_type='fake', api_key='k' * 32) as server:
        yield server


@pytest.fixture
def client(server: SandboxServer) -> Iterator[ShardClient]:
    facts = {'url': server.url, 'key': 'k' * 32, 'tunnel': ('127.0.0.1', 1)}
    made = ShardClient(SandboxManagerConfig(), facts, judge=lambda error: error, cancel_later=lambda action: action())
    made.start()
    yield made
    made.stop()


def kept(server: SandboxServer) -> int:
    """Return how many answers a server keeps for repeats."""
    return sum(len(each.ended) + len(each.entries) for each in server.service.repeats._tenants.values())


def test_a_shard_does_not_keep_the_answers_that_its_client_has(server: SandboxServer, client: ShardClient) -> None:
    for _ in range(20):
        client.delete_sandbox(client.create_sandbox())

    assert kept(server) == 1


def test_the_answer_to_what_was_sent_twice_is_kept(
    server: SandboxServer, client: ShardClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport: Any = client._transport
    ask, broken = transport._ask, []

    def ask_and_lose(*arguments: Any) -> Any:
        response = ask(*arguments)
        if not broken:
            broken.append(response.content)
            raise requests.exceptions.ConnectionError('the connection broke')
        return response

    monkeypatch.setattr(transport, '_ask', ask_and_lose)
    made = client.create_sandbox()
    for _ in range(3):
        with pytest.raises(EnclaveError):
            client.delete_sandbox('none')

    assert made.encode() in broken[0]
    assert kept(server) == 2, 'the first request may still be on its way'
