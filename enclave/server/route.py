"""What a route is (layer 6): a handler, and everything that can be said of it. The app and the OpenAPI document read it here."""

from __future__ import annotations

import contextlib
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import IO, Any, ClassVar, Union, get_args, get_origin

import attrs
from attrs import Factory, define, frozen

from enclave import wire
from enclave.cancellation import Cancellation
from enclave.config import DEFAULT_OUTPUT_BYTES
from enclave.deadline import check_timeout
from enclave.errors import EnclaveError, InvalidArgumentError
from enclave.managers.actions import ACTIONS, Action
from enclave.managers.protocol import CheckResponse
from enclave.outlet import Offered, Outlet
from enclave.server.auth import ApiKey
from enclave.server.lanes import Lane
from enclave.server.service import Service, Tenant
from enclave.verb_requests import BYTES as BYTES
from enclave.verb_requests import TAR as TAR

EVENTS = 'application/x-ndjson'
SERVER_SENT_EVENTS = 'text/event-stream'
HTML = 'text/html; charset=utf-8'
JSON = 'application/json'

VARIABLE = re.compile(r'<([a-z_]+)>')
"""A variable in the path of a route."""
_INTEGER = re.compile(r'-?(0|[1-9][0-9]{0,18})')
_NUMBER = re.compile(r'-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,3})?')


@define(eq=False)
class Context:
    """A request as its handler sees it. Lives as long as the request."""

    service: Service
    tenant: Tenant
    cancellation: Cancellation
    headers: Mapping[str, str]
    named_sandbox: str | None = None  # by an adapter's headers
    on_gone: Callable[[Callable[[], None]], None] = lambda action: None  # what to do when the client goes away
    facts: dict[str, Any] = Factory(dict)  # for the audit line
    held: contextlib.ExitStack = Factory(contextlib.ExitStack)  # what the request holds until its answer is there
    make_outlet: Callable[[], Outlet | None] = lambda: None

    def offering_outlet(self) -> contextlib.AbstractContextManager[None]:
        """Have output that is the answer's be sent while its program runs, in the block, where the client takes that.

        And have no more of it caught for a file than the policy has memory for.
        """
        return Offered(self.make_outlet, most_kept=self.service.kept_output_bytes)

    @property
    def accept(self) -> str:
        """The media types that the client takes."""
        return self.headers.get('Accept', '')

    @property
    def last_event_id(self) -> str | None:
        """The last event of a stream that the client has."""
        return self.headers.get('Last-Event-ID')

    def check_call_timeout(self, timeout: float | None) -> None:
        """Return if a call may have the time limit that was asked for; None asks for nothing.

        Raises:
            PolicyError: It may not.
        """
        if timeout is not None:
            self.service.policy.check_call_timeout(check_timeout(timeout), 'timeout')

    def check_output(
        self,
        sandbox_id: str | None,
        asked: int | None,
        *,
        pool: str | None = None,
        tool: str | None = None,
        max_chars: int | None = None,
    ) -> None:
        """Hold room for the output of a call until its answer is there.

        Args:
            sandbox_id: Where it runs; None is any sandbox of a pool.
            asked: The most that each of its two streams may be; None takes what the tool or the sandbox is set to.
            pool: The name of that pool; None is the first.
            max_chars: The budget that the tool's result has. More is caught then, for the file that has the whole.

        Raises:
            PolicyError: It may not have so much.
            TooManyRequestsError: Other calls hold what there is.
        """
        self.service.policy.check_output_bytes(asked)
        size = self.usual_output(sandbox_id, pool=pool, tool=tool, max_chars=max_chars) if asked is None else asked
        self.held.enter_context(self.service.lanes.holding(self.tenant.name, 2 * size))

    def running_output(self, sandbox_id: str, asked: int | None) -> contextlib.AbstractContextManager[None]:
        """Return the room for the output of what runs on while clients come and go, to be held until its end.

        As many as one key may have are few enough for the usual output; what one may have beyond that is held.

        Raises:
            PolicyError: It may not have so much.
        """
        self.service.policy.check_output_bytes(asked)
        size = self.usual_output(sandbox_id) if asked is None else asked
        beyond = 2 * (size - DEFAULT_OUTPUT_BYTES)
        return self.service.lanes.holding(self.tenant.name, beyond) if beyond > 0 else contextlib.nullcontext()

    def usual_output(
        self,
        sandbox_id: str | None,
        *,
        pool: str | None = None,
        tool: str | None = None,
        max_chars: int | None = None,
    ) -> int:
        """Return the most that each stream of a call may be which does not say it; see `check_output`."""
        manager = self.tenant.manager
        sandbox = None if sandbox_id is None else manager.get_sandbox(sandbox_id)
        config = manager._find_pool_config(pool) if sandbox is None else sandbox.config
        if config is None:
            return DEFAULT_OUTPUT_BYTES
        options = config.tools_config.get(tool or '', {})
        size: int = options.get('max_output_bytes') or config.max_output_bytes
        is_kept = max_chars is not None or options.get('max_chars') is not None
        if tool is not None and is_kept and not options.get('max_output_bytes'):
            size = max(size, self.service.kept_output_bytes)
        return size


