from __future__ import annotations

import sys
import types

import pytest

from enclave.enums import SandboxManagerType
from enclave.errors import ConfigurationError, InvalidArgumentError, NotRegisteredError
from enclave.managers import manager_factory
from enclave.managers.local import LocalSandboxManager
from enclave.managers.manager_factory import SandboxManagerFactory, register_manager


class CustomManager(LocalSandboxManager):
    """A kind of a user's."""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_factory.MANAGERS, 'registered', {})


def test_without_an_address_the_manager_is_local() -> None:
    manager = SandboxManagerFactory.create_manager(pool_size=2)

    assert isinstance(manager, LocalSandboxManager)
    assert manager.config.pool_size == 2


@pytest.mark.parametrize('given', ['option', 'config'])
def test_with_an_address_the_manager_is_remote(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType('enclave.managers.http')
    module.HttpSandboxManager = CustomManager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'enclave.managers.http', module)
    where = {'base_url': 'http://127.0.0.1:8000'}

    made = (
        SandboxManagerFactory.create_manager(**where)
        if given == 'option'
        else SandboxManagerFactory.create_manager(config=where)
    )

    assert isinstance(made, CustomManager)
    assert made.config.base_url == 'http://127.0.0.1:8000'


def test_the_kind_can_be_named() -> None:
    for name in ('local', SandboxManagerType.LOCAL):
        assert type(SandboxManagerFactory.create_manager(name)) is LocalSandboxManager


def test_an_unknown_kind_is_not_registered() -> None:
    with pytest.raises(NotRegisteredError, match="'slurm' is not registered; known: http, local, ray") as info:
        SandboxManagerFactory.create_manager('slurm')
    assert isinstance(info.value, ValueError)


def test_a_kind_of_ones_own_can_be_registered() -> None:
    assert register_manager('custom')(CustomManager) is CustomManager

    assert type(SandboxManagerFactory.create_manager('custom')) is CustomManager
    assert SandboxManagerFactory.get_registered_types() == ['custom', 'http', 'local', 'ray']


def test_what_is_no_manager_cannot_be_registered() -> None:
    with pytest.raises(InvalidArgumentError, match='SandboxManager'):
        SandboxManagerFactory.register_manager('custom', dict)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError):
        SandboxManagerFactory.register_manager('', CustomManager)


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='cleanup_interval'):
        SandboxManagerFactory.create_manager(cleanup_intervall=5)
