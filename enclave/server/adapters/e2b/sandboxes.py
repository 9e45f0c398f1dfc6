"""The control plane (layer 6): making, finding, renewing and ending sandboxes, their numbers and their logs.

What E2B's cloud has and this server has not answers with its own class of error and a sentence that says so.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from datetime import datetime, timezone
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

import flask

from enclave.config import parse_size
from enclave.enums import SandboxStatus
from enclave.errors import (
    EnclaveError,
    InvalidArgumentError,
    NotFoundError,
    SandboxNotFoundError,
    SandboxSilentError,
    SandboxStateError,
    UnsupportedError,
)
from enclave.records import SandboxInfo, utc_now
from enclave.sandboxes.base import USABLE
from enclave.server.adapters.e2b import creation, metrics
from enclave.server.adapters.e2b.creation import BASE, CODE_INTERPRETER
from enclave.server.adapters.e2b.services import answer, empty, on_plane, read_object, resolved, state_of
from enclave.server.adapters.e2b.state import ENVD_VERSION, expiry
from enclave.server.route import Context, RawBody
from enclave.server.views import get_info, list_infos

SHOWN = USABLE | {SandboxStatus.PAUSED}
MAX_PAGE = 100
CLIENT_ID = 'enclave'


# Making ---------------------------------------------------------------------------------------------------------------


def _create(context: Context, body: RawBody) -> flask.Response:
    wanted = creation.read_wanted(read_object(body))
    state = state_of(context.service)
    made = creation.make_sandbox(context.service, context.tenant, state.settings, wanted)
    context.facts['sandbox_id'] = made
    if context.cancellation.is_cancelled:  # too late for the manager to notice: nobody would ever learn the id
        creation.undo(context.tenant, made)
    known = state.of(context.tenant, made, wanted.template)
    known.resumes = wanted.resumes
    known.note('sandbox created', template=wanted.template)
    return answer(_as_made(context, made, wanted.template), 201)


@on_plane('POST', '/v2/sandboxes', lane='call', is_repeatable=True)
def e2b_create_sandbox(context: Context, body: RawBody) -> flask.Response:
    """Make a sandbox from a template."""
    return _create(context, body)


@on_plane('POST', '/sandboxes', lane='call', is_repeatable=True)
def e2b_create_sandbox_v1(context: Context, body: RawBody) -> flask.Response:
    """Make a sandbox from a template, as older clients ask."""
    return _create(context, body)


def _as_made(context: Context, sandbox_id: str, template: str) -> dict[str, Any]:
    state = state_of(context.service)
    token = state.token(context.tenant, sandbox_id)
    return {
        'sandboxID': sandbox_id,
        'templateID': template,
        'alias': template,
        'clientID': CLIENT_ID,
        'envdVersion': ENVD_VERSION,
        'envdAccessToken': token,
        'trafficAccessToken': token,
        'domain': state.settings.domain,
    }


def _connect(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    options = read_object(body)
    info = _info(context, sandbox_id)
    if info.status not in SHOWN:
        raise SandboxNotFoundError(f'sandbox {sandbox_id} does not run: it is {info.status}')
    seconds = creation.read_seconds(options.get('timeout'), creation.DEFAULT_SECONDS)
    was_paused = info.status is SandboxStatus.PAUSED
    if was_paused:
        _resume(context, info, options, seconds)
    elif (expiry(info) - utc_now()).total_seconds() < (seconds or math.inf):
        _renew(context, info.id, seconds)
    return answer(_as_made(context, info.id, _template_of(context, info)), 201 if was_paused else 200)


def _resume(context: Context, info: SandboxInfo, options: dict[str, Any], seconds: float | None) -> None:
    if options.get('memory') is False:
        raise UnsupportedError(
            "a paused sandbox continues with its memory here and cannot be rebooted; connect without on_resume='reboot'"
        )
    context.service.policy.lifetime(seconds, None)  # before it runs
    context.tenant.manager.resume_sandbox(info.id)
    _renew(context, info.id, seconds)
    state_of(context.service).of(context.tenant, info.id).note('sandbox resumed')


@on_plane('POST', '/v2/sandboxes/<sandbox_id>/connect')
def e2b_connect(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Answer with the tokens of a sandbox that runs, and let it live longer if asked."""
    return _connect(context, sandbox_id, body)


