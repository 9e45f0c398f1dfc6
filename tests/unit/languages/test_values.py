"""Requests for programs and what becomes of them, as values."""

from __future__ import annotations

from typing import Any

import pytest

from enclave import wire
from enclave.enums import ExecutionStatus, Verdict
from enclave.errors import InvalidArgumentError
from enclave.languages.running import as_step, judge
from enclave.languages.values import CodeRequest, CodeResult, Limits, StepResult, make_request
from enclave.records import CommandResult


@pytest.mark.parametrize(
    'options',
    [
        {'code': 5},
        {'language': ''},
        {'language': None},
        {'stdin': 5},
        {'args': 'text'},
        {'args': [1]},
        {'files': {'/etc/passwd': b''}},
        {'files': {'../x': b''}},
        {'files': {'x/': b''}},
        {'files': {'x/' + 'y' * 256: b''}},
        {'files': {'x/' * 2000 + 'y': b''}},
        {'files': {'\ud800': b''}},
        {'files': {'a/../../x': b''}},
        {'files': {'': b''}},
        {'files': {'a': 5}},
        {'files': {'a': b'', 'a/b': b''}},
        {'files': {'a': b'', './a': b''}},
        {'files': ['a']},
        {'fetch_files': 'a'},
        {'fetch_files': ['a\0']},
        {'env': {'A=B': 'x'}},
        {'timeout': -1},
        {'timeout': 'x'},
        {'compile_timeout': float('nan')},
        {'memory_limit': '1k'},
        {'memory_limit': 'much'},
        {'cpu_time_limit': 0},
        {'cpu_time_limit': True},
        {'output_limit': 0},
        {'max_fetch_bytes': -1},
        {'expected_output': b'x'},
        {'compare': 'nearly'},
        {'tolerance': -1},
    ],
)
def test_an_impossible_request_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        CodeRequest(**{'code': 'x', **options})


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match='run_timeout'):
        make_request('x', run_timeout=5)


def test_nothing_counts_beside_a_whole_request() -> None:
    request = CodeRequest(code='x')

    assert make_request(request, language='python', stdin=None) is request
    with pytest.raises(InvalidArgumentError, match='stdin'):
        make_request(request, stdin='x')


def test_a_request_and_its_bytes_survive_the_wire() -> None:
    request = CodeRequest(
        code=b'print(1) # \xff', stdin=b'\xfe', files={'a/b': b'\0\xff', 'c': 'text'}, args=['x'], cpu_time_limit=1
    )

    assert wire.decode(wire.from_json(wire.to_json(request)), CodeRequest) == request


def test_a_result_survives_the_wire() -> None:
    run = StepResult(command=['x'], status=ExecutionStatus.SUCCESS, cpu_time=0.5, exceeded='cpu')
    result = CodeResult(language='c', run=run, verdict=Verdict.TIME_LIMIT, files={'a': b'\xff'})

    assert wire.decode(wire.from_json(wire.to_json(result)), CodeResult) == result


def step(**facts: Any) -> StepResult:
    return StepResult(**{'command': ['x'], 'status': 'success', **facts})


@pytest.mark.parametrize(
    ('run', 'expected', 'verdict'),
    [
        (step(stdout='1\n'), '1', Verdict.ACCEPTED),
        (step(stdout='2\n'), '1', Verdict.WRONG_ANSWER),
        (step(stdout='2\n'), None, None),
        (step(status='error', exit_code=1), '1', Verdict.RUNTIME_ERROR),
        (step(status='error', exit_code=1), None, Verdict.RUNTIME_ERROR),
        (step(status='timeout', exceeded='time'), None, Verdict.TIME_LIMIT),
        (step(exceeded='cpu', stdout='1'), '1', Verdict.TIME_LIMIT),
        (step(exceeded='memory', stdout='1'), '1', Verdict.MEMORY_LIMIT),
        (step(exceeded='output', status='error'), None, Verdict.OUTPUT_LIMIT),
        (step(stdout='1', stdout_truncated=True), '1', Verdict.OUTPUT_LIMIT),
        (step(status='cancelled'), '1', None),
    ],
)
def test_each_verdict(run: StepResult, expected: str | None, verdict: Verdict | None) -> None:
    assert judge(None, run, CodeRequest(code='x', expected_output=expected)) is verdict


def test_what_is_not_compiled_is_a_compile_error() -> None:
    assert judge(step(status='error'), None, CodeRequest(code='x')) is Verdict.COMPILE_ERROR


@pytest.mark.parametrize(
    ('facts', 'exceeded'),
    [
        ({}, None),
        ({'timed_out': True, 'status': 'timeout'}, 'time'),
        ({'oom_killed': True, 'status': 'error'}, 'memory'),
        ({'signal': 'SIGXCPU', 'status': 'error'}, 'cpu'),
        ({'stdout_bytes': 101}, 'output'),
        ({'stderr_bytes': 101}, 'output'),
    ],
)
def test_a_plain_result_reports_the_limit_that_it_went_over(facts: dict[str, Any], exceeded: str | None) -> None:
    result = CommandResult(**{'command': 'x', 'status': 'success', **facts})

    assert as_step(result, Limits(output_bytes=100, cpu_seconds=5.0)).exceeded == exceeded


def test_what_was_measured_counts_though_nobody_ended_the_program_for_it() -> None:
    limits = Limits(cpu_seconds=1.0, memory_bytes=100)

    assert as_step(step(cpu_time=1.01), limits).exceeded == 'cpu'
    assert as_step(step(peak_memory_bytes=101), limits).exceeded == 'memory'
    assert as_step(step(cpu_time=1.0, peak_memory_bytes=100), limits).exceeded is None
