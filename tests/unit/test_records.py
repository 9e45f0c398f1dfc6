from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import attrs
import pytest

from enclave.enums import ExecutionStatus, SandboxStatus, SandboxType
from enclave.errors import ConfigurationError, InvalidArgumentError
from enclave.managers.protocol import ProcessEvent
from enclave.records import (
    CommandResult,
    HealthCheckResult,
    PathInfo,
    SandboxInfo,
    ToolResult,
    as_sandbox_type,
    find_source,
    put_source,
)
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig

MOMENT = datetime(2024, 5, 1, 12, 30, tzinfo=timezone.utc)


def test_records_are_frozen() -> None:
    result = CommandResult(command='x', status='success')

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        result.exit_code = 1  # type: ignore[misc]


def test_a_status_may_be_given_as_its_word() -> None:
    assert CommandResult(command='x', status='timeout').status is ExecutionStatus.TIMEOUT
    assert ToolResult(tool_name='t', status='error').status is ExecutionStatus.ERROR


@pytest.mark.parametrize('status', list(ExecutionStatus))
def test_only_success_is_success(status: ExecutionStatus) -> None:
    assert CommandResult(command='x', status=status).success is (status is ExecutionStatus.SUCCESS)
    assert ToolResult(tool_name='t', status=status).success is (status is ExecutionStatus.SUCCESS)


@pytest.mark.parametrize(('out', 'err'), [(False, False), (True, False), (False, True)])
def test_truncated_means_either_stream(out: bool, err: bool) -> None:
    result = CommandResult(command='x', status='success', stdout_truncated=out, stderr_truncated=err)

    assert result.truncated is (out or err)


def test_a_result_is_stamped_in_utc() -> None:
    stamp = ToolResult(tool_name='t', status='success').timestamp

    assert stamp.tzinfo is timezone.utc


def test_model_dump_gives_python_or_json_values() -> None:
    result = ToolResult(tool_name='t', status='success', output=('a',), timestamp=MOMENT)

    python, plain = result.model_dump(), result.model_dump(mode='json')

    assert (python['status'], python['timestamp'], python['output']) == (ExecutionStatus.SUCCESS, MOMENT, ('a',))
    assert (plain['status'], plain['timestamp'], plain['output']) == ('success', '2024-05-01T12:30:00+00:00', ['a'])
    assert type(plain['status']) is str


def test_model_dump_can_leave_out_what_is_none() -> None:
    result = ToolResult(tool_name='t', status='success')

    assert result.model_dump()['error'] is None
    assert 'error' not in result.model_dump(exclude_none=True)
    assert '"error"' not in result.model_dump_json(exclude_none=True)
    assert '\n' in result.model_dump_json(indent=2)


def test_what_is_none_is_left_out_of_records_within_and_stays_in_dicts() -> None:
    event = ProcessEvent(event='end', result=CommandResult(command='x', status='success'))
    info = ToolResult(tool_name='t', status='success', metadata={'signal': None})

    for mode in ('python', 'json'):
        dumped = event.model_dump(mode=mode, exclude_none=True)
        assert 'error' not in dumped
        assert 'signal' not in dumped['result']
        assert info.model_dump(mode=mode, exclude_none=True)['metadata'] == {'signal': None}


def test_model_dump_can_leave_out_defaults() -> None:
    config = DockerSandboxConfig(image='mine', tools_config=['shell_executor'])

    assert config.model_dump(exclude_defaults=True) == {'image': 'mine', 'tools_config': {'shell_executor': {}}}
    assert '"timeout"' not in config.model_dump_json(exclude_defaults=True)
    assert DockerSandboxConfig.model_validate(config.model_dump(exclude_defaults=True)) == config


def test_model_dump_can_be_of_some_fields() -> None:
    result = ToolResult(tool_name='t', status='success', output='x')

    assert result.model_dump(include={'output', 'error', 'no such'}) == {'output': 'x', 'error': None}
    assert result.model_dump(include=['output', 'error'], exclude={'error'}, exclude_none=True) == {'output': 'x'}
    assert result.model_dump(exclude={'timestamp', 'metadata', 'execution_time'}, mode='json') == {
        'tool_name': 't',
        'status': 'success',
        'output': 'x',
        'error': None,
        'exit_code': None,
    }
    assert result.model_dump_json(include={'output'}) == '{"output":"x"}'
    assert result.model_dump(by_alias=True, round_trip=True) == result.model_dump(exclude_unset=False)
    assert result.model_dump_json(by_alias=False, round_trip=True) == result.model_dump_json()


