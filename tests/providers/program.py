"""Runs with the real SDKs of two providers: their objects go in, and what comes out is what their types say.

Each client talks to a stand-in for its provider's server, on this machine, so the SDK parses and checks what it would from there.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anthropic
import openai
from anthropic.types import MessageParam, ToolResultBlockParam
from openai.types.chat import ChatCompletionToolMessageParam, ChatCompletionToolUnionParam
from openai.types.responses import ResponseInputItemParam
from pydantic import TypeAdapter

import enclave

QUESTION = 'How much is 6 * 7?'
CODE = json.dumps({'code': 'import sys; print(6 * 7); print("careful", file=sys.stderr)'})
USAGE = {'prompt_tokens': 1, 'completion_tokens': 1, 'total_tokens': 2}


def chat(asked: int) -> dict[str, Any]:
    if asked == 0:
        calls = [
            {'id': 'call_1', 'type': 'function', 'function': {'name': 'python_executor', 'arguments': CODE}},
            {'id': 'call_2', 'type': 'function', 'function': {'name': 'shell_executor', 'arguments': '{"cmd": "ls"}'}},
            {'id': 'call_3', 'type': 'function', 'function': {'name': 'browser', 'arguments': ''}},
        ]
        message: dict[str, Any] = {'role': 'assistant', 'content': None, 'tool_calls': calls}
    else:
        message = {'role': 'assistant', 'content': '42'}
    choice = {'index': 0, 'finish_reason': 'stop', 'message': message, 'logprobs': None}
    return {'id': 'x', 'object': 'chat.completion', 'created': 1, 'model': 'm', 'choices': [choice], 'usage': USAGE}


def response(asked: int) -> dict[str, Any]:
    if asked == 0:
        output: list[Any] = [
            {'id': 'fc_1', 'type': 'function_call', 'call_id': 'call_1', 'name': 'python_executor', 'arguments': CODE}
        ]
    else:
        text = {'type': 'output_text', 'text': '42', 'annotations': []}
        output = [{'id': 'm', 'type': 'message', 'role': 'assistant', 'status': 'completed', 'content': [text]}]
    return {
        'id': 'r',
        'object': 'response',
        'created_at': 1,
        'model': 'm',
        'output': output,
        'parallel_tool_calls': True,
        'tool_choice': 'auto',
        'tools': [],
        'status': 'completed',
    }


def message(asked: int) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{'type': 'text', 'text': 'Let me see.'}]
    if asked == 0:
        content += [
            {'type': 'tool_use', 'id': 'toolu_1', 'name': 'python_executor', 'input': json.loads(CODE)},
            {'type': 'tool_use', 'id': 'toolu_2', 'name': 'shell_executor', 'input': {'command': 'exit 3'}},
        ]
    usage = {'input_tokens': 1, 'output_tokens': 1}
    reason = 'tool_use' if asked == 0 else 'end_turn'
    common = {'id': 'msg', 'type': 'message', 'role': 'assistant', 'model': 'm', 'stop_sequence': None}
    return {**common, 'content': content, 'stop_reason': reason, 'usage': usage}


ANSWERS = {'/v1/chat/completions': chat, '/v1/responses': response, '/v1/messages': message}


class Provider(BaseHTTPRequestHandler):
    asked: list[tuple[str, dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        before = sum(path == self.path for path, _ in self.asked)
        self.asked.append((self.path, body))
        data = json.dumps(ANSWERS[self.path](before)).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def check_chat(url: str, sandbox: Any) -> None:
    client = openai.OpenAI(base_url=f'{url}/v1', api_key='x')
    tools = sandbox.tool_schemas('openai')
    TypeAdapter(list[ChatCompletionToolUnionParam]).validate_python(tools)
    messages: list[Any] = [{'role': 'user', 'content': QUESTION}]
    while True:
        answer = client.chat.completions.create(model='m', messages=messages, tools=tools).choices[0].message
        messages.append(answer)
        replies = sandbox.execute_tool_calls(answer)
        if not replies:
            break
        TypeAdapter(list[ChatCompletionToolMessageParam]).validate_python(replies)
        assert replies[0] == {'role': 'tool', 'tool_call_id': 'call_1', 'content': '42\n[stderr]\ncareful'}
        assert "did you mean 'command'?" in replies[1]['content']
        assert 'python_executor, shell_executor' in replies[2]['content']
        assert sandbox.execute_tool_call(answer.tool_calls[0]) == replies[0]
        messages += replies
    assert answer.content == '42'


def check_responses(url: str, sandbox: Any) -> None:
    client = openai.OpenAI(base_url=f'{url}/v1', api_key='x')
    items: list[Any] = [{'role': 'user', 'content': QUESTION}]
    tools = sandbox.tool_schemas('openai-responses')
    while True:
        answer = client.responses.create(model='m', input=items, tools=tools)
        items += answer.output
        replies = sandbox.execute_tool_calls(answer)
        if not replies:
            break
        TypeAdapter(list[ResponseInputItemParam]).validate_python(replies)
        assert replies[0]['output'].startswith('42')
        assert sandbox.execute_tool_call(answer.output[0]) == replies[0]
        items += replies
    assert answer.output_text == '42'


def check_messages(url: str, sandbox: Any) -> None:
    client = anthropic.Anthropic(base_url=url, api_key='x')
    messages: list[Any] = [{'role': 'user', 'content': QUESTION}]
    tools = sandbox.tool_schemas('anthropic')
    while True:
        answer = client.messages.create(model='m', max_tokens=100, messages=messages, tools=tools)
        messages.append({'role': 'assistant', 'content': answer.content})
        replies = sandbox.execute_tool_calls(answer)
        if not replies:
            break
        TypeAdapter(list[MessageParam]).validate_python(replies)
        first, second = replies[0]['content']
        TypeAdapter(ToolResultBlockParam).validate_python(first)
        assert (first['tool_use_id'], first['is_error']) == ('toolu_1', False)
        assert (second['tool_use_id'], second['is_error']) == ('toolu_2', True)
        assert 'exit code 3' in second['content']
        assert sandbox.execute_tool_call(answer.content[1]) == first
        messages += replies
    assert answer.stop_reason == 'end_turn'


def main() -> None:
    server = HTTPServer(('127.0.0.1', 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}'
    with enclave.open_sandbox('bubblewrap', tools_config=['python_executor', 'shell_executor']) as sandbox:
        for check in (check_chat, check_responses, check_messages):
            check(url, sandbox)
            print(check.__name__, 'ok')


if __name__ == '__main__':
    main()
