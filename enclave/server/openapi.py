"""The server described (layer 6): an OpenAPI 3.1 document and a page that shows it, both made from the routes.

Source: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import functools
import html
import importlib
import re
from typing import Any

import attrs

import enclave
from enclave.errors import EnclaveError
from enclave.managers.protocol import API_KEY_HEADER, IDEMPOTENCY_HEADER, ErrorResponse
from enclave.sandboxes.kinds import KINDS
from enclave.server import route as routing
from enclave.server.route import EVENTS, JSON, JSON_OPTIONS, ROUTES, SERVER_SENT_EVENTS, VARIABLE, Route
from enclave.tools.schema import json_schema

Schema = dict[str, Any]

_PREFIX = '#/components/schemas/'
_PATH_TEXT = {
    'sandbox_id': 'The id of the sandbox.',
    'process_id': 'The id of the process.',
    'cell_id': 'The id of the cell.',
    'kernel': 'The name of the kernel.',
    'call_key': 'The idempotency key the call was made with.',
}
_STATUS_DESCRIPTIONS = {
    '400': 'The request is wrong: an argument, an option, the query or the JSON.',
    '401': 'There is no API key in the request, or the server does not know it.',
    '403': 'The policy of the server refuses it.',
    '404': 'What was named is not there.',
    '405': 'There is no such method at this address.',
    '409': 'The state of things does not allow it, or the call was cancelled.',
    '410': 'The sandbox is lost.',
    '413': 'The body is too large.',
    '415': 'The body is of a kind this address does not take.',
    '422': 'It cannot be done with this sandbox, path or image.',
    '429': 'The server, the key or the pool is full; try again after `Retry-After` seconds.',
    '500': 'The server failed.',
    '502': 'The container engine refused.',
    '503': 'The server is stopping, or no container engine answers.',
    '504': 'Something did not finish in time.',
}
_TAGS = {
    'server': 'The server itself.',
    'sandboxes': 'Making, finding and ending sandboxes.',
    'tools': 'Running tools and commands to their end.',
    'processes': 'Commands that continue while the client does, with numbered events that can be taken up again.',
    'notebooks': 'Cells and kernels of notebook sandboxes.',
    'calls': 'Cancelling what continues.',
    'files': 'Files, directories and archives, as raw bytes.',
    'pools': 'Warm sandboxes.',
}


@functools.cache
def document() -> Schema:
    """Return the document."""
    for room in ('routes', 'verb_routes', 'notebooks'):
        importlib.import_module(f'enclave.server.{room}')  # which registers them, and itself imports this module
    schemas: dict[str, Schema] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES.values():
        if route.adapter is not None:  # described by whose interface it is
            continue
        path = VARIABLE.sub(r'{\1}', route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas)
    json_schema(ErrorResponse, definitions=schemas, ref_prefix=_PREFIX)
    return {
        'openapi': '3.1.0',
        'jsonSchemaDialect': 'https://json-schema.org/draft/2020-12/schema',
        'info': {
            'title': 'ms-enclave',
            'version': enclave.__version__,
            'description': 'Sandboxes for code that nobody should trust, on a host of their own.',
            'license': {'name': 'Apache 2.0', 'identifier': 'Apache-2.0'},
        },
        'servers': [{'url': '/'}],
        'security': [{}, {'bearer': []}, {'key': []}],
        'tags': [{'name': name, 'description': text} for name, text in _TAGS.items()],
        'paths': paths,
        'components': {
            'schemas': schemas,
            'securitySchemes': {
                'bearer': {'type': 'http', 'scheme': 'bearer'},
                'key': {'type': 'apiKey', 'in': 'header', 'name': API_KEY_HEADER},
            },
            'responses': {
                'Fault': {'description': 'Why it failed.', 'content': _json({'$ref': _PREFIX + 'ErrorResponse'})}
            },
        },
    }


def _operation(route: Route, schemas: dict[str, Schema]) -> Schema:
    made: Schema = {
        'operationId': route.name,
        'tags': [route.tag],
        'summary': route.summary,
        'parameters': _parameters(route),
        'responses': {'200': _answer(route, schemas)},
    }
    if route.description:
        made['description'] = route.description
    if route.is_open:
        made['security'] = []
    if route.body is not None:
        made['requestBody'] = _body(route, schemas)
    content = _json({'$ref': _PREFIX + 'ErrorResponse'})
    for status, text in _STATUS_DESCRIPTIONS.items():
        made['responses'][status] = {'description': text, 'content': content}
    made['responses']['default'] = {'$ref': '#/components/responses/Fault'}
    return made


def _parameters(route: Route) -> list[Schema]:
    found: list[Schema] = []
    for name in VARIABLE.findall(route.path):
        pattern: Schema = {'type': 'string', 'pattern': '^[A-Za-z0-9._-]{1,128}$'}
        text = _PATH_TEXT.get(name) or f'The {name.replace("_", " ")}.'
        found.append({'name': name, 'in': 'path', 'required': True, 'description': text, 'schema': pattern})
    if route.query is not None:
        whole = json_schema(route.query)
        kinds = routing.field_kinds(route.query)
        for attribute in attrs.fields(route.query):
            schema: Schema = dict(whole['properties'][attribute.name])
            text = schema.pop('description', '')
            # A query has no null: what is left out is the default.
            for option in schema.pop('anyOf', ()):
                if option.get('type') != 'null':
                    schema = {**option, **schema}
            if schema.get('default', 0) is None:
                del schema['default']
            parameter: Schema = {'name': attribute.name, 'in': 'query', 'schema': schema}
            parameter['required'] = attribute.name in whole['required']
            if kinds[attribute.name] is int:
                schema.setdefault('maximum', 10**18)
            if text:
                parameter['description'] = text
            found.append(parameter)
    if route.is_repeatable:
        found.append(
            {
                'name': IDEMPOTENCY_HEADER,
                'in': 'header',
                'required': False,
                'description': 'Under the same key the same request is done once; a repeat gets the first answer.',
                'schema': {'type': 'string', 'pattern': '^[A-Za-z0-9._-]{1,128}$'},
            }
        )
    return found


def _body(route: Route, schemas: dict[str, Schema]) -> Schema:
    if isinstance(route.body, str):
        return {'required': False, 'content': {route.body: {'schema': {'type': 'string', 'format': 'binary'}}}}
    if route.body is JSON_OPTIONS:
        options: list[Schema] = []
        for kind in sorted(KINDS.all(), key=lambda each: (each.is_notebook, each.rank or 0, each.name)):
            try:
                if kind.get_rulings() is not None:  # others are for no client
                    options.append(json_schema(kind.config_class, definitions=schemas, ref_prefix=_PREFIX))
            except (EnclaveError, ImportError):
                continue  # a kind that this machine cannot have, or whose options have no JSON form
        return {'required': False, 'content': _json({'anyOf': [*options, {'type': 'object'}, {'type': 'null'}]})}
    required = any(each.default is attrs.NOTHING for each in attrs.fields(route.body))
    return {
        'required': required,
        'content': _json(json_schema(route.body, definitions=schemas, ref_prefix=_PREFIX)),
    }


def _answer(route: Route, schemas: dict[str, Schema]) -> Schema:
    if isinstance(route.answers, str):
        media = route.answers.partition(';')[0]
        content: Schema = {media: {'schema': {'type': 'string'}}}
        if route.events is not None:
            json_schema(route.events, definitions=schemas, ref_prefix=_PREFIX)
            text = f'One `{route.events.__name__}` a line.'
            content = {
                EVENTS: {'schema': {'type': 'string', 'description': text}},
                SERVER_SENT_EVENTS: {'schema': {'type': 'string', 'description': 'The same, as server-sent events.'}},
            }
        return {'description': 'Done.', 'content': content}
    return {
        'description': 'Done.',
        'content': _json(json_schema(route.answers, definitions=schemas, ref_prefix=_PREFIX)),
    }


def _json(schema: Schema) -> Schema:
    return {JSON: {'schema': schema}}


# The page -------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0 } h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: .4rem .8rem }
summary { cursor: pointer } code, pre { font: 14px/1.45 ui-monospace, monospace }
summary code { font-weight: 600 } summary span { opacity: .75; margin-left: .6rem }
pre { background: var(--soft); padding: .6rem; border-radius: .3rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .2rem .6rem; border-top: 1px solid var(--line); vertical-align: top }
.get { color: #2a7 } .post { color: #37c } .put { color: #a70 } .delete { color: #c33 }
"""


