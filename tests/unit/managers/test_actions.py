"""The rows that routes, the HTTP client and the OpenAPI document are made from."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from enclave.managers.actions import ACTIONS, ask
from enclave.managers.protocol import DoneResponse, ReleaseRequest, SignalRequest
from enclave.managers.remote_notebook import RemoteNotebookSandbox
from enclave.sandboxes.notebook.sandbox import NotebookSandbox
from enclave.server.openapi import document
from enclave.server.route import ROUTES


@attrs.define
class RecordingTransport:
    """Keeps what it is asked, and answers that it is done."""

    asked: list[tuple[Any, ...]] = attrs.Factory(list)

    def call(self, method: str, path: str, answer: Any, *, body: Any = None, timeout: float | None = None) -> Any:
        self.asked.append((method, path, answer, body, timeout))
        return DoneResponse(message='')


def test_each_row_has_a_route_with_its_address_and_body() -> None:
    document()  # imports all that registers routes

    for action in ACTIONS.values():
        route = ROUTES[action.name]
        assert (route.method, route.path, route.body, route.answers) == (
            action.method,
            action.path,
            action.body,
            action.answers,
        )


def test_what_a_row_says_when_it_is_done_names_only_what_is_known() -> None:
    for action in ACTIONS.values():
        if action.gives is not None:
            continue
        fields = [] if action.body is None else [each.name for each in attrs.fields(action.body)]
        assert action.done.format(**dict.fromkeys([*fields, 'sandbox_id', 'process_id', 'cell_id', 'kernel'], 'x'))


def test_a_question_goes_to_its_address_without_a_limit_where_it_may_take_long() -> None:
    transport = RecordingTransport()

    assert ask(transport, 'restart_kernel', sandbox_id='a', kernel='k') is None  # type: ignore[arg-type]
    ask(transport, 'send_signal', SignalRequest(signal=2), sandbox_id='a', process_id='p')  # type: ignore[arg-type]
    ask(transport, 'acquire_sandbox', ReleaseRequest(sandbox_id='a'), timeout=3.0)  # type: ignore[arg-type]

    assert [(each[0], each[1], each[4]) for each in transport.asked] == [
        ('POST', '/sandbox/a/kernels/k/restart', 0),
        ('POST', '/sandbox/a/processes/p/signal', None),
        ('POST', '/pool/acquire', 3.0),
    ]


@pytest.mark.parametrize('name', [name for name, action in ACTIONS.items() if action.text])
def test_a_verb_of_notebooks_is_made_from_its_row_on_both_sides(name: str) -> None:
    local, remote = getattr(NotebookSandbox, name), getattr(RemoteNotebookSandbox, name)

    assert remote.__wrapped__ is local
    assert remote.__doc__ == local.__doc__
