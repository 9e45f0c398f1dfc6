"""Jupyter widgets (layer 4): what a kernel says of their state, and that state as a notebook stores it.

A widget's picture in a notebook is its model's id; without the model's state nobody can draw it again.
Source: https://ipywidgets.readthedocs.io/en/latest/embedding.html and the messages ``comm_open``, ``comm_msg`` and
``comm_close`` of https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from enclave.sandboxes.notebook.messages import Message

WIDGET_STATE = 'application/vnd.jupyter.widget-state+json'
"""The key below ``metadata.widgets`` of a notebook."""
WIDGET_VIEW = 'application/vnd.jupyter.widget-view+json'
"""The MIME type of a widget that is shown."""
MAX_MODELS = 10_000
_TARGET = 'jupyter.widget'
_NAMES = ('_model_name', '_model_module', '_model_module_version')


@define(eq=False)
class WidgetChanges:
    """What one cell changes of widgets. One thread at a time; lives as long as the cell runs.

    Args:
        cap: Bytes that are kept of all of it.
    """

    _cap: int
    _bytes: int = field(default=0, init=False)
    found: dict[str, dict[str, Any] | None] = field(factory=dict, init=False)
    left_out: int = field(default=0, init=False)

    def take(self, message: Message) -> None:
        """Take a message of a comm, which may be a widget's."""
        content = message.content
        model, data = content.get('comm_id'), content.get('data')
        if not isinstance(model, str) or not model or len(model) > 256:
            return
        if message.type == 'comm_close':
            if model in self.found or len(self.found) < MAX_MODELS:
                self.found[model] = None
            return
        is_open = message.type == 'comm_open' and content.get('target_name') == _TARGET
        is_update = message.type == 'comm_msg' and isinstance(data, dict) and data.get('method') == 'update'
        if not (is_open or is_update) or not isinstance(data, dict) or not isinstance(data.get('state'), dict):
            return
        state, buffers = data['state'], _buffers(data.get('buffer_paths'), message.buffers)
        size = _size(state) + sum(len(each['data']) for each in buffers)
        is_full = model not in self.found and len(self.found) >= MAX_MODELS
        if size < 0 or self._bytes + size > self._cap or is_full:
            self.left_out += 1
            return
        self._bytes += size
        known = self.found.get(model)
        self.found[model] = _merged({'state': {}, 'buffers': []} if known is None else known, state, buffers)


def _size(state: dict[str, Any]) -> int:
    """Return how large a state is as JSON; -1 where it has no JSON form that others read."""
    try:
        return len(json.dumps(state, allow_nan=False))
    except (ValueError, RecursionError):
        return -1


def _buffers(paths: object, data: list[bytes]) -> list[dict[str, Any]]:
    if not isinstance(paths, list):
        return []
    return [
        {'encoding': 'base64', 'path': path, 'data': base64.b64encode(each).decode()}
        for path, each in zip(paths, data, strict=False)
        if isinstance(path, list) and path and all(isinstance(part, (str, int)) for part in path)
    ]


def _merged(model: Mapping[str, Any], state: Mapping[str, Any], buffers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a model with new values: what is set anew brings its own buffers, and loses those it had."""
    kept = [each for each in model.get('buffers', ()) if each['path'][0] not in state]
    replaced = [each['path'] for each in buffers]
    kept = [each for each in kept if each['path'] not in replaced]
    return {'state': {**model.get('state', {}), **state}, 'buffers': [*kept, *buffers]}


def merge_widgets(stored: object, changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return ``{model id: {'state', 'buffers'}}``: what a notebook has stored, with a cell's changes."""
    models: dict[str, dict[str, Any]] = {}
    for name, each in stored.items() if isinstance(stored, dict) else ():
        if isinstance(each, dict) and isinstance(each.get('state'), dict):
            names = {
                f'_{key}': each[key] for key in ('model_name', 'model_module', 'model_module_version') if key in each
            }
            buffers = each.get('buffers')
            kept = [one for one in buffers if _is_buffer(one)] if isinstance(buffers, list) else []
            models[name] = {'state': {**names, **each['state']}, 'buffers': kept}
    for name, each in changes.items():
        if each is None:
            models.pop(name, None)
        else:
            models[name] = _merged(models.get(name, {}), each['state'], each.get('buffers', []))
    return models


def _is_buffer(buffer: object) -> bool:
    return isinstance(buffer, dict) and isinstance(buffer.get('path'), list) and bool(buffer['path'])


def stored_widgets(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the models as a notebook stores them; one of which only later changes are known is left out."""
    found = {}
    for name, model in models.items():
        state = model['state']
        if all(isinstance(state.get(key), str) for key in _NAMES):
            found[name] = {**{key[1:]: state[key] for key in _NAMES}, 'state': dict(state)}
            if model['buffers']:
                found[name]['buffers'] = list(model['buffers'])
    return {'state': found, 'version_major': 2, 'version_minor': 0}
