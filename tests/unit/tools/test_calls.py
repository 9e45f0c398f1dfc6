"""A provider's tool call goes in, and the message to send back comes out."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from enclave.errors import InvalidArgumentError, SandboxGoneError, ToolArgumentsError, ToolNotFoundError
from enclave.records import ToolResult
from enclave.tools.calls import FORMS, ToolCall, as_messages, parse_calls, result_text, tool_schemas

SCHEMAS = {
    'shell_executor': {
        'type': 'function',
        'function': {
            'name': 'shell_executor',
            'description': 'Run a command.',
            'parameters': {'type': 'object', 'properties': {'command': {'type': 'string'}}, 'required': ['command']},
        },
    }
}
ARGUMENTS = {'command': 'echo hi'}
CALLS: dict[str, Any] = {
    'openai': {
        'id': 'call_1',
        'type': 'function',
        'function': {'name': 'shell_executor', 'arguments': json.dumps(ARGUMENTS)},
    },
    'openai-responses': {
        'type': 'function_call',
        'id': 'fc_1',
        'call_id': 'call_1',
        'name': 'shell_executor',
        'arguments': json.dumps(ARGUMENTS),
    },
    'anthropic': {'type': 'tool_use', 'id': 'call_1', 'name': 'shell_executor', 'input': ARGUMENTS},
    'mcp': {
        'jsonrpc': '2.0',
        'id': 'call_1',
        'method': 'tools/call',
        'params': {'name': 'shell_executor', 'arguments': ARGUMENTS},
    },
}


def result(**fields: Any) -> ToolResult:
    return ToolResult(**{'tool_name': 'shell_executor', 'status': 'success', 'output': 'hi\n', **fields})


def answer(call: Any, outcome: ToolResult | Exception | None = None, **options: Any) -> dict[str, Any]:
    asked: list[tuple[str, dict[str, Any]]] = []

    def execute(name: str, arguments: dict[str, Any]) -> ToolResult:
        asked.append((name, arguments))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or result()

    made = ToolCall.parse(call).execute(execute, lambda: SCHEMAS, **options)
    assert asked in ([], [('shell_executor', ARGUMENTS)], [('no_such_tool', {})])
    return made


def text_of(message: dict[str, Any]) -> str:
    """Return an answer's text, whatever its form."""
    content = message.get('content', message.get('output'))
    content = message['result']['content'] if content is None else content
    return content if isinstance(content, str) else str(content[0]['text'])


# Schemas


def test_schemas_are_a_list_in_each_form() -> None:
    parameters = SCHEMAS['shell_executor']['function']['parameters']  # type: ignore[index]

    assert tool_schemas(SCHEMAS) == [SCHEMAS['shell_executor']]
    assert tool_schemas(SCHEMAS, 'anthropic') == [
        {'name': 'shell_executor', 'description': 'Run a command.', 'input_schema': parameters}
    ]
    assert tool_schemas(SCHEMAS, 'mcp') == [
        {'name': 'shell_executor', 'description': 'Run a command.', 'inputSchema': parameters}
    ]
    assert tool_schemas(SCHEMAS, 'openai-responses') == [
        {
            'type': 'function',
            'name': 'shell_executor',
            'description': 'Run a command.',
            'parameters': parameters,
            'strict': False,
        }
    ]


def test_a_form_that_is_unknown_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgumentError, match="'anthropic', 'mcp'"):
        tool_schemas(SCHEMAS, 'gemini')  # type: ignore[arg-type]


# Calls


@pytest.mark.parametrize('form', FORMS)
def test_a_call_in_each_form_is_read(form: str) -> None:
    call = ToolCall.parse(CALLS[form])

    assert (call.form, call.id, call.name, call.arguments) == (form, 'call_1', 'shell_executor', ARGUMENTS)


