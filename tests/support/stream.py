"""A stream whose peer is the test itself."""

from __future__ import annotations

import queue

from enclave.agent.program import END, HELLO, PROTOCOL, FrameDecoder, encode_frame, pack_message

GREETING = {
    'protocol': PROTOCOL,
    'pid': 1,
    'uid': 0,
    'gid': 0,
    'python': '3.11.0',
    'guarded': True,
    'shell': '/bin/sh',
    'cwd': '/sandbox',
    'cwd_writable': True,
}


class ScriptedStream:
    """What is put with `say` is read; what is written is kept in `heard`, frames in `frames`."""

    def __init__(self, *, greets: bool = True) -> None:
        self._incoming: queue.Queue[bytes] = queue.Queue()
        self.heard = b''
        self.closed = 0
        self.stderr_tail = ''
        self.fails_with: OSError | None = None
        self._decoder: FrameDecoder | None = None
        self.frames: queue.Queue[tuple[int, int, bytes]] = queue.Queue()
        if greets:
            self.say(encode_frame(HELLO, 0, pack_message(GREETING)))

    def say(self, data: bytes) -> None:
        self._incoming.put(data)

    def answer(self, call: int, message: dict[str, object], rest: bytes = b'') -> None:
        self.say(encode_frame(END, call, pack_message(message, rest)))

    def read(self) -> bytes:
        return self._incoming.get()

    def write(self, data: bytes) -> None:
        if self.fails_with:
            raise self.fails_with
        self.heard += data
        if self._decoder is None:
            self._decoder = FrameDecoder()  # the first write is the agent itself
            return
        for frame in self._decoder.feed(data):
            self.frames.put(frame)

    def close(self) -> None:
        self.closed += 1
        self._incoming.put(b'')

    def diagnostics(self) -> str:
        return self.stderr_tail
