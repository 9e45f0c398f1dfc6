"""Keeps one sandbox of `ms-enclave create` (layer: entries): the process that owns it, in the background.

It reads one line of JSON, makes the sandbox, answers with its id or with what went wrong, and then waits until the sandbox is
gone or its time is over. SIGTERM takes the sandbox away.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from typing import Any

from enclave.cli.create import start_program
from enclave.errors import EnclaveError
from enclave.managers.protocol import error_response
from enclave.sandboxes.base import USABLE, Sandbox
from enclave.sandboxes.sandbox_factory import SandboxFactory

LOOK_SECONDS = 1.0
"""How often one looks whether the sandbox is still there."""


def main() -> None:
    """Keep a sandbox; see the module."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    request = json.loads(sys.stdin.readline())
    try:
        sandbox = SandboxFactory.create_sandbox(request['sandbox_type'], request['config'], request['sandbox_id'])
        sandbox.start()
    except Exception as error:
        _answer({'error': error_response(error).model_dump(mode='json')})
        return
    try:
        try:
            if request['program'] is not None:
                start_program(sandbox, request['program'])
        except Exception as error:
            _answer({'error': error_response(error).model_dump(mode='json')})
            return
        _answer({'id': sandbox.id})
        _wait(sandbox, ending, request['ttl'])
    finally:
        with contextlib.suppress(EnclaveError):
            sandbox.stop()


def _answer(answer: dict[str, Any]) -> None:
    """Give the answer, and let go of the pipes of the command that waits for it."""
    sys.stdout.write(json.dumps(answer) + '\n')
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    os.close(nothing)


def _wait(sandbox: Sandbox, ending: threading.Event, ttl: float) -> None:
    waited = 0.0
    while sandbox.status in USABLE and not (ttl and waited >= ttl):
        if ending.wait(LOOK_SECONDS):
            return
        waited += LOOK_SECONDS


if __name__ == '__main__':
    main()
