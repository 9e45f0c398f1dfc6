from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from enclave.agent.program import (
    CHUNK,
    CONTROL,
    CREDIT,
    DATA,
    END,
    EOF,
    ERR,
    EVENT,
    HELLO,
    INPUT_WINDOW,
    MAX_PAYLOAD,
    OPEN,
    U32,
    encode_frame,
    pack_message,
    unpack_message,
)
from enclave.channel.channel import OVERRUN, STREAM_WINDOW, Channel, Reply
from enclave.deadline import Deadline
from enclave.errors import (
    InvalidArgumentError,
    OperationTimeoutError,
    SandboxBrokenError,
    SandboxGoneError,
)
from tests.support.stream import GREETING, ScriptedStream


def patient() -> Deadline:
    return Deadline.after(30)


@pytest.fixture
def stream() -> ScriptedStream:
    return ScriptedStream()


@pytest.fixture
def channel(stream: ScriptedStream) -> Iterator[Channel]:
    made = Channel('box', stream)
    made.start(patient())
    yield made
    made.close()


def test_the_greeting_is_reported(channel: Channel) -> None:
    assert channel.hello is not None
    assert channel.hello.shell == '/bin/sh'


def test_an_answer_reaches_its_call(channel: Channel, stream: ScriptedStream) -> None:
    first, second = channel.open({'op': 'a'}), channel.open({'op': 'b'})
    stream.answer(second.number, {'which': 2}, b'rest')
    stream.answer(first.number, {'which': 1})

    assert first.wait(patient()).integer('which') == 1
    assert second.wait(patient()).integer('which') == 2
    assert second.take_rest() == b'rest'
    assert channel.active_calls == 0