@functools.cache
def page() -> str:
    """Return the document as a page of its own: no script, nothing from elsewhere."""
    described = document()
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ms-enclave</title>',
        '<meta name="viewport" content="width=device-width"><style>',
        _STYLE,
        '</style></head><body>',
        f'<h1>ms-enclave {html.escape(described["info"]["version"])}</h1>',
        f'<p>{html.escape(described["info"]["description"])} ',
        'The same for programs: <a href="/openapi.json">openapi.json</a>.</p>',
    ]
    for tag in described['tags']:
        parts.append(f'<h2>{html.escape(tag["name"])}</h2><p>{html.escape(tag["description"])}</p>')
        for path, methods in described['paths'].items():
            for method, operation in methods.items():
                if tag['name'] in operation['tags']:
                    parts.append(_shown(method, path, operation))
    parts.append('<h2>shapes</h2>')
    for name, schema in sorted(described['components']['schemas'].items()):
        parts.append(
            f'<details id="{html.escape(name)}"><summary><code>{html.escape(name)}</code>'
            f'<span>{_prose(schema.get("description", ""))}</span></summary>{_fields(schema)}</details>'
        )
    parts.append('</body></html>')
    return ''.join(parts)


def _shown(method: str, path: str, operation: Schema) -> str:
    rows = ''.join(
        f'<tr><td><code>{html.escape(each["name"])}</code></td><td>{html.escape(each["in"])}'
        f'{", required" if each.get("required") else ""}</td><td>{_type(each["schema"])}</td>'
        f'<td>{_prose(each.get("description", ""))}</td></tr>'
        for each in operation['parameters']
    )
    table = f'<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>{rows}</table>' if rows else ''
    body = ''.join(
        f'<p>Body: <code>{html.escape(media)}</code> {_type(each["schema"])}</p>'
        for media, each in operation.get('requestBody', {}).get('content', {}).items()
    )
    answer = ''.join(
        f'<p>Answer: <code>{html.escape(media)}</code> {_type(each["schema"])}</p>'
        for media, each in operation['responses']['200']['content'].items()
    )
    return (
        f'<details><summary><code><b class="{method}">{method.upper()}</b> {html.escape(path)}</code>'
        f'<span>{_prose(operation["summary"])}</span></summary><p>{_prose(operation.get("description", ""))}</p>'
        f'{table}{body}{answer}</details>'
    )


def _fields(schema: Schema) -> str:
    required = schema.get('required', ())
    rows = ''.join(
        f'<tr><td><code>{html.escape(name)}</code>{" (required)" if name in required else ""}</td>'
        f'<td>{_type(each)}</td><td>{_prose(each.get("description", ""))}</td></tr>'
        for name, each in schema.get('properties', {}).items()
    )
    return f'<table>{rows}</table>'


def _type(schema: Schema) -> str:
    if '$ref' in schema:
        name = html.escape(schema['$ref'].rpartition('/')[2])
        return f'<a href="#{name}">{name}</a>'
    if 'anyOf' in schema:
        return ' or '.join(_type(each) for each in schema['anyOf'])
    if 'enum' in schema:
        return ', '.join(f'<code>{html.escape(repr(each))}</code>' for each in schema['enum'])
    if schema.get('type') == 'array':
        return f'list of {_type(schema.get("items", {}))}'
    return html.escape(str(schema.get('format') or schema.get('type') or 'anything'))


def _prose(text: str) -> str:
    return re.sub(r'`+([^`]+)`+', r'<code>\1</code>', html.escape(text))
