"""What needs no engine of the documented API: names, enums, values, schemas, the command line, classes to subclass."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import importlib
import inspect
import io
import json
import logging
import pickle
import subprocess
import sys
import tarfile
import types
from collections import UserDict, UserList
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from ms_enclave.sandbox import model
from ms_enclave.sandbox.boxes import Sandbox, SandboxFactory, register_sandbox
from ms_enclave.sandbox.manager.base import SandboxManager, SandboxManagerFactory, register_manager
from ms_enclave.sandbox.manager.local_manager import LocalSandboxManager
from ms_enclave.sandbox.model import (
    CommandResult,
    DockerNotebookConfig,
    DockerSandboxConfig,
    ExecutionStatus,
    SandboxConfig,
    SandboxInfo,
    SandboxManagerConfig,
    SandboxManagerType,
    SandboxStatus,
    SandboxType,
    ToolResult,
)
from ms_enclave.sandbox.model.responses import ExecutionResult
from ms_enclave.sandbox.tools import Tool, ToolFactory, register_tool
from ms_enclave.sandbox.tools.sandbox_tool import SandboxTool
from ms_enclave.sandbox.tools.tool_info import JSONSchema, ToolParams, parse_docstring, parse_tool_info
from ms_enclave.utils.json_schema import json_schema, python_type_to_json_type
from tests.compat.covering import covers
from tests.compat.running import environment

# Section 1: import paths

NAMES = {
    'ms_enclave': '__version__ __release_date__',
    'ms_enclave.version': '__version__ __release_date__',
    'ms_enclave.sandbox': 'DockerSandbox Sandbox SandboxFactory HttpSandboxManager LocalSandboxManager DockerSandboxConfig '
    'SandboxConfig ExecuteCodeRequest ExecuteCommandRequest ReadFileRequest WriteFileRequest ToolExecutionRequest '
    'ExecutionStatus HealthCheckResult SandboxInfo SandboxStatus ToolResult SandboxServer create_server PythonExecutor Tool '
    'ToolFactory boxes manager model server tools utils',
    'ms_enclave.sandbox.boxes': 'Sandbox SandboxFactory register_sandbox StatelessSandbox DockerSandbox '
    'DockerNotebookSandbox VolcengineSandbox',
    'ms_enclave.sandbox.boxes.base': 'Sandbox SandboxFactory register_sandbox',
    'ms_enclave.sandbox.boxes.docker_sandbox': 'DockerSandbox',
    'ms_enclave.sandbox.boxes.docker_notebook': 'DockerNotebookSandbox',
    'ms_enclave.sandbox.boxes.stateless_sandbox': 'StatelessSandbox',
    'ms_enclave.sandbox.boxes.volcengine': 'VolcengineSandbox',
    'ms_enclave.sandbox.manager': 'SandboxManager SandboxManagerFactory LocalSandboxManager HttpSandboxManager '
    'VolcengineSandboxManager',
    'ms_enclave.sandbox.manager.base': 'SandboxManager SandboxManagerFactory register_manager',
    'ms_enclave.sandbox.manager.local_manager': 'LocalSandboxManager',
    'ms_enclave.sandbox.manager.http_manager': 'HttpSandboxManager',
    'ms_enclave.sandbox.manager.volcengine': 'VolcengineSandboxManager',
    'ms_enclave.sandbox.model': 'ExecutionStatus SandboxManagerType SandboxStatus SandboxType ToolType SandboxManagerConfig '
    'SandboxConfig DockerSandboxConfig DockerNotebookConfig VolcengineSandboxConfig VolcengineSandboxManagerConfig ToolConfig '
    'PythonExecutorConfig ShellExecutorConfig FileOperationConfig ExecuteCodeRequest ExecuteCommandRequest '
    'FileOperationRequest ReadFileRequest WriteFileRequest ToolExecutionRequest CommandResult HealthCheckResult SandboxInfo '
    'ToolResult',
    'ms_enclave.sandbox.model.base': 'ExecutionStatus SandboxManagerType SandboxStatus SandboxType ToolType',
    'ms_enclave.sandbox.model.config': 'SandboxManagerConfig SandboxConfig DockerSandboxConfig DockerNotebookConfig '
    'VolcengineSandboxConfig VolcengineSandboxManagerConfig ToolConfig PythonExecutorConfig ShellExecutorConfig '
    'FileOperationConfig',
    'ms_enclave.sandbox.model.requests': 'ExecuteCodeRequest ExecuteCommandRequest FileOperationRequest ReadFileRequest '
    'WriteFileRequest ToolExecutionRequest',
    'ms_enclave.sandbox.model.responses': 'CommandResult HealthCheckResult SandboxInfo ToolResult ExecutionResult',
    'ms_enclave.sandbox.model.constants': 'DEFAULT_POOL_EXECUTION_TIMEOUT',
    'ms_enclave.sandbox.tools': 'Tool ToolFactory register_tool FileOperation PythonExecutor ShellExecutor',
    'ms_enclave.sandbox.tools.base': 'Tool ToolFactory register_tool',
    'ms_enclave.sandbox.tools.sandbox_tool': 'SandboxTool',
    'ms_enclave.sandbox.tools.tool_info': 'ToolParams ToolParam ToolInfo parse_tool_info parse_docstring',
    'ms_enclave.sandbox.tools.sandbox_tools': 'FileOperation MultiCodeExecutor NotebookExecutor PythonExecutor ShellExecutor '
    'file_operation multi_code_executor notebook_executor python_executor shell_executor',
    'ms_enclave.sandbox.server': 'SandboxServer create_server',
    'ms_enclave.sandbox.server.server': 'SandboxServer create_server',
    'ms_enclave.sandbox.utils': '',
    'ms_enclave.sandbox.utils.archive': 'tar_directory tar_file',
    'ms_enclave.utils': 'get_logger',
    'ms_enclave.utils.logger': 'get_logger logger',
    'ms_enclave.utils.json_schema': 'JSONSchema JSONType json_schema cls_json_schema python_type_to_json_type '
    'resolve_schema_references',
    'ms_enclave.cli.cli': 'run_cmd',
    'ms_enclave.cli.base': 'CLICommand',
    'ms_enclave.cli.start_server': 'ServerCMD add_argument',
}


@covers(1, *NAMES)
@pytest.mark.parametrize('module', list(NAMES))
def test_every_import_path_has_its_names(module: str) -> None:
    found = importlib.import_module(module)

    missing = [name for name in NAMES[module].split() if not hasattr(found, name)]

    assert missing == []


def test_the_documented_modules_say_what_they_export() -> None:
    import ms_enclave
    from ms_enclave.sandbox import boxes, manager
    from ms_enclave.sandbox.model import constants

    assert set(ms_enclave.__all__) == {'__version__', '__release_date__'}
    assert set(boxes.__all__) == set(NAMES['ms_enclave.sandbox.boxes'].split())
    assert set(manager.__all__) == set(NAMES['ms_enclave.sandbox.manager'].split())
    assert not hasattr(model, 'ExecutionResult')
    assert constants.DEFAULT_POOL_EXECUTION_TIMEOUT == 3600


@pytest.mark.processes
@covers(1, 'ms_enclave.utils.logger')
def test_the_logger_shows_info_without_any_set_up(tmp_path: Path) -> None:
    program = (
        'from ms_enclave.utils import get_logger\nlog = get_logger()\nlog.info("seen")\nlog.info_once("once")\n'
        'log.info_once("once")\nlog.debug("not seen")\nlog.warning_once("careful")\nprint(log.name, log.propagate)\n'
        'get_logger(log_file="out.log").info("kept")\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )

    assert done.stdout == 'ms_enclave False\n'
    lines = [
        '[INFO:ms_enclave] seen',
        '[INFO:ms_enclave] once',
        '[WARNING:ms_enclave] careful',
        '[INFO:ms_enclave] kept',
    ]
    assert done.stderr.splitlines() == lines
    assert (tmp_path / 'out.log').read_text() == '[INFO:ms_enclave] kept\n'


@covers(1, 'ms_enclave.sandbox.utils.archive')
def test_directories_become_archives_without_links(tmp_path: Path) -> None:
    from ms_enclave.sandbox.utils.archive import tar_directory, tar_file

    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'x').write_text('1')
    (tmp_path / 'a').write_text('2')
    (tmp_path / 'link').symlink_to('/etc/passwd')

    with tarfile.open(fileobj=io.BytesIO(tar_directory(tmp_path))) as archive:
        assert archive.getnames() == ['a', 'b', 'b/x']
    with tarfile.open(fileobj=io.BytesIO(tar_file('n', b'data'))) as archive:
        assert archive.extractfile('n').read() == b'data'  # type: ignore[union-attr]


# Section 2: enums


@covers(2, 'SandboxStatus', 'SandboxType', 'SandboxManagerType', 'ExecutionStatus', 'ToolType')
def test_enums_are_words() -> None:
    members = {
        model.SandboxStatus: 'initializing running idle busy stopping stopped error',
        model.SandboxType: 'docker docker_notebook volcengine dummy',
        model.SandboxManagerType: 'local http volcengine',
        model.ExecutionStatus: 'success error timeout cancelled',
        model.ToolType: 'sandbox function external',
    }
    for cls, names in members.items():
        for word in names.split():
            member: Any = getattr(cls, word.upper())
            assert issubclass(cls, str)
            assert issubclass(cls, Enum)
            assert (member == word, hash(member) == hash(word), member.value) == (True, True, word)
            assert str(member) == f'{cls.__name__}.{word.upper()}'


@covers(2, 'SandboxType')
def test_a_docker_tool_fits_a_notebook_and_not_the_other_way() -> None:
    docker, notebook = SandboxType.DOCKER, SandboxType.DOCKER_NOTEBOOK

    assert SandboxType.get_compatible_types(docker) == {docker}
    assert SandboxType.get_compatible_types(notebook) == {notebook, docker}
    assert SandboxType.get_compatible_types(SandboxType.DUMMY) == {SandboxType.DUMMY}
    assert SandboxType.is_compatible(notebook, docker)
    assert not SandboxType.is_compatible(docker, notebook)
    assert SandboxType.is_compatible('docker', 'docker')


# Section 3: configurations

DOCKER_DEFAULTS: dict[str, Any] = {
    'timeout': 30,
    'tools_config': {},
    'working_dir': '/sandbox',
    'env_vars': {},
    'resource_limits': {},
    'image': 'python:3.11-slim',
    'entrypoint': None,
    'command': None,
    'volumes': {},
    'ports': {},
    'network': 'bridge',
    'extra_hosts': {},
    'platform': None,
    'memory_limit': '4g',
    'cpu_limit': 2.0,
    'network_enabled': True,
    'privileged': False,
    'remove_on_exit': True,
    'pull_progress': False,
    'pull_progress_interval': 3.0,
    'docker_executor_workers': 8,
}


@covers(3, *(name for name in DOCKER_DEFAULTS if name != 'pull_progress_interval'))
def test_docker_configurations_have_the_documented_fields_and_defaults() -> None:
    assert DockerSandboxConfig().model_dump() == DOCKER_DEFAULTS
    assert list(DockerSandboxConfig.model_fields) == list(DOCKER_DEFAULTS)
    notebook = DockerNotebookConfig()
    assert (notebook.image, notebook.host, notebook.port, notebook.token) == (
        'jupyter-kernel-gateway',
        '127.0.0.1',
        8888,
        None,
    )
    manager = SandboxManagerConfig()
    assert manager.model_dump() == {
        'base_url': None,
        'timeout': None,
        'api_key': None,
        'cleanup_interval': None,
        'pool_size': 0,
        'sandbox_config': None,
    }


@covers(3, 'construction', 'errors')
def test_configurations_take_keywords_only() -> None:
    with pytest.raises(TypeError):
        DockerSandboxConfig('python:3')  # type: ignore[misc]
    assert DockerSandboxConfig(**{'image': 'x'}).image == 'x'
    with pytest.raises(ValueError, match='memory_limit'):
        DockerSandboxConfig(memory_limit='1gb')


def test_errors_are_the_validation_librarys_own_where_a_program_loaded_it() -> None:
    pydantic = pytest.importorskip('pydantic')

    with pytest.raises(pydantic.ValidationError) as caught:
        DockerSandboxConfig(timeout=30.5)  # type: ignore[arg-type]

    assert caught.value.errors()[0]['loc'] == ('timeout',)

    class Mine(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        config: DockerSandboxConfig

    made = Mine(config={'image': 'x'})
    assert isinstance(made.config, DockerSandboxConfig)
    assert made.model_dump()['config']['image'] == 'x'


def test_the_validation_library_dumps_models_as_it_is_asked() -> None:
    pydantic = pytest.importorskip('pydantic')
    core = pytest.importorskip('pydantic_core')

    class Mine(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        config: DockerSandboxConfig
        result: Any = None

    result = ToolResult(status=ExecutionStatus.SUCCESS, tool_name='t', output={'a': datetime(2026, 1, 2)})
    made = Mine(config={'image': 'x'}, result=result)

    assert made.model_dump(exclude_unset=True, include={'config'}) == {'config': {'image': 'x'}}
    assert 'platform' not in made.model_dump(exclude_none=True)['config']
    assert 'timeout' not in made.model_dump(exclude={'config': {'timeout'}})['config']
    assert made.model_dump(mode='json')['result']['output'] == {'a': '2026-01-02T00:00:00'}
    assert core.to_jsonable_python({'r': result})['r']['status'] == 'success'
    assert json.loads(core.to_json(result, exclude_none=True))['tool_name'] == 't'


@covers(3, 'model_validate(dict)', 'model_dump', 'model_dump_json()')
def test_the_models_methods_work() -> None:
    config = DockerSandboxConfig.model_validate({'image': 'x', 'entrypoint': []})

    assert config.model_dump(exclude_unset=True) == {'image': 'x', 'entrypoint': []}
    assert 'platform' not in config.model_dump(exclude_none=True)
    assert config.model_dump(mode='json', exclude_unset=True) == {'image': 'x', 'entrypoint': []}
    assert DockerSandboxConfig.model_validate_json(config.model_dump_json()) == config
    assert config.model_copy(update={'image': 'y'}).image == 'y'
    assert DockerSandboxConfig.model_fields['memory_limit'].default == '4g'
    assert 'memory_limit' in DockerSandboxConfig.model_json_schema()['properties']
    assert DockerSandboxConfig.model_validate(config) is config


@covers(3, 'mutability', 'equality, hashing, iteration', 'isinstance')
def test_configurations_are_plain_objects() -> None:
    config = DockerNotebookConfig()
    config.port = 9001
    config.ports['8888/tcp'] = 9001

    assert config.model_dump(exclude_unset=True)['port'] == 9001
    with pytest.raises(ValueError, match='prot'):
        config.prot = 1  # type: ignore[attr-defined]
    assert dict(config)['port'] == 9001
    assert config != DockerNotebookConfig()
    assert DockerNotebookConfig() == DockerNotebookConfig()
    with pytest.raises(TypeError):
        hash(config)
    with pytest.raises(TypeError):
        config['port']  # type: ignore[index]
    assert isinstance(config, DockerSandboxConfig)
    assert isinstance(config, SandboxConfig)


@dataclasses.dataclass
class Point:
    x: int


def test_a_copy_shares_nothing_with_the_original_but_values() -> None:
    first = DockerSandboxConfig(pids_limit=9)  # type: ignore[call-arg]
    for second in (copy.copy(first), first.model_copy(), copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        second.timeout, second.pids_limit = 5, 7  # type: ignore[attr-defined]
        assert (first.timeout, first.model_fields_set, first.further_options) == (30, set(), {'pids_limit': 9})
        assert second.further_options == {'pids_limit': 7}


def test_a_copy_drops_unknown_names_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert DockerSandboxConfig().model_copy(update={'image': 'a', 'imagee': 'b'}).image == 'a'
    assert "'imagee' (did you mean 'image'?)" in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore:use model_:DeprecationWarning')
def test_names_of_the_librarys_first_version_work_with_a_warning() -> None:
    made: Any = DockerSandboxConfig
    with pytest.warns(DeprecationWarning, match='use model_validate'):
        config = made.parse_obj({'timeout': 5})
    assert config.dict() == config.model_dump()
    assert config.json(exclude_unset=True) == '{"timeout":5}'
    assert config.copy(update={'timeout': 6}).timeout == 6
    assert made.parse_raw('{"timeout": 7}').timeout == made.construct(timeout=7).timeout == 7
    assert made.schema() == made.model_json_schema()
    assert config.__fields_set__ == {'timeout'}
    assert list(made.__fields__) == list(made.model_fields)


def test_a_dump_includes_and_excludes_at_any_depth() -> None:
    config = DockerSandboxConfig(tools_config={'t': {'a': 1, 'b': 2}}, command=['x', 'y', 'z'])

    assert config.model_dump(include={'tools_config': {'t': {'a'}}}) == {'tools_config': {'t': {'a': 1}}}
    assert config.model_dump(exclude={'tools_config': {'t': {'a'}}})['tools_config'] == {'t': {'b': 2}}
    assert config.model_dump(include={'tools_config': {'__all__': {'b'}}}) == {'tools_config': {'t': {'b': 2}}}
    assert config.model_dump(include={'command': {0, 2}}) == {'command': ['x', 'z']}
    assert config.model_dump(include={'command': ...}, exclude={'command': {1: True}}) == {'command': ['x', 'z']}
    assert 'command' not in config.model_dump(exclude={'command': ...})
    assert config.model_dump(exclude={'command': False})['command'] == ['x', 'y', 'z']
    result = ToolResult(tool_name='t', status='success', output={'a': 1, 'b': 'é'})
    asked = {'output': {'b'}}
    assert result.model_dump_json(include=asked) == '{"output":{"b":"é"}}'
    assert result.model_dump_json(include=asked, ensure_ascii=True) == '{"output":{"b":"\\u00e9"}}'


def test_a_copy_by_the_first_versions_name_can_be_of_some_fields() -> None:
    config = DockerSandboxConfig(image='a', timeout=3)

    with pytest.warns(DeprecationWarning, match='model_copy'):
        some = config.copy(include={'image'}, update={'timeout': 5})
    with pytest.warns(DeprecationWarning, match='model_copy'):
        without = config.copy(exclude={'image'})

    assert some.model_dump() == {'image': 'a', 'timeout': 5}
    assert without.model_fields_set == {'timeout'}
    assert 'image' not in dict(without)
    assert config.image == 'a'


def test_methods_that_nothing_is_left_to_do_for_are_there() -> None:
    assert DockerSandboxConfig.model_rebuild() is None
    assert DockerSandboxConfig.update_forward_refs() is None
    assert DockerSandboxConfig.model_config == {}
    assert DockerSandboxConfig.model_computed_fields == {}
    assert DockerSandboxConfig.model_validate_strings({'cpu_limit': '2', 'network_enabled': 'false'}).cpu_limit == 2.0
    with pytest.warns(DeprecationWarning, match='model_json_schema'):
        assert json.loads(DockerSandboxConfig.schema_json())['title'] == 'DockerSandboxConfig'


def test_decimals_and_bytes_are_numbers_where_a_number_is_wanted() -> None:
    config = DockerSandboxConfig(timeout=Decimal('30'), cpu_limit=Decimal('1.5'), pull_progress_interval=b'2.5')

    assert (config.timeout, config.cpu_limit, config.pull_progress_interval) == (30, 1.5, 2.5)
    assert DockerSandboxConfig(timeout=b'7').timeout == 7
    for wrong in (Decimal('1.5'), Decimal('NaN'), Decimal('Infinity'), b'\xff', b''):
        with pytest.raises(ValueError, match='timeout'):
            DockerSandboxConfig(timeout=wrong)


def test_a_managers_interval_may_stand_beside_a_configuration_that_has_none() -> None:
    assert LocalSandboxManager(SandboxManagerConfig(), cleanup_interval=9)._cleanup_interval == 9
    assert LocalSandboxManager(SandboxManagerConfig(cleanup_interval=7), cleanup_interval=9)._cleanup_interval == 7
    assert LocalSandboxManager(SandboxManagerConfig())._cleanup_interval == 300


def test_text_of_an_enum_becomes_plain_text() -> None:
    config = DockerSandboxConfig(image=Words.IMAGE, env_vars={Words.IMAGE: Words.IMAGE})

    assert (config.image, type(config.image)) == ('python:3.11-slim', str)
    assert [type(each) for pair in config.env_vars.items() for each in pair] == [str, str]


class Words(str, Enum):
    IMAGE = 'python:3.11-slim'


@pytest.mark.parametrize(
    'wrong', [{'cpu_limit': 10**400}, {'timeout': '\u0663'}, {'tools_config': [1]}, {'tools_config': [['a']]}]
)
def test_a_value_that_cannot_be_read_is_an_error_of_its_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DockerSandboxConfig(**wrong)


def test_json_of_results_is_json_whatever_a_tool_returned() -> None:
    output = {'nan': [float('nan'), float('inf')], 'point': Point(1), 'at': Path('/x'), 'for': timedelta(seconds=2)}
    result = ToolResult(tool_name='x', status=ExecutionStatus.SUCCESS, output=output, execution_time=float('inf'))

    made = json.loads(result.model_dump_json(), parse_constant=pytest.fail)
    assert made['output'] == {'nan': [None, None], 'point': {'x': 1}, 'at': '/x', 'for': 2.0}
    assert made['execution_time'] is None
    assert result.model_dump()['output']['point'] == {'x': 1}


def test_attributes_of_other_objects_are_taken_where_that_is_asked() -> None:
    other = types.SimpleNamespace(timeout='5', surplus=1)

    assert DockerSandboxConfig.model_validate(other, from_attributes=True).timeout == 5
    with pytest.raises(ValueError, match='valid dictionary'):
        DockerSandboxConfig.model_validate(other)


@covers(3, 'unknown options')
@covers(12, 'unknown options')
def test_an_unknown_option_is_dropped_with_a_warning_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = DockerSandboxConfig(network_enable=False)  # type: ignore[call-arg]

    assert config.network_enabled is True
    assert "'network_enable' (did you mean 'network_enabled'?)" in capsys.readouterr().err


def test_options_of_enclave_go_on_to_it() -> None:
    config = DockerSandboxConfig(pids_limit=64, read_only=True)  # type: ignore[call-arg]

    assert config.further_options == {'pids_limit': 64, 'read_only': True}
    assert config.model_dump(exclude_unset=True) == {'pids_limit': 64, 'read_only': True}


@covers(3, 'coercion')
def test_values_are_coerced_as_documented() -> None:
    config = DockerSandboxConfig(
        cpu_limit='2.0',  # type: ignore[arg-type]
        timeout=30.0,  # type: ignore[arg-type]
        ports={'8888/tcp': ['127.0.0.1', 80], '81': '8081', '82': 0},  # type: ignore[dict-item]
    )

    assert (config.cpu_limit, config.timeout) == (2.0, 30)
    assert config.ports == {'8888/tcp': ('127.0.0.1', 80), '81': '8081', '82': 0}
    wrong: list[dict[str, Any]] = [
        {'timeout': 30.5},
        {'env_vars': {'A': 1}},
        {'memory_limit': 123},
        {'memory_limit': '1.5g'},
        {'image': None},
        {'ports': {'80': None}},
        {'cpu_limit': 0},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            DockerSandboxConfig(**options)
    with pytest.raises(ValueError, match='pool_size'):
        SandboxManagerConfig(pool_size=-1)
    with pytest.raises(ValueError, match='cleanup_interval'):
        SandboxManagerConfig(cleanup_interval=0)


@covers(3, 'input kinds', 'tools_config')
@covers(11, 'configuration')
def test_foreign_mappings_and_sequences_are_taken_and_become_plain() -> None:
    class Mapped(UserDict[str, Any]):
        """As configuration libraries have them."""

    config = DockerSandboxConfig(
        env_vars=Mapped(A='1'),  # type: ignore[arg-type]
        command=UserList(['sleep', 'infinity']),  # type: ignore[arg-type]
        volumes=Mapped({'/h': Mapped(bind='/data', mode='rw')}),  # type: ignore[arg-type]
        tools_config=UserList(['a', 'b']),  # type: ignore[arg-type]
        resource_limits=Mapped(deep=Mapped(list=UserList([1]))),  # type: ignore[arg-type]
    )

    assert config.env_vars == {'A': '1'}
    assert type(config.env_vars) is dict
    assert config.command == ['sleep', 'infinity']
    assert type(config.volumes['/h']) is dict
    assert config.tools_config == {'a': {}, 'b': {}}
    assert config.resource_limits == {'deep': {'list': [1]}}


def test_a_managers_sandbox_configuration_keeps_its_class_and_a_dict_is_dockers() -> None:
    mine = DockerNotebookConfig()

    assert SandboxManagerConfig(sandbox_config=mine).sandbox_config is mine
    made = SandboxManagerConfig(sandbox_config={'image': 'x'}).sandbox_config  # type: ignore[arg-type]
    assert isinstance(made, DockerSandboxConfig)
    assert made.image == 'x'


def test_values_of_tools_and_of_the_cloud_service_can_be_made() -> None:
    assert model.PythonExecutorConfig().model_dump()['python_path'] == 'python3'
    assert model.ShellExecutorConfig().shell_path == '/bin/bash'
    assert model.FileOperationConfig().max_file_size == 10485760
    assert issubclass(model.FileOperationConfig, model.ToolConfig)
    assert model.VolcengineSandboxConfig().run_code_path == '/run_code'
    assert model.VolcengineSandboxManagerConfig(base_url='http://x').max_concurrency == 16
    with pytest.raises(ValueError, match='base_url'):
        model.VolcengineSandboxManagerConfig()  # type: ignore[call-arg]


# Section 4: requests and results


@covers(
    4,
    'ExecuteCodeRequest',
    'ExecuteCommandRequest',
    'FileOperationRequest',
    'ReadFileRequest',
    'WriteFileRequest',
    'ToolExecutionRequest',
)
def test_requests_have_their_fields() -> None:
    assert model.ExecuteCodeRequest(code='x').model_dump() == {
        'code': 'x',
        'language': 'python',
        'timeout': None,
        'working_dir': None,
        'env': {},
        'capture_output': True,
    }
    assert model.ExecuteCommandRequest(command=['a']).shell is True
    assert model.ReadFileRequest(path='/x').encoding == 'utf-8'
    assert model.WriteFileRequest(path='/x', content=b'\0').content == b'\0'
    assert issubclass(model.WriteFileRequest, model.FileOperationRequest)
    assert model.ToolExecutionRequest(sandbox_id='a', tool_name='b', surplus=1).parameters == {}  # type: ignore[call-arg]
    for cls in (model.ExecuteCodeRequest, model.FileOperationRequest, model.ToolExecutionRequest):
        with pytest.raises(ValueError, match='required'):
            cls()


@covers(4, 'ExecutionResult', 'ToolResult', 'CommandResult', 'SandboxInfo', 'HealthCheckResult')
def test_results_have_their_fields() -> None:
    result = ToolResult(tool_name='t', status='success', output='o')  # type: ignore[arg-type]

    assert list(result.model_dump()) == [
        'status',
        'execution_time',
        'timestamp',
        'tool_name',
        'output',
        'metadata',
        'error',
    ]
    assert set(result.model_dump(exclude_none=True)) == {'status', 'timestamp', 'tool_name', 'output', 'metadata'}
    assert result.model_dump(exclude_none=True)['status'] == 'success'
    assert result.success
    assert result.timestamp.tzinfo is None
    assert isinstance(result, ExecutionResult)
    assert ToolResult.model_validate_json(result.model_dump_json()) == result
    command = CommandResult(command=['a'], status=ExecutionStatus.ERROR, exit_code=3)
    assert (command.stdout, command.stderr, hasattr(command, 'success')) == (None, None, False)
    info = SandboxInfo(id='a', status='running', type=SandboxType.DOCKER)  # type: ignore[arg-type]
    assert (type(info.type), info.type == SandboxType.DOCKER) == (str, True)
    assert isinstance(info.updated_at, datetime)
    health = model.HealthCheckResult(healthy=True, version='1', uptime=1, active_sandboxes=0)
    assert health.system_info == {}


# Section 7: tools


class Greet(SandboxTool):
    _name = 'greet'
    _description = 'Greet'
    _parameters = ToolParams(properties={'who': {'type': 'string', 'minLength': 1}}, required=['who'])
    _sandbox_types = [SandboxType.DOCKER]

    async def execute(self, sandbox_context: Any, who: str) -> Any:
        return {'said': who}


@covers(7, 'name, description, parameters', 'schema', 'required_sandbox_types', 'enabled, timeout')
def test_a_tool_says_what_it_is() -> None:
    tool = Greet(timeout=3, unknown=1)

    assert (tool.name, tool.description, tool.enabled, tool.timeout) == ('greet', 'Greet', True, 3)
    assert tool.required_sandbox_types == [SandboxType.DOCKER]
    assert tool.schema == {
        'type': 'function',
        'function': {
            'name': 'greet',
            'description': 'Greet',
            'parameters': {
                'type': 'object',
                'properties': {'who': {'type': 'string'}},
                'required': ['who'],
                'additionalProperties': False,
            },
        },
    }
    assert Greet(name='other').name == 'other'
    assert isinstance(ToolParams(properties={'a': {'type': 'string'}}).properties['a'], JSONSchema)
    with pytest.raises(ValueError, match='type'):
        JSONSchema(type='text')  # type: ignore[arg-type]


class Bare(Tool):
    required_sandbox_types = None

    async def execute(self, sandbox_context: Any, **parameters: Any) -> Any:
        return None


@covers(7, 'name, description, parameters', 'is_compatible_with_sandbox')
@covers(12, 'restriction of tools by type')
def test_a_tool_is_restricted_by_whichever_property_it_has() -> None:
    class Older(Bare):
        @property
        def required_sandbox_type(self) -> SandboxType | None:
            return SandboxType.DOCKER_NOTEBOOK

    class OlderClass(SandboxTool):
        _sandbox_type = SandboxType.DOCKER_NOTEBOOK

        async def execute(self, sandbox_context: Any) -> Any:
            return None

    class Unreadable(Bare):
        required_sandbox_types = 7  # type: ignore[assignment]

    assert Bare().name == 'Bare'
    assert Bare().schema['function']['parameters'] == {}
    assert Bare().is_compatible_with_sandbox(SandboxType.DUMMY)
    for restricted in (Older(), OlderClass(), Unreadable()):
        assert not restricted.is_compatible_with_sandbox(SandboxType.DOCKER)
    assert Older().is_compatible_with_sandbox('docker_notebook')
    assert OlderClass(sandbox_type=SandboxType.DOCKER).is_compatible_with_sandbox('docker')
    with pytest.raises(TypeError):
        Tool()  # type: ignore[abstract]


@covers(5, 'execute_tool')
@covers(7, 'execute')
def test_a_tools_result_is_handed_through_unchanged() -> None:
    made = EchoSandbox(SandboxConfig())
    made.add_tool(Greet(sandbox_types=[]))

    assert asyncio.run(made.execute_tool('greet', {'who': 'you'})) == {'said': 'you'}
    with pytest.raises(TypeError):
        asyncio.run(made.execute_tool('greet', {'whom': 'you'}))
    with pytest.raises(ValueError, match='is not available'):
        asyncio.run(made.execute_tool('nothing', {}))
    made.get_tool('greet').enabled = False  # type: ignore[union-attr]
    with pytest.raises(ValueError, match='is not enabled'):
        asyncio.run(made.execute_tool('greet', {'who': 'you'}))


BUILT_IN: dict[str, tuple[list[str], dict[str, str | None], list[str]]] = {
    'python_executor': (['docker', 'volcengine'], {'code': 'string', 'timeout': 'integer'}, ['code']),
    'shell_executor': (['docker', 'volcengine'], {'command': None, 'timeout': 'integer'}, ['command']),
    'file_operation': (
        ['docker'],
        {'operation': 'string', 'file_path': 'string', 'content': 'string', 'encoding': 'string'},
        ['operation', 'file_path'],
    ),
    'notebook_executor': (['docker_notebook'], {'code': 'string', 'timeout': 'integer'}, ['code']),
    'multi_code_executor': (
        ['docker', 'volcengine'],
        {
            'language': 'string',
            'code': 'string',
            'files': 'object',
            'compile_timeout': 'integer',
            'run_timeout': 'integer',
        },
        ['language', 'code'],
    ),
}


@covers(7, *(f'{name} (' for name in BUILT_IN))
@pytest.mark.parametrize('name', list(BUILT_IN))
def test_a_built_in_tool_has_the_documented_schema(name: str) -> None:
    types, properties, required = BUILT_IN[name]
    tool = ToolFactory.create_tool(name)
    parameters = tool.schema['function']['parameters']

    assert isinstance(tool, SandboxTool)
    assert name in ToolFactory.get_available_tools()
    assert tool.required_sandbox_types == types
    assert {key: value.get('type') for key, value in parameters['properties'].items()} == properties
    assert parameters['required'] == required
    assert parameters['additionalProperties'] is False
    for key in ('timeout', 'run_timeout'):
        if key in properties:
            assert parameters['properties'][key]['default'] == 30
    with pytest.raises(ValueError, match='is not registered'):
        ToolFactory.create_tool('nothing')


@covers(
    7,
    'python main.py',
    'cpp main.cpp',
    'csharp Program.cs',
    'go main.go',
    'java, junit Main.java',
    'nodejs, js main.js',
    'rust main.rs',
    'php main.php',
    'd_ut main.d',
    'scala Main.scala',
    'kotlin_script main.kts',
    'verilog main.sv',
    'lean Main.lean',
)
def test_main_files_of_languages_have_their_names() -> None:
    from ms_enclave.sandbox.tools.sandbox_tools import MultiCodeExecutor

    files = MultiCodeExecutor.LANG_MAIN_FILES
    expected = [
        'python',
        'main.py',
        'pytest',
        'test_main.py',
        'cpp',
        'main.cpp',
        'csharp',
        'Program.cs',
        'go',
        'main.go',
        'go_test',
        'main_test.go',
        'java',
        'Main.java',
        'junit',
        'Main.java',
        'nodejs',
        'main.js',
        'js',
        'main.js',
        'ts',
        'main.ts',
        'typescript',
        'main.ts',
        'jest',
        'main.test.ts',
        'rust',
        'main.rs',
        'swift',
        'main.swift',
        'php',
        'main.php',
        'bash',
        'main.sh',
        'lua',
        'main.lua',
        'perl',
        'main.pl',
        'ruby',
        'main.rb',
        'r',
        'main.R',
        'julia',
        'main.jl',
        'racket',
        'main.rkt',
        'd_ut',
        'main.d',
        'scala',
        'Main.scala',
        'kotlin_script',
        'main.kts',
        'verilog',
        'main.sv',
        'lean',
        'Main.lean',
    ]

    assert files == dict(zip(expected[::2], expected[1::2], strict=True))
    assert {'python', 'pytest'} == MultiCodeExecutor.LANGS_REQUIRE_PY_ENV
    assert '/root/sandbox/runtime/java' in MultiCodeExecutor.JAVA_RUNTIME_CP


def test_a_functions_signature_becomes_a_tools_description() -> None:
    def search(query: str, limit: int = 3, *, tags: list[str] | None = None) -> str:
        """Search things.

        Args:
            query (str): what to look for
            limit: how many
        """
        return query

    info = parse_tool_info(search)

    assert (info.name, info.description, info.parameters.required) == ('search', 'Search things.', ['query'])
    assert info.parameters.properties['limit'].default == 3
    assert info.parameters.properties['query'].description == 'what to look for'
    assert parse_docstring(search.__doc__, 'query') == {'description': 'what to look for', 'docstring_type': 'str'}
    assert parse_docstring(None, 'query') == {}
    assert json_schema(dict[str, int]).model_dump(exclude_none=True)['additionalProperties'] == {'type': 'integer'}
    assert json_schema(tuple).type == 'array'
    assert python_type_to_json_type('str') == 'string'
    with pytest.raises(ValueError, match='nothing'):
        python_type_to_json_type('nothing')


# Section 8: the command line


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'ms_enclave.cli.cli', *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.processes
@covers(8, 'ms-enclave -v, --version', 'ms-enclave', 'ms-enclave server')
def test_the_command_line_answers_as_documented() -> None:
    import ms_enclave

    for flag in ('-v', '--version'):
        done = command_line(flag)
        assert (done.returncode, done.stdout) == (0, f'ms-enclave {ms_enclave.__version__}\n')
    alone = command_line()
    assert alone.returncode == 1
    assert 'Usage' in alone.stdout
    assert 'server' in alone.stdout
    assert command_line('nothing').returncode == 2
    options = command_line('server', '--help').stdout
    for option in ('--host', '--port', '--log-level', 'critical', '--cleanup-interval', '--api-key'):
        assert option in options


def test_the_servers_arguments_can_be_added_to_a_parser() -> None:
    from argparse import ArgumentParser

    from ms_enclave.cli.base import CLICommand
    from ms_enclave.cli.start_server import ServerCMD

    parser = ArgumentParser()
    ServerCMD.define_args(parser.add_subparsers())
    args = parser.parse_args(['server', '--port', '9', '--log-level', 'critical', '--cleanup-interval', '7'])

    assert issubclass(ServerCMD, CLICommand)
    assert args.func is ServerCMD
    assert (args.host, args.port, args.log_level, args.cleanup_interval, args.api_key) == (
        '0.0.0.0',
        9,
        'critical',
        7,
        None,
    )


# Section 9: what users subclass


class EchoSandbox(Sandbox):
    """A backend of nothing but coroutine functions, whose commands give a tuple."""

    @property
    def sandbox_type(self) -> SandboxType:
        return SandboxType.DUMMY

    async def start(self) -> None:
        self.update_status(SandboxStatus.RUNNING)
        await self.initialize_tools()

    async def stop(self) -> None:
        self.update_status(SandboxStatus.STOPPED)

    async def cleanup(self) -> None:
        self.metadata['clean'] = True

    async def execute_command(self, command: Any, timeout: int | None = None, stream: bool = True) -> Any:
        return 0, f'{command}', ''

    async def get_execution_context(self) -> Any:
        return self


@covers(
    5,
    'id',
    'config, status',
    '_tools',
    'sandbox_type',
    'initialize_tools()',
    'get_available_tools()',
    'list_tools()',
    'get_tool',
    'add_tool',
    'get_info()',
    'update_status',
)
@covers(9, 'Sandbox', 'Tool')
def test_a_sandbox_of_nothing_but_coroutines_is_made_without_an_event_loop(capsys: pytest.CaptureFixture[str]) -> None:
    register_sandbox('echo')(EchoSandbox)

    @register_tool('unpack')
    class Unpack(Tool):
        required_sandbox_types = None

        async def execute(self, sandbox_context: Any, text: str) -> str:
            _code, out, _ = await sandbox_context.execute_command(text, timeout=5)
            return str(out)

    sandbox = SandboxFactory.create_sandbox('echo', {'tools_config': {'unpack': {'name': 'unpack'}, 'missing': {}}})
    assert len(sandbox.id) == 8
    assert sandbox.status == SandboxStatus.INITIALIZING
    assert type(sandbox.config) is SandboxConfig

    async def main() -> None:
        async with sandbox as entered:
            assert entered is sandbox
            await sandbox.initialize_tools()
            assert await sandbox.execute_tool('unpack', {'text': 'hi'}) == 'hi'
            with pytest.raises(NotImplementedError):
                await sandbox.put_file('/x', 'y')
            with pytest.raises(NotImplementedError):
                await sandbox.put_archive('/x', b'')

    asyncio.run(main())
    assert sandbox.list_tools() == ['unpack'] == list(sandbox._tools) == list(sandbox.get_available_tools())
    assert sandbox.get_tool('missing') is None
    info = sandbox.get_info()
    assert (info.status, info.type, list(info.available_tools)) == ('stopped', 'dummy', ['unpack'])
    assert info.updated_at >= info.created_at
    logged = capsys.readouterr().err
    assert "'missing' cannot be made" in logged
    assert 'there already' in logged
    for name in ('get_info', 'get_available_tools', 'list_tools', 'get_tool', 'add_tool', 'update_status'):
        assert not inspect.iscoroutinefunction(getattr(Sandbox, name))
    for name in ('start', 'execute_tool', 'initialize_tools', 'put_dir', 'get_execution_context'):
        assert inspect.iscoroutinefunction(getattr(Sandbox, name))


def test_the_factory_takes_any_kind_and_names_what_it_lacks() -> None:
    assert SandboxType.DOCKER in SandboxFactory.get_available_types()
    assert 'docker' in SandboxFactory._sandboxes
    with pytest.raises(ValueError, match='is not registered'):
        SandboxFactory.create_sandbox(SandboxType.DUMMY)
    with pytest.raises(ValueError, match='memory_limit'):
        SandboxFactory.create_sandbox('docker', {'memory_limit': 1})
    assert SandboxFactory.create_sandbox('docker', {}, 'mine').id == 'mine'


def test_names_tied_to_a_cloud_service_exist_and_say_so_when_used() -> None:
    from ms_enclave.sandbox.boxes import StatelessSandbox, VolcengineSandbox
    from ms_enclave.sandbox.manager import VolcengineSandboxManager

    sandbox = VolcengineSandbox(model.VolcengineSandboxConfig(base_url='http://x'))
    with pytest.raises(Exception, match='Volcengine cloud service'):
        asyncio.run(sandbox.run_code('1', 'python'))
    with pytest.raises(ValueError, match='Config'):
        VolcengineSandboxManager()
    manager = VolcengineSandboxManager(model.VolcengineSandboxManagerConfig(base_url='http://x'))
    with pytest.raises(Exception, match='Volcengine cloud service'):
        asyncio.run(manager.start())

    class Mine(StatelessSandbox):
        sandbox_type = SandboxType.DUMMY  # type: ignore[assignment]

    mine = Mine(SandboxConfig(), base_url='http://x/')
    assert (mine.base_url, mine.session) == ('http://x', None)
    assert asyncio.run(mine.get_execution_context()) is mine


@covers(9, 'SandboxManager')
def test_a_manager_of_nothing_but_coroutines_works() -> None:
    @register_manager('in-memory')
    class Mine(SandboxManager):
        def __init__(self, config: Any = None, **kwargs: Any) -> None:
            super().__init__(config=config, **kwargs)

        async def start(self) -> None:
            self._running = True

        async def stop(self) -> None:
            for each in list(self._sandboxes):
                await self.delete_sandbox(each)
            self._running = False

        async def create_sandbox(self, sandbox_type: Any, config: Any = None, sandbox_id: Any = None) -> str:
            sandbox = SandboxFactory.create_sandbox(sandbox_type, config, sandbox_id)
            await sandbox.start()
            await sandbox.initialize_tools()
            self._sandboxes[sandbox.id] = sandbox
            async with self._pool_lock:
                self._sandbox_pool.append(sandbox.id)
            return str(sandbox.id)

        async def get_sandbox_info(self, sandbox_id: str) -> Any:
            return self._sandboxes[sandbox_id].get_info()

        async def list_sandboxes(self, status_filter: Any = None) -> Any:
            return [each.get_info() for each in self._sandboxes.values()]

        async def stop_sandbox(self, sandbox_id: str) -> bool:
            return True

        async def delete_sandbox(self, sandbox_id: str) -> bool:
            await self._sandboxes.pop(sandbox_id).cleanup()
            return True

        async def execute_tool(self, sandbox_id: str, tool_name: str, parameters: Any) -> Any:
            return await self._sandboxes[sandbox_id].execute_tool(tool_name, parameters)

        async def get_sandbox_tools(self, sandbox_id: str) -> Any:
            return {}

        async def get_stats(self) -> Any:
            return {}

        async def cleanup_all_sandboxes(self) -> None: ...

        async def initialize_pool(self, pool_size: Any = None, sandbox_type: Any = None, config: Any = None) -> Any:
            return []

        async def execute_tool_in_pool(self, tool_name: str, parameters: Any, timeout: Any = None) -> Any:
            return None

    register_sandbox('echo')(EchoSandbox)
    manager = SandboxManagerFactory.create_manager('in-memory', cleanup_interval=3)
    assert manager.config.cleanup_interval == 3
    assert (manager._running, manager._pool_initialized, len(manager._sandbox_pool)) == (False, False, 0)

    async def main() -> None:
        async with manager:
            made = await manager.create_sandbox('echo', SandboxConfig())
            assert manager._sandbox_pool[0] == made
            with pytest.raises(NotImplementedError):
                await manager.put_dir(made, '/x', '/y')

    asyncio.run(main())
    assert manager._sandboxes == {}


def test_a_class_made_of_dockers_and_registered_under_an_own_name_has_dockers_options() -> None:
    from ms_enclave.sandbox.boxes import DockerNotebookSandbox, DockerSandbox

    class Own(DockerSandbox):
        pass

    register_sandbox('own')(Own)
    options = {'memory_limit': '1g', 'tools_config': ['shell_executor']}
    for config in (options, DockerSandboxConfig(**options)):  # type: ignore[arg-type]
        assert SandboxFactory.create_sandbox('own', config).config.memory_limit == '1g'
    assert SandboxFactory.create_sandbox('own').config == DockerSandboxConfig()
    general = SandboxConfig(working_dir='/x', pids_limit=9)  # type: ignore[call-arg]
    made = SandboxFactory.create_sandbox('docker', general).config
    assert (type(made), made.working_dir, made.further_options) == (DockerSandboxConfig, '/x', {'pids_limit': 9})
    notebook = DockerNotebookSandbox(DockerSandboxConfig(image='y'))
    assert (notebook.config.image, notebook.port) == ('y', 8888)
    own = DockerSandboxConfig()
    assert DockerSandbox(own).config is own


@covers(5, 'put_file')
def test_a_sandbox_that_takes_archives_takes_files_and_directories(tmp_path: Path) -> None:
    taken: dict[str, Any] = {}

    class Archives(EchoSandbox):
        async def put_archive(self, target_dir: str, data: bytes) -> bool:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                taken[target_dir] = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
            return True

    async def main() -> None:
        sandbox = Archives(SandboxConfig())
        assert await sandbox.put_file('/a/b.txt', 'hé', 'latin-1') is True
        assert await sandbox.put_dir(tmp_path, '/tree') is True
        for path in ('b.txt', '/', '/a/'):
            with pytest.raises(ValueError, match='file_path must'):
                await sandbox.put_file(path, 'x')
        with pytest.raises(ValueError, match='content must be text'):
            await sandbox.put_file('/a/b', b'x')  # type: ignore[arg-type]
        with pytest.raises(NotImplementedError, match='put_archive'):
            await EchoSandbox(SandboxConfig()).put_file('/a/b', 'x')

    (tmp_path / 'file').write_text('in it')
    asyncio.run(main())
    assert taken == {'/a': {'b.txt': b'h\xe9'}, '/tree': {'file': b'in it'}}


@covers(11, '0.0.1 to 0.0.3')
def test_managers_are_chosen_and_made_as_in_every_release() -> None:
    from ms_enclave.sandbox.manager import HttpSandboxManager, LocalSandboxManager

    factory = SandboxManagerFactory
    assert isinstance(factory.create_manager(), LocalSandboxManager)
    assert isinstance(factory.create_manager('local'), LocalSandboxManager)
    assert isinstance(factory.create_manager(base_url='http://x:1'), HttpSandboxManager)
    assert isinstance(factory.create_manager(config=SandboxManagerConfig(base_url='http://x:1')), HttpSandboxManager)
    assert {SandboxManagerType.LOCAL, SandboxManagerType.HTTP} <= set(factory.get_registered_types())
    with pytest.raises(ValueError, match='not registered'):
        factory.create_manager('nothing')
    older = HttpSandboxManager('http://x:1', 30, 'key')
    assert (older.base_url, older.timeout, older.api_key) == ('http://x:1', 30, 'key')
    assert LocalSandboxManager(60)._cleanup_interval == 60
    assert LocalSandboxManager(cleanup_interval=70, other=1)._cleanup_interval == 70
    with pytest.raises(ValueError, match='base_url'):
        HttpSandboxManager()
    mixed = HttpSandboxManager(SandboxManagerConfig(base_url='http://c:1'), base_url='http://k:1', timeout=5)
    assert (mixed.base_url, mixed.timeout) == ('http://c:1', 5)
    plain: Any = factory.create_manager(config={'base_url': 'http://d:1'})
    assert (type(plain), plain.base_url) == (HttpSandboxManager, 'http://d:1')


def test_a_local_manager_makes_sandboxes_before_it_is_started_and_takes_them_away() -> None:
    from ms_enclave.sandbox.manager import LocalSandboxManager

    async def main() -> None:
        manager = LocalSandboxManager()
        made = await manager.create_sandbox('echo', SandboxConfig())
        ids = await manager.initialize_pool(1, 'echo', SandboxConfig())
        assert await manager.initialize_pool(2, 'echo', {'timeout': 'never'}) == []  # logged and left out
        assert {info.id for info in await manager.list_sandboxes()} == {made, *ids}
        sandbox = await manager.get_sandbox(made)
        with pytest.raises(RuntimeError, match='Sandbox manager not started'):
            await manager.execute_tool(made, 'any', {})
        with pytest.raises(RuntimeError, match='Sandbox manager not started'):
            await manager.put_archive(made, '/x', b'')
        await manager.stop()
        assert (await manager.list_sandboxes(), sandbox.metadata) == ([], {'clean': True})

    register_sandbox('echo')(EchoSandbox)
    asyncio.run(main())


@pytest.mark.parametrize(
    ('tool', 'parameters'),
    [('shell_executor', {'command': 'x'}), ('file_operation', {'operation': 'read', 'file_path': 'x'})],
)
def test_a_tool_that_cannot_read_what_a_sandbox_gave_ends_as_an_error(tool: str, parameters: dict[str, Any]) -> None:
    class Tuples(EchoSandbox):
        @property
        def sandbox_type(self) -> SandboxType:
            return SandboxType.DOCKER

    async def main() -> None:
        async with Tuples(SandboxConfig(tools_config=[tool])) as sandbox:
            result = await sandbox.execute_tool(tool, parameters)
            assert result.status == ExecutionStatus.ERROR
            assert result.error.startswith('Execution failed: AttributeError')
            with pytest.raises(TypeError):
                await sandbox.execute_tool(tool, {**parameters, 'other': 1})

    asyncio.run(main())


def test_the_package_does_not_touch_the_root_logger() -> None:
    assert logging.getLogger('ms_enclave').propagate is False
