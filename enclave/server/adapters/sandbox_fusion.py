"""The interface of SandboxFusion (layer 6): ``/run_code``, ``/run_jupyter`` and ``/v1/ping``, at their own addresses.

It is what the package ``sandbox-fusion`` and the trainers that speak its HTTP (verl, SkyRL-agent, Open-R1) ask. Programs run in
the sandboxes of a pool that is made at the first request of a key; each is as new before the next program has it. Requests wait
for their turn and are not refused while they may wait. What travels is read leniently: no language is Python, unknown keys are
passed over, numbers may be text, files are base64 text.

Source of what travels: the package ``sandbox-fusion`` 0.3.7, and the ``sandbox_fusion`` utilities of ``verl`` 0.9.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import json
import logging
import math
import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import attrs
from attrs import define, field, frozen

from enclave.cancellation import Cancellation
from enclave.config import DEFAULT_OUTPUT_BYTES, as_dict, is_a, refuses_unknown_keys, whole_number
from enclave.deadline import check_timeout
from enclave.enums import ExecutionStatus
from enclave.errors import (
    AuthenticationError,
    CallCancelledError,
    ConfigurationError,
    EnclaveError,
    InvalidArgumentError,
    ManagerStoppedError,
    NotRegisteredError,
    PolicyError,
    PoolError,
    PoolExhaustedError,
    RequestTooLargeError,
    SandboxGoneError,
    SandboxPathError,
    SandboxPathNotFoundError,
    TooManyRequestsError,
)
from enclave.languages.table import get_language
from enclave.languages.values import CodeRequest, CodeResult, StepResult
from enclave.managers.protocol import API_KEY_HEADER
from enclave.quoting import quoted
from enclave.sandboxes.kinds import get_kind
from enclave.server.auth import FileSettings
from enclave.server.faults import status_of
from enclave.server.programs import checked_request
from enclave.server.route import JSON, Adapter, Context, Head, Identity, RawBody, Text, route
from enclave.server.service import Service, Tenant
from enclave.threads import thread_pool

logger = logging.getLogger(__name__)

DEFAULT_SECONDS = 10.0
"""The time limit of compiling and of running where a request names none."""
DEFAULT_TOTAL_SECONDS = 45.0
"""The time limit of all cells of a request that names none."""
MAX_REASONS = 20
"""Of how many files an answer says why they were not fetched."""
LEASE_ATTEMPTS = 3
"""How often a program is given another sandbox, if the one it was given was lost before it ran."""
_KILLED = 137  # the exit code of what was ended with SIGKILL


@refuses_unknown_keys
@frozen(kw_only=True)
class SandboxFusionSettings(FileSettings):
    """How a server answers SandboxFusion's clients.

    Attributes:
        sandbox_type: The kind of sandbox that programs run in; default is the server's own.
        config: Its options; default is the server's own configuration.
        pool_size: How many sandboxes a key has for its programs.
        isolation: ``'fresh'``: every program has a new sandbox, and another is made in the background. ``'cleaned'``: what a
            program left, in every place where it can write, is removed before the next one. ``'auto'``, the default: cleaned
            where that is complete (bubblewrap over the host's own files, or Docker's ``read_only``), else fresh.
    """

    sandbox_type: str | None = field(default=None, validator=is_a(str, none=True))
    config: dict[str, Any] | None = field(default=None, converter=attrs.converters.optional(as_dict))
    pool_size: int = field(factory=lambda: min(16, 2 * (os.cpu_count() or 2)), validator=whole_number(1, 1024))
    isolation: Literal['auto', 'fresh', 'cleaned'] = 'auto'

    def __attrs_post_init__(self) -> None:
        if self.config is not None and not isinstance(self.config, dict):
            raise ConfigurationError(f'config must be a dict of options, not {self.config!r}')
        if self.isolation not in ('auto', 'fresh', 'cleaned'):
            raise ConfigurationError(f"isolation must be 'auto', 'fresh' or 'cleaned', not {self.isolation!r}")


class SandboxFusion(Adapter):
    """Keys come as for the server's own addresses, or as the password of the URL (``http://user:KEY@host``)."""

    name: ClassVar[str] = 'sandbox_fusion'
    prefix: ClassVar[str] = '/run_code'

    def identify(self, service: Service, head: Head) -> Identity:
        """Return the key of a request; see `Adapter.identify`."""
        scheme, _, token = head.headers.get('Authorization', '').strip().partition(' ')
        if scheme.lower() == 'basic' and service.authenticator.needs_key:
            try:
                password = base64.b64decode(token.strip(), validate=True).decode('utf-8').partition(':')[2]
            except ValueError:
                raise AuthenticationError('the Authorization header is not that of HTTP Basic') from None
            return Identity(service.authenticator.identify({API_KEY_HEADER: password}))
        return Identity(service.authenticator.identify(head.headers))

    def failure(self, error: EnclaveError, status: int | None) -> tuple[bytes, int, str]:
        """Return an error as it travels; see `Adapter.failure`.

        What could be tried again is a 504, which verl's client does.
        """
        chosen = status_of(error) if status is None else status
        if isinstance(error, (TooManyRequestsError, PoolExhaustedError)):
            chosen = 504
        elif isinstance(error, (InvalidArgumentError, NotRegisteredError)):
            chosen = 422
        return json.dumps({'detail': error.message, 'code': error.code}).encode('ascii'), chosen, JSON


