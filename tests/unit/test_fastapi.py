"""What a FastAPI application does with the records of this library: bodies, answers, and what its OpenAPI document says."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI

from enclave import CodeRequest, CodeResult, CommandResult, ToolResult
from enclave.languages.values import StepResult

RESULT = CommandResult(status='success', exit_code=0, stdout='out', stderr='', command='ls', execution_time=0.5)
app = FastAPI()


@app.post('/run')
def run(request: Annotated[CodeRequest, Body()]) -> CodeResult:
    step = StepResult(**{**RESULT.to_dict(), 'stdout': request.code})
    return CodeResult(language=request.language, run=step)


@app.post('/named')
def named(request: Annotated[CodeRequest, Body(embed=True)], times: int = 1) -> str:
    return request.code * times


@app.get('/command')
def command() -> CommandResult:
    return RESULT


@app.get('/several')
def several() -> dict[str, list[ToolResult]]:
    return {'results': [ToolResult(tool_name='a', status='success', output='x')]}


def ask(method: str, path: str, body: Any = None, query: str = '') -> tuple[int, Any]:
    """Ask the application as a server for ASGI does; its own test client needs a package more."""
    sent: list[dict[str, Any]] = []
    scope = {
        'type': 'http', 'asgi': {'version': '3.0'}, 'http_version': '1.1', 'scheme': 'http', 'method': method, 'path': path,
        'raw_path': path.encode(), 'root_path': '', 'query_string': query.encode(), 'server': ('here', 80),
        'client': ('there', 1), 'headers': [(b'content-type', b'application/json')],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {'type': 'http.request', 'body': json.dumps(body).encode(), 'more_body': False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]['status'], json.loads(b''.join(each.get('body', b'') for each in sent[1:]))


def test_a_request_is_a_body_and_a_result_an_answer() -> None:
    status, answer = ask('POST', '/run', {'code': 'print(1)', 'language': 'ruby'})

    assert (status, answer['language'], answer['run']['stdout']) == (200, 'ruby', 'print(1)')
    assert CodeResult.model_validate(answer).run.exit_code == 0  # type: ignore[union-attr]


def test_a_request_may_stand_beside_other_arguments() -> None:
    assert ask('POST', '/named', {'request': {'code': 'ab'}}, 'times=2') == (200, 'abab')


def test_results_are_answers_alone_and_in_others() -> None:
    assert ask('GET', '/command') == (200, RESULT.to_dict())
    status, answer = ask('GET', '/several')
    assert (status, answer['results'][0]['output']) == (200, 'x')


def test_a_body_that_is_wrong_is_refused_in_the_words_of_the_library() -> None:
    status, answer = ask('POST', '/run', {'cod': 'print(1)'})

    assert status == 422
    assert "did you mean 'code'" in answer['detail'][0]['msg']


@pytest.mark.parametrize('path', ['/run', '/named'])
def test_the_document_of_the_application_knows_the_bodies(path: str) -> None:
    status, document = ask('GET', '/openapi.json')

    assert status == 200
    assert 'requestBody' in document['paths'][path]['post']
