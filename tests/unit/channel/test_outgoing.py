"""Frames go out whole and in order, and a peer that takes nothing holds nobody up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from enclave.channel import outgoing
from enclave.channel.outgoing import OutgoingQueue, QueueFullError
from enclave.sandboxes.owner import is_stopped

PATIENCE = 120.0


class Pipe:
    """A stream of few bytes at a time, whose peer takes something only when it is reported to."""

    def __init__(self) -> None:
        self.taken = bytearray()
        self.room = threading.Event()

    def write_some(self, data: bytes) -> int:
        if not self.room.is_set():
            return 0
        self.taken += data[:3]
        return min(3, len(data))

    def wait_writable(self, timeout: float) -> bool:
        return self.room.wait(min(timeout, 0.01) if not self.room.is_set() else 0)

    def write(self, data: bytes) -> None:
        self.room.wait(PATIENCE)
        self.taken += data

    def read(self) -> bytes:
        return b''

    def close(self) -> None:
        pass

    def diagnostics(self) -> str:
        return ''


def make(pipe: Pipe) -> OutgoingQueue:
    return OutgoingQueue(pipe, 'test', lambda error: None, threading.Lock())


def test_frames_of_many_threads_arrive_whole() -> None:
    pipe = Pipe()
    pipe.room.set()
    queue = make(pipe)
    threads = [
        threading.Thread(target=lambda n=n: [queue.put(b'<%d:%d>' % (n, k)) for k in range(200)]) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    frames = bytes(pipe.taken).decode().strip('<>').split('><')

    assert sorted(frames) == sorted(f'{n}:{k}' for n in range(8) for k in range(200))
    for n in range(8):
        own = [frame for frame in frames if frame.startswith(f'{n}:')]
        assert own == [f'{n}:{k}' for k in range(200)]


def test_a_peer_that_takes_nothing_gets_all_in_order_when_it_does() -> None:
    pipe = Pipe()
    queue = make(pipe)

    for number in range(50):
        assert queue.put(b'[%d]' % number)
    assert pipe.taken == b''
    pipe.room.set()
    wanted = b''.join(b'[%d]' % number for number in range(50))
    done = threading.Event()
    for _ in range(1000):
        if bytes(pipe.taken) == wanted:
            break
        done.wait(0.01)

    assert bytes(pipe.taken) == wanted
    queue.put(b'after')
    queue.close()


def test_what_waits_for_such_a_peer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, 'LIMIT_BYTES', 1000)
    queue = make(Pipe())

    for _ in range(12):
        queue.put(b'x' * 100)
    with pytest.raises(QueueFullError):
        queue.put(b'x')


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != 'linux', reason='/proc')
def test_a_stopped_process_is_distinguished_from_one_that_runs() -> None:
    with subprocess.Popen([sys.executable, '-c', 'while True: pass']) as process:
        try:
            assert is_stopped(process.pid) is False
            os.kill(process.pid, 19)
            os.waitpid(process.pid, os.WUNTRACED)
            assert is_stopped(process.pid) is True
        finally:
            process.kill()
    assert is_stopped(process.pid) is None
