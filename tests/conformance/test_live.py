"""Programs found again by their ids, and directories that are watched: over every backend, and over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from enclave.errors import InvalidArgumentError, NotFoundError, SandboxPathError, SandboxPathNotFoundError
from enclave.managers.http import HttpSandboxManager
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.verbs import Verbs
from enclave.testing.kinds import PATIENCE_SECONDS as PATIENCE
from tests.support.backends import Backend
from tests.support.server import serving


@pytest.fixture(params=['here', 'http'])
def subject(request: pytest.FixtureRequest, backend: Backend, sandbox: AgentBackedSandbox) -> Iterator[Verbs]:
    """A sandbox of this machine, or one of the same kind at a server."""
    if request.param == 'here':
        yield sandbox
        return
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving())
        manager = stack.enter_context(HttpSandboxManager(base_url=server.url))
        made = stack.enter_context(manager.open(backend.sandbox_type, {'network_enabled': False}))
        assert isinstance(made, Verbs)
        yield made


@pytest.fixture
def folder(subject: Verbs, request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory of the test's own."""
    path = f'/sandbox/{abs(hash(request.node.nodeid))}'
    subject.make_dir(path)
    yield path
    subject.remove_path(path, recursive=True, missing_ok=True)


def seen(
    subject: Verbs, folder: str, change: Callable[[], object], *, recursive: bool = False
) -> list[tuple[str, ...]]:
    """Return what a watch sees of a change: kind, path below the folder, and where it went."""
    with subject.watch_dir(folder, recursive=recursive, interval=0.05) as watch:
        change()
        events = watch.take(PATIENCE)
        events += watch.take()
    return [
        (
            event.kind,
            event.path.removeprefix(f'{folder}/'),
            *([event.target.removeprefix(f'{folder}/')] if event.target else []),
        )
        for event in events
    ]


# Processes ------------------------------------------------------------------------------------------------------------


def test_a_program_is_found_again_by_its_id_and_goes_on_where_it_was(subject: Verbs) -> None:
    process = subject.start_process('read x; echo "got $x"', open_stdin=True)
    process.wait_started(PATIENCE)
    listed = {info.id: info for info in subject.list_processes()}
    assert listed[process.id].running
    assert listed[process.id].pid == process.pid

    again = subject.find_process(process.id)
    assert again.write(b'it\n')

    assert again.wait(PATIENCE).stdout == 'got it\n'
    assert again.id == process.id


def test_a_program_that_has_ended_is_found_until_its_result_was_taken(subject: Verbs) -> None:
    process = subject.start_process('echo done; exit 3')

    result = subject.find_process(process.id).wait(PATIENCE)

    assert (result.exit_code, result.stdout) == (3, 'done\n')


def test_no_program_has_an_id_that_was_never_given(subject: Verbs) -> None:
    with pytest.raises(NotFoundError):
        subject.find_process('nobody')


def test_programs_of_a_stopped_sandbox_are_forgotten(start: Callable[..., AgentBackedSandbox]) -> None:
    sandbox = start()
    sandbox.start_process('sleep 100')
    sandbox.stop()
    sandbox.start()

    assert sandbox.list_processes() == []


# Directories ----------------------------------------------------------------------------------------------------------


def test_what_is_made_changed_moved_and_removed_is_seen(subject: Verbs, folder: str) -> None:
    subject.write_file(f'{folder}/old', 'o')
    subject.write_file(f'{folder}/changed', 'c')
    subject.write_file(f'{folder}/gone', 'gg')
    command = 'touch new; echo more >> changed; mv old moved; rm gone; mkdir made'

    found = seen(subject, folder, lambda: subject.execute_command(command, cwd=folder))

    assert found == [
        ('modified', 'changed'),
        ('removed', 'gone'),
        ('created', 'made'),
        ('created', 'new'),
        ('renamed', 'old', 'moved'),
    ]


def test_a_mode_that_changes_is_seen_as_such(subject: Verbs, folder: str) -> None:
    subject.write_file(f'{folder}/a', 'a')

    found = seen(subject, folder, lambda: subject.execute_command('chmod 600 a', cwd=folder))

    assert found == [('attributes', 'a')]


def test_only_a_recursive_watch_sees_what_is_below(subject: Verbs, folder: str) -> None:
    subject.write_file(f'{folder}/d/e/f', 'f')
    command = 'echo more >> d/e/f; touch top'

    assert seen(subject, folder, lambda: subject.execute_command(command, cwd=folder)) == [('created', 'top')]
    command = 'echo again >> d/e/f; mv d moved'
    found = seen(subject, folder, lambda: subject.execute_command(command, cwd=folder), recursive=True)
    assert ('renamed', 'd', 'moved') in found
    assert not [each for each in found if each[1] == 'd/e' or each[-1] == 'moved/e']


def test_nothing_that_changes_is_nothing(subject: Verbs, folder: str) -> None:
    with subject.watch_dir(folder) as watch:
        assert watch.take() == []
        assert watch.take(0.01) == []


def test_what_comes_and_goes_at_once_is_seen(sandbox: AgentBackedSandbox, place: str) -> None:
    command = 'touch brief; rm brief; mkdir -p d/e; touch d/e/short; rm d/e/short; touch stays'

    with sandbox.watch_dir(place) as watch:
        sandbox.execute_command(command, cwd=place)
        found = [(event.kind, event.path.removeprefix(f'{place}/')) for event in watch.take(PATIENCE)]

    assert found[:2] == [('created', 'brief'), ('removed', 'brief')]
    assert ('created', 'stays') in found


def test_no_look_is_taken_while_nothing_changes(sandbox: AgentBackedSandbox, place: str) -> None:
    with sandbox.watch_dir(place, interval=0.01) as watch:
        looks = []
        look = watch._look
        watch._look = lambda: looks.append(1) or look()  # type: ignore[func-returns-value]

        assert watch.take(0.5) == []

    assert len(looks) <= 3


def test_more_directories_than_the_kernel_may_watch_are_looked_at(sandbox: AgentBackedSandbox, place: str) -> None:
    watches = [sandbox.watch_dir(place, interval=0.05) for _ in range(6)]
    try:
        sandbox.write_file(f'{place}/a', 'a')

        assert [[event.kind for event in watch.take(PATIENCE)] for watch in watches] == [['created']] * 6
    finally:
        for watch in watches:
            watch.close()


def test_a_directory_that_goes_away_ends_its_watch(subject: Verbs, folder: str) -> None:
    subject.write_file(f'{folder}/a', 'a')
    watch = subject.watch_dir(folder)
    subject.remove_path(folder, recursive=True)

    found = [(event.kind, event.path) for event in watch.events(PATIENCE)]

    assert found == [('removed', f'{folder}/a'), ('removed', folder)]
    assert watch.is_closed


def test_what_cannot_be_watched_is_refused(subject: Verbs, folder: str) -> None:
    subject.write_file(f'{folder}/file', 'f')

    with pytest.raises(SandboxPathNotFoundError):
        subject.watch_dir(f'{folder}/none')
    with pytest.raises(SandboxPathError, match='not a directory'):
        subject.watch_dir(f'{folder}/file')
    with pytest.raises(InvalidArgumentError, match='interval'):
        subject.watch_dir(folder, interval=0)


def test_too_much_to_watch_is_refused(sandbox: AgentBackedSandbox, place: str) -> None:
    sandbox.execute_command('seq 10001 | xargs touch', 60, cwd=place)

    with pytest.raises(SandboxPathError, match='10000 entries'):
        sandbox.watch_dir(place)
