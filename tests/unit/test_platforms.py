"""What can work on Windows and macOS imports there: on a Linux from which their missing names are taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

import enclave
from tests.support.platforms import run_without_unix, unix_only

PLATFORMS = ('win32', 'darwin', 'linux')
"""The last is this one without what Windows lacks: what a module asks for is a name, and not which system it is on."""
NAMES = """
import importlib
for package in ('enclave', 'enclave.aio', 'enclave.testing', 'ms_enclave', 'ms_enclave.sandbox', 'ms_enclave.sandbox.manager'):
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        continue
    for name in getattr(module, '__all__', dir(module)):
        getattr(module, name)
"""
COMMANDS = """
import importlib, pkgutil
import enclave.cli
for each in pkgutil.iter_modules(enclave.cli.__path__, 'enclave.cli.'):
    if not each.name.endswith('__main__'):
        importlib.import_module(each.name)
from click.testing import CliRunner
import click
from enclave.cli.main import cli as main

def walk(command, names):
    result = CliRunner().invoke(main, [*names, '--help'])
    assert result.exit_code == 0, (names, result.output, result.exc_info)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            walk(command.get_command(context, name), [*names, name])

walk(main, [])
for arguments in (['version'], ['run', '--help']):
    assert CliRunner().invoke(main, arguments).exit_code == 0
"""
CLIENT = """
import enclave
manager = enclave.HttpSandboxManager(base_url='http://127.0.0.1:9')
try:
    manager.create_sandbox('docker', {})
except enclave.EnclaveError as error:
    assert 'Cannot' in str(error) or 'answer' in str(error) or 'connect' in str(error), error
else:
    raise AssertionError('who answered?')
"""


def test_what_is_taken_away_is_what_windows_lacks() -> None:
    assert {'environb', 'fork', 'getuid', 'O_NONBLOCK', 'sysconf'} <= unix_only('os')
    assert {'SIGHUP', 'SIGKILL', 'pthread_sigmask'} <= unix_only('signal')
    assert not {'getpid', 'SIGTERM', 'O_BINARY'} & (unix_only('os') | unix_only('signal'))
    assert 'pidfd_open' in unix_only('os', 'darwin')


@pytest.mark.processes
@pytest.mark.parametrize('platform', PLATFORMS)
@pytest.mark.parametrize('program', [NAMES, COMMANDS, CLIENT], ids=['names', 'commands', 'client'])
def test_everything_public_can_be_imported(program: str, platform: str) -> None:
    found = run_without_unix(program, platform)

    assert found.returncode == 0, found.stderr[-3000:]


def test_a_name_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(enclave._HOME_OF, 'Sandbox', 'enclave.no_such_module')
    monkeypatch.delitem(enclave.__dict__, 'Sandbox', raising=False)

    with pytest.raises(ImportError, match=r'enclave\.Sandbox cannot be imported: No module named .*no_such_module'):
        exec('from enclave import Sandbox')


def test_a_module_that_breaks_while_it_is_imported_is_no_missing_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / 'breaking_module.py').write_text('import os\nos.no_such_name\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(enclave._HOME_OF, 'Sandbox', 'breaking_module')
    monkeypatch.delitem(enclave.__dict__, 'Sandbox', raising=False)

    with pytest.raises(
        ImportError, match=r"importing breaking_module failed: module 'os' has no attribute 'no_such_name'"
    ):
        exec('from enclave import Sandbox')
