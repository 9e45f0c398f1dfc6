"""Notebook sandboxes for ``async with`` (floor 6): faces of the blocking ones, one line a method."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from enclave.aio.lifting import Face, Shown, lifted, run, streamed
from enclave.aio.managers import RemoteSandbox
from enclave.aio.sandboxes import AgentBackedSandbox, BubblewrapSandbox, DockerSandbox, with_own_words

# Now: an import takes longer than a loop may be held up.
from enclave.managers import remote_notebook
from enclave.sandboxes.bubblewrap import notebook as bubblewrap_notebook
from enclave.sandboxes.docker import notebook as docker_notebook
from enclave.sandboxes.notebook import document, verbs


@with_own_words
class NotebookSandbox(AgentBackedSandbox):
    """A sandbox with Jupyter kernels. See `enclave.sandboxes.notebook.verbs.NotebookSandbox`.

    Callbacks (``on_output``) are called on the thread that makes the call, not on the event loop's.
    """

    _home: ClassVar[tuple[str, str]] = (verbs.__name__, 'NotebookSandbox')

    execute_cell = lifted(verbs.NotebookSandbox.execute_cell)
    stream_cell = streamed(verbs.NotebookSandbox.stream_cell)
    create_kernel = lifted(verbs.NotebookSandbox.create_kernel)
    delete_kernel = lifted(verbs.NotebookSandbox.delete_kernel)
    list_kernels = lifted(verbs.NotebookSandbox.list_kernels)
    list_kernel_specs = lifted(verbs.NotebookSandbox.list_kernel_specs)
    interrupt_kernel = lifted(verbs.NotebookSandbox.interrupt_kernel)
    restart_kernel = lifted(verbs.NotebookSandbox.restart_kernel)
    complete_code = lifted(verbs.NotebookSandbox.complete_code)
    inspect_code = lifted(verbs.NotebookSandbox.inspect_code)
    check_complete = lifted(verbs.NotebookSandbox.check_complete)
    list_variables = lifted(verbs.NotebookSandbox.list_variables)


@with_own_words
class DockerNotebookSandbox(NotebookSandbox, DockerSandbox):
    """A notebook sandbox in a Docker container. See `enclave.sandboxes.docker.notebook.DockerNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = (docker_notebook.__name__, 'DockerNotebookSandbox')

    gateway_url: Shown[str | None] = Shown('Where its kernel gateway is published; None where none was asked for.')
    gateway_token: Shown[str | None] = Shown("What the gateway's clients must send.")


@with_own_words
class BubblewrapNotebookSandbox(NotebookSandbox, BubblewrapSandbox):
    """A notebook sandbox without an engine. See `enclave.sandboxes.bubblewrap.notebook.BubblewrapNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = (bubblewrap_notebook.__name__, 'BubblewrapNotebookSandbox')


@with_own_words
class RemoteNotebookSandbox(RemoteSandbox, NotebookSandbox):
    """A notebook sandbox that a server keeps. See `enclave.managers.remote_notebook.RemoteNotebookSandbox`."""

    _home: ClassVar[tuple[str, str]] = (remote_notebook.__name__, 'RemoteNotebookSandbox')


class NotebookDocument(Face):
    """A notebook, as in an ``.ipynb`` file. See `enclave.sandboxes.notebook.document.NotebookDocument`.

    The sandbox that its cells run in is a face too.
    """

    _home: ClassVar[tuple[str, str]] = (document.__name__, 'NotebookDocument')

    node: Shown[Any] = Shown('The notebook as nbformat holds it.')
    code_cells: Shown[list[tuple[int, str]]] = Shown('Index and source of the cells with code.')
    kernel_name: Shown[str] = Shown("The kind of kernel that the notebook asks for, or ''.")
    is_python: Shown[bool] = Shown("Whether it is Python's.")

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

    dumps = lifted(document.NotebookDocument.dumps)
    save = lifted(document.NotebookDocument.save)
    add_markdown = lifted(document.NotebookDocument.add_markdown)
    add = lifted(document.NotebookDocument.add)
    run_cell = lifted(document.NotebookDocument.run_cell)
    run = lifted(document.NotebookDocument.run)
    is_tolerated = lifted(document.NotebookDocument.is_tolerated)