_ANSWER_BYTES = 16 << 20
_LEAST_CELL_BYTES = 64 << 10
_MOST_MEMORY = 1 << 50
ADAPTER = SandboxFusion()
HANDLES = 'sandbox_fusion'


# Addresses ------------------------------------------------------------------------------------------------------------


@route('GET', '/v1/ping', adapter=ADAPTER, answers=str, is_open=True, while_draining=True, tag=HANDLES)
def fusion_ping(context: Context) -> Text:
    """Say that the server answers."""
    return Text('"pong"', JSON)


@route('POST', '/run_code', adapter=ADAPTER, body=dict, answers=dict[str, Any], lane='program', tag=HANDLES)
def fusion_run_code(context: Context, body: RawBody) -> dict[str, Any]:
    """Compile and run a program in a sandbox of the key's pool."""
    sent = _object(body)
    request = checked_request(context, code_request(sent), pool=HANDLES)
    try:
        result = _pools_of(context.service).run(context.service, context.tenant, request)
    except (
        AuthenticationError,
        CallCancelledError,
        InvalidArgumentError,
        ManagerStoppedError,
        NotRegisteredError,
        PolicyError,
        PoolExhaustedError,
        RequestTooLargeError,
        TooManyRequestsError,
    ):
        raise
    except EnclaveError as error:  # the program was not run: the trainer is to leave it out of account
        logger.warning('a program of SandboxFusion could not be run: %s', error)
        return _answer('SandboxError', error.message)
    return code_answer(result)


@route('POST', '/run_jupyter', adapter=ADAPTER, body=dict, answers=dict[str, Any], lane='program', tag=HANDLES)
def fusion_run_jupyter(context: Context, body: RawBody) -> dict[str, Any]:
    """Run cells in a notebook sandbox that is made for them and gone afterwards."""
    sent = _object(body)
    cells = _cells_of(sent)
    context.check_call_timeout(cells.total_seconds)
    context.service.policy.check_tool('notebook_executor', {})
    try:
        return _run_cells(context, cells)
    except (InvalidArgumentError, PolicyError, TooManyRequestsError, CallCancelledError, ManagerStoppedError):
        raise
    except EnclaveError as error:
        logger.warning('cells of SandboxFusion could not be run: %s', error)
        return {
            'status': 'SandboxError',
            'message': error.message,
            'driver': None,
            'cells': [],
            'executor_pod_name': None,
            'files': {},
        }


