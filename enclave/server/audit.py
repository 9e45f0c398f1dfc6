"""A line for every request (layer 6): who, what, on which sandbox, how it ended, how long it took.

Lines are JSON objects on the logger ``enclave.server.audit`` at INFO, and in a file if one was named. No body, no message and no
value of anything that was sent is ever in them.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import IO, Any

from attrs import frozen

from enclave import wire
from enclave.errors import ConfigurationError
from enclave.records import Model, utc_now

logger = logging.getLogger(__name__)


@frozen(kw_only=True)
class AuditLine(Model):
    """One request.

    ``who`` is the key's name; ``route`` the pattern; ``seconds`` until the last byte was handed over; ``code`` that of the error;
    ``kernel`` the one of a notebook that was asked.
    """

    time: str
    request_id: str
    who: str
    address: str
    method: str
    route: str
    path: str
    sandbox_id: str | None
    tool_name: str | None
    status: int
    code: str | None
    seconds: float
    replayed: bool = False
    kernel: str | None = None


class Audit:
    """Writes the lines. Lives as long as the server; any thread may write.

    Args:
        path: A file to append to, readable by its tenant only; None for the log alone.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._lock = threading.Lock()  # guards _file
        self._file: IO[str] | None = None
        if path is not None:
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                raise ConfigurationError(
                    f'the audit file {os.fspath(path)} cannot be written: {error.strerror}'
                ) from None
            self._file = os.fdopen(handle, 'a', encoding='utf-8')

    @property
    def is_read(self) -> bool:
        """Whether lines go anywhere."""
        return self._file is not None or logger.isEnabledFor(logging.INFO)

    def write(self, **facts: Any) -> None:
        """Write the line of a request that has ended; see `AuditLine`."""
        if not self.is_read:
            return
        line = AuditLine(time=utc_now().isoformat(timespec='milliseconds'), **facts)
        text = wire.to_json(line)
        logger.info('%s', text)
        with self._lock:
            if self._file is not None:
                try:
                    self._file.write(text + '\n')
                    self._file.flush()
                except OSError:
                    logger.exception('the audit file cannot be written')

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            file.close()
