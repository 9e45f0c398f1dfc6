"""A notebook sandbox of a server, used like one of this machine (layer 5): the verbs of `NotebookSandbox`, as requests."""

from __future__ import annotations

import contextlib
import functools
import inspect
import uuid
from collections.abc import Callable, Generator
from typing import Any, ClassVar, TypeVar, cast

from enclave.cancellation import Cancellation, is_cancelled, on_cancel
from enclave.cells import CellResult
from enclave.errors import CallCancelledError, EnclaveError, NotFoundError
from enclave.managers.actions import ACTIONS
from enclave.managers.http_operations import followed
from enclave.managers.protocol import CellEvent, CellRequest, CellStreamRequest, rebuild_error
from enclave.managers.remote import RemoteSandbox, as_seconds
from enclave.sandboxes.notebook.sandbox import (
    ASK_SECONDS,
    CellVerbs,
    NotebookSandbox,
    Steps,
    check_detail,
    check_input,
    check_new_kernel,
    is_kernel_name,
    place,
)
from enclave.verb_requests import as_path

M = TypeVar('M', bound=Callable[..., Any])


def _asked(method: M, check: Callable[..., object] | None = None) -> M:
    """Return a method that asks the server for what this one of `NotebookSandbox` does, with its signature and its docstring.

    Args:
        check: Raises what the arguments alone say; gets all of them by name.
    """
    action, signature = ACTIONS[method.__name__], inspect.signature(method)

    @functools.wraps(method)
    def ask_server(self: RemoteNotebookSandbox, *args: Any, **options: Any) -> Any:
        given = signature.bind(self, *args, **options)
        given.apply_defaults()
        asked = {name: value for name, value in given.arguments.items() if name != 'self'}
        if check is not None:
            check(**asked)
        names = {}
        if '<kernel>' in action.path:
            names['kernel'] = kernel = asked.pop('name' if action.body is None else 'kernel')
            self._check_kernel(kernel)
        if action.body is None:
            return self._ask(action.name, **names)
        if 'timeout' in asked:
            asked['timeout'] = _ask_seconds(asked['timeout'])
        if 'cwd' in asked:
            asked['cwd'] = as_path(asked['cwd'], 'cwd') if asked['cwd'] else None
        if asked.get('env') is not None:
            asked['env'] = dict(asked['env'])
        return self._ask(action.name, action.body(**asked), **names)

    return cast(M, ask_server)


def _check_inspection(code: str, cursor: int | None, detail: int, **_: Any) -> None:
    check_detail(detail)
    place(code, cursor)


def _ask_seconds(timeout: float) -> float | None:
    """Return a question's time limit as it travels. The usual one is left out, since a server's policy may leave less of it."""
    return None if timeout == ASK_SECONDS else as_seconds(timeout)


class RemoteNotebookSandbox(RemoteSandbox, CellVerbs):
    """A notebook sandbox that a server keeps; see `RemoteSandbox` for its life and `NotebookSandbox` for its cells.

    What an argument alone says is raised at once; what the server has to say of a streamed cell (there is no such kernel, its
    policy refuses it) is raised by the first step.
    """

    offers: ClassVar[frozenset[str]] = NotebookSandbox.offers

    # Cells ------------------------------------------------------------------------------------------------------------

    def _run_cell(self, code: str, timeout: float | None, kernel: str, options: dict[str, Any]) -> CellResult:
        self._check_kernel(kernel)
        body = CellRequest(code=code, timeout=as_seconds(timeout), kernel=kernel, **options)
        result: CellResult = self._ask('execute_cell', body)
        return result

    def _cell_steps(self, code: str, timeout: float | None, kernel: str, options: dict[str, Any]) -> Steps:
        # A broken connection is taken up again where it was, and the cell continues meanwhile. If this process dies, the server
        # interrupts the cell after a while.
        self._check_kernel(kernel)
        cell_id = uuid.uuid4().hex
        return self._follow(
            CellStreamRequest(code=code, timeout=as_seconds(timeout), kernel=kernel, cell_id=cell_id, **options)
        )

    def _follow(self, body: CellStreamRequest) -> Steps:
        path = f'{self.path}/cells/{body.cell_id}'

        def open_events(seen: int) -> Generator[CellEvent, None, None]:
            if seen:
                return self._transport.events('GET', f'{path}/events', CellEvent, query={'after': seen})
            return self._transport.events('POST', f'{self.path}/cells/stream', CellEvent, body=body)

        def interrupt() -> None:
            self._ask('interrupt_cell', cell_id=body.cell_id or '')

        if is_cancelled():
            raise CallCancelledError('the cell was cancelled before it ran')
        is_over = False
        try:
            with on_cancel(lambda: self._transport.later(interrupt)):
                for event in followed(open_events, 'cell'):
                    is_over = event.is_last
                    if event.event == 'started' and is_cancelled():
                        self._transport.later(interrupt)  # the first time it may have come before the cell
                    if event.output is not None:
                        yield event.output
                    elif event.result is not None:
                        yield event.result
                    elif event.error is not None:
                        raise rebuild_error(event.error)
        except EnclaveError:
            is_over = True  # as the server says; one that does not answer interrupts it by itself
            raise
        finally:
            if not is_over:  # the caller went away, by Ctrl-C or by closing the stream
                with contextlib.suppress(EnclaveError), Cancellation().applied():
                    interrupt()

    # Kernels and questions to them ------------------------------------------------------------------------------------

    answer_input = _asked(NotebookSandbox.answer_input, lambda text, **_: check_input(text))
    create_kernel = _asked(NotebookSandbox.create_kernel, lambda name, env, **_: check_new_kernel(name, env))
    delete_kernel = _asked(NotebookSandbox.delete_kernel)
    list_kernels = _asked(NotebookSandbox.list_kernels)
    list_kernel_specs = _asked(NotebookSandbox.list_kernel_specs)
    interrupt_kernel = _asked(NotebookSandbox.interrupt_kernel)
    restart_kernel = _asked(NotebookSandbox.restart_kernel)
    complete_code = _asked(NotebookSandbox.complete_code, lambda code, cursor, **_: place(code, cursor))
    inspect_code = _asked(NotebookSandbox.inspect_code, _check_inspection)
    check_complete = _asked(NotebookSandbox.check_complete, lambda code, **_: place(code, None))
    list_variables = _asked(NotebookSandbox.list_variables)

    # Help -------------------------------------------------------------------------------------------------------------

    def _check_kernel(self, name: object) -> None:
        """Raise what the server would, of a name that no kernel can have and no address can hold."""
        if not is_kernel_name(name):
            raise NotFoundError(
                f'sandbox {self.id} has no kernel {name!r}', details={'sandbox_id': self.id, 'kernel': str(name)}
            )

    def __repr__(self) -> str:
        return f'<RemoteNotebookSandbox {self.id}>'


NotebookSandbox.register(RemoteNotebookSandbox)
