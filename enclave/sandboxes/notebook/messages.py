"""Jupyter's messages (layer 4), and the one entry to ``jupyter_client``: its `Session` builds, signs and checks them.

Source: https://jupyter-client.readthedocs.io/en/stable/messaging.html

The key that signs is made for one kernel and known to that kernel's process and to us. It keeps others in the sandbox from
speaking for the kernel as long as they cannot read its files; what the kernel itself says is the guest's word, so every field
is checked where it is used.
"""

from __future__ import annotations

import secrets
import threading
from datetime import datetime, timezone
from typing import Any

from attrs import Factory, frozen

from enclave.sandboxes.notebook.zmtp import LeftOut, Parts

SIGNATURE_SCHEME = 'hmac-sha256'
_DELIMITER = b'<IDS|MSG>'


_DATED = frozenset({'status', 'execute_input', 'execute_reply'})


class MessageError(Exception):
    """A message is not signed with the kernel's key, or is no message."""


def make_key() -> str:
    """Return a new key for signing."""
    return secrets.token_hex(32)


@frozen(kw_only=True)
class Message:
    """A message from a kernel.

    Attributes:
        parent_id: The request it belongs to.
        left_out: The bytes of what was too large to keep, 0 where nothing was. Such a message has no content, save the
            ``name`` of its stream where the topic it was sent under has it.
        date: When the kernel says it made it, as ISO 8601 in UTC; empty where it does not.
        buffers: The binary parts after the content, of a comm's message alone.
    """

    type: str
    parent_id: str = ''
    content: dict[str, Any] = Factory(dict)
    metadata: dict[str, Any] = Factory(dict)
    left_out: int = 0
    date: str = ''
    buffers: list[bytes] = Factory(list)


def _as_text(date: object) -> str:
    """Return a time as Jupyter's tools write it; text for what is none."""
    if not isinstance(date, datetime) or date.tzinfo is None:
        return ''
    try:
        return date.astimezone(timezone.utc).isoformat().replace('+00:00', 'Z')
    except (OverflowError, ValueError):
        return ''


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
        left_out = sum(part.size for part in body if isinstance(part, LeftOut))
        if left_out:
            return self._read_left_out(parts[: start - 1], body, left_out)
        try:
            with self._lock:
                found = self._session.deserialize([part for part in body if isinstance(part, bytes)])
            header, parent, content, metadata = (
                found[name] for name in ('header', 'parent_header', 'content', 'metadata')
            )
            if not all(isinstance(each, dict) for each in (header, parent, content, metadata)):
                raise MessageError('a part of it is no object')
            kind = str(header.get('msg_type', ''))
            return Message(
                type=kind,
                parent_id=str(parent.get('msg_id', '')),
                content=content,
                metadata=metadata,
                date=_as_text(header.get('date')) if kind in _DATED else '',
                buffers=[bytes(each) for each in found['buffers']] if kind.startswith('comm_') else [],
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise MessageError(str(error)[:200]) from error

    def _read_left_out(self, topics: Parts, body: Parts, size: int) -> Message:
        """Read what there is of a message whose content was too large. Its signature cannot be checked without that."""
        import json

        try:
            header, parent = (json.loads(part if isinstance(part, bytes) else b'{}') for part in (body[1], body[2]))
            kind, parent_id = header.get('msg_type', ''), parent.get('msg_id', '')
        except (ValueError, IndexError, AttributeError, RecursionError) as error:
            raise MessageError(str(error)[:200]) from error
        content: dict[str, Any] = {}
        if kind == 'stream' and topics and isinstance(topics[0], bytes):
            content['name'] = topics[0].decode('utf-8', 'replace').rpartition('.')[2]
        return Message(type=str(kind), parent_id=str(parent_id), content=content, left_out=size)
