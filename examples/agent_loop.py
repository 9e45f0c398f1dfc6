"""An agent's loop: a model asks for tools, they run in a sandbox, the answers go back until it needs none.

Run with: python examples/agent_loop.py "What is the 30th prime?"

With `pip install openai` and OPENAI_API_KEY set it asks that model (OPENAI_BASE_URL and OPENAI_MODEL name others); without, it
plays a conversation that was recorded.
"""

from __future__ import annotations

import os
import sys

import enclave

QUESTION = 'What is the 30th prime?'
SOLUTION = 'print([n for n in range(2, 200) if all(n % d for d in range(2, n))][29])'
RECORDED = [
    {'tool_calls': [{'id': 'a', 'function': {'name': 'python_executor', 'arguments': '{"script": "?"}'}}]},
    {'tool_calls': [{'id': 'b', 'function': {'name': 'python_executor', 'arguments': f'{{"code": "{SOLUTION}"}}'}}]},
    {'content': 'The 30th prime is 113.'},
]


def ask(messages, tools):
    """Return the model's next message."""
    if 'OPENAI_API_KEY' not in os.environ:
        return {'role': 'assistant', **RECORDED[sum(message['role'] == 'assistant' for message in messages)]}
    from openai import OpenAI

    model = os.environ.get('OPENAI_MODEL', 'gpt-5-mini')
    answer = OpenAI().chat.completions.create(model=model, messages=messages, tools=tools)
    return answer.choices[0].message.model_dump(exclude_none=True)


def main() -> None:
    messages = [{'role': 'user', 'content': ' '.join(sys.argv[1:]) or QUESTION}]
    with enclave.open_sandbox(tools_config=['python_executor', 'shell_executor'], network_enabled=False) as sandbox:
        while True:
            messages.append(ask(messages, sandbox.tool_schemas('openai')))
            answers = sandbox.execute_tool_calls(messages[-1])
            if not answers:
                break
            messages += answers
    for message in messages:
        print(f'{message["role"]}: {message.get("content") or message["tool_calls"]}')


if __name__ == '__main__':
    main()
