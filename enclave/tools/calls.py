"""Tool calls as model providers make them (layer: tools): schemas in each provider's form, and the answer to a call.

A model gets a list of schemas (`tool_schemas`) and asks for calls. `ToolCall.parse` reads such a call in whichever form it comes:

========================  =====================================================================  ==========================
form                      a call                                                                 the answer
========================  =====================================================================  ==========================
``openai``                ``{'id', 'type': 'function', 'function': {'name', 'arguments'}}``      a message of role ``tool``
``openai-responses``      ``{'type': 'function_call', 'call_id', 'name', 'arguments'}``          ``function_call_output``
``anthropic``             ``{'type': 'tool_use', 'id', 'name', 'input'}``                        a ``tool_result`` block
``mcp``                   ``{'name', 'arguments'}``, or the JSON-RPC request ``tools/call``      a ``CallToolResult``
========================  =====================================================================  ==========================

A call may be a dict, the SDK's object or JSON text. No SDK is imported: objects are read by ``model_dump`` or their attributes.

What a model can mend becomes an answer it can act on: an unknown tool, wrong arguments, arguments that are no JSON, a program
that fails. What it cannot mend (the sandbox is gone, the server does not answer) is raised.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from attrs import Factory, evolve, frozen

from enclave.errors import InvalidArgumentError, ToolArgumentsError, ToolNotFoundError
from enclave.quoting import quoted
from enclave.records import ToolResult
from enclave.tools.budget import check_max_chars, shorten_text

SchemaForm = Literal['openai', 'openai-responses', 'anthropic', 'mcp']
Execute = Callable[[str, dict[str, Any]], ToolResult]
"""Runs a tool by its name with its arguments."""

FORMS: tuple[SchemaForm, ...] = ('openai', 'openai-responses', 'anthropic', 'mcp')
DEFAULT_MAX_CHARS = 20_000
"""How much text of one call a model gets unless the caller says otherwise: some 5,000 tokens."""
MAX_PICTURES = 4
MAX_PICTURE_CHARACTERS = 5 << 20
"""Size of one picture as base64. What providers accept for one is about that."""

_PICTURE_TYPES = ('image/png', 'image/jpeg', 'image/gif', 'image/webp')
_NOTHING = '(no output)'


# Schemas --------------------------------------------------------------------------------------------------------------


def tool_schemas(tools: Mapping[str, Mapping[str, Any]], form: SchemaForm = 'openai') -> list[dict[str, Any]]:
    """Return the schemas of tools as a list in a provider's form.

    Args:
        tools: ``{name: OpenAI-style function schema}``, as `Sandbox.get_available_tools` gives them.
        form: ``'openai'`` for chat completions, ``'openai-responses'``, ``'anthropic'`` or ``'mcp'``.

    Raises:
        InvalidArgumentError: There is no such form.
    """
    if form not in FORMS:
        raise InvalidArgumentError(f'form must be one of {", ".join(map(repr, FORMS))}, not {quoted(form)}')
    return [_SCHEMA_OF[form](cast('dict[str, Any]', schema['function'])) for schema in tools.values()]


def _described(function: dict[str, Any]) -> dict[str, Any]:
    return {'name': function['name'], 'description': function.get('description', '')}


_SCHEMA_OF: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    'openai': lambda function: {'type': 'function', 'function': dict(function)},
    # Strict mode wants every argument to be required, and ours have defaults.
    'openai-responses': lambda function: {
        'type': 'function',
        **_described(function),
        'parameters': function['parameters'],
        'strict': False,
    },
    'anthropic': lambda function: {**_described(function), 'input_schema': function['parameters']},
    'mcp': lambda function: {**_described(function), 'inputSchema': function['parameters']},
}


# Calls ----------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class ToolCall:
    """One call, read from a provider's form.

    Attributes:
        form: The form that it came in, and that its answer takes.
        id: The provider's id of the call; None where the form has none.
        name: The tool's name.
        arguments: The arguments; empty where ``problem`` says why they could not be read.
        problem: What is wrong with the arguments, for the model; None if nothing is.
        is_request: It is a whole JSON-RPC request, whose answer is a whole JSON-RPC response.
    """

    form: SchemaForm
    id: Any = None
    name: str = ''
    arguments: dict[str, Any] = Factory(dict)
    problem: str | None = None
    is_request: bool = False

    @classmethod
    def parse(cls, call: Any) -> ToolCall:
        """Read a call: a dict, an object of a provider's SDK, or JSON text.

        Raises:
            InvalidArgumentError: It is no call in any form that is known.
        """
        found = as_mapping(call)
        kind = found.get('type')
        if kind == 'tool_use':
            return cls._made('anthropic', found.get('id'), found.get('name'), found.get('input'), call)
        if kind == 'function_call':
            return cls._made('openai-responses', found.get('call_id'), found.get('name'), found.get('arguments'), call)
        function = found.get('function')
        if kind in ('function', None) and function is not None:
            function = as_mapping(function)
            return cls._made('openai', found.get('id'), function.get('name'), function.get('arguments'), call)
        if kind == 'custom' and found.get('custom') is not None:
            custom = as_mapping(found['custom'])
            made = cls._made('openai', found.get('id'), custom.get('name'), None, call)
            return evolve(made, problem='it takes a JSON object as a function, not free text as a custom tool')
        if found.get('method') == 'tools/call':
            parameters = as_mapping(found.get('params') or {})
            is_request = found.get('jsonrpc') is not None or found.get('id') is not None
            made = cls._made('mcp', found.get('id'), parameters.get('name'), parameters.get('arguments'), call)
            return evolve(made, is_request=is_request)
        if kind is None and 'name' in found and 'role' not in found:
            return cls._made('mcp', None, found['name'], found.get('arguments'), call)
        raise InvalidArgumentError(
            f'this is no tool call in a form that is known ({", ".join(FORMS)}): {_excerpt(call)}'
        )

    @classmethod
    def _made(cls, form: SchemaForm, call_id: Any, name: Any, arguments: Any, call: Any) -> ToolCall:
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f'the tool call names no tool: {_excerpt(call)}')
        if form != 'mcp' and not isinstance(call_id, str):
            raise InvalidArgumentError(f'the tool call has no id, which its answer must carry: {_excerpt(call)}')
        problem = None
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments) if arguments.strip() else {}
            except (ValueError, RecursionError) as error:
                problem = f'the arguments are not valid JSON: {error}'
        if problem is None and arguments is not None and not isinstance(arguments, Mapping):
            problem = f'the arguments must be a JSON object, not {_excerpt(arguments)}'
        values = {} if problem is not None else {str(key): value for key, value in (arguments or {}).items()}
        return cls(form=form, id=call_id, name=name, arguments=values, problem=problem)

    def execute(
        self, execute: Execute, schemas: Callable[[], Mapping[str, Any]], *, max_chars: int | None = DEFAULT_MAX_CHARS
    ) -> dict[str, Any]:
        """Run the call, and return its answer in the form of the call.

        Args:
            execute: Runs a tool.
            schemas: Gives the tools there are, for what a model is answered that names another.
            max_chars: How much text the answer may have; None for no limit.

        Raises:
            EnclaveError: The call could not be made at all.
        """
        check_max_chars(max_chars)
        try:
            if self.problem is not None:
                raise ToolArgumentsError(f'{self.name}: {self.problem}. Call the tool again with a JSON object.')
            result = execute(self.name, self.arguments)
        except ToolNotFoundError:
            names = ', '.join(schemas()) or 'none'
            return self._answer(f'There is no tool {self.name!r}. The tools are: {names}.', is_error=True)
        except InvalidArgumentError as error:  # `ToolArgumentsError` is one
            return self._answer(error.message, is_error=True)
        text = result_text(result, max_chars)
        return self._answer(text, is_error=not result.success, pictures=result_pictures(result))

    def _answer(self, text: str, *, is_error: bool, pictures: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """Return the answer; ``pictures`` are (MIME type, base64) each."""
        if self.form == 'openai':  # its tool messages hold text only
            return {'role': 'tool', 'tool_call_id': self.id, 'content': text}
        if self.form == 'openai-responses':
            output: Any = text
            if pictures:
                images = [{'type': 'input_image', 'image_url': f'data:{kind};base64,{data}'} for kind, data in pictures]
                output = [{'type': 'input_text', 'text': text}, *images]
            return {'type': 'function_call_output', 'call_id': self.id, 'output': output}
        if self.form == 'anthropic':
            content: Any = text
            if pictures:
                sources = [{'type': 'base64', 'media_type': kind, 'data': data} for kind, data in pictures]
                content = [{'type': 'text', 'text': text}, *({'type': 'image', 'source': each} for each in sources)]
            return {'type': 'tool_result', 'tool_use_id': self.id, 'content': content, 'is_error': is_error}
        images = [{'type': 'image', 'data': data, 'mimeType': kind} for kind, data in pictures]
        result = {'content': [{'type': 'text', 'text': text}, *images], 'isError': is_error}
        return {'jsonrpc': '2.0', 'id': self.id, 'result': result} if self.is_request else result


def parse_calls(source: Any) -> list[ToolCall]:
    """Return the calls in a model's answer: a list of calls, a message that holds some, or a whole response.

    Messages and responses are those of chat completions (``tool_calls``), of responses (``output``) and of Anthropic's messages
    (``content``). One without calls gives an empty list.

    Raises:
        InvalidArgumentError: It is none of these, or a call in it is in no form that is known.
    """
    if (
        isinstance(source, Iterable)
        and not isinstance(source, (str, bytes, bytearray, Mapping))
        and not _is_model(source)
    ):
        return [ToolCall.parse(each) for each in source]
    found = as_mapping(source)
    choices = found.get('choices')
    if choices:
        found = as_mapping(as_mapping(choices[0]).get('message') or {})
    for key, kinds in (
        ('tool_calls', ('function', 'custom')),
        ('output', ('function_call',)),
        ('content', ('tool_use',)),
    ):
        items = found.get(key)
        if isinstance(items, Sequence) and not isinstance(items, str):
            calls = [as_mapping(each) for each in items]
            return [ToolCall.parse(each) for each in calls if each.get('type', 'function') in kinds]
    if 'role' in found or 'tool_calls' in found:
        return []
    return [ToolCall.parse(found)]


def as_messages(calls: Sequence[ToolCall], answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return answers as what is appended to a conversation: Anthropic wants all results in one message of the user."""
    blocks = [answer for call, answer in zip(calls, answers, strict=True) if call.form == 'anthropic']
    others = [answer for call, answer in zip(calls, answers, strict=True) if call.form != 'anthropic']
    return [*others, *([{'role': 'user', 'content': blocks}] if blocks else [])]


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a dict, JSON text of an object, or an SDK's object, as a mapping.

    Raises:
        InvalidArgumentError: It is none of them.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (str, bytes, bytearray)):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError(f'the tool call is not valid JSON: {error}') from None
        if isinstance(parsed, Mapping):
            return parsed
        raise InvalidArgumentError(f'the tool call must be a JSON object, not {_excerpt(parsed)}')
    dump = getattr(value, 'model_dump', None)
    if callable(dump):
        dumped = dump()
        if isinstance(dumped, Mapping):
            return cast('Mapping[str, Any]', dumped)
    if hasattr(value, '__dict__'):
        return dict(vars(value))
    raise InvalidArgumentError(f'a tool call must be a dict, JSON text or an object of an SDK, not {quoted(value)}')


def _is_model(value: Any) -> bool:
    return callable(getattr(value, 'model_dump', None))


def _excerpt(value: Any) -> str:
    return quoted(value)


# Results --------------------------------------------------------------------------------------------------------------


def result_text(result: ToolResult, max_chars: int | None = None) -> str:
    """Return a result as text for a model: what was printed, standard error too, and how it ended if that was not well."""
    text = result.text or _NOTHING
    return text if max_chars is None else shorten_text(text, max_chars)


def result_pictures(result: ToolResult) -> list[tuple[str, str]]:
    """Return the pictures of a notebook cell's result as (MIME type, base64), those that providers take and at most
    `MAX_PICTURES`."""
    outputs = result.metadata.get('outputs')
    found: list[tuple[str, str]] = []
    for output in outputs if isinstance(outputs, list) else []:
        data = output.get('data') if isinstance(output, Mapping) else None
        for kind in _PICTURE_TYPES:
            picture = data.get(kind) if isinstance(data, Mapping) else None
            if isinstance(picture, str) and 0 < len(picture) <= MAX_PICTURE_CHARACTERS:
                found.append((kind, ''.join(picture.split())))
                break
    return found[:MAX_PICTURES]