LARGE_ANSWER = 1 << 20
"""What an answer may take in memory, as text and as JSON, before room is held for it."""


@frozen
class RawBody:
    """A body that is not JSON, as it comes."""

    stream: IO[bytes]
    size: int


@frozen
class Streamed:
    """An answer that is sent piece by piece.

    Attributes:
        pieces: Its first piece has been taken already where errors must still become an answer of their own.
        media_type: Of the pieces; ``''`` where the headers say it.
        size: How many bytes it will be, where that is known.
        headers: Further ones.
    """

    pieces: Iterator[bytes]
    media_type: str
    size: int | None = None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@frozen
class Text:
    """An answer that is not JSON."""

    text: str
    media_type: str


Handler = Callable[..., Any]


@frozen(kw_only=True)
class Head:
    """What a request says before its body."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@frozen
class Identity:
    """Whose request it is: a key, None where none is needed, and the sandbox that it names, where its interface does so."""

    key: ApiKey | None
    sandbox_id: str | None = None


class Adapter(ABC):
    """How the addresses of another program's interface differ from the server's own: who asks, and how an error is answered.

    Everything else is the same for them: the guard, the policy, the lanes, repeats, the audit line.
    """

    name: ClassVar[str]
    prefix: ClassVar[str]

    @abstractmethod
    def identify(self, service: Service, head: Head) -> Identity:
        """Return whose request it is.

        Raises:
            AuthenticationError: There is none, or nobody has it.
        """

    @abstractmethod
    def failure(self, error: EnclaveError, status: int | None) -> tuple[bytes, int, str]:
        """Return the body, status and media type of an error; ``status`` is what the server chose, where it did."""

    def headers(self, error: EnclaveError) -> dict[str, str]:
        """Return headers that go with an error, beside those of every error."""
        return {}


@frozen(kw_only=True)
class Route:
    """One verb at one address.

    Attributes:
        name: The handler's, unique; the ``operationId``.
        path: As Flask writes it, ``/sandbox/<sandbox_id>``.
        query: A class whose fields are the query's parameters, or None.
        body: A class for a JSON body, `JSON_OPTIONS` for a sandbox's options, a media type for raw bytes, or None.
        answers: The type of the JSON answer, or a media type.
        events: The type of each line, where the answer is a stream of events.
        lane: Which lane it runs in.
        is_open: Whether it needs no key.
        is_repeatable: Whether it takes an idempotency key.
        while_draining: Whether it works while the server stops.
        adapter: Whose interface it belongs to; None is the server's own. Handlers of an adapter get ``body``, a `RawBody`, and
            read the query themselves.
        has_live_body: Whether its body, sent in chunks, is read while it comes.
    """

    name: str
    method: str
    path: str
    handler: Handler
    query: type | None = None
    body: Any = None
    answers: Any = None
    events: type | None = None
    lane: Lane = 'quick'
    is_open: bool = False
    is_repeatable: bool = False
    while_draining: bool = False
    adapter: Adapter | None = None
    has_live_body: bool = False
    tag: str = ''
    summary: str = ''
    description: str = ''


class JSON_OPTIONS:
    """A body that holds the options of a sandbox of any kind, or nothing."""


ROUTES: dict[str, Route] = {}
_lock = threading.Lock()


def route(method: str, path: str, **facts: Any) -> Callable[[Handler], Handler]:
    """Return a decorator that makes a function the handler of a route; its docstring says what the route does."""

    def register(handler: Handler) -> Handler:
        add_route(method, path, handler, name=handler.__name__, text=handler.__doc__ or '', **facts)
        return handler

    return register


def performs(name: str) -> Callable[[Handler], Handler]:
    """Return a decorator that makes a function perform an action; its docstring says what that does."""

    def register(handler: Handler) -> Handler:
        add_action(ACTIONS[name], handler, handler.__doc__ or '')
        return handler

    return register


def add_action(action: Action, handler: Handler, text: str) -> None:
    """Add the route of an action, which answers with what the handler gives."""

    def handle(context: Context, **asked: Any) -> Any:
        return action.answer(handler(context, **asked), **asked)

    add_route(
        action.method,
        action.path,
        handle if action.gives in (None, CheckResponse) else handler,
        name=action.name,
        text=text,
        body=action.body,
        answers=action.answers,
        lane=action.lane,
        is_repeatable=action.is_repeatable,
        while_draining=action.while_draining,
        tag=action.tag,
    )


def add_route(method: str, path: str, handler: Handler, *, name: str, text: str, **facts: Any) -> None:
    """Add a route; ``text`` says what it does, its first line in short."""
    summary, _, rest = text.strip().partition('\n')
    description = '\n'.join(line.strip() for line in rest.strip().splitlines())
    made = Route(
        name=name, method=method, path=path, handler=handler, summary=summary, description=description, **facts
    )
    with _lock:
        ROUTES[made.name] = made


def decode_query(arguments: Mapping[str, list[str]], cls: type | None) -> Any:
    """Return the parameters of a query as an instance of ``cls``: each once, each of its type, none unknown.

    Raises:
        InvalidArgumentError: One is none of these; the message names it.
    """
    values: dict[str, Any] = {}
    kinds = {} if cls is None else field_kinds(cls)
    for name, texts in arguments.items():
        if name not in kinds:
            known = ', '.join(kinds) or 'none'
            raise InvalidArgumentError(f'this address has no parameter {name!r}; it has: {known}')
        if len(texts) > 1:
            raise InvalidArgumentError(f'the parameter {name!r} is given {len(texts)} times')
        values[name] = _parse(texts[0], kinds[name], name)
    return None if cls is None else wire.decode(values, cls, what='the query')


def field_kinds(cls: Any) -> dict[str, type]:
    """Return ``{parameter: its plain type}`` of a class for queries; None is dropped from unions."""
    attrs.resolve_types(cls)
    kinds = {}
    for attribute in attrs.fields(cls):
        kind = attribute.type
        if get_origin(kind) in (Union, UnionType):
            kind = next(each for each in get_args(kind) if each is not NoneType)
        kinds[attribute.name] = kind if kind in (int, float, bool) else str
    return kinds


def _parse(text: str, kind: type, name: str) -> Any:
    if kind is str:
        return text
    if kind is bool and text in ('true', 'false'):
        return text == 'true'
    if kind is int and _INTEGER.fullmatch(text):
        return int(text)
    if kind is float and _NUMBER.fullmatch(text):
        return float(text)
    expected = {bool: 'true or false', int: 'a whole number', float: 'a number'}[kind]
    raise InvalidArgumentError(f'the parameter {name!r} must be {expected}, not {text!r}')