@on_plane('POST', '/sandboxes/<sandbox_id>/connect')
def e2b_connect_v1(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Answer as `e2b_connect`, for older clients."""
    return _connect(context, sandbox_id, body)


@on_plane('POST', '/sandboxes/<sandbox_id>/resume')
def e2b_resume(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Let a paused sandbox continue, as older clients ask."""
    options = read_object(body)
    info = _info(context, sandbox_id)
    if info.status is not SandboxStatus.PAUSED:
        raise SandboxStateError(f'sandbox {sandbox_id} is running already')
    _resume(context, info, options, creation.read_seconds(options.get('timeout'), creation.DEFAULT_SECONDS))
    if isinstance(options.get('autoPause'), bool):
        context.tenant.manager.renew(
            info.id, _seconds_left(context, info.id), on_expiry='pause' if options['autoPause'] else 'remove'
        )
    return answer(_as_made(context, info.id, _template_of(context, info)), 201)


def _seconds_left(context: Context, sandbox_id: str) -> float:
    return max(1.0, (expiry(_info(context, sandbox_id)) - utc_now()).total_seconds())


# Finding --------------------------------------------------------------------------------------------------------------


def _info(context: Context, sandbox_id: str) -> SandboxInfo:
    context.facts['sandbox_id'] = sandbox_id
    return get_info(context.tenant, resolved(context, sandbox_id))


def _template_of(context: Context, info: SandboxInfo) -> str:
    return state_of(context.service).template(context.tenant, info.id) or str(info.type)


def _as_listed(context: Context, info: SandboxInfo) -> dict[str, Any]:
    template = _template_of(context, info)
    return {
        'sandboxID': info.id,
        'templateID': template,
        'alias': template,
        'clientID': CLIENT_ID,
        'startedAt': _as_time(info.started_at or info.created_at),
        'endAt': _as_time(expiry(info)),
        'cpuCount': max(1, math.ceil(float(info.config.get('cpu_limit') or 1))),
        'memoryMB': _mebibytes(info.config.get('memory_limit')),
        'diskSizeMB': _mebibytes(info.config.get('disk_limit')),
        'state': 'paused' if info.status is SandboxStatus.PAUSED else 'running',
        'envdVersion': ENVD_VERSION,
        'metadata': info.labels,
        'volumeMounts': [],
    }


def _as_time(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec='milliseconds').replace('+00:00', 'Z')


def _mebibytes(size: Any) -> int:
    try:
        return 0 if size is None else parse_size(size, 'size') >> 20
    except EnclaveError:
        return 0


@on_plane('GET', '/sandboxes/<sandbox_id>', while_draining=True)
def e2b_get_sandbox(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Return what can be said of a sandbox."""
    info = _info(context, sandbox_id)
    if info.status not in SHOWN:
        raise SandboxNotFoundError(f'sandbox {sandbox_id} does not run: {info.error or f"it is {info.status}"}')
    state = state_of(context.service)
    pauses = info.metadata.get('on_expiry') == 'pause'
    return answer(
        {
            **_as_listed(context, info),
            'envdAccessToken': state.token(context.tenant, info.id),
            'allowInternetAccess': bool(info.config.get('network_enabled')),
            'domain': state.settings.domain,
            'lifecycle': {
                'onTimeout': 'pause' if pauses else 'kill',
                'autoResume': pauses and state.of(context.tenant, info.id).resumes,
            },
        }
    )


def _shown(context: Context, states: set[str]) -> list[SandboxInfo]:
    metadata = flask.request.args.get('metadata') or ''
    # Names and values are quoted twice: by themselves, and as parts of a query.
    wanted = {unquote(name): unquote(text) for name, text in parse_qsl(metadata, keep_blank_values=True)}
    found = [info for info in list_infos(context.tenant, labels=wanted) if info.status in SHOWN]
    return [info for info in found if ('paused' if info.status is SandboxStatus.PAUSED else 'running') in states]


@on_plane('GET', '/sandboxes', while_draining=True)
def e2b_list_sandboxes_v1(context: Context, body: RawBody) -> flask.Response:
    """Return all sandboxes of the key that run, newest first."""
    return answer([_as_listed(context, info) for info in reversed(_shown(context, {'running'}))])


@on_plane('GET', '/v2/sandboxes', while_draining=True)
def e2b_list_sandboxes(context: Context, body: RawBody) -> flask.Response:
    """Return a page of the sandboxes of the key, paused ones too; ``x-next-token`` is where the next one begins."""
    args = flask.request.args
    states = {each for each in ','.join(args.getlist('state')).split(',') if each}
    if states - {'running', 'paused'}:
        raise InvalidArgumentError(f'state must be running or paused, not {", ".join(sorted(states))[:100]!r}')
    order = args.get('order') or 'desc'
    if order not in ('asc', 'desc'):
        raise InvalidArgumentError(f'order must be asc or desc, not {order[:40]!r}')
    found = _shown(context, states or {'running', 'paused'})
    template = args.get('template')
    if template:
        found = [info for info in found if _template_of(context, info) == template]
    after = args.get('startedAfter')
    if after:
        moment = _read_time(after)
        found = [info for info in found if (info.started_at or info.created_at) >= moment]
    found.sort(key=_place, reverse=order == 'desc')
    token = args.get('nextToken')
    if token:
        begin = _read_token(token)
        found = [info for info in found if (_place(info) < begin if order == 'desc' else _place(info) > begin)]
    limit = _read_limit(args.get('limit'))
    page, rest = found[:limit], found[limit:]
    headers = {'x-next-token': _as_token(page[-1])} if rest else {}
    return answer([_as_listed(context, info) for info in page], headers=headers)


def _place(info: SandboxInfo) -> tuple[str, str]:
    return (info.started_at or info.created_at).isoformat(timespec='microseconds'), info.id


def _as_token(info: SandboxInfo) -> str:
    return base64.urlsafe_b64encode(json.dumps(_place(info)).encode()).decode()


def _read_token(text: str) -> tuple[str, str]:
    try:
        moment, sandbox_id = json.loads(base64.urlsafe_b64decode(text[:400].encode('ascii', 'replace')))
        return str(moment), str(sandbox_id)
    except (ValueError, TypeError, binascii.Error):
        raise InvalidArgumentError(f'nextToken is none of this server: {text[:40]!r}') from None


def _read_limit(text: str | None) -> int:
    if text is None:
        return MAX_PAGE
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise InvalidArgumentError(f'limit must be a whole number from 1 to {MAX_PAGE}, not {text[:40]!r}')
    return int(text[:9])


def _read_time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace('Z', '+00:00').replace(' ', '+'))
    except ValueError:
        raise InvalidArgumentError(f'startedAfter must be a time as in RFC 3339, not {text[:60]!r}') from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


# Life -----------------------------------------------------------------------------------------------------------------


def _renew(context: Context, sandbox_id: str, seconds: float | None) -> None:
    seconds = context.service.policy.lifetime(seconds, None)
    context.tenant.manager.renew(sandbox_id, seconds)


@on_plane('POST', '/sandboxes/<sandbox_id>/timeout')
def e2b_set_timeout(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Let a sandbox live so many seconds from now; 0 ends it."""
    seconds = creation.read_seconds(read_object(body).get('timeout'), None)
    if seconds is None:
        raise InvalidArgumentError('timeout must be a number of seconds')
    info = _info(context, sandbox_id)
    if seconds == 0:
        _delete(context, info.id)
    else:
        _check_running(info)
        _renew(context, info.id, seconds)
    return empty()


def _check_running(info: SandboxInfo) -> None:
    if info.status is SandboxStatus.PAUSED:
        raise SandboxStateError(f'sandbox {info.id} is paused, so its time stands still; connect to it to resume it')


@on_plane('POST', '/sandboxes/<sandbox_id>/refreshes')
def e2b_refresh(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Let a sandbox live at least so many seconds from now."""
    seconds = creation.read_seconds(read_object(body).get('duration'), creation.DEFAULT_SECONDS)
    info = _info(context, sandbox_id)
    _check_running(info)
    if seconds and (expiry(info) - utc_now()).total_seconds() < seconds:
        _renew(context, info.id, seconds)
    return empty()


@on_plane('DELETE', '/sandboxes/<sandbox_id>', lane='end')
def e2b_kill_sandbox(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Take a sandbox away."""
    context.facts['sandbox_id'] = sandbox_id
    _delete(context, sandbox_id)
    return empty()


def _delete(context: Context, sandbox_id: str) -> None:
    context.tenant.manager.delete_sandbox(sandbox_id)
    context.tenant.forget(sandbox_id)
    state_of(context.service).forget(context.tenant, sandbox_id)


@on_plane('POST', '/sandboxes/<sandbox_id>/pause', lane='end')
def e2b_pause(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Keep what is in a sandbox from running, with its memory, until somebody connects to it."""
    options = read_object(body)
    info = _info(context, sandbox_id)
    creation.check_memory(options.get('memory'))
    if info.status is SandboxStatus.PAUSED:
        raise SandboxStateError(f'sandbox {sandbox_id} is paused already')
    if options.get('requireHealthyGuest') is True and not context.tenant.manager._existing(info.id).is_alive():
        raise SandboxSilentError(f'sandbox {sandbox_id} does not answer, so it was not paused')
    context.tenant.manager.pause_sandbox(info.id)
    state_of(context.service).of(context.tenant, info.id).note('sandbox paused')
    return empty()


@on_plane('POST', '/sandboxes/<sandbox_id>/snapshots')
def e2b_snapshot(context: Context, sandbox_id: str, body: RawBody) -> NoReturn:
    """Refuse: no backend keeps a sandbox's memory."""
    _info(context, sandbox_id)
    raise UnsupportedError('this server makes no snapshots; keep files with files.read, or put them into an image')


@on_plane('POST', '/sandboxes/<sandbox_id>/fork')
def e2b_fork(context: Context, sandbox_id: str, body: RawBody) -> NoReturn:
    """Refuse: no backend copies a sandbox's memory."""
    _info(context, sandbox_id)
    raise UnsupportedError('this server cannot copy a running sandbox; make further ones from its template')


@on_plane('PUT', '/sandboxes/<sandbox_id>/network')
def e2b_update_network(context: Context, sandbox_id: str, body: RawBody) -> NoReturn:
    """Refuse: a sandbox's network is settled when it is made."""
    _info(context, sandbox_id)
    raise UnsupportedError(
        'the network of a sandbox is settled when it is made here; make one with allow_internet_access as needed'
    )


@on_plane('GET', '/snapshots', while_draining=True)
def e2b_list_snapshots(context: Context, body: RawBody) -> flask.Response:
    """Return no snapshots, since none can be made."""
    return answer([])


# Templates ------------------------------------------------------------------------------------------------------------


def _templates(context: Context) -> list[dict[str, Any]]:
    state = state_of(context.service)
    moment = _as_time(utc_now())
    return [
        {
            'templateID': name,
            'buildID': name,
            'cpuCount': 1,
            'memoryMB': 1024,
            'diskSizeMB': 0,
            'public': True,
            'aliases': [name],
            'names': [name],
            'createdAt': moment,
            'updatedAt': moment,
            'createdBy': None,
            'lastSpawnedAt': None,
            'spawnCount': 0,
            'buildCount': 0,
            'envdVersion': ENVD_VERSION,
            'buildStatus': 'ready',
        }
        for name in sorted({*state.settings.templates, BASE, CODE_INTERPRETER})
    ]


@on_plane('GET', '/templates', while_draining=True)
def e2b_list_templates(context: Context, body: RawBody) -> flask.Response:
    """Return the templates of the server's configuration."""
    return answer(_templates(context))


@on_plane('GET', '/templates/aliases/<path:alias>', while_draining=True)
def e2b_find_template(context: Context, alias: str, body: RawBody) -> flask.Response:
    """Return the template of a name."""
    if any(alias == each['templateID'] for each in _templates(context)):
        return answer({'templateID': alias, 'public': True})
    raise NotFoundError(f'this server has no template {alias[:100]!r}')


@on_plane('DELETE', '/templates/<path:template_id>')
def e2b_delete_template(context: Context, template_id: str, body: RawBody) -> flask.Response:
    """Refuse to delete what the configuration names; there is nothing else."""
    if any(template_id == each['templateID'] for each in _templates(context)):
        raise UnsupportedError('templates are a table in the configuration of this server; its operator changes them')
    raise NotFoundError(f'there is no template or snapshot {template_id[:100]!r}')


@on_plane('POST', '/v3/templates')
def e2b_build_template(context: Context, body: RawBody) -> NoReturn:
    """Refuse: images are built by the one that runs the server."""
    raise UnsupportedError(
        'this server builds no templates; its operator maps names to images in its configuration (docs/e2b.md)'
    )


_NO_VOLUMES = 'this server has no volumes; its operator can mount directories in a template (docs/e2b.md)'
_NO_SECRETS = 'this server has no secrets; give what a sandbox needs as its environment'


@on_plane('GET', '/volumes', while_draining=True)
def e2b_list_volumes(context: Context, body: RawBody) -> NoReturn:
    """Refuse: what stays beyond a sandbox is the operator's to mount."""
    raise UnsupportedError(_NO_VOLUMES)


@on_plane('POST', '/volumes')
def e2b_make_volume(context: Context, body: RawBody) -> NoReturn:
    """Refuse: what stays beyond a sandbox is the operator's to mount."""
    raise UnsupportedError(_NO_VOLUMES)


@on_plane('GET', '/secrets', while_draining=True)
def e2b_list_secrets(context: Context, body: RawBody) -> NoReturn:
    """Refuse: nothing here keeps secrets for sandboxes."""
    raise UnsupportedError(_NO_SECRETS)


@on_plane('POST', '/secrets')
def e2b_make_secret(context: Context, body: RawBody) -> NoReturn:
    """Refuse: nothing here keeps secrets for sandboxes."""
    raise UnsupportedError(_NO_SECRETS)


# Numbers and logs -----------------------------------------------------------------------------------------------------


@on_plane('GET', '/sandboxes/<sandbox_id>/metrics', lane='call')
def e2b_get_metrics(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Return what a sandbox used since it was asked first, oldest first; the newest entry is of now, if it runs."""
    info = _info(context, sandbox_id)
    begin, end = (_read_moment(name) for name in ('start', 'end'))
    known = state_of(context.service).of(context.tenant, info.id)
    if info.status in USABLE:
        context.check_output(info.id, metrics.MAX_BYTES)
        sandbox = state_of(context.service).sandbox(context.tenant, info.id)
        known.samples.ask(sandbox, info.started_at or info.created_at)
    return answer([_as_metric(info, sample) for sample in known.samples.between(begin, end)])


def _read_moment(name: str) -> float | None:
    text = flask.request.args.get(name)
    if text is None:
        return None
    if not text.isdecimal() or not text.isascii() or len(text) > 12:
        raise InvalidArgumentError(f'{name} must be a time in whole seconds since 1970, not {text[:40]!r}')
    return float(text)


def _as_metric(info: SandboxInfo, sample: metrics.Sample) -> dict[str, Any]:
    return {
        'timestamp': _as_time(sample.at),
        'timestampUnix': int(sample.at.timestamp()),
        'cpuCount': max(1, math.ceil(float(info.config.get('cpu_limit') or 1))),
        'cpuUsedPct': sample.cpu_percent,
        'memUsed': sample.memory,
        'memTotal': _mebibytes(info.config.get('memory_limit')) << 20,
        'memCache': 0,
        'diskUsed': sample.disk_used,
        'diskTotal': sample.disk_total,
    }


@on_plane('GET', '/sandboxes/<sandbox_id>/logs', while_draining=True)
def e2b_get_logs(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Return what was done in a sandbox by this interface, oldest first."""
    entries = _log(context, sandbox_id)
    lines = [{'timestamp': each['timestamp'], 'line': json.dumps(each)} for each in entries]
    return answer({'logs': lines, 'logEntries': entries})


@on_plane('GET', '/v2/sandboxes/<sandbox_id>/logs', while_draining=True)
def e2b_get_logs_v2(context: Context, sandbox_id: str, body: RawBody) -> flask.Response:
    """Return what was done in a sandbox by this interface, oldest first, as newer clients ask."""
    return answer({'logs': _log(context, sandbox_id)})


def _log(context: Context, sandbox_id: str) -> list[dict[str, Any]]:
    info = _info(context, sandbox_id)
    known = state_of(context.service).of(context.tenant, info.id)
    with known.lock:
        entries = list(known.log)
    limit = flask.request.args.get('limit')
    if limit is not None:
        entries = entries[-_read_log_limit(limit) :]
    return [
        {'timestamp': _as_time(each.at), 'message': each.message, 'level': 'info', 'fields': dict(each.fields)}
        for each in entries
    ]


def _read_log_limit(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= 1000:
        raise InvalidArgumentError(f'limit must be a whole number from 1 to 1000, not {text[:40]!r}')
    return int(text[:9])
