"""What clients of other programs' interfaces send is read, or refused as an error of theirs; no sandbox is made here."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest

from enclave.errors import EnclaveError
from enclave.server.adapters.e2b.creation import read_wanted
from enclave.server.adapters.ms_enclave import _TenantPool
from enclave.server.adapters.sandbox_fusion import _cells_of, _object, code_request
from enclave.server.route import RawBody
from enclave.testing.kinds import wait_until

DEEP: Any = []
for _ in range(100):
    DEEP = [DEEP]
VALUES = (
    *(None, True, False, -1, 0, 1.5, 1e308, -1e308, float('nan'), float('inf'), 10**30, 10**400, -(10**400)),
    *('', '5', 'NaN', '1e999', '9' * 5000, 'x' * 5000, 'a\0b', 'a\nb', '\ud800', '../../x', '~root/x', 'CON', '\u0663'),
    *([], [1], [None], ['a'], {}, {'a': 1}, {'': ''}, {'a\0': 'b'}, {'\ud800': '\udfff'}, DEEP, {'x': DEEP}),
)
SAMPLES: dict[str, tuple[Callable[[Mapping[str, Any]], Any], dict[str, Any]]] = {
    'E2B': (
        read_wanted,
        {
            'templateID': 'base',
            'timeout': 5,
            'metadata': {'a': 'b'},
            'envVars': {'a': 'b'},
            'allow_internet_access': True,
            'network': {'denyOut': ['0.0.0.0/0'], 'allowOut': [], 'allowPublicTraffic': False},
            'autoPause': True,
            'autoResume': {'enabled': True},
            'autoPauseMemory': True,
            'mcp': None,
        },
    ),
    'SandboxFusion, code': (
        code_request,
        {
            'code': '1',
            'language': 'python',
            'stdin': '1',
            'files': {'a': 'aGk='},
            'fetch_files': ['a'],
            'compile_timeout': 1,
            'run_timeout': 1,
            'memory_limit_MB': 1,
        },
    ),
    'SandboxFusion, cells': (
        _cells_of,
        {
            'cells': ['1'],
            'kernel': 'python3',
            'cell_timeout': 1,
            'total_timeout': 1,
            'files': {'a': 'aGk='},
            'fetch_files': ['a'],
        },
    ),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where in a value something else can stand."""
    if path:
        yield path
    for name, each in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from places(each, (*path, name))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize('name', SAMPLES)
def test_what_cannot_be_meant_is_refused_and_no_failure(name: str) -> None:
    read, sample = SAMPLES[name]
    read(sample)

    for path in places(sample):
        for value in VALUES:
            try:
                read(replaced(sample, path, value))
            except EnclaveError as error:
                assert len(error.message) < 10_000, path  # noqa: PT017, most of these values can be meant


@pytest.mark.parametrize('data', [b'[' * 90_000, b'{"a":' * 50_000, b'{', b'\xff', b'[]', b'"x"', b'9' * 5000])
def test_a_body_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(EnclaveError):
        _object(RawBody(io.BytesIO(data), len(data)))


def test_a_memory_limit_beyond_all_machines_is_none_that_matters() -> None:
    assert code_request(json.loads('{"code": "1", "memory_limit_MB": 1e300}')).memory_limit == 1 << 50


def test_a_time_limit_beyond_all_patience_is_none() -> None:
    request = code_request(json.loads('{"code": "1", "run_timeout": 1e300, "compile_timeout": 1e300}'))

    assert request.cpu_time_limit is None


def test_a_place_in_a_pool_is_waited_for_as_long_as_a_client_says() -> None:
    pool = _TenantPool(members={'busy'})
    raised: list[EnclaveError] = []

    def wait() -> None:
        try:
            pool._take(cast(Any, None), 1e300)
        except EnclaveError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: bool(pool._queue))
    pool.drop('busy')
    thread.join(60)

    assert 'is empty' in raised[0].message