@pytest.mark.parametrize('options', [{'include': 'output'}, {'exclude': {'output': True}}, {'exclude_unset': True}])
def test_model_dump_refuses_what_it_cannot_do(options: dict[str, Any]) -> None:
    result = ToolResult(tool_name='t', status='success')

    for dump in (result.model_dump, result.model_dump_json):
        with pytest.raises(InvalidArgumentError, match=next(iter(options))):
            dump(**options)


def test_model_validate_takes_a_dict_or_an_instance() -> None:
    info = PathInfo.model_validate({'path': 'a', 'kind': 'file', 'size': 3})

    assert (info.path, info.size, info.modified_at) == ('a', 3, None)
    assert PathInfo.model_validate(info) is info


@pytest.mark.parametrize('value', [None, 5, 'x', [], {}, {'path': 'a'}, {'path': 'a', 'kind': 'file', 'colour': 1}])
def test_model_validate_refuses_what_is_no_record(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match='PathInfo'):
        PathInfo.model_validate(value)


def test_model_copy_changes_and_checks() -> None:
    result = ToolResult(tool_name='t', status='success')
    config = DockerSandboxConfig()

    assert result.model_copy(update={'error': 'x'}).error == 'x'
    assert result.model_copy() == result
    assert result.error is None
    assert config.model_copy(update={'cpu_limit': '2'}).cpu_limit == 2.0
    with pytest.raises(ConfigurationError, match='timeout'):
        config.model_copy(update={'timeout': -1})


def test_model_copy_refuses_a_field_that_does_not_exist() -> None:
    with pytest.raises(InvalidArgumentError, match="ToolResult has no field 'eror'"):
        ToolResult(tool_name='t', status='success').model_copy(update={'eror': 'x'})
    with pytest.raises(ConfigurationError, match="'imge'"):
        DockerSandboxConfig().model_copy(update={'imge': 'x'})


def test_a_kind_of_sandbox_is_a_member_where_there_is_one() -> None:
    assert as_sandbox_type('docker') is SandboxType.DOCKER
    assert as_sandbox_type(SandboxType.DOCKER) is SandboxType.DOCKER
    assert as_sandbox_type('mine') == 'mine'


def test_a_users_kind_of_sandbox_survives_the_wire() -> None:
    info = SandboxInfo(id='a', type='mine', status='running', created_at=MOMENT)

    again = SandboxInfo.model_validate_json(info.model_dump_json())

    assert (again.type, again.status) == ('mine', SandboxStatus.RUNNING)


def test_what_an_older_version_wrote_of_a_sandbox_is_read() -> None:
    info = SandboxInfo(id='a', type='docker', status='running', created_at=MOMENT, offers=['commands'])
    dumped, state = info.model_dump(mode='json'), info.__getstate__()
    for old in (dumped, state):
        del old['offers']
    unpickled = SandboxInfo.__new__(SandboxInfo)
    unpickled.__setstate__(state)

    assert SandboxInfo.model_validate(dumped).offers == []
    assert unpickled == info.model_copy(update={'offers': []})
    assert pickle.loads(pickle.dumps(info)) == info


def test_health_is_stamped() -> None:
    assert HealthCheckResult(healthy=True, version='1').timestamp.tzinfo is not None


class Source:
    """Output whose text is made when it is asked for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.asked = 0

    @property
    def text(self) -> str:
        self.asked += 1
        return self._text


def test_a_text_is_made_when_it_is_first_asked_for() -> None:
    source = Source('printed')
    result = CommandResult(command='c', status='success')
    put_source(result, stdout=source)

    assert (source.asked, find_source(result, 'stdout'), find_source(result, 'stderr')) == (0, source, None)
    assert (result.stdout, result.stdout, source.asked) == ('printed', 'printed', 1)
    assert find_source(result, 'stdout') is None
    with pytest.raises(AttributeError, match="'CommandResult' object has no attribute 'other'"):
        _ = result.other  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    'look',
    [
        lambda record: record,
        lambda record: pickle.loads(pickle.dumps(record)),
        copy.copy,
        copy.deepcopy,
        lambda record: attrs.evolve(record, exit_code=0),
        lambda record: CommandResult.model_validate(record.model_dump(mode='json')),
    ],
    ids=['itself', 'pickled', 'copied', 'copied deeply', 'evolved', 'sent'],
)
def test_a_record_with_such_a_text_is_like_any_other(look: Callable[[CommandResult], CommandResult]) -> None:
    result = CommandResult(command='c', status='success', stderr='e')
    put_source(result, stdout=Source('printed'))

    found = look(result)

    expected = CommandResult(command='c', status='success', stdout='printed', stderr='e')
    assert found == expected
    assert (repr(found), found.text, found.model_dump()) == (repr(expected), expected.text, expected.model_dump())