@pytest.mark.parametrize('form', FORMS)
def test_a_call_may_be_json_text_or_an_object_with_attributes(form: str) -> None:
    def as_object(value: Any) -> Any:
        if isinstance(value, dict) and value is not ARGUMENTS:
            return SimpleNamespace(**{key: as_object(each) for key, each in value.items()})
        return value

    assert ToolCall.parse(json.dumps(CALLS[form])) == ToolCall.parse(CALLS[form])
    assert ToolCall.parse(json.dumps(CALLS[form]).encode()) == ToolCall.parse(CALLS[form])
    assert ToolCall.parse(as_object(CALLS[form])) == ToolCall.parse(CALLS[form])


def test_the_answer_has_the_form_of_the_call() -> None:
    assert answer(CALLS['openai']) == {'role': 'tool', 'tool_call_id': 'call_1', 'content': 'hi'}
    assert answer(CALLS['openai-responses']) == {
        'type': 'function_call_output',
        'call_id': 'call_1',
        'output': 'hi',
    }
    assert answer(CALLS['anthropic']) == {
        'type': 'tool_result',
        'tool_use_id': 'call_1',
        'content': 'hi',
        'is_error': False,
    }
    content = {'content': [{'type': 'text', 'text': 'hi'}], 'isError': False}
    assert answer(CALLS['mcp']) == {'jsonrpc': '2.0', 'id': 'call_1', 'result': content}
    assert answer(CALLS['mcp']['params']) == content


@pytest.mark.parametrize('form', FORMS)
def test_a_failing_program_is_an_answer_with_its_exit_code_output_and_error(form: str) -> None:
    failed = result(status='error', output='half', error='Traceback: no', exit_code=3)

    text = text_of(answer(CALLS[form], failed))

    assert text == 'half\n[error, exit code 3]\nTraceback: no'


@pytest.mark.parametrize('form', FORMS)
def test_an_unknown_tool_is_an_answer_that_names_those_there_are(form: str) -> None:
    call = json.loads(json.dumps(CALLS[form]).replace('shell_executor', 'no_such_tool'))
    call = json.loads(json.dumps(call).replace('{\\"command\\": \\"echo hi\\"}', '{}'))
    if form == 'anthropic':
        call['input'] = {}
    if form == 'mcp':
        call['params']['arguments'] = {}

    text = text_of(answer(call, ToolNotFoundError('no')))

    assert text == "There is no tool 'no_such_tool'. The tools are: shell_executor."


@pytest.mark.parametrize('form', FORMS)
def test_wrong_arguments_are_an_answer_that_says_what_is_wrong(form: str) -> None:
    text = text_of(answer(CALLS[form], ToolArgumentsError('shell_executor: command is missing')))

    assert text == 'shell_executor: command is missing'


@pytest.mark.parametrize('form', ['anthropic', 'mcp'])
def test_forms_that_have_a_mark_for_errors_carry_it(form: str) -> None:
    good, bad = answer(CALLS[form]), answer(CALLS[form], result(status='error', error='no', exit_code=1))

    marks = [(each.get('result') or each).get('isError', each.get('is_error')) for each in (good, bad)]
    assert marks == [False, True]


@pytest.mark.parametrize(
    ('arguments', 'problem'), [('{"command": ', 'not valid JSON'), ('["ls"]', 'must be a JSON object'), ('7', 'object')]
)
def test_arguments_that_cannot_be_read_are_an_answer(arguments: str, problem: str) -> None:
    call = {'id': 'a', 'type': 'function', 'function': {'name': 'shell_executor', 'arguments': arguments}}

    assert problem in text_of(answer(call))


@pytest.mark.parametrize('arguments', ['', ' ', None, '{}'])
def test_no_arguments_are_an_empty_object(arguments: str | None) -> None:
    call = {'id': 'a', 'type': 'function', 'function': {'name': 'shell_executor', 'arguments': arguments}}

    assert ToolCall.parse(call).arguments == {}


def test_free_text_of_a_custom_tool_is_an_answer_too() -> None:
    call = {'id': 'a', 'type': 'custom', 'custom': {'name': 'shell_executor', 'input': 'ls'}}

    assert 'takes a JSON object' in text_of(answer(call))


