"""Jupyter's messages (floor 4), and the one door to ``jupyter_client``: its `Session` builds, signs and checks them.

Source: https://jupyter-client.readthedocs.io/en/stable/messaging.html

The key that signs is made for one kernel and known to that kernel's process and to us. It keeps others in the sandbox from
speaking for the kernel as long as they cannot read its files; what the kernel itself says is the guest's word, so every field
is checked where it is used.
"""

from __future__ import annotations

import secrets
import threading
from typing import Any

from attrs import Factory, frozen

from enclave.sandboxes.notebook.zmtp import Parts

SIGNATURE_SCHEME = 'hmac-sha256'
_DELIMITER = b'<IDS|MSG>'


class MessageError(Exception):
    """A message is not signed with the kernel's key, or is no message."""


def make_key() -> str:
    """Return a new key for signing."""
    return secrets.token_hex(32)


@frozen(kw_only=True)
class Message:
    """A message from a kernel. ``parent_id`` is the request it belongs to; ``left_out`` is true when it was too large to keep,
    and then it has no content."""

    type: str
    parent_id: str = ''
    content: dict[str, Any] = Factory(dict)
    metadata: dict[str, Any] = Factory(dict)
    left_out: bool = False


class Messenger:
    """Makes and reads the messages of one kernel. Any thread may use it. Lives as long as the kernel's process."""

    def __init__(self, key: str) -> None:
        from jupyter_client.session import Session

        self._session = Session(key=key.encode(), signature_scheme=SIGNATURE_SCHEME, username='enclave')
        self._lock = threading.Lock()  # guards the session, which counts messages and remembers signatures

    def make_request(self, message_type: str, content: dict[str, Any]) -> tuple[str, list[bytes]]:
        """Return a request's id, and its parts for the wire."""
        with self._lock:
            message = self._session.msg(message_type, content)
            parts = [bytes(part) for part in self._session.serialize(message)]
        return str(message['header']['msg_id']), parts

    def read(self, parts: Parts) -> Message:
        """Return the message that came.

        Raises:
            MessageError: It is not signed with our key, was sent twice, or is malformed.
        """
        try:
            start = parts.index(_DELIMITER) + 1
        except ValueError:
            raise MessageError('it has no delimiter') from None
        body = parts[start:]
        if None in body:
            return self._read_left_out(body)
        try:
            with self._lock:
                found = self._session.deserialize([part for part in body if part is not None])
            header, parent, content, metadata = (
                found[name] for name in ('header', 'parent_header', 'content', 'metadata')
            )
            if not all(isinstance(each, dict) for each in (header, parent, content, metadata)):
                raise MessageError('a part of it is no object')
            return Message(
                type=str(header.get('msg_type', '')),
                parent_id=str(parent.get('msg_id', '')),
                content=content,
                metadata=metadata,
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise MessageError(str(error)[:200]) from error

    def _read_left_out(self, body: Parts) -> Message:
        """Read what there is of a message whose content was too large. Its signature cannot be checked without that."""
        import json

        try:
            header, parent = (json.loads(part or b'{}') for part in (body[1], body[2]))
            kind, parent_id = header.get('msg_type', ''), parent.get('msg_id', '')
        except (ValueError, IndexError, AttributeError, RecursionError) as error:
            raise MessageError(str(error)[:200]) from error
        return Message(type=str(kind), parent_id=str(parent_id), left_out=True)
