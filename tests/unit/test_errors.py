from __future__ import annotations

import copy
import pickle
import re

import pytest

from enclave import errors
from enclave.errors import ERROR_TYPES, EnclaveError

ALL = sorted(
    (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, EnclaveError)),
    key=lambda each: each.__name__,
)


@pytest.mark.parametrize('cls', ALL)
def test_every_error_has_its_own_code_in_the_table(cls: type[EnclaveError]) -> None:
    assert ERROR_TYPES[cls.code] is cls
    assert re.fullmatch('[a-z]+(-[a-z]+)*', cls.code)


def test_the_table_holds_nothing_else() -> None:
    assert sorted(ERROR_TYPES.values(), key=lambda each: each.__name__) == ALL


@pytest.mark.parametrize('cls', ALL)
def test_every_error_keeps_its_message_and_details(cls: type[EnclaveError]) -> None:
    error = cls('what was tried', details={'id': 'ab'})

    assert str(error) == error.message == 'what was tried'
    assert error.details == {'id': 'ab'}
    assert error.args == ('what was tried',)


@pytest.mark.parametrize('cls', ALL)
@pytest.mark.parametrize('again', [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_every_error_survives_copying_and_pickling(cls: type[EnclaveError], again: object) -> None:
    error = again(cls('words', details={'a': [1]}))  # type: ignore[operator]

    assert type(error) is cls
    assert (error.message, error.details) == ('words', {'a': [1]})


@pytest.mark.parametrize('cls', ALL)
def test_every_error_ends_in_error_and_says_what_it_means(cls: type[EnclaveError]) -> None:
    assert cls.__name__.endswith('Error')
    assert cls.__doc__


@pytest.mark.parametrize(
    ('name', 'builtins'),
    [
        ('ConfigurationError', [ValueError]),
        ('ToolArgumentsError', [ValueError]),
        ('ToolNotFoundError', [LookupError, ValueError]),
        ('SandboxNotFoundError', [LookupError, ValueError]),
        ('SandboxPathNotFoundError', [FileNotFoundError, OSError]),
        ('SandboxPathError', [OSError]),
        ('SandboxPathExistsError', [FileExistsError, OSError]),
        ('SandboxGoneError', [RuntimeError, ConnectionError]),
        ('EngineUnavailableError', [ConnectionError]),
        ('OperationTimeoutError', [TimeoutError]),
        ('PoolExhaustedError', [TimeoutError]),
        ('PoolError', [ValueError]),
        ('AuthenticationError', [PermissionError]),
        ('UnsupportedError', [NotImplementedError]),
    ],
)
def test_a_stranger_can_catch_the_builtin(name: str, builtins: list[type[Exception]]) -> None:
    assert all(issubclass(getattr(errors, name), builtin) for builtin in builtins)


def test_details_are_a_private_copy() -> None:
    details = {'a': 1}
    error = EnclaveError('x', details=details)

    details['a'] = 2

    assert error.details == {'a': 1}