def test_output_is_kept_in_order_and_apart(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'})
    for kind, data in ((DATA, b'a'), (ERR, b'x'), (DATA, b'b'), (ERR, b'y')):
        stream.say(encode_frame(kind, call.number, data))
    stream.answer(call.number, {})
    call.wait(patient())

    assert call.take_output() == (b'ab', b'xy')


def test_frames_may_come_in_any_pieces(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'})
    for byte in encode_frame(DATA, call.number, b'data') + encode_frame(END, call.number, pack_message({})):
        stream.say(bytes([byte]))

    call.wait(patient())
    assert call.take_output()[0] == b'data'


def test_live_output_is_paid_for_when_it_is_taken(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'}, live=True)
    assert stream.frames.get()[0] == OPEN
    stream.say(encode_frame(DATA, call.number, b'12345'))

    assert call.next_frame(patient()) == (DATA, b'12345')

    assert stream.frames.get() == (CREDIT, call.number, U32.pack(5))


def test_next_frame_is_none_after_the_end(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'}, live=True)
    stream.say(encode_frame(EVENT, call.number, pack_message({'started': 7})))
    stream.answer(call.number, {})

    assert call.next_frame(patient()) == (EVENT, pack_message({'started': 7}))
    assert call.next_frame(patient()) is None
    assert call.next_frame(patient()) is None


def test_input_waits_for_credit(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'})
    done = threading.Event()

    def write() -> None:
        assert call.write(b'x' * (INPUT_WINDOW + 10), patient())
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert stream.frames.get()[0] == OPEN
    sent = 0
    while sent < INPUT_WINDOW:
        kind, _, payload = stream.frames.get()
        assert kind == DATA
        assert len(payload) <= CHUNK
        sent += len(payload)
    assert not done.is_set()
    stream.say(encode_frame(CREDIT, call.number, U32.pack(CHUNK)))
    thread.join(30)

    assert done.is_set()
    assert len(stream.frames.get()[2]) == 10


def test_input_that_was_sent_inline_counts(channel: Channel) -> None:
    call = channel.open({'op': 'run'}, b'x' * 1000)

    assert call._credit == INPUT_WINDOW - 1000


def test_writing_stops_when_the_call_ends(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'})
    stream.answer(call.number, {})
    call.wait(patient())

    assert call.write(b'x' * 10, patient()) is False


def test_waits_end_at_their_deadline(channel: Channel) -> None:
    call = channel.open({'op': 'run'}, live=True)

    with pytest.raises(OperationTimeoutError):
        call.wait(Deadline.after(0.01))
    with pytest.raises(OperationTimeoutError):
        call.next_frame(Deadline.after(0.01))
    with pytest.raises(OperationTimeoutError):
        call.write(b'x' * (INPUT_WINDOW + 1), Deadline.after(0.01))


def test_cancel_and_control_are_sent(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'})
    call.cancel()
    call.control(signal=2, target='main')
    call.close_input()
    stream.frames.get()

    reported = [stream.frames.get() for _ in range(3)]

    assert [unpack_message(payload)[0] for kind, _, payload in reported if kind == CONTROL] == [
        {'cancel': True},
        {'signal': 2, 'target': 'main'},
    ]
    assert reported[2][0] == EOF


def test_a_request_that_fits_no_frame_is_refused(channel: Channel) -> None:
    with pytest.raises(InvalidArgumentError, match='limit'):
        channel.open({'op': 'run', 'argv': ['x' * MAX_PAYLOAD]})
    assert channel.active_calls == 0


def test_the_end_of_the_stream_is_reported_to_every_call(channel: Channel, stream: ScriptedStream) -> None:
    calls = [channel.open({'op': 'run'}) for _ in range(3)]
    stream.stderr_tail = 'Killed'
    stream.say(b'')

    for call in calls:
        with pytest.raises(SandboxGoneError, match='Killed'):
            call.wait(patient())
    with pytest.raises(SandboxGoneError):
        channel.open({'op': 'ping'})
    assert stream.closed


def test_a_stream_that_fails_in_writing_loses_the_channel(channel: Channel, stream: ScriptedStream) -> None:
    stream.fails_with = BrokenPipeError('gone')

    with pytest.raises(SandboxGoneError):
        channel.open({'op': 'ping'})
    assert channel.lost is not None


def test_closing_is_reported_to_waiting_calls_and_may_be_repeated(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'})
    channel.close()
    channel.close()

    with pytest.raises(SandboxGoneError, match='stopped'):
        call.wait(patient())
    assert channel.lost is not None
    assert channel.lost.is_ours
    assert not [thread for thread in threading.enumerate() if thread.name == 'enclave-channel-box']


END_MESSAGE = pack_message({})

BREACHES = {
    'no frame at all': b'\xff' * 64,
    'a frame that is too large': (MAX_PAYLOAD + 1).to_bytes(4, 'big') + b'\x03\0\0\0\1',
    'an unknown kind': encode_frame(DATA, 1, b'')[:4] + b'\x63' + b'\0\0\0\1',
    'output of a call nobody made': encode_frame(DATA, 77, b'x'),
    'the end of a call nobody made': encode_frame(END, 77, END_MESSAGE),
    'a second greeting': encode_frame(HELLO, 1, END_MESSAGE),
    'a request': encode_frame(OPEN, 1, END_MESSAGE),
    'an end twice': encode_frame(END, 1, END_MESSAGE) * 2,
    'an end that is no message': encode_frame(END, 1, b'{}'),
    'an end with half a message': encode_frame(END, 1, U32.pack(50) + b'{}'),
    'an end that is no object': encode_frame(END, 1, U32.pack(2) + b'[]'),
    'an end in deep brackets': encode_frame(END, 1, U32.pack(200_000) + b'[' * 200_000),
    'an event that is no message': encode_frame(EVENT, 1, b'x'),
    'credit of a wrong size': encode_frame(CREDIT, 1, b'\0'),
    'credit above the window': encode_frame(CREDIT, 1, U32.pack(1)),
}


@pytest.mark.parametrize('rubbish', BREACHES.values(), ids=BREACHES.keys())
def test_the_first_breach_closes_the_channel(channel: Channel, stream: ScriptedStream, rubbish: bytes) -> None:
    call = channel.open({'op': 'run'}, live=True)
    other = channel.open({'op': 'run'})
    assert call.number == 1
    stream.say(rubbish)

    with pytest.raises(SandboxBrokenError):
        other.wait(patient())
    with pytest.raises(SandboxBrokenError):
        channel.open({'op': 'ping'})
    assert stream.closed
    assert channel.lost is not None
    assert channel.lost.is_breach


def test_more_output_than_was_allowed_is_a_breach(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'}, limit=10)
    stream.say(encode_frame(DATA, call.number, b'x' * 11))

    with pytest.raises(SandboxBrokenError, match='more output'):
        call.wait(patient())


def test_a_flood_without_credit_is_bounded(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'}, live=True)
    for _ in range((STREAM_WINDOW + OVERRUN) // CHUNK + 2):
        stream.say(encode_frame(DATA, call.number, b'x' * CHUNK))

    with pytest.raises(SandboxBrokenError):
        channel.open({'op': 'ping'}).wait(patient())
    assert call._received <= STREAM_WINDOW + OVERRUN + CHUNK


@pytest.mark.parametrize(
    'greeting',
    [
        {},
        {**GREETING, 'protocol': 99},
        {**GREETING, 'pid': 'one'},
        {**GREETING, 'guarded': 'yes'},
        {**GREETING, 'shell': None},
        {**GREETING, 'uid': -1},
        {**GREETING, 'cwd': 5},
    ],
)
def test_a_greeting_that_is_not_right_is_a_breach(greeting: dict[str, Any]) -> None:
    stream = ScriptedStream(greets=False)
    stream.say(encode_frame(HELLO, 0, pack_message(greeting)))

    with pytest.raises(SandboxBrokenError):
        Channel('box', stream).start(patient())


def test_something_else_that_answers_is_a_breach() -> None:
    stream = ScriptedStream(greets=False)
    stream.say(b'Welcome to busybox!\n')

    with pytest.raises(SandboxBrokenError):
        Channel('box', stream).start(patient())


def test_a_peer_that_ends_before_greeting_leaves_the_end_of_its_stderr() -> None:
    stream = ScriptedStream(greets=False)
    stream.stderr_tail = 'sh: python3: not found'
    stream.say(b'')

    with pytest.raises(SandboxGoneError, match='python3: not found'):
        Channel('box', stream).start(patient())


def test_silence_is_bounded_by_the_deadline() -> None:
    stream = ScriptedStream(greets=False)
    channel = Channel('box', stream)

    with pytest.raises(OperationTimeoutError):
        channel.start(Deadline.after(0.01))
    channel.close()


@pytest.mark.parametrize(
    ('read', 'value'),
    [
        (lambda facts: facts.integer('x'), '1'),
        (lambda facts: facts.integer('x'), True),
        (lambda facts: facts.integer('x'), -1),
        (lambda facts: facts.integer('x', high=255), 256),
        (lambda facts: facts.integer('x'), 1.0),
        (lambda facts: facts.number('x'), 'nan'),
        (lambda facts: facts.number('x'), float('nan')),
        (lambda facts: facts.number('x'), float('inf')),
        (lambda facts: facts.number('x'), -0.1),
        (lambda facts: facts.signed('x'), 1e300),
        (lambda facts: facts.flag('x'), 1),
        (lambda facts: facts.text('x'), b'bytes'),
        (lambda facts: facts.text('x'), None),
        (lambda facts: facts.pair('x'), [1]),
        (lambda facts: facts.pair('x'), [1, 2]),
        (lambda facts: facts.pair('x'), [2, -1]),
        (lambda facts: facts.facts('x'), []),
    ],
)
def test_every_field_of_an_answer_is_checked(read: Any, value: Any) -> None:
    from enclave.agent.program import ProtocolError

    with pytest.raises(ProtocolError):
        read(Reply({'x': value}))


def test_empty_output_is_a_breach(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'}, live=True)
    stream.say(encode_frame(DATA, call.number, b''))

    with pytest.raises(SandboxBrokenError, match='empty'):
        call.wait(patient())


def test_a_flood_of_events_is_a_breach(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'}, live=True)
    stream.say(encode_frame(EVENT, call.number, pack_message({'started': 1})) * 2000)

    with pytest.raises(SandboxBrokenError, match='unexpected'):
        call.wait(patient())


@pytest.mark.parametrize('live', [True, False])
def test_tiny_pieces_are_kept_together(channel: Channel, stream: ScriptedStream, live: bool) -> None:
    call = channel.open({'op': 'run'}, live=live)
    stream.say(
        b''.join(encode_frame(ERR if n % 1000 == 999 else DATA, call.number, b'%d' % (n % 10)) for n in range(5000))
    )
    stream.answer(call.number, {'exit': 0})
    call.wait(patient())

    assert len(call._frames) <= 11
    out, err = call.take_output()
    assert out == b''.join(b'%d' % (n % 10) for n in range(5000) if n % 1000 != 999)
    assert err == b'99999'


def test_pieces_of_output_are_nothing_else(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'})
    for kind, data in ((EVENT, pack_message({'started': 1})), (DATA, b'a'), (EOF, b''), (ERR, b'b')):
        stream.say(encode_frame(kind, call.number, data))
    stream.answer(call.number, {'exit': 0})
    call.wait(patient())

    assert list(call.take_pieces()) == [(DATA, b'a'), (ERR, b'b')]


def test_pieces_that_were_taken_grow_no_more(channel: Channel, stream: ScriptedStream) -> None:
    call = channel.open({'op': 'run'}, live=True)
    taken = []
    for number in range(5):
        stream.say(encode_frame(DATA, call.number, b'%d' % number))
        taken.append(call.next_frame(patient()))

    assert taken == [(DATA, b'%d' % number) for number in range(5)]


def test_an_interrupted_write_closes_the_channel_rather_than_mixing_frames(
    channel: Channel, stream: ScriptedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = channel.open({'op': 'run'})

    def interrupted(data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, 'write', interrupted)
    with pytest.raises(KeyboardInterrupt):
        call.close_input()
    monkeypatch.undo()

    with pytest.raises(SandboxGoneError, match='cut short by KeyboardInterrupt'):
        call.wait(patient())
    call.cancel()


def test_a_cancellation_from_within_a_write_does_not_wait_for_it(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may run in the middle of a write, and close a forgotten generator of that very thread."""
    monkeypatch.setattr('enclave.channel.channel.CANCEL_WAIT_SECONDS', 0.01)
    call = channel.open({'op': 'run'})

    with channel._writing:
        call.cancel()


def test_what_starts_the_agent_is_not_kept() -> None:
    program = b'program' * 1000
    stream = ScriptedStream()
    made = Channel('box', stream, program=program)
    try:
        made.start(patient())

        assert stream.heard == program
        assert not [each for each in gc.get_referents(made) if each is program]
    finally:
        made.close()