# What travels ---------------------------------------------------------------------------------------------------------


def _object(body: RawBody) -> dict[str, Any]:
    try:
        sent = json.loads(body.stream.read())
    except RecursionError:
        raise InvalidArgumentError('the body is not JSON that can be read: it is nested too deep') from None
    except ValueError as error:
        raise InvalidArgumentError(f'the body is not JSON: {error}') from None
    if not isinstance(sent, dict):
        raise InvalidArgumentError(f'the body must be an object, not {type(sent).__name__}')
    return sent


def code_request(sent: Mapping[str, Any]) -> CodeRequest:
    """Return the request that a body makes.

    Raises:
        InvalidArgumentError: It lacks the code, or something in it cannot be meant.
        NotRegisteredError: There is no such language.
    """
    code = sent.get('code')
    if not isinstance(code, str):
        raise InvalidArgumentError('code must be the text of a program')
    language = get_language(str(sent.get('language') or 'python'))
    files = _files_of(sent.get('files'))
    plan = language.plan(code, '')
    if plan is not None:
        files.pop(plan.file, None)  # the program itself goes there
    seconds = _seconds(sent.get('run_timeout'), 'run_timeout', DEFAULT_SECONDS)
    stdin = sent.get('stdin')
    return CodeRequest(
        code=code,
        language=language.name,
        stdin=None if stdin is None else str(stdin),
        files=files,
        fetch_files=_names_of(sent.get('fetch_files')),
        compile_timeout=_seconds(sent.get('compile_timeout'), 'compile_timeout', DEFAULT_SECONDS),
        timeout=seconds,
        cpu_time_limit=check_timeout(seconds),
        memory_limit=_memory(sent.get('memory_limit_MB')),
    )


def _seconds(value: Any, name: str, default: float) -> float:
    """Return a time limit; 0 is none."""
    if value is None or value == '':
        return default
    return max(0.0, _number(value, f'{name} must be a number of seconds'))


def _memory(value: Any) -> int | None:
    """Return a limit of so many MB in bytes; none, 0 and less are no limit."""
    if value is None or value == '':
        return None
    number = _number(value, 'memory_limit_MB must be a number')
    return min(_MOST_MEMORY, max(1 << 20, int(min(number, _MOST_MEMORY) * (1 << 20)))) if number > 0 else None


