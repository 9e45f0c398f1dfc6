from __future__ import annotations

from enclave.channel.streams import ReadSize


def test_little_is_asked_for_until_much_comes() -> None:
    size = ReadSize()

    asked = []
    for came in (20, ReadSize.LEAST, 1 << 16, 1 << 18, 1 << 18, 1 << 17, 100, 100):
        size.note(came)
        asked.append(size.now)

    assert asked == [
        ReadSize.LEAST,
        1 << 16,
        ReadSize.MOST,
        ReadSize.MOST,
        ReadSize.MOST,
        ReadSize.MOST,
        ReadSize.LEAST,
        ReadSize.LEAST,
    ]
