"""What a server is asked beside the verbs of `enclave.verb_requests.VERBS` (layer 5): one row for each question about a sandbox's
life, its processes, its notebook and the pools.

The routes of the server, its OpenAPI document and the HTTP client are made from the rows, so that an address, what it takes and
what it gives are written once. What is streamed, either way, has routes of its own.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, fields, frozen

from enclave.cells import CellResult, Completion, Inspection, KernelInfo, KernelSpec, Variable
from enclave.managers.protocol import (
    AcquireRequest,
    AskRequest,
    CancelResponse,
    CellRequest,
    CheckRequest,
    CheckResponse,
    CompleteRequest,
    DoneResponse,
    InputRequest,
    InspectRequest,
    KernelRequest,
    PauseRequest,
    PoolRequest,
    PoolToolRequest,
    ProcessInfo,
    ReleaseRequest,
    RenewRequest,
    RenewResponse,
    ResizeRequest,
    SandboxesResponse,
    SandboxResponse,
    SignalRequest,
    ToolRequest,
    unwrapped,
)
from enclave.records import SandboxInfo, ToolResult
from enclave.verb_requests import StartProcess

if TYPE_CHECKING:
    from enclave.managers.http_transport import HttpTransport

Lane = Literal['quick', 'call', 'end']


@frozen(kw_only=True)
class Action:
    """One question, and how it travels over HTTP.

    Attributes:
        name: The ``operationId`` of its route. The method of a notebook sandbox has the same name.
        method: The method of HTTP.
        path: The address, with names in angle brackets for what varies.
        body: The class of its JSON body, or None.
        gives: The type of its answer; None for nothing, which travels as a `DoneResponse`.
        done: What the answer of one that gives nothing says; names in braces are parts of the address or fields of the body.
        lane: Which lane of the server it runs in.
        is_repeatable: Whether it takes an idempotency key.
        is_long: Whether it may take as long as it takes; else an answer that does not come soon is an error.
        while_draining: Whether it works while the server stops.
        tag: The chapter of the OpenAPI document that it stands in.
        text: What the OpenAPI document says of it, where its route has no function of its own, whose docstring says it.
    """

    name: str
    method: Literal['GET', 'POST', 'DELETE']
    path: str
    body: type[Any] | None = None
    gives: Any = None
    done: str = ''
    lane: Lane = 'quick'
    is_repeatable: bool = False
    is_long: bool = False
    while_draining: bool = False
    tag: str = ''
    text: str = ''
    template: str = field(init=False)

    @template.default
    def _template(self) -> str:
        return re.sub('<([a-z_]+)>', r'{\1}', self.path)

    @property
    def answers(self) -> Any:
        """The type of the answer as it travels."""
        return DoneResponse if self.gives is None else self.gives

    def answer(self, value: Any, body: Any = None, **names: Any) -> Any:
        """Return what was given as it travels."""
        if self.gives is None:
            asked: dict[str, Any] = (
                {} if body is None else {each.name: getattr(body, each.name) for each in fields(type(body))}
            )
            return DoneResponse(message=self.done.format(**{**asked, **names}))
        if self.gives is CheckResponse:
            status, indent = value
            return CheckResponse(status=status, indent=indent)
        return value


def ask(transport: HttpTransport, name: str, body: Any = None, *, timeout: float | None = None, **names: str) -> Any:
    """Ask a server, and return what it gives.

    Args:
        timeout: How long it may take, in seconds; None takes what is usual for this question.
        names: What stands in the address.
    """
    action = ACTIONS[name]
    seconds = 0 if timeout is None and action.is_long else timeout
    path = action.template.format(**names)
    return unwrapped(transport.call(action.method, path, action.answers, body=body, timeout=seconds))


_RUN_AT_ONCE = frozenset({'python_executor', 'shell_executor'})
"""Tools whose ``timeout`` begins when the server has the call: a cell may have to wait for another, a program for its turn."""


def tool_seconds(tool_name: str, parameters: Mapping[str, Any] | None) -> float | None:
    """Return how long a call of a tool may take by its own time limit; None where it has none that is known here."""
    seconds = parameters.get('timeout') if tool_name in _RUN_AT_ONCE and isinstance(parameters, Mapping) else None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    return seconds if 0 < seconds < threading.TIMEOUT_MAX else None


_SANDBOX = '/sandbox/<sandbox_id>'
_PROCESS = f'{_SANDBOX}/processes/<process_id>'
_KERNEL = f'{_SANDBOX}/kernels/<kernel>'


def _sandboxes(name: str, method: Any, path: str, **facts: Any) -> Action:
    return Action(name=name, method=method, path=path, tag='sandboxes', **facts)


def _processes(name: str, method: Any, path: str, **facts: Any) -> Action:
    return Action(name=name, method=method, path=path, tag='processes', **facts)


def _notebooks(name: str, method: Any, path: str, **facts: Any) -> Action:
    return Action(name=name, method=method, path=path, tag='notebooks', **facts)


def _kernels(name: str, method: Any, path: str, **facts: Any) -> Action:
    """What waits for a kernel takes as long as it takes: how long the cells before it need is not in its time limit."""
    return _notebooks(name, method, path, is_repeatable=True, is_long=True, **facts)


def _pools(name: str, path: str, **facts: Any) -> Action:
    return Action(name=name, method='POST', path=path, is_repeatable=True, tag='pools', **facts)


# fmt: off
_ROWS = (
    _sandboxes('cleanup_all_sandboxes', 'DELETE', '/sandboxes', gives=SandboxesResponse, lane='end', is_long=True),
    _sandboxes('get_sandbox_info', 'GET', _SANDBOX, gives=SandboxInfo, while_draining=True),
    _sandboxes('is_sandbox_alive', 'GET', f'{_SANDBOX}/alive', gives=CancelResponse, lane='end'),
    _sandboxes('stop_sandbox', 'POST', f'{_SANDBOX}/stop', lane='end', is_repeatable=True,
               done='sandbox {sandbox_id} is stopped'),
    _sandboxes('delete_sandbox', 'DELETE', _SANDBOX, lane='end', is_repeatable=True,
               done='sandbox {sandbox_id} is deleted'),
    _sandboxes('renew', 'POST', f'{_SANDBOX}/renew', body=RenewRequest, gives=RenewResponse),
    _sandboxes('pause_sandbox', 'POST', f'{_SANDBOX}/pause', body=PauseRequest, gives=RenewResponse, lane='end', is_long=True),
    _sandboxes('resume_sandbox', 'POST', f'{_SANDBOX}/resume', gives=RenewResponse, lane='end', is_long=True),

    Action(name='execute_tool', method='POST', path='/sandbox/tool/execute', body=ToolRequest, gives=ToolResult, lane='call',
           is_repeatable=True, is_long=True, tag='tools'),
    Action(name='get_sandbox_tools', method='GET', path=f'{_SANDBOX}/tools', gives=dict[str, Any], while_draining=True,
           tag='tools'),

    _processes('start_process', 'POST', f'{_SANDBOX}/processes', body=StartProcess, gives=ProcessInfo, lane='call',
               is_repeatable=True),
    _processes('list_processes', 'GET', f'{_SANDBOX}/processes', gives=list[ProcessInfo]),
    _processes('get_process', 'GET', _PROCESS, gives=ProcessInfo),
    _processes('send_signal', 'POST', f'{_PROCESS}/signal', body=SignalRequest, is_repeatable=True,
               done='signal {signal} was sent'),
    _processes('resize_terminal', 'POST', f'{_PROCESS}/resize', body=ResizeRequest, done='the terminal has its new size'),
    _processes('kill_process', 'DELETE', _PROCESS, done='process {process_id} is killed'),

    _notebooks('execute_cell', 'POST', f'{_SANDBOX}/cells', body=CellRequest, gives=CellResult, lane='call',
               is_repeatable=True, is_long=True),
    _notebooks('interrupt_cell', 'DELETE', f'{_SANDBOX}/cells/<cell_id>', done='cell {cell_id} is interrupted'),
    _notebooks('list_kernels', 'GET', f'{_SANDBOX}/kernels', gives=list[KernelInfo],
               text='Return the kernels there are, in the order of their creation.'),
    _notebooks('list_kernel_specs', 'GET', f'{_SANDBOX}/kernelspecs', gives=list[KernelSpec], lane='call', is_long=True,
               text='Return the kinds of kernels that the image has, by name.'),
    _kernels('create_kernel', 'POST', f'{_SANDBOX}/kernels', body=KernelRequest, gives=KernelInfo, lane='call',
             text='Start a further kernel, and answer when it takes cells.'),
    # What ends something takes the lane of endings, so that it never waits behind what runs.
    _kernels('delete_kernel', 'DELETE', _KERNEL, lane='end', done='kernel {kernel} is deleted',
             text='End a kernel and forget its name; a cell that runs in it ends with an error.'),
    _kernels('interrupt_kernel', 'POST', f'{_KERNEL}/interrupt', lane='end', done='kernel {kernel} is interrupted',
             text='Interrupt the cell that runs in a kernel, as Ctrl-C does; where none runs, nothing happens.'),
    _kernels('answer_input', 'POST', f'{_KERNEL}/input', body=InputRequest, lane='end',
             done='the cell of kernel {kernel} has its input',
             text='Give the cell that runs in a kernel the line that it asked for. Only a cell that was allowed to ask waits '
                  'for one.'),
    _kernels('restart_kernel', 'POST', f'{_KERNEL}/restart', lane='end', done='kernel {kernel} is restarted',
             text="Give a kernel a new process, without the old one's state, and answer when it takes cells.\n\n"
                  'A cell that runs ends with an error that says so; cells that wait run in the new process.'),
    _kernels('complete_code', 'POST', f'{_KERNEL}/complete', body=CompleteRequest, gives=Completion, lane='call',
             text='Return what could stand at a place in code.'),
    _kernels('inspect_code', 'POST', f'{_KERNEL}/inspect', body=InspectRequest, gives=Inspection, lane='call',
             text='Return what a kernel knows of the name at a place in code.'),
    _kernels('check_complete', 'POST', f'{_KERNEL}/check', body=CheckRequest, gives=CheckResponse, lane='call',
             text='Return whether code could be run as it is.'),
    _kernels('list_variables', 'POST', f'{_KERNEL}/variables', body=AskRequest, gives=list[Variable], lane='call',
             text='Return the variables of a Python kernel, by name. It is a POST, since the kernel has to run something for '
                  'it.'),

    _pools('initialize_pool', '/pool/initialize', body=PoolRequest, gives=SandboxesResponse, lane='call', is_long=True),
    _pools('execute_tool_in_pool', '/pool/execute', body=PoolToolRequest, gives=ToolResult, lane='call', is_long=True),
    _pools('acquire_sandbox', '/pool/acquire', body=AcquireRequest, gives=SandboxResponse, lane='call', is_long=True),
    _pools('release_sandbox', '/pool/release', body=ReleaseRequest, done='sandbox {sandbox_id} is given back'),
)
# fmt: on

ACTIONS = {each.name: each for each in _ROWS}
"""The rows, by name."""
