"""A kernel's name, over lives that do what they are reported to."""

from __future__ import annotations

from typing import Any

import pytest

from enclave.sandboxes.notebook.kernel import KernelSettings, NotebookKernel
from enclave.sandboxes.notebook.kernel_process import PYTHON_SPEC, KernelEnd


class Dying:
    """A life that was killed, and of whose end nothing was heard yet."""

    is_doomed = True
    is_occupied = False
    end: KernelEnd | None = None

    def look(self) -> bool:
        return False

    def wait_end(self) -> None:
        self.end = KernelEnd('was killed')

    def join(self) -> None:
        pass


def test_a_life_that_is_being_killed_takes_no_further_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KernelSettings(max_output_bytes=1000, max_display_bytes=1000, interrupt_grace=1.0)
    host: Any = None
    kernel = NotebookKernel(host, 'k', PYTHON_SPEC, settings, sandbox_id='s', cwd='/', env={})
    dying: Any = Dying()
    kernel._life = dying
    successor: Any = object()
    monkeypatch.setattr(kernel, '_begin', lambda: successor)

    assert kernel._living() is successor
    assert 'was killed' in kernel._note
