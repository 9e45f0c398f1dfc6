"""The logger of this package, which programs print through as well: it shows INFO without any set-up."""

from __future__ import annotations

import functools
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

NAME = 'ms_enclave'
FORMAT = '[%(levelname)s:%(name)s] %(message)s'
LEVEL_ENVIRONMENT = 'LOG_LEVEL'


if TYPE_CHECKING:
    _Handler = logging.StreamHandler[TextIO]
else:
    _Handler = logging.StreamHandler  # which takes no type before Python 3.11


class _StandardError(_Handler):
    """Writes to what ``sys.stderr`` is at the moment, so that a test or a notebook that changes it sees the lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Where the lines go."""
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None: ...


class EnclaveLogger(logging.Logger):
    """A logger that can also say something only once."""

    def __init__(self, name: str, level: int | str = logging.NOTSET) -> None:
        super().__init__(name, level)
        self._said: set[tuple[int, str]] = set()

    def info_once(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log at INFO, unless the same text was logged this way before."""
        self._log_once(logging.INFO, msg, *args, **kwargs)

    def warning_once(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log at WARNING, unless the same text was logged this way before."""
        self._log_once(logging.WARNING, msg, *args, **kwargs)

    def _log_once(self, level: int, msg: str, *args: Any, **kwargs: Any) -> None:
        if (level, msg) not in self._said:
            self._said.add((level, msg))
            self.log(level, msg, *args, stacklevel=3, **kwargs)


def _initial_level() -> int:
    name = os.environ.get(LEVEL_ENVIRONMENT, 'INFO').strip().upper()
    level = getattr(logging, name, None)
    if isinstance(level, int):
        return level
    return int(name) if name.isdigit() else logging.INFO


@functools.cache
def _make() -> EnclaveLogger:
    found = logging.Logger.manager.loggerDict.get(NAME)
    if isinstance(found, EnclaveLogger):
        return found
    if isinstance(found, logging.Logger):  # a program asked for it before this module was imported
        found.__class__ = EnclaveLogger
        found._said = set()  # type: ignore[attr-defined]
        made: Any = found
    else:
        made = EnclaveLogger(NAME)
        made.parent, made.manager = logging.root, logging.Logger.manager
        logging.Logger.manager.loggerDict[NAME] = made
    made.propagate = False
    made.setLevel(_initial_level())
    handler = _StandardError()
    handler.setFormatter(logging.Formatter(FORMAT))
    made.addHandler(handler)
    logger: EnclaveLogger = made
    return logger


def get_logger(log_file: str | None = None, log_level: int | str | None = None, file_mode: str = 'w') -> EnclaveLogger:
    """Return the logger ``ms_enclave``.

    It writes ``[LEVEL:ms_enclave] message`` to standard error and hands nothing on to the root logger. Its level is the
    environment variable ``LOG_LEVEL``, else INFO.

    Args:
        log_file: A file to write to as well.
        log_level: What it lets through from now on, like ``logging.INFO``.
        file_mode: How the file is opened: ``'w'`` makes it anew, ``'a'`` appends.
    """
    logger = _make()
    if log_level is not None:
        logger.setLevel(log_level)
    if log_file is not None:
        place = os.path.abspath(log_file)
        if not any(getattr(handler, 'baseFilename', None) == place for handler in logger.handlers):
            handler = logging.FileHandler(place, mode=file_mode, encoding='utf-8')
            handler.setFormatter(logging.Formatter(FORMAT))
            logger.addHandler(handler)
    return logger


logger = get_logger()
"""The logger ``ms_enclave``."""
