"""Archives that no program would make: each member with whatever facts a test gives it."""

from __future__ import annotations

import io
import tarfile
from typing import Any

Member = tuple[str, dict[str, Any], bytes]
"""A name, attributes of its `tarfile.TarInfo`, and its data."""


def make_tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive of these members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w', format=format) as archive:
        for name, facts, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in facts.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()
