"""Notebook sandboxes for ``async with`` (layer 6): proxies of the blocking ones, one line a method."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from enclave.aio.managers import RemoteSandbox
from enclave.aio.proxies import AsyncProxy, Forwarded, run, streamed, to_async
from enclave.aio.sandboxes import AgentBackedSandbox, BubblewrapSandbox, DockerSandbox, with_docstrings

# Now: an import takes longer than a loop may be held up.
from enclave.managers import remote_notebook
from enclave.sandboxes.bubblewrap import notebook as bubblewrap_notebook
from enclave.sandboxes.docker import notebook as docker_notebook
from enclave.sandboxes.notebook import document
from enclave.sandboxes.notebook import sandbox as notebook_sandbox


@with_docstrings
class NotebookSandbox(AgentBackedSandbox):
    """A sandbox with Jupyter kernels. See `enclave.sandboxes.notebook.sandbox.NotebookSandbox`.

    Callbacks (``on_output``, ``on_input``) are called on the thread that makes the call, not on the event loop's.
    """

    _home: ClassVar[tuple[str, str]] = (notebook_sandbox.__name__, 'NotebookSandbox')

    execute_cell = to_async(notebook_sandbox.NotebookSandbox.execute_cell)
    stream_cell = streamed(notebook_sandbox.NotebookSandbox.stream_cell)
    answer_input = to_async(notebook_sandbox.NotebookSandbox.answer_input)
    create_kernel = to_async(notebook_sandbox.NotebookSandbox.create_kernel)
    delete_kernel = to_async(notebook_sandbox.NotebookSandbox.delete_kernel)
    list_kernels = to_async(notebook_sandbox.NotebookSandbox.list_kernels)
    list_kernel_specs = to_async(notebook_sandbox.NotebookSandbox.list_kernel_specs)
    interrupt_kernel = to_async(notebook_sandbox.NotebookSandbox.interrupt_kernel)
    restart_kernel = to_async(notebook_sandbox.NotebookSandbox.restart_kernel)
    complete_code = to_async(notebook_sandbox.NotebookSandbox.complete_code)
    inspect_code = to_async(notebook_sandbox.NotebookSandbox.inspect_code)
    check_complete = to_async(notebook_sandbox.NotebookSandbox.check_complete)
    list_variables = to_async(notebook_sandbox.NotebookSandbox.list_variables)


@with_docstrings
class DockerNotebookSandbox(NotebookSandbox, DockerSandbox):
    """A notebook sandbox in a Docker container. See `enclave.sandboxes.docker.notebook.DockerNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = (docker_notebook.__name__, 'DockerNotebookSandbox')

    gateway_url: Forwarded[str | None] = Forwarded(
        'Where its kernel gateway is published; None where none was asked for.'
    )
    gateway_token: Forwarded[str | None] = Forwarded("What the gateway's clients must send.")


@with_docstrings
class BubblewrapNotebookSandbox(NotebookSandbox, BubblewrapSandbox):
    """A notebook sandbox without an engine. See `enclave.sandboxes.bubblewrap.notebook.BubblewrapNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = (bubblewrap_notebook.__name__, 'BubblewrapNotebookSandbox')


@with_docstrings
class RemoteNotebookSandbox(RemoteSandbox, NotebookSandbox):
    """A notebook sandbox that a server keeps. See `enclave.managers.remote_notebook.RemoteNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = (remote_notebook.__name__, 'RemoteNotebookSandbox')


class NotebookDocument(AsyncProxy):
    """A notebook, as in an ``.ipynb`` file. See `enclave.sandboxes.notebook.document.NotebookDocument`.

    The sandbox that its cells run in is a proxy too.
    """

    _home: ClassVar[tuple[str, str]] = (document.__name__, 'NotebookDocument')

    node: Forwarded[Any] = Forwarded('The notebook as nbformat holds it.')
    repairs: Forwarded[list[str]] = Forwarded('What had to be repaired in the file that was read.')
    code_cells: Forwarded[list[tuple[int, str]]] = Forwarded('Index and source of the cells with code.')
    cells_to_run: Forwarded[list[tuple[int, str]]] = Forwarded('Those that `run` runs.')
    kernel_name: Forwarded[str] = Forwarded("The kind of kernel that the notebook asks for, or ''.")
    is_python: Forwarded[bool] = Forwarded("Whether it is Python's.")
    language: Forwarded[str] = Forwarded("The language that it says it is in, or ''.")

    def __init__(self, node: Any = None) -> None:
        self._blocking = document.NotebookDocument() if node is None else document.NotebookDocument(node)

    @classmethod
    async def load(cls, path: str | os.PathLike[str]) -> NotebookDocument:
        """Read a file of any format version; see the blocking class."""
        return cls._over(await run(lambda: document.NotebookDocument.load(path)))

    @classmethod
    async def loads(cls, text: str, *, name: str = 'the text') -> NotebookDocument:
        """Read the text of a file; see the blocking class."""
        return cls._over(await run(lambda: document.NotebookDocument.loads(text, name=name)))

    dumps = to_async(document.NotebookDocument.dumps)
    save = to_async(document.NotebookDocument.save)
    add_markdown = to_async(document.NotebookDocument.add_markdown)
    add = to_async(document.NotebookDocument.add)
    run_cell = to_async(document.NotebookDocument.run_cell)
    run = to_async(document.NotebookDocument.run)
    set_parameters = to_async(document.NotebookDocument.set_parameters)
    is_tolerated = to_async(document.NotebookDocument.is_tolerated)
