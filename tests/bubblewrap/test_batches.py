"""What a batch of programs asks of its sandboxes, over HTTP: two exchanges a program, and no interpreter of its own for each."""

from __future__ import annotations

import collections
import threading
from typing import Any

import pytest

from enclave.channel.channel import Channel
from enclave.languages.values import make_request
from enclave.managers.http import HttpSandboxManager
from enclave.server.serve import create_server

COUNT = 40
SHOWS = 'import os; print(os.getppid(), os.getpid(), open("/proc/self/comm").read().strip())'


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """Count what the agents of all sandboxes are asked."""
    found: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()
    real = Channel.open

    def counted(channel: Channel, message: dict[str, Any], *args: Any, **options: Any) -> Any:
        if message['op'] != 'ping':  # a manager looks after its sandboxes
            with lock:
                found[message['op']] += 1
        return real(channel, message, *args, **options)

    monkeypatch.setattr(Channel, 'open', counted)
    return found


def test_a_program_of_a_batch_is_a_fork_and_costs_two_exchanges(asked: collections.Counter[str]) -> None:
    server = create_server(sandbox_type='bubblewrap')
    url = server.start(port=0)
    try:
        with HttpSandboxManager(base_url=url) as manager:
            manager.initialize_pool(2, 'bubblewrap', {'network_enabled': False})
            asked.clear()
            outcomes = [each.unwrap().stdout.split() for each in manager.run_many([SHOWS] * COUNT)]
            in_batch = dict(asked)
            asked.clear()
            single = manager.run_code_in_pool(SHOWS).stdout.split()
            alone = dict(asked)
            # As a manager over Ray does, which sends each to a shard that has room.
            one_by_one = [
                manager._run_in_batch(make_request(SHOWS), None, None).stdout.split() for _ in range(COUNT // 4)
            ]
    finally:
        server.stop()

    assert in_batch == {'run': COUNT, 'clean': COUNT}
    assert alone == {'run': 1, 'clean': 1}
    # A sandbox of a pool runs one program at a time; another template is made only where one had not been cleaned away yet.
    assert len({parent for parent, _, _ in outcomes}) < COUNT // 2
    assert len({parent for parent, _, _ in one_by_one}) < COUNT // 8
    assert {name for _, _, name in outcomes + one_by_one} == {single[2]}
