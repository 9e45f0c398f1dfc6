"""Results show themselves: short in a log, readable for people, safe in a notebook."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from enclave.cells import CellError, CellResult
from enclave.enums import ExecutionStatus
from enclave.records import CommandResult, SandboxInfo, ToolResult, utc_now
from enclave.rendering import strip_escape_codes

PNG = base64.b64encode(b'\x89PNG fake').decode()
JPEG = base64.b64encode(b'\xff\xd8 fake').decode()
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def command(**fields: Any) -> CommandResult:
    return CommandResult(**{'command': 'x', 'status': 'success', 'stdout': '1\n', 'execution_time': 0.0123, **fields})


def cell(*outputs: dict[str, Any], **fields: Any) -> CellResult:
    return CellResult(**{'status': 'success', 'outputs': list(outputs), **fields})


def display(**data: Any) -> dict[str, Any]:
    return {'output_type': 'display_data', 'data': {key.replace('_', '/'): value for key, value in data.items()}}


# One line


@pytest.mark.parametrize(
    ('record', 'shown'),
    [
        (command(), "CommandResult(status='success', stdout='1\\n', execution_time=0.012)"),
        (
            command(status='error', exit_code=139, signal='SIGSEGV', stdout='', stderr='no'),
            "CommandResult(status='error', exit_code=139, signal='SIGSEGV', stderr='no', execution_time=0.012)",
        ),
        (
            ToolResult(tool_name='t', status='success', output='hi', metadata={'stderr': 'careful'}),
            "ToolResult('t', status='success', output='hi', stderr='careful')",
        ),
        (
            ToolResult(tool_name='t', status='error', error='no', exit_code=2),
            "ToolResult('t', status='error', exit_code=2, error='no')",
        ),
        (
            cell(display(image_png=PNG), text='4'),
            "CellResult(status='success', text='4', pictures=1, execution_time=0.0)",
        ),
        (
            cell(status='error', error=CellError(name='ZeroDivisionError', value='division by zero')),
            "CellResult(status='error', error='ZeroDivisionError: division by zero', execution_time=0.0)",
        ),
        (
            SandboxInfo(id='ab12', type='docker', status='running', created_at=utc_now(), config={'image': 'x'}),
            "SandboxInfo('ab12', type='docker', status='running')",
        ),
    ],
)
def test_a_repr_is_one_short_line(record: Any, shown: str) -> None:
    assert repr(record) == shown


@pytest.mark.parametrize(
    'record',
    [
        command(stdout='x\n' * 10_000, stderr='y\n' * 10_000),
        ToolResult(tool_name='t', status='success', output={'rows': list(range(10_000))}),
        cell(text='z\n' * 10_000),
    ],
)
def test_a_repr_stays_short_whatever_was_printed(record: Any) -> None:
    assert len(repr(record)) < 400
    assert '\n' not in repr(record)


# Text


def test_the_stderr_of_a_success_is_in_the_text() -> None:
    assert command(stderr='DeprecationWarning\n').text == '1\n[stderr]\nDeprecationWarning'
    result = ToolResult(tool_name='t', status='success', output='1\n', metadata={'stderr': 'DeprecationWarning\n'})
    assert result.text == '1\n[stderr]\nDeprecationWarning'


@pytest.mark.parametrize(
    ('fields', 'ending'),
    [
        ({'status': 'error', 'exit_code': 3}, '[exit code 3]'),
        ({'status': 'error', 'exit_code': 139, 'signal': 'SIGSEGV'}, '[exit code 139, SIGSEGV]'),
        (
            {'status': 'error', 'exit_code': 137, 'signal': 'SIGKILL', 'oom_killed': True},
            '[out of memory, exit code 137]',
        ),
        ({'status': 'timeout', 'exit_code': 137, 'timed_out': True}, '[timed out after 0.0 s]'),
        ({'status': 'cancelled', 'exit_code': 137}, '[cancelled]'),
    ],
)
def test_the_text_says_how_it_ended(fields: dict[str, Any], ending: str) -> None:
    assert command(**fields).text == f'1\n{ending}'


# Pictures


def test_the_pictures_of_a_cell_are_bytes_in_order_and_one_for_each_output() -> None:
    shown = cell(
        {'output_type': 'stream', 'name': 'stdout', 'text': 'plotting'},
        display(image_png=PNG, image_jpeg=JPEG, text_plain='<Figure>'),
        display(text_plain='7'),
        display(**{'image_svg+xml': SVG}),
        display(image_png='not base64!'),
        display(image_jpeg=[JPEG[:4], JPEG[4:] + '\n']),
    )

    assert [(each.media_type, each.data[:4]) for each in shown.pictures] == [
        ('image/png', b'\x89PNG'),
        ('image/svg+xml', b'<svg'),
        ('image/jpeg', b'\xff\xd8 f'),
    ]


def test_pictures_are_saved_in_one_call(tmp_path: Path) -> None:
    shown = cell(display(image_png=PNG), display(image_jpeg=JPEG))
    result = ToolResult(tool_name='n', status='success', metadata={'outputs': shown.outputs})

    paths = shown.save_pictures(tmp_path / 'plots')

    assert [path.name for path in paths] == ['picture-1.png', 'picture-2.jpg']
    assert paths[0].read_bytes() == b'\x89PNG fake'
    assert [path.name for path in result.save_pictures(tmp_path, 'plot')] == ['plot-1.png', 'plot-2.jpg']
    assert cell().save_pictures(tmp_path) == []
    assert ToolResult(tool_name='t', status='success').pictures == []


# Jupyter


def test_a_plot_shows_in_jupyter() -> None:
    bundle = cell(display(image_png=PNG), text='')._repr_mimebundle_()

    assert bundle['image/png'] == PNG
    assert f'<img style="max-width:100%" src="data:image/png;base64,{PNG}">' in bundle['text/html']
    assert bundle['text/plain'].startswith('CellResult(')


def test_what_a_sandbox_gives_cannot_run_in_the_page() -> None:
    hostile = '</pre><script>alert(1)</script>'
    shown = cell(
        {'output_type': 'stream', 'name': 'stdout', 'text': hostile},
        display(text_html=f'"><script>alert(2)</script>{hostile}', text_plain='x'),
        display(text_plain=hostile),
        display(**{'image_svg+xml': SVG}),
        {'output_type': 'error', 'ename': hostile, 'evalue': hostile, 'traceback': [hostile]},
        display(application_javascript='alert(3)'),
    )
    result = ToolResult(tool_name='n', status='success', metadata={'outputs': shown.outputs})

    for bundle in (
        shown._repr_mimebundle_(),
        result._repr_mimebundle_(),
        command(stdout=hostile, stderr=hostile)._repr_mimebundle_(),
    ):
        assert '<script' not in bundle['text/html']
        assert 'alert(3)' not in bundle['text/html']
        assert set(bundle) <= {'text/plain', 'text/html', 'image/png', 'image/jpeg'}
    assert '<iframe sandbox srcdoc="&lt;meta http-equiv=' in shown._repr_mimebundle_()['text/html']


def test_escape_codes_do_not_show_in_jupyter() -> None:
    assert '\x1b' not in command(stdout='\x1b[31mred\x1b[0m')._repr_mimebundle_()['text/html']
    assert strip_escape_codes('\x1b[1mbold\x1b[0m') == 'bold'


# Programs


@pytest.mark.parametrize(
    'record',
    [
        command(),
        ToolResult(tool_name='t', status='success', metadata={'stderr': ''}),
        cell(display(image_png=PNG), error=CellError(name='E')),
        SandboxInfo(id='ab12', type='docker', status='running', created_at=utc_now()),
    ],
)
def test_a_record_goes_to_json_and_back(record: Any) -> None:
    assert type(record).model_validate_json(record.to_json()) == record
    assert type(record).model_validate(json.loads(json.dumps(record.to_dict()))) == record
    assert dict(record)['status'] is record.status


def test_web_frameworks_take_a_record_as_a_field_and_as_an_answer() -> None:
    pydantic = pytest.importorskip('pydantic')

    class Answer(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        result: CommandResult

    Answer.model_rebuild(_types_namespace={'CommandResult': CommandResult})
    answer = Answer(result=command())

    assert json.loads(answer.model_dump_json())['result']['stdout'] == '1\n'
    assert Answer.model_validate_json(answer.model_dump_json()).result == command()
    assert Answer.model_json_schema()['properties']['result']['title'] == 'CommandResult'
    with pytest.raises(pydantic.ValidationError):
        Answer.model_validate({'result': {'no_such_key': 1}})


def test_a_record_keeps_its_status_as_an_enum() -> None:
    assert command().status is ExecutionStatus.SUCCESS
