"""Requests to a server, as programs written for ms-enclave have always made them (see ``docs/migration.md``).

A request that breaks off is made again where that does no harm: it only asks, or the server is one that does the same request
once (it then knows it by its ``Idempotency-Key``). Cancelling the await ends the connection, by which the server stops its side.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from attrs import frozen

from enclave.aio.proxies import run
from enclave.cancellation import on_cancel
from enclave.errors import CallCancelledError
from enclave.exchange import LINES, CancellableRequest
from enclave.managers.keyfile import find_key
from enclave.managers.protocol import API_KEY_ENVIRONMENT, API_KEY_HEADER, IDEMPOTENCY_HEADER, PROTOCOL_HEADER

CONNECT_SECONDS = 10.0
CONNECTIONS = 64
MAX_SHOWN = 1000
"""How much is shown of an answer that is no JSON."""
BUSY_SECONDS = 3600.0
"""How long a server that says it is full is asked again, where the manager has no time limit."""
_TAR = 'application/x-tar'


class NoConnectionError(RuntimeError):
    """Nobody answers, or the connection broke off."""


@frozen
class WireResponse:
    """What a server said."""

    status: int
    value: Any

    @property
    def detail(self) -> str:
        """Why a request was refused."""
        if not isinstance(self.value, Mapping):
            return str(self.value)
        detail = self.value.get('detail', self.value.get('message', self.value))
        return detail if isinstance(detail, str) else json.dumps(detail)


class Wire:
    """A client of one server. Any thread may use it, many at once."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float | None) -> None:
        self._base_url = base_url.rstrip('/')
        self._api_key = api_key
        self._timeout = timeout if timeout is not None and timeout > 0 else None  # 0 is no limit, as ever
        self._pool = urllib3.PoolManager(
            maxsize=CONNECTIONS, headers={'Accept': 'application/json'}, retries=False, cert_reqs='CERT_REQUIRED'
        )
        self._pool.pool_classes_by_scheme = LINES  # connections that end when the work is cancelled
        self._does_once = False  # the server said that it knows requests by their keys

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.clear()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        archive: bytes | None = None,
    ) -> WireResponse:
        """Make a request and return the answer, whatever its status.

        Raises:
            NoConnectionError: Nobody answers, or not in time.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        url = f'{self._base_url}{path}{"?" + urlencode(given) if given else ""}'
        headers = {'Accept': 'application/json'}
        key = self._key()
        if key:
            headers[API_KEY_HEADER] = key
        data: bytes | None = None
        if archive is not None:
            data, headers['Content-Type'] = archive, _TAR
        elif method == 'POST':
            data, headers['Content-Type'] = json.dumps(body).encode(), 'application/json'
            headers[IDEMPOTENCY_HEADER] = uuid.uuid4().hex
        return await run(lambda: self._ask(method, url, headers, data))

    def _key(self) -> str | None:
        return self._api_key or os.environ.get(API_KEY_ENVIRONMENT) or find_key(self._base_url)

    def _ask(self, method: str, url: str, headers: dict[str, str], data: bytes | None) -> WireResponse:
        tries = 2 if method == 'GET' or (self._does_once and IDEMPOTENCY_HEADER in headers) else 1
        give_up_at = time.monotonic() + (BUSY_SECONDS if self._timeout is None else self._timeout)
        while True:
            tries -= 1
            request = CancellableRequest(f'{method} {url}')
            try:
                with request.watched(), request.made():
                    response = self._pool.request(
                        method,
                        url,
                        body=data,
                        headers=headers,
                        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=self._timeout),
                    )
                    text = response.data
            except urllib3.exceptions.NewConnectionError as error:  # a kind of time-out to urllib3
                raise NoConnectionError(
                    f'{method} {url}: {error}; is the server running? Start one with: ms-enclave server'
                ) from error
            except urllib3.exceptions.ConnectTimeoutError as error:
                raise NoConnectionError(f'{method} {url}: no connection within {CONNECT_SECONDS:g} seconds') from error
            except urllib3.exceptions.TimeoutError as error:
                raise NoConnectionError(f'{method} {url}: no answer within {self._timeout} seconds') from error
            except urllib3.exceptions.HTTPError as error:
                if tries < 1:
                    raise NoConnectionError(f'{method} {url}: {error}') from error
                continue
            self._does_once = PROTOCOL_HEADER in response.headers
            if response.status == 429 and self._wait(response.headers.get('Retry-After'), give_up_at):
                tries += 1
                continue
            try:
                value = json.loads(text) if text else None
            except ValueError:
                value = text.decode('utf-8', 'replace')[:MAX_SHOWN]
                if response.status < 400:
                    raise NoConnectionError(
                        f'{method} {url}: what answers is no server of sandboxes (status {response.status}, Server: '
                        f'{response.headers.get("Server", "unknown")}); check base_url'
                    ) from None
            if response.status == 401 and not self._key():
                value = {
                    'detail': f'{WireResponse(401, value).detail} (this client has no key: give api_key=, or set '
                    f'{API_KEY_ENVIRONMENT})'
                }
            return WireResponse(response.status, value)

    @staticmethod
    def _wait(seconds: str | None, give_up_at: float) -> bool:
        """Wait until a server that is full may be asked again; False where that is too late.

        Raises:
            CallCancelledError: The work was cancelled meanwhile.
        """
        pause = float(seconds) if seconds is not None and seconds.isdigit() else 1.0
        if time.monotonic() + pause > give_up_at:
            return False
        cancelled = threading.Event()
        with on_cancel(cancelled.set):
            if cancelled.wait(pause):
                raise CallCancelledError('the request was cancelled while the server was full')
        return True


def path_of(sandbox_id: str) -> str:
    """Return the address of a sandbox."""
    return f'/sandbox/{quote(str(sandbox_id), safe="")}'
