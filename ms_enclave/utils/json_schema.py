"""JSON schemas of Python types."""

from __future__ import annotations

from typing import Any, Literal, cast

from ms_enclave.sandbox.model.modeling import JSON_TYPES, Model, class_schema, type_schema

JSONType = Literal['string', 'integer', 'number', 'boolean', 'array', 'object', 'null']
"""The types that JSON has."""


class JSONSchema(Model):
    """A schema of one value. Keywords that are no fields here are dropped."""

    type: JSONType | None = None
    format: str | None = None
    description: str | None = None
    default: Any = None
    enum: list[Any] | None = None
    items: JSONSchema | None = None
    properties: dict[str, JSONSchema] | None = None
    additionalProperties: JSONSchema | bool | None = None
    anyOf: list[JSONSchema] | None = None
    required: list[str] | None = None


def python_type_to_json_type(python_type: Any) -> JSONType:
    """Return the JSON type of a plain Python type, given itself or by its name.

    Raises:
        ValueError: JSON has none for it.
    """
    if isinstance(python_type, str):
        by_name = {kind.__name__: word for kind, word in JSON_TYPES.items() if isinstance(kind, type)}
        found = by_name.get(python_type, 'null' if python_type == 'None' else None)
        if found is not None:
            return cast(JSONType, found)
    elif python_type in JSON_TYPES:
        return cast(JSONType, JSON_TYPES[python_type])
    raise ValueError(f'JSON has no type for {python_type!r}')


def json_schema(t: Any) -> JSONSchema:
    """Return the schema of a type: plain ones, containers, unions, literals, enums, models, dataclasses and typed dicts.

    What is none of these is an object of any shape.
    """
    return JSONSchema(**resolve_schema_references(type_schema(t)))


def cls_json_schema(cls: type[Any]) -> JSONSchema:
    """Return the schema of a class by its fields: a model, a dataclass, a typed dict; any other is an object of any shape."""
    return JSONSchema(**resolve_schema_references(class_schema(cls)))


def resolve_schema_references(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema in which each ``$ref`` to its own ``$defs`` has been put in place."""
    definitions = schema.get('$defs') or {}

    def resolve(value: Any, around: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [resolve(each, around) for each in value]
        if not isinstance(value, dict):
            return value
        reference = value.get('$ref')
        if isinstance(reference, str) and reference.startswith('#/$defs/'):
            name = reference.removeprefix('#/$defs/')
            if name in around or name not in definitions:
                return {'type': 'object'}  # it holds itself
            rest = {key: each for key, each in value.items() if key != '$ref'}
            return resolve({**definitions[name], **rest}, (*around, name))
        return {key: resolve(each, around) for key, each in value.items() if key != '$defs'}

    found: dict[str, Any] = resolve(schema, ())
    return found


__all__ = [
    'JSONSchema',
    'JSONType',
    'cls_json_schema',
    'json_schema',
    'python_type_to_json_type',
    'resolve_schema_references',
]
