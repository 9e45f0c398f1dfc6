"""The logger of programs that log beside this library."""

from __future__ import annotations

import logging

logging.getLogger('ms_enclave').addHandler(logging.NullHandler())


def get_logger(name: str | None = None, log_level: int | str | None = None) -> logging.Logger:
    """Return a standard logger; where its messages go is the program's to configure.

    Args:
        name: Its name; default is ``'ms_enclave'``.
        log_level: What it lets through, like ``logging.INFO``; default is to leave that as it is.
    """
    logger = logging.getLogger(name or 'ms_enclave')
    if log_level is not None:
        logger.setLevel(log_level)
    return logger


__all__ = ['get_logger']
