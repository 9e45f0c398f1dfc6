"""How requests travel to a shard (layer 6): as to any server, but that whether the shard still lives is asked of Ray.

A connection that breaks says little: a shard may have died, or a network may have had the hiccups. So the one who knows is
asked before anything is said to the caller, and once a shard is lost, every call on it ends.

Nothing stands between a client and a shard that might send a request a second time. So a client that sent a request once and
has its answer says so with the next one, and the shard need not keep that answer.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from enclave.errors import AuthenticationError, EnclaveError, ServerUnavailableError
from enclave.exchange import CancellableRequest
from enclave.languages.values import CodeResult
from enclave.managers.code_batches import Exchange, run_exchange
from enclave.managers.http import HttpSandboxManager
from enclave.managers.http_transport import CONNECT_SECONDS, HttpResponse, HttpTransport
from enclave.managers.manager_config import SandboxManagerConfig
from enclave.managers.pool import again
from enclave.managers.protocol import IDEMPOTENCY_HEADER, RECEIVED_HEADER
from enclave.parallel import Outcome
from enclave.ray import tunnel

Judge = Callable[[EnclaveError], EnclaveError]
"""Returns what to raise in the place of an error that says that a shard does not answer."""

MOST_RECEIVED = 4
"""How many answers are acknowledged with one request."""
MOST_UNACKNOWLEDGED = 256
"""How many answers wait to be acknowledged; others a shard keeps for as long as any server does."""


class ShardTransport(HttpTransport):
    """Requests to one shard. Lives as long as the shard is known; any thread may use it."""

    connect_problem = None

    def __init__(self, base_url: str, *, tunnel_address: tuple[str, int], judge: Judge, **options: Any) -> None:
        super().__init__(base_url, **options)
        self._proxies = {}  # nodes of a cluster reach each other, whatever proxy the environment has for the world
        self._tunnel_address = tunnel_address
        self._judge = judge
        self._exchanges_lock = threading.Lock()  # guards the two below
        self._exchanges: weakref.WeakSet[Any] = weakref.WeakSet()
        self._loss: EnclaveError | None = None
        self._received: collections.deque[str] = collections.deque(maxlen=MOST_UNACKNOWLEDGED)  # keys of answers

    def lose(self, error: EnclaveError) -> None:
        """End every call that continues, and every later one, with ``error``."""
        with self._exchanges_lock:
            self._loss = self._loss or error
            exchanges = list(self._exchanges)
        for each in exchanges:
            if isinstance(each, tunnel.TunnelConnection):
                each.lose(error)
            else:
                each.break_off()

    @property
    def is_in_use(self) -> bool:
        """Whether a call on the shard continues."""
        with self._exchanges_lock:
            return len(self._exchanges) > 0

    def check_lost(self) -> None:
        """Raise why the shard was lost, if it was."""
        if self._loss is not None:
            raise again(self._loss)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        make_data: Callable[[], Any],
        read_timeout: float | None,
        *,
        is_repeatable: bool,
        stream: bool,
        exchange: CancellableRequest | None = None,
    ) -> HttpResponse:
        exchange = CancellableRequest('the call') if exchange is None else exchange
        key = headers.get(IDEMPOTENCY_HEADER)
        if key is not None:
            headers = {**headers, **self._acknowledgement()}
        with self._exchanges_lock:
            self.check_lost()
            self._exchanges.add(exchange)
        try:
            response = super()._send(
                method,
                path,
                query,
                headers,
                make_data,
                read_timeout,
                is_repeatable=is_repeatable,
                stream=stream,
                exchange=exchange,
            )
        except (ServerUnavailableError, AuthenticationError) as error:
            raise self._judged(error, exchange) from error
        response.exchange = exchange  # it lives as long as its answer is read
        if key is not None and exchange.attempts == 1:
            self._received.append(key)
        return response

    def _acknowledgement(self) -> dict[str, str]:
        """Return the header that says which answers are here."""
        keys: list[str] = []
        with contextlib.suppress(IndexError):
            while len(keys) < MOST_RECEIVED:
                keys.append(self._received.popleft())
        return {RECEIVED_HEADER: ' '.join(keys)} if keys else {}

    def _send_once(self, *args: Any, **options: Any) -> HttpResponse:
        self.check_lost()
        return super()._send_once(*args, **options)

    def _raw(self, response: HttpResponse, size: int) -> Iterator[bytes]:
        try:
            yield from super()._raw(response, size)
        except ServerUnavailableError as error:
            raise self._judged(error, response.exchange) from error

    def _judged(self, error: EnclaveError, exchange: CancellableRequest | None) -> EnclaveError:
        if exchange is not None and exchange.is_hung_up:
            return error  # its work was cancelled, which is no sign of anything
        if self._loss is None:
            return self._judge(error)
        found = again(self._loss)
        assert isinstance(found, EnclaveError)
        return found

    def connect(self, sandbox_id: str, port: int, host: str, timeout: float | None) -> Any:
        """Return a connection to a port in a sandbox."""

        def note(opened: tunnel.TunnelConnection) -> None:
            with self._exchanges_lock:
                self.check_lost()
                self._exchanges.add(opened)

        request = tunnel.TunnelRequest(
            key=self._api_key or '', sandbox_id=sandbox_id, port=port, host=host, timeout=timeout
        )
        try:
            return tunnel.connect(self._tunnel_address, request, patience=self._connect_timeout, on_open=note)
        except EnclaveError:
            raise
        except OSError as error:
            unreachable = ServerUnavailableError(f'the shard at {self._base_url} gave no connection: {error}')
            raise self._judged(unreachable, None) from error


class ShardClient(HttpSandboxManager):
    """The sandboxes of one shard, as its server has them.

    Args:
        facts: What `enclave.ray.shard.Shard.describe` says.
        owner: The manager whose client it is, whose threads it uses.
    """

    def __init__(
        self,
        config: SandboxManagerConfig,
        facts: Mapping[str, Any],
        *,
        judge: Judge,
        cancel_later: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(config.model_copy(update={'base_url': facts['url'], 'api_key': facts['key']}))
        self._transport = ShardTransport(
            self.base_url,
            tunnel_address=(str(facts['tunnel'][0]), int(facts['tunnel'][1])),
            judge=judge,
            api_key=facts['key'],
            connect_timeout=CONNECT_SECONDS,
            answer_timeout=self.config.timeout,
            max_connections=256,
            verify=None,
            cancel_later=cancel_later,
        )
        self._received_parts: collections.deque[tuple[str, int]] = collections.deque(maxlen=MOST_UNACKNOWLEDGED)

    def lose(self, error: EnclaveError) -> None:
        """End every call on the shard, with ``error``."""
        self._transport.lose(error)  # type: ignore[attr-defined]

    @property
    def is_in_use(self) -> bool:
        """Whether a call on the shard continues."""
        return bool(self._transport.is_in_use)  # type: ignore[attr-defined]

    def run_part(
        self, exchange: Exchange, *, concurrency: int, timeout: float | None, pool: str, begin_within: float
    ) -> Generator[Outcome[CodeResult], None, None]:
        """Yield what becomes of some programs of a batch; see `run_exchange`."""
        count = len(exchange.waiting)
        if count == 1:  # half the work of a stream
            yield self._run_single(exchange, timeout, pool)
            return
        yield from run_exchange(
            self._open_transport(),
            '/pool/code/batch',
            exchange,
            concurrency=concurrency,
            timeout=timeout,
            pool=pool,
            begin_within=begin_within,
            received=self._some_received(),
        )
        self._received_parts.append((exchange.key, count))

    def _run_single(self, exchange: Exchange, timeout: float | None, pool: str) -> Outcome[CodeResult]:
        ((number, request),) = exchange.waiting.items()
        self._transport.check_lost()  # type: ignore[attr-defined]
        exchange.was_sent, exchange.attempts = True, 1
        result = self._run_in_batch(request, timeout, pool)
        del exchange.waiting[number]
        return Outcome(number, result)

    def _some_received(self) -> dict[str, int]:
        found: dict[str, int] = {}
        with contextlib.suppress(IndexError):
            while len(found) < MOST_RECEIVED:
                key, count = self._received_parts.popleft()
                found[key] = count
        return found

    def stop(self) -> None:
        """Close the connections."""
        with contextlib.suppress(EnclaveError):
            super().stop()
