"""Which Python runs the kernels of notebooks without Docker."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from enclave.errors import SandboxStartError
from enclave.sandboxes.bubblewrap import interpreter
from enclave.sandboxes.bubblewrap.interpreter import (
    Kernel,
    KernelPython,
    choose_kernel_python,
    find_kernel_python,
    look_for_kernel,
    own_python,
)
from enclave.sandboxes.bubblewrap.rootfs import get_view

pytestmark = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='bubblewrap needs Linux')


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """What looks like a virtual environment, with other things beside it."""
    for name in ('bin', 'lib/modules', 'share/jupyter', 'share/secrets'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'pyvenv.cfg').write_text('')
    (tmp_path / '.env').write_text('PASSWORD=x')
    (tmp_path / 'bin' / 'python').symlink_to(shutil.which('python3', path='/usr/bin') or sys.executable)
    return tmp_path


def test_the_systems_python_comes_first() -> None:
    system = shutil.which('python3', path='/usr/bin:/usr/local/bin')
    if system is None:
        pytest.skip('this machine has no python3 of its own')

    found = choose_kernel_python(system, '/nowhere', look=lambda _: Kernel('7', '/usr/lib/ipykernel.py'))

    assert found.path == system
    assert found.description == f'{system} with ipykernel 7'


def test_this_processes_python_stands_in_and_shows_only_what_it_is_made_of(environment: Path) -> None:
    own = str(environment / 'bin' / 'python')
    module = str(environment / 'lib' / 'modules' / 'ipykernel.py')

    found = choose_kernel_python('', own, look=lambda _: Kernel('7', module))

    assert found.path == own
    shown = {path for _, path in found.view.trees if path.startswith(str(environment))}
    assert shown == {str(environment / name) for name in ('bin', 'lib', 'pyvenv.cfg', 'share/jupyter')}
    named = {path for _, path in get_view(None, own, network=False).trees if path.startswith(str(environment))}
    assert named == {str(environment)}


def test_an_ipykernel_where_no_sandbox_sees_it_does_not_count(environment: Path) -> None:
    own = str(environment / 'bin' / 'python')

    with pytest.raises(SandboxStartError, match=r'/home/me/\.local/lib/ipykernel\.py, where sandboxes do not see it'):
        choose_kernel_python('', own, look=lambda _: Kernel('7', '/home/me/.local/lib/ipykernel.py'))


def test_the_error_says_which_pythons_lack_it_and_the_command_that_mends_it(environment: Path) -> None:
    own = str(environment / 'bin' / 'python')

    with pytest.raises(SandboxStartError, match='/usr/bin/python3 has none') as caught:
        choose_kernel_python('/usr/bin/python3', own, look=lambda _: None)

    assert f'{own} has none. Run: {own} -m pip install ipykernel; or set python' in caught.value.message
    assert caught.value.details['remedy'] == f'Run: {own} -m pip install ipykernel'


def test_nobody_is_sent_to_install_into_the_systems_python() -> None:
    with pytest.raises(SandboxStartError, match='in a virtual environment'):
        choose_kernel_python('/usr/bin/python3', '/usr/bin/python3', look=lambda _: None)


@pytest.mark.processes
def test_a_program_that_is_no_python_has_no_ipykernel() -> None:
    assert look_for_kernel('/bin/false') is None
    assert look_for_kernel('/no/such/python') is None


def test_a_program_with_a_python_in_it_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'executable', '/usr/bin/uwsgi')
    assert own_python() is None
    monkeypatch.setattr(sys, 'executable', '/opt/venv/bin/python3')
    assert own_python() == '/opt/venv/bin/python3'


def test_what_was_found_is_looked_for_again_when_it_has_gone(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, module = str(environment / 'bin' / 'python'), environment / 'lib' / 'modules' / 'ipykernel.py'
    module.touch()
    asked: list[str] = []

    def choose(system: str, own: str, *, network: bool) -> KernelPython:
        asked.append(own)
        return KernelPython(own, get_view(None, own, network=network), Kernel('7', str(module)))

    monkeypatch.setattr(interpreter, 'choose_kernel_python', choose)
    monkeypatch.setattr(interpreter, 'own_python', lambda: own)

    assert find_kernel_python().path == find_kernel_python(network=True).path == own
    assert asked == [own]
    module.unlink()
    find_kernel_python()
    assert asked == [own, own]
