"""A notebook sandbox of a server, used like one of this machine (layer 5): the verbs of `NotebookSandbox`, as requests."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Mapping
from typing import Any, ClassVar

from enclave.cancellation import Cancellation, is_cancelled, on_cancel
from enclave.cells import DEFAULT_KERNEL, CellResult, Completion, Inspection, KernelInfo, KernelSpec, Variable
from enclave.errors import CallCancelledError, EnclaveError, NotFoundError
from enclave.managers.http_operations import followed
from enclave.managers.protocol import (
    AskRequest,
    CellEvent,
    CellRequest,
    CellStreamRequest,
    CheckRequest,
    CheckResponse,
    CompleteRequest,
    DoneResponse,
    InputRequest,
    InspectRequest,
    KernelRequest,
    rebuild_error,
)
from enclave.managers.remote import RemoteSandbox, as_seconds
from enclave.sandboxes.notebook.kernel_process import PYTHON_SPEC
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
        # No limit of this library: how long the cells before it take is not in its own.
        result: CellResult = self._transport.call('POST', f'{self.path}/cells', CellResult, body=body, timeout=0)
        return result

    def _cell_steps(self, code: str, timeout: float | None, kernel: str, options: dict[str, Any]) -> Steps:
        # A broken connection is taken up again where it was, and the cell continues meanwhile. If this process dies, the server
        # interrupts the cell after a while.
        self._check_kernel(kernel)
        cell_id = uuid.uuid4().hex
        return self._follow(
            CellStreamRequest(code=code, timeout=as_seconds(timeout), kernel=kernel, cell_id=cell_id, **options)
        )

    def answer_input(self, text: str | None, *, kernel: str = DEFAULT_KERNEL) -> None:
        """Give the cell that runs in a kernel the line that it asked for; see `NotebookSandbox.answer_input`."""
        check_input(text)
        self._transport.call('POST', f'{self._kernel_path(kernel)}/input', DoneResponse, body=InputRequest(text=text))

    def _follow(self, body: CellStreamRequest) -> Steps:
        path = f'{self.path}/cells/{body.cell_id}'

        def open_events(seen: int) -> Generator[CellEvent, None, None]:
            if seen:
                return self._transport.events('GET', f'{path}/events', CellEvent, query={'after': seen})
            return self._transport.events('POST', f'{self.path}/cells/stream', CellEvent, body=body)

        def interrupt() -> None:
            self._transport.call('DELETE', path, DoneResponse)

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

    # Kernels ----------------------------------------------------------------------------------------------------------

    def create_kernel(
        self,
        name: str,
        spec: str = PYTHON_SPEC.name,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        exist_ok: bool = False,
    ) -> KernelInfo:
        """Start a further kernel, with a state of its own; see `NotebookSandbox.create_kernel`."""
        check_new_kernel(name, env)
        body = KernelRequest(
            name=name,
            spec=spec,
            cwd=as_path(cwd, 'cwd') if cwd else None,
            env=None if env is None else dict(env),
            exist_ok=exist_ok,
        )
        info: KernelInfo = self._transport.call('POST', f'{self.path}/kernels', KernelInfo, body=body, timeout=0)
        return info

    def delete_kernel(self, name: str) -> None:
        """End a kernel and forget its name; see `NotebookSandbox.delete_kernel`."""
        self._transport.call('DELETE', self._kernel_path(name), DoneResponse, timeout=0)

    def list_kernels(self) -> list[KernelInfo]:
        """Return the kernels there are, in the order of their creation."""
        found: list[KernelInfo] = self._transport.call('GET', f'{self.path}/kernels', list[KernelInfo])
        return found

    def list_kernel_specs(self) -> list[KernelSpec]:
        """Return the kinds of kernels that the image has, by name."""
        found: list[KernelSpec] = self._transport.call('GET', f'{self.path}/kernelspecs', list[KernelSpec], timeout=0)
        return found

    def interrupt_kernel(self, name: str = DEFAULT_KERNEL) -> None:
        """Interrupt the cell that runs in a kernel; see `NotebookSandbox.interrupt_kernel`."""
        self._transport.call('POST', f'{self._kernel_path(name)}/interrupt', DoneResponse, timeout=0)

    def restart_kernel(self, name: str = DEFAULT_KERNEL) -> None:
        """Give a kernel a new process, without the old one's state; see `NotebookSandbox.restart_kernel`."""
        self._transport.call('POST', f'{self._kernel_path(name)}/restart', DoneResponse, timeout=0)

    # Questions --------------------------------------------------------------------------------------------------------

    def complete_code(
        self, code: str, cursor: int | None = None, *, kernel: str = DEFAULT_KERNEL, timeout: float = ASK_SECONDS
    ) -> Completion:
        """Return what could stand at a place in the code; see `NotebookSandbox.complete_code`."""
        place(code, cursor)
        body = CompleteRequest(code=code, cursor=cursor, timeout=_ask_seconds(timeout))
        found: Completion = self._put(kernel, 'complete', Completion, body)
        return found

    def inspect_code(
        self,
        code: str,
        cursor: int | None = None,
        *,
        detail: int = 0,
        kernel: str = DEFAULT_KERNEL,
        timeout: float = ASK_SECONDS,
    ) -> Inspection:
        """Return what the kernel knows of the name at a place in the code; see `NotebookSandbox.inspect_code`."""
        check_detail(detail)
        place(code, cursor)
        body = InspectRequest(code=code, cursor=cursor, detail=detail, timeout=_ask_seconds(timeout))
        found: Inspection = self._put(kernel, 'inspect', Inspection, body)
        return found

    def check_complete(
        self, code: str, *, kernel: str = DEFAULT_KERNEL, timeout: float = ASK_SECONDS
    ) -> tuple[str, str]:
        """Return whether code could be run as it is: ``(status, indent)``; see `NotebookSandbox.check_complete`."""
        place(code, None)
        body = CheckRequest(code=code, timeout=_ask_seconds(timeout))
        answer: CheckResponse = self._put(kernel, 'check', CheckResponse, body)
        return answer.status, answer.indent

    def list_variables(self, *, kernel: str = DEFAULT_KERNEL, timeout: float = ASK_SECONDS) -> list[Variable]:
        """Return the variables of a Python kernel, by name; see `NotebookSandbox.list_variables`."""
        found: list[Variable] = self._put(
            kernel, 'variables', list[Variable], AskRequest(timeout=_ask_seconds(timeout))
        )
        return found

    def _put(self, kernel: str, question: str, answer: Any, body: AskRequest) -> Any:
        """Put a question to a kernel. It waits for its turn, however long the cells before it take."""
        return self._transport.call('POST', f'{self._kernel_path(kernel)}/{question}', answer, body=body, timeout=0)

    # Help -------------------------------------------------------------------------------------------------------------

    def _check_kernel(self, name: object) -> None:
        """Raise what the server would, of a name that no kernel can have and no address can hold."""
        if not is_kernel_name(name):
            raise NotFoundError(
                f'sandbox {self.id} has no kernel {name!r}', details={'sandbox_id': self.id, 'kernel': str(name)}
            )

    def _kernel_path(self, name: str) -> str:
        self._check_kernel(name)
        return f'{self.path}/kernels/{name}'

    def __repr__(self) -> str:
        return f'<RemoteNotebookSandbox {self.id}>'


NotebookSandbox.register(RemoteNotebookSandbox)


def _ask_seconds(timeout: float) -> float | None:
    """Return a question's time limit as it travels. The usual one is left out, since a server's policy may leave less of it."""
    return None if timeout == ASK_SECONDS else as_seconds(timeout)
