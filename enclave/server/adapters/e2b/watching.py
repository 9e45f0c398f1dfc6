"""The daemon's service for what changes in a directory (layer 6): as a stream, or asked for by turns.

What the names say is fsnotify's: a rename is one event of the old name and one of the new.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator
from typing import Any

import flask

from enclave.deadline import Deadline
from enclave.errors import EnclaveError, NotFoundError, OperationTimeoutError, TooManyRequestsError
from enclave.managers.protocol import KEEP_ALIVE_SECONDS
from enclave.records import PathEvent
from enclave.sandboxes.base import Sandbox
from enclave.sandboxes.watching import Watch
from enclave.server.adapters.e2b import connect
from enclave.server.adapters.e2b.connect import envelope, field
from enclave.server.adapters.e2b.filesystem import SERVICE, as_entry, asked_path
from enclave.server.adapters.e2b.services import asked_sandbox, on_call, on_stream, remembered, state_of, verb
from enclave.server.route import Context, RawBody, Streamed

MAX_WATCHES = 32
"""How many a tenant may have that are asked by turns."""
LOOK_SECONDS = 0.25
_KINDS = {
    'created': 'EVENT_TYPE_CREATE',
    'modified': 'EVENT_TYPE_WRITE',
    'attributes': 'EVENT_TYPE_CHMOD',
    'removed': 'EVENT_TYPE_REMOVE',
    'renamed': 'EVENT_TYPE_RENAME',
}


def _watch(sandbox: Sandbox, message: dict[str, Any]) -> Watch:
    path = asked_path(sandbox, message)
    recursive = field(message, 'recursive', bool, False)
    made: Watch = verb(sandbox, 'watch_dir')(path, recursive=recursive, interval=LOOK_SECONDS)
    return made


def _as_events(
    context: Context, sandbox: Sandbox, watch: Watch, event: PathEvent, with_entry: bool
) -> Iterator[dict[str, Any]]:
    """Yield an event as it travels; what is new and has a content was also written."""
    entry = {'entry': as_entry(context, sandbox, event.info)} if with_entry and event.info is not None else {}
    name = posixpath.relpath(event.path, watch.path)
    if event.kind == 'renamed':
        yield {'name': name, 'type': _KINDS['renamed']}
        if event.target is not None:
            yield {'name': posixpath.relpath(event.target, watch.path), 'type': _KINDS['created'], **entry}
        return
    yield {'name': name, 'type': _KINDS[event.kind], **entry}
    if event.kind == 'created' and event.info is not None and event.info.kind == 'file' and event.info.size:
        yield {'name': name, 'type': _KINDS['modified'], **entry}


@on_stream(SERVICE, 'WatchDir')
def e2b_watch_dir(context: Context, body: RawBody) -> Streamed:
    """Watch a directory and follow what changes in it."""
    sandbox = asked_sandbox(context)
    message = next(connect.read_messages(body.stream), {})
    deadline = Deadline.after(connect.read_timeout(flask.request.headers.get('Connect-Timeout-Ms')))
    watch = _watch(sandbox, message)
    context.on_gone(watch.close)
    with_entry = field(message, 'includeEntry', bool, False)
    return Streamed(_frames(context, sandbox, watch, with_entry, deadline), connect.JSON_STREAM)


def _frames(context: Context, sandbox: Sandbox, watch: Watch, with_entry: bool, deadline: Deadline) -> Iterator[bytes]:
    yield envelope({'start': {}})
    try:
        while not watch.is_closed:
            left = deadline.remaining()
            found = watch.take(KEEP_ALIVE_SECONDS if left is None else max(0.001, min(KEEP_ALIVE_SECONDS, left)))
            for event in found:
                for each in _as_events(context, sandbox, watch, event, with_entry):
                    yield envelope({'filesystem': each})
            if deadline.has_expired():
                raise OperationTimeoutError('the time to watch the directory is over')
            if not found:
                yield envelope({'keepalive': {}})
        yield connect.end_of_stream()
    except EnclaveError as error:
        yield connect.end_of_stream(error)
    finally:
        watch.close()


@on_call(SERVICE, 'CreateWatcher', lane='call')
def e2b_create_watcher(context: Context, body: RawBody) -> dict[str, Any]:
    """Watch a directory; what changes is asked for later."""
    sandbox = asked_sandbox(context)
    message = connect.read_message(body.stream.read(body.size))
    known = remembered(context, sandbox)
    watch = _watch(sandbox, message)
    name = uuid.uuid4().hex[:16]
    if state_of(context.service).count_watches(context.tenant) >= MAX_WATCHES:
        raise TooManyRequestsError(f'{MAX_WATCHES} directories are watched, which is all one key may have; stop some')
    with known.lock:
        known.watches[name] = watch, field(message, 'includeEntry', bool, False)
    return {'watcherId': name}


def _watcher(context: Context, sandbox: Sandbox, message: dict[str, Any], *, remove: bool) -> tuple[Watch, bool]:
    name = field(message, 'watcherId', str, '')
    known = remembered(context, sandbox)
    with known.lock:
        found: tuple[Watch, bool] | None = known.watches.pop(name, None) if remove else known.watches.get(name)
    if found is None:
        raise NotFoundError(f'watcher with id {name[:60]} not found')
    return found


@on_call(SERVICE, 'GetWatcherEvents', lane='call')
def e2b_get_watcher_events(context: Context, body: RawBody) -> dict[str, Any]:
    """Return what has changed since it was asked last."""
    sandbox = asked_sandbox(context)
    watch, with_entry = _watcher(context, sandbox, connect.read_message(body.stream.read(body.size)), remove=False)
    events = [each for event in watch.take() for each in _as_events(context, sandbox, watch, event, with_entry)]
    return {'events': events}


@on_call(SERVICE, 'RemoveWatcher')
def e2b_remove_watcher(context: Context, body: RawBody) -> dict[str, Any]:
    """Stop watching a directory."""
    sandbox = asked_sandbox(context)
    watch, _ = _watcher(context, sandbox, connect.read_message(body.stream.read(body.size)), remove=True)
    watch.close()
    return {}
