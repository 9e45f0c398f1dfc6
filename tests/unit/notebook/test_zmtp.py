from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.deadline import Deadline
from enclave.errors import OperationTimeoutError
from enclave.sandboxes.notebook.zmtp import (
    MAX_PARTS,
    LeftOut,
    ZmtpDecoder,
    ZmtpError,
    ZmtpSocket,
    encode_command,
    encode_message,
    encode_ready,
    greeting,
)

MESSAGES = st.lists(st.lists(st.binary(max_size=600), min_size=1, max_size=5), max_size=5)


def handshake() -> bytes:
    return greeting() + encode_ready(b'ROUTER')


class Wire:
    """A peer that says what it was given, and keeps what it is reported."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent: list[bytes] = []
        self.closed = False

    def recv(self, max_bytes: int = 65536, timeout: float | None = None) -> bytes:
        return self.pieces.pop(0) if self.pieces else b''

    def sendall(self, data: bytes, timeout: float | None = None) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True


@given(MESSAGES, st.integers(min_value=1, max_value=200))
def test_messages_survive_any_cutting(messages: list[list[bytes]], step: int) -> None:
    decoder = ZmtpDecoder()
    data = handshake() + b''.join(map(encode_message, messages))

    found = [each for start in range(0, len(data), step) for each in decoder.feed(data[start : start + step])]

    assert found == messages


@given(st.binary(max_size=300))
def test_garbage_is_an_error_or_nothing(data: bytes) -> None:
    decoder = ZmtpDecoder()
    try:
        messages = decoder.feed(handshake() + data)
    except ZmtpError:
        return
    assert all(isinstance(part, bytes) for message in messages for part in message)


def test_a_part_over_the_limit_is_left_out_and_what_follows_is_read() -> None:
    decoder = ZmtpDecoder(max_frame_bytes=1000)
    big = encode_message([b'topic', b'x' * 5000, b'end'])

    found = [each for byte in handshake() + big + encode_message([b'next']) for each in decoder.feed(bytes([byte]))]

    assert found == [[b'topic', LeftOut(5000), b'end'], [b'next']]


@pytest.mark.parametrize(
    'data',
    [
        b'HTTP/1.0 400 Bad Request\r\n\r\n',
        b'\xff' + bytes(8) + b'\x7f\x01' + bytes(60),
        greeting().replace(b'NULL', b'PLAI'),
        greeting() + encode_message([b'too early']),
        handshake() + b'\xff\x01',
        handshake() + b'\x06' + (1 << 40).to_bytes(8, 'big'),
        handshake() + encode_message([b''] * (MAX_PARTS + 1)),
        greeting() + encode_command(b'ERROR', b'\x03no!'),
    ],
    ids=['http', 'old', 'mechanism', 'early', 'flags', 'huge-command', 'parts', 'error'],
)
def test_what_is_no_zmtp_is_refused(data: bytes) -> None:
    with pytest.raises(ZmtpError):
        ZmtpDecoder().feed(data)


def test_a_subscriber_speaks_only_after_the_greeting() -> None:
    wire = Wire(greeting(), encode_ready(b'XPUB') + encode_message([b'a', b'b']))

    socket = ZmtpSocket(wire, b'SUB')

    assert wire.sent == [greeting(), encode_ready(b'SUB') + encode_message([b'\x01'])]
    assert socket.receive(Deadline()) == [b'a', b'b']
    assert socket.receive(Deadline()) is None


def test_a_ping_is_answered() -> None:
    wire = Wire(handshake(), encode_command(b'PING', b'\x00\x0actx') + encode_message([b'x']))
    socket = ZmtpSocket(wire, b'DEALER')

    socket.receive(Deadline())

    assert wire.sent[-1] == encode_command(b'PONG', b'ctx')


def test_a_far_end_that_closes_at_once_is_an_error() -> None:
    with pytest.raises(ZmtpError):
        ZmtpSocket(Wire(), b'DEALER')


def test_a_peer_that_reads_nothing_does_not_hold_up_the_one_that_receives() -> None:
    """An answer that the protocol wants is sent within the deadline too."""

    class Deaf(Wire):
        def sendall(self, data: bytes, timeout: float | None = None) -> None:
            super().sendall(data, timeout)
            self.timeouts = [*getattr(self, 'timeouts', []), timeout]
            if len(self.sent) > 2:
                raise OperationTimeoutError('nothing was read')

    wire = Deaf(handshake(), encode_command(b'PING', b'\0\0context'))
    socket = ZmtpSocket(wire, b'DEALER')

    with pytest.raises(OperationTimeoutError):
        socket.receive(Deadline.after(5.0))

    assert len(wire.timeouts) == 3
    assert all(timeout is not None and 0 < timeout <= 60 for timeout in wire.timeouts)
    assert wire.timeouts[-1] <= 5.0
