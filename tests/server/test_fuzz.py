"""The server against what its own OpenAPI document lets a stranger think of: no 5xx, every answer as declared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from enclave.cells import CellResult, Completion, Inspection, KernelInfo, KernelSpec, Variable
from enclave.enums import ExecutionStatus
from enclave.managers.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from enclave.records import CommandResult, PathInfo
from enclave.rulings import SHARED
from enclave.sandboxes.base import Sandbox
from enclave.sandboxes.notebook.sandbox import Steps
from enclave.sandboxes.sandbox_factory import SandboxFactory
from enclave.server.openapi import document
from tests.support.server import serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
EXAMPLES = int(os.environ.get('ENCLAVE_FUZZ_EXAMPLES', '12'))


schemathesis.serializer.alias('application/x-tar', 'application/octet-stream')


class InertSandbox(Sandbox):
    """Takes everything and does nothing: what is fuzzed is the server, and no program of this machine is ever run."""

    sandbox_type: ClassVar[str] = 'inert'
    offers: ClassVar[frozenset[str]] = frozenset({'commands', 'files', 'notebook'})

    def _start(self) -> None:
        pass

    def _stop(self, *, keep: bool) -> None:
        pass

    def execute_command(
        self, command: str | Sequence[str], timeout: float | None = None, **options: Any
    ) -> CommandResult:
        return CommandResult(
            command=command if isinstance(command, str) else list(command), status=ExecutionStatus.SUCCESS
        )

    def read_file(self, path: str, **options: Any) -> bytes:
        return path.encode('utf-8', 'surrogateescape')

    def write_file(self, path: str, data: bytes, **options: Any) -> int:
        return len(data)

    def stat_path(self, path: str, *, follow_symlinks: bool = True) -> PathInfo:
        return PathInfo(path=path, kind='file')

    def list_dir(self, path: str, **options: Any) -> list[PathInfo]:
        return [PathInfo(path='one', kind='file')]

    def remove_path(self, path: str, **options: Any) -> None:
        pass

    def execute_cell(self, code: str, timeout: float | None = None, **options: Any) -> CellResult:
        return CellResult(status=ExecutionStatus.SUCCESS, text=code)

    def stream_cell(self, code: str, timeout: float | None = None, **options: Any) -> Steps:
        yield {'output_type': 'stream', 'name': 'stdout', 'text': code}
        yield self.execute_cell(code)

    def create_kernel(self, name: str, spec: str, **options: Any) -> KernelInfo:
        return KernelInfo(name=name, spec=spec)

    def list_kernels(self) -> list[KernelInfo]:
        return [KernelInfo(name='default', spec='python3')]

    def list_kernel_specs(self) -> list[KernelSpec]:
        return [KernelSpec(name='python3')]

    def delete_kernel(self, name: str) -> None:
        pass

    def interrupt_kernel(self, name: str) -> None:
        pass

    def restart_kernel(self, name: str) -> None:
        pass

    def complete_code(self, code: str, cursor: int | None = None, **options: Any) -> Completion:
        return Completion(matches=[code])

    def inspect_code(self, code: str, cursor: int | None = None, **options: Any) -> Inspection:
        return Inspection(found=True, text=code)

    def check_complete(self, code: str, **options: Any) -> tuple[str, str]:
        return 'complete', ''

    def list_variables(self, **options: Any) -> list[Variable]:
        return [Variable(name='x')]


@pytest.fixture(scope='module')
def described() -> Iterator[Any]:
    SandboxFactory.register_sandbox('inert', InertSandbox, rulings=SHARED)
    policy = {'sandbox_types': ('inert',), 'max_sandboxes': 8, 'tools': ('shell_executor', 'notebook_executor')}
    config = {'tools_config': ['shell_executor']}
    with serving(policy=policy, sandbox_config=config) as server:
        assert server.service is not None
        manager = server.service.tenant(None).manager
        manager.create_sandbox('inert', sandbox_id='fuzzed')
        yield schemathesis.openapi.from_url(f'{server.url}/openapi.json')


def operations() -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, methods in document()['paths'].items() for method in methods]


@pytest.mark.parametrize('mode', list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(('method', 'path'), operations())
def test_every_answer_is_as_declared(described: Any, method: str, path: str, mode: GenerationMode) -> None:
    if (method, path) in (
        ('DELETE', '/sandbox/{sandbox_id}'),
        ('DELETE', '/sandboxes'),
        ('POST', '/sandbox/{sandbox_id}/stop'),
    ):
        sandbox_id = 'nobody'  # the one sandbox is not taken away, so that every route meets it
    else:
        sandbox_id = 'fuzzed'
    if path == '/sandboxes' and method == 'DELETE':
        pytest.skip('it has nothing to think of')

    @given(case=described[path][method].as_strategy(generation_mode=mode), meets=booleans())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any, meets: bool) -> None:
        if meets and 'sandbox_id' in (case.path_parameters or {}):
            case.path_parameters['sandbox_id'] = sandbox_id
        case.call_and_validate(checks=CHECKS, timeout=30, headers={PROTOCOL_HEADER: str(PROTOCOL_VERSION)})

    try:
        check()
    except Unsatisfiable:
        pytest.skip('nothing wrong can be thought of')