def _number(value: Any, what: str) -> float:
    """Return a number that may have come as text.

    Raises:
        InvalidArgumentError: It is none, or none that a float can be.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidArgumentError(f'{what}, not {quoted(value)}')
    return number


def _files_of(value: Any) -> dict[str, bytes]:
    """Return files from ``{path: base64 text}``; those without content are left out."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError('files must be an object of paths to base64 text')
    files = {}
    for path, text in value.items():
        if text is None:
            continue
        try:
            data = base64.b64decode(str(text).encode('ascii'), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise InvalidArgumentError(f'files[{path!r}] must be base64 text') from None
        files[str(path)] = data
    return files


def _names_of(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidArgumentError('fetch_files must be a list of paths')
    return tuple(str(each) for each in value)


def code_answer(result: CodeResult) -> dict[str, Any]:
    """Return what became of a program, as it travels."""
    is_right = result.run is not None and result.run.success and result.run.exceeded is None
    return _answer(
        'Success' if is_right else 'Failed',
        _left_out(result.file_errors),
        compile_result=None if result.compile is None else _step(result.compile),
        run_result=None if result.run is None else _step(result.run),
        files={path: base64.b64encode(data).decode('ascii') for path, data in result.files.items()},
    )


def _left_out(reasons: dict[str, str]) -> str:
    """Return a sentence about files that were asked for and did not come; empty where all did."""
    sentences = (f'{quoted(path)} was not fetched: {why}' for path, why in reasons.items())
    return '; '.join(itertools.islice(sentences, MAX_REASONS))


def _step(step: StepResult) -> dict[str, Any]:
    ran_out = step.exceeded in ('time', 'cpu')
    exit_code = step.exit_code
    if step.exceeded in ('memory', 'output') and not exit_code:
        exit_code = _KILLED  # it ended by itself, and had gone over the limit
    return {
        'status': 'TimeLimitExceeded' if ran_out else 'Finished',
        'execution_time': step.execution_time,
        'cpu_time': step.cpu_time,
        'return_code': None if ran_out else exit_code,
        'stdout': step.stdout,
        'stderr': step.stderr,
    }


def _answer(status: str, message: str, **parts: Any) -> dict[str, Any]:
    return {
        'status': status,
        'message': message,
        'compile_result': None,
        'run_result': None,
        'executor_pod_name': None,
        'files': {},
        **parts,
    }


# Cells ----------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class _CellsRequest:
    """A request for cells."""

    cells: tuple[str, ...]
    cell_seconds: float
    total_seconds: float
    files: dict[str, bytes]
    fetch_files: tuple[str, ...]


def _cells_of(sent: Mapping[str, Any]) -> _CellsRequest:
    cells = sent.get('cells')
    if not isinstance(cells, list) or not all(isinstance(each, str) for each in cells):
        raise InvalidArgumentError('cells must be a list of code')
    kernel = sent.get('kernel') or 'python3'
    if kernel != 'python3':
        raise InvalidArgumentError(f"kernel must be 'python3', not {quoted(kernel)}")
    return _CellsRequest(
        cells=tuple(cells),
        cell_seconds=_seconds(sent.get('cell_timeout'), 'cell_timeout', 0.0),
        total_seconds=_seconds(sent.get('total_timeout'), 'total_timeout', DEFAULT_TOTAL_SECONDS),
        files=_files_of(sent.get('files')),
        fetch_files=_names_of(sent.get('fetch_files')),
    )


def _run_cells(context: Context, asked: _CellsRequest) -> dict[str, Any]:
    service, tenant = context.service, context.tenant
    made = service.checked(tenant, _settings_of(service).sandbox_type, _settings_of(service).config)
    kind = get_kind(made.kind)
    notebook = made.kind if kind.is_notebook else kind.notebook
    if notebook is None:
        raise InvalidArgumentError(
            f'sandboxes of the kind {made.kind} have no notebooks; run_jupyter cannot be used here'
        )
    options = {'tools_config': {}} if not kind.is_notebook else made.config.non_default_options()
    # What all cells give is one answer, so each has its part of what one may hold.
    most = max(_LEAST_CELL_BYTES, _ANSWER_BYTES // max(1, len(asked.cells)))
    most = min(most, service.policy.max_display_bytes or most)
    options = {**options, 'max_display_bytes': min(most, options.get('max_display_bytes', most))}
    context.held.enter_context(service.lanes.holding(tenant.name, 5 * most * len(asked.cells)))
    config = service.checked(tenant, notebook, options).config
    with tenant.reserved(1):
        sandbox_id = tenant.manager.create_sandbox(notebook, config)
    try:
        sandbox: Any = tenant.manager._existing(sandbox_id)
        for path, data in asked.files.items():
            sandbox.write_file(path, data)
        cells, driver, left = [], 'Finished', asked.total_seconds or math.inf
        spent = 0.0
        for code in asked.cells:
            limit = min(left, asked.cell_seconds or math.inf)
            seconds = 0 if math.isinf(limit) else max(limit, 1e-3)
            result = sandbox.execute_cell(code, timeout=seconds, max_output_bytes=min(most, DEFAULT_OUTPUT_BYTES))
            cells.append(_cell(result))
            left -= result.execution_time
            spent += result.execution_time
            if result.status is ExecutionStatus.TIMEOUT:
                driver = 'TimeLimitExceeded'
                break
        files, reasons = _fetched(sandbox, asked.fetch_files, context)
    finally:
        with Cancellation().applied():
            tenant.manager.delete_sandbox(sandbox_id)
            tenant.forget(sandbox_id)
    return {
        'status': 'Success' if driver == 'Finished' else 'Failed',
        'message': _left_out(reasons),
        'driver': {
            'status': driver,
            'execution_time': spent,
            'return_code': 0 if driver == 'Finished' else None,
            'stdout': '',
            'stderr': '',
        },
        'cells': cells,
        'executor_pod_name': None,
        'files': {path: base64.b64encode(data).decode('ascii') for path, data in files.items()},
    }


def _cell(result: Any) -> dict[str, Any]:
    shown = [each for each in result.outputs if each.get('output_type') in ('display_data', 'execute_result')]
    failed = [each for each in result.outputs if each.get('output_type') == 'error']
    return {
        'stdout': result.stdout,
        'stderr': result.stderr,
        'display': [each.get('data', {}) for each in shown],
        'error': [{name: each.get(name) for name in ('ename', 'evalue', 'traceback')} for each in failed],
    }


def _fetched(sandbox: Any, paths: tuple[str, ...], context: Context) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return files that were asked for, and why there are not the others."""
    policy = context.service.policy
    left = min(policy.max_json_bytes, policy.max_upload_bytes)
    found: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    for path in paths:
        try:
            data = sandbox.read_file(path, max_bytes=left + 1)
        except (SandboxPathError, SandboxPathNotFoundError, InvalidArgumentError) as error:
            reasons[path] = error.message
            continue
        if len(data) > left:
            reasons[path] = f'larger than the {left} bytes that are left for files'
            continue
        left -= len(data)
        found[path] = data
    return found, reasons


# Pools ----------------------------------------------------------------------------------------------------------------


@define(eq=False)
class _Pools:
    """The pools of a server's keys. Lives as long as the server; any thread may use it."""

    settings: SandboxFusionSettings
    _making: dict[str, threading.Lock] = field(
        factory=dict, init=False, repr=False
    )  # by key: held while its pool is made
    _cleaners: dict[str, _Cleaner] = field(factory=dict, init=False)  # by sandbox; those of dead ones are few and small

    def run(self, service: Service, tenant: Tenant, request: CodeRequest) -> CodeResult:
        """Run a program in a sandbox of a key's pool, which is made if it is not there."""
        for attempt in range(LEASE_ATTEMPTS):
            sandbox_id = self._acquire(service, tenant)
            try:
                self._note(sandbox_id, tenant.manager.get_sandbox(sandbox_id))
                return tenant.manager.run_code(sandbox_id, request)
            except SandboxGoneError:
                if attempt == LEASE_ATTEMPTS - 1:
                    raise
            finally:
                thread_pool.submit(lambda sandbox_id=sandbox_id: self._give_back(tenant, sandbox_id))  # type: ignore[misc]
        raise AssertionError('unreachable')

    def _acquire(self, service: Service, tenant: Tenant) -> str:
        try:
            return tenant.manager.acquire_sandbox(pool=HANDLES)
        except PoolError:
            pass  # there is none yet, or it was dissolved
        with self._making.setdefault(tenant.name, threading.Lock()):
            if HANDLES not in tenant.manager.get_stats()['pools']:
                self._make(service, tenant)
        return tenant.manager.acquire_sandbox(pool=HANDLES)

    def _make(self, service: Service, tenant: Tenant) -> None:
        asked = service.checked(tenant, self.settings.sandbox_type, self.settings.config)
        size = self.settings.pool_size
        if tenant.max_sandboxes is not None:
            size = max(1, min(size, tenant.max_sandboxes))
        most = tenant.manager.config.max_size_for(size)
        with tenant.reserved(most), Cancellation().applied():  # others wait for it too
            ids = tenant.manager.initialize_pool(size, asked.kind, asked.config, name=HANDLES)
        asked.note(tenant, ids)

    def _give_back(self, tenant: Tenant, sandbox_id: str) -> None:
        """Give a sandbox back as new, or take it away so that the pool makes another."""
        manager = tenant.manager
        try:
            if self._clean(manager.get_sandbox(sandbox_id)):
                manager.release_sandbox(sandbox_id)
                return
        except EnclaveError as error:
            logger.info('sandbox %s was not cleaned and is replaced: %s', sandbox_id, error)
        except Exception:
            logger.warning('sandbox %s was not cleaned and is replaced', sandbox_id, exc_info=True)
        self._cleaners.pop(sandbox_id, None)
        try:
            manager.delete_sandbox(sandbox_id)
        except EnclaveError as error:
            logger.info('sandbox %s could not be taken away: %s', sandbox_id, error)

    def _note(self, sandbox_id: str, sandbox: Any) -> None:
        """Remember how a sandbox is before the first program has it, if it is to be cleaned."""
        if sandbox is None or self.settings.isolation == 'fresh' or sandbox_id in self._cleaners:
            return
        places = sandbox._changeable_places()
        if places is not None or self.settings.isolation == 'cleaned':
            self._cleaners[sandbox_id] = _Cleaner.of(sandbox, places or _PLACES)

    def _clean(self, sandbox: Any) -> bool:
        """Remove what a program left; False if the sandbox is to be replaced."""
        cleaner = None if sandbox is None else self._cleaners.get(sandbox.id)
        return cleaner is not None and cleaner.clean(sandbox)


_PLACES = ('/tmp', '/var/tmp', '/dev/shm')
_DEVICES = frozenset(
    {
        'console',
        'core',
        'fd',
        'full',
        'mqueue',
        'null',
        'ptmx',
        'pts',
        'random',
        'shm',
        'stderr',
        'stdin',
        'stdout',
        'tty',
        'urandom',
        'zero',
    }
)


@frozen
class _Cleaner:
    """Removes what programs left in a sandbox. ``places`` are directories, with their kinds, permissions and owners."""

    places: dict[str, tuple[Any, ...] | None]

    @classmethod
    def of(cls, sandbox: Any, places: Iterable[str]) -> _Cleaner:
        """Return one that knows a sandbox as it is now."""
        return cls({place: _looks(sandbox, place) for place in places})

    def clean(self, sandbox: Any) -> bool:
        """Empty all places; False if something is left that is not emptied so: shared memory, or changed permissions."""
        for place in self.places:
            try:
                entries = sandbox.list_dir(place)
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                continue
            for entry in entries:
                if place == '/dev' and entry.path in _DEVICES:
                    continue
                sandbox.remove_path(f'{place.rstrip("/")}/{entry.path}', recursive=True, missing_ok=True)
        return not _has_ipc(sandbox) and all(_looks(sandbox, place) == look for place, look in self.places.items())


def _looks(sandbox: Any, place: str) -> tuple[Any, ...] | None:
    try:
        info = sandbox.stat_path(place, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return (info.kind, info.mode, info.uid, info.gid, info.target)


def _has_ipc(sandbox: Any) -> bool:
    """Return whether there is shared memory, a queue of messages or a set of semaphores, which outlive their programs.

    Each file has a line of titles (sysvipc(7)); a kernel without them has no file.
    """
    for name in ('shm', 'msg', 'sem'):
        with contextlib.suppress(FileNotFoundError):
            if sandbox.read_file(f'/proc/sysvipc/{name}').count(b'\n') > 1:
                return True
    return False


_pools: weakref.WeakKeyDictionary[Service, _Pools] = weakref.WeakKeyDictionary()
_pools_lock = threading.Lock()  # guards _pools


def _pools_of(service: Service) -> _Pools:
    with _pools_lock:
        found = _pools.get(service)
        if found is None:
            found = _pools[service] = _Pools(_settings_of(service))
        return found


def _settings_of(service: Service) -> SandboxFusionSettings:
    settings = service.adapters.get(HANDLES)
    return settings if isinstance(settings, SandboxFusionSettings) else SandboxFusionSettings.read(settings)