@pytest.mark.parametrize(
    'call',
    [
        {},
        {'role': 'user', 'content': 'hello', 'name': 'ann'},
        {'type': 'function', 'function': {'name': 'x', 'arguments': '{}'}},
        {'type': 'tool_use', 'id': 'a', 'name': '', 'input': {}},
        {'type': 'text', 'text': 'hello'},
        'no json',
        '[1]',
        7,
        None,
    ],
)
def test_what_is_no_call_is_refused(call: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        ToolCall.parse(call)


def test_what_a_model_cannot_mend_is_raised() -> None:
    with pytest.raises(SandboxGoneError):
        answer(CALLS['openai'], SandboxGoneError('gone'))


# Whole answers of a model


@pytest.mark.parametrize(
    'source',
    [
        [CALLS['openai']],
        CALLS['openai'],
        {'role': 'assistant', 'content': None, 'tool_calls': [CALLS['openai']]},
        {'choices': [{'message': {'role': 'assistant', 'tool_calls': [CALLS['openai']]}}]},
        {'output': [{'type': 'reasoning'}, CALLS['openai-responses'], {'type': 'message', 'content': []}]},
        {'role': 'assistant', 'content': [{'type': 'text', 'text': 'let me see'}, CALLS['anthropic']]},
    ],
)
def test_calls_are_found_in_messages_and_responses(source: Any) -> None:
    assert [call.name for call in parse_calls(source)] == ['shell_executor']


@pytest.mark.parametrize(
    'source',
    [
        {'role': 'assistant', 'content': 'done', 'tool_calls': None},
        {'role': 'assistant', 'content': [{'type': 'text', 'text': 'done'}]},
        {'choices': [{'message': {'role': 'assistant', 'content': 'done'}}]},
        {'output': [{'type': 'message', 'content': []}]},
        [],
    ],
)
def test_messages_without_calls_give_none(source: Any) -> None:
    assert parse_calls(source) == []


def test_anthropics_results_go_into_one_message_of_the_user() -> None:
    calls = [ToolCall.parse(CALLS['anthropic'])] * 2
    answers = [answer(CALLS['anthropic'])] * 2

    assert as_messages(calls, answers) == [{'role': 'user', 'content': answers}]
    assert as_messages(calls[:0], []) == []


# Results


def test_the_stderr_of_a_success_is_in_the_text() -> None:
    text = result_text(result(metadata={'stderr': 'DeprecationWarning\n'}))

    assert text == 'hi\n[stderr]\nDeprecationWarning'


def test_no_output_is_said() -> None:
    assert result_text(result(output='')) == '(no output)'


def test_an_output_that_is_no_text_is_json() -> None:
    assert result_text(result(output={'é': [1]})) == '{"é": [1]}'


def test_the_text_of_an_answer_is_within_the_budget() -> None:
    text = text_of(answer(CALLS['openai'], result(output='x' * 5000), max_chars=1000))

    assert len(text) <= 1000
    assert 'characters left out' in text


def test_pictures_go_along_where_the_form_has_them() -> None:
    outputs = [{'output_type': 'display_data', 'data': {'image/png': 'aGk=\n', 'text/plain': '<Figure>'}}]
    pictured = result(metadata={'outputs': outputs})

    assert answer(CALLS['anthropic'], pictured)['content'][1] == {
        'type': 'image',
        'source': {'type': 'base64', 'media_type': 'image/png', 'data': 'aGk='},
    }
    assert answer(CALLS['mcp'], pictured)['result']['content'][1] == {
        'type': 'image',
        'data': 'aGk=',
        'mimeType': 'image/png',
    }
    assert answer(CALLS['openai-responses'], pictured)['output'][1] == {
        'type': 'input_image',
        'image_url': 'data:image/png;base64,aGk=',
    }
    assert answer(CALLS['openai'], pictured)['content'] == 'hi'
