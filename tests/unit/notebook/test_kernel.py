"""A kernel's name, over processes that do what a test says."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from typing import Any

import pytest

from enclave.cells import CellResult
from enclave.errors import SandboxGoneError
from enclave.sandboxes.notebook import kernel as kernels
from enclave.sandboxes.notebook.kernel import CellSteps, KernelSettings, NotebookKernel
from enclave.sandboxes.notebook.kernel_process import PYTHON_SPEC, CellOutcome, KernelEnd
from enclave.sandboxes.notebook.outputs import OutputCollector

PATIENCE = 60.0


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


class Sleeping:
    """A life whose cells have always ended, and wait for their reader alone."""

    end: KernelEnd | None = None
    is_doomed = is_occupied = False

    def __init__(self) -> None:
        self.is_slow, self.goes_on = threading.Event(), threading.Event()

    def look(self) -> bool:
        return False

    def prepare_cell(self, content: Mapping[str, Any], *, interrupt: bool) -> None:
        pass

    def has_ended_request(self) -> bool:
        return True

    def run(
        self, content: dict[str, Any], collector: OutputCollector, timeout: float | None, grace: float
    ) -> Generator[dict[str, Any], None, CellOutcome]:
        for n in range(3):
            yield {'n': n}
            if content['code'] == 'slow':
                self.is_slow.set()
                self.goes_on.wait(PATIENCE)
        if content['code'] == 'fails':
            raise SandboxGoneError('it was lost')
        return CellOutcome(reply={'status': 'ok'})


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> NotebookKernel:
    monkeypatch.setattr(kernels, 'LOOK_SECONDS', 0.01)
    settings = KernelSettings(max_output_bytes=1000, max_display_bytes=1000, interrupt_grace=1.0)
    host: Any = None
    kernel = NotebookKernel(host, 'k', PYTHON_SPEC, settings, sandbox_id='s', cwd='/', env={})
    life: Any = Sleeping()
    kernel._life = life
    return kernel


def read_all(steps: Generator[dict[str, Any], None, CellResult]) -> tuple[list[dict[str, Any]], CellResult]:
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def test_a_cell_that_has_ended_holds_up_nobody_though_its_reader_sleeps(kernel: NotebookKernel) -> None:
    sleeper, other = kernel.run_cell('1', None), kernel.run_cell('2', None)
    assert next(sleeper) == {'n': 0}

    assert read_all(other)[0] == [{'n': 0}, {'n': 1}, {'n': 2}]

    events, result = read_all(sleeper)
    assert events == [{'n': 1}, {'n': 2}]
    assert (result.success, result.note) == (True, None)
    assert kernel._turns.count == 0


def test_more_than_is_kept_for_a_reader_that_sleeps_is_left_out_and_the_note_says_so(
    kernel: NotebookKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, 'KEPT_BYTES', 10)
    sleeper = kernel.run_cell('1', None)
    next(sleeper)

    read_all(kernel.run_cell('2', None))

    events, result = read_all(sleeper)
    assert events == [{'n': 1}]
    assert result.note is not None
    assert result.note.startswith('1 outputs that were not read')


def test_an_error_that_another_met_is_the_sleeping_readers_own(kernel: NotebookKernel) -> None:
    sleeper = kernel.run_cell('fails', None)
    next(sleeper)

    assert read_all(kernel.run_cell('2', None))[1].success

    assert [next(sleeper), next(sleeper)] == [{'n': 1}, {'n': 2}]
    with pytest.raises(SandboxGoneError, match='it was lost'):
        next(sleeper)


def test_a_reader_that_leaves_after_another_took_the_rest_gives_no_turn_back_twice(kernel: NotebookKernel) -> None:
    sleeper, third = kernel.run_cell('1', None), kernel.run_cell('3', None)
    next(sleeper)
    read_all(kernel.run_cell('2', None))
    next(third)

    sleeper.close()

    assert kernel.is_running
    assert len(read_all(third)[0]) == 2


def test_a_reader_that_leaves_does_not_wait_for_the_one_that_takes_the_rest(kernel: NotebookKernel) -> None:
    life: Any = kernel._life
    sleeper = kernel.run_cell('slow', None)
    next(sleeper)
    other = threading.Thread(target=read_all, args=[kernel.run_cell('2', None)], daemon=True)
    other.start()
    assert life.is_slow.wait(PATIENCE)

    leaver = threading.Thread(target=sleeper.close, daemon=True)
    leaver.start()
    leaver.join(PATIENCE / 4)
    had_left = not leaver.is_alive()
    life.goes_on.set()
    other.join(PATIENCE)

    assert had_left
    assert not other.is_alive()
    assert kernel._turns.count == 0


def test_a_reader_may_be_collected_as_garbage_while_another_takes_the_rest(
    kernel: NotebookKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, weigh_last = kernel.run_cell('1', None), CellSteps._weigh_last
    next(sleeper)

    def collect_garbage(steps: CellSteps) -> None:
        sleeper.close()
        weigh_last(steps)

    monkeypatch.setattr(CellSteps, '_weigh_last', collect_garbage)

    assert read_all(kernel.run_cell('2', None))[1].success
    assert kernel._turns.count == 0
