"""The client and the command line work with a server in a process that lacks what Windows and macOS lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from enclave.server.serve import create_server
from tests.support.platforms import run_without_unix

PROGRAM = """
import os, pathlib, tempfile
import enclave
from click.testing import CliRunner
from enclave.cli.main import cli

os.environ['ENCLAVE_URL'] = {url!r}

def call(*arguments, input=None):
    result = CliRunner().invoke(cli, arguments, input=input)
    assert result.exit_code == 0, (arguments, result.output, result.exc_info)
    return result.stdout

assert enclave.run_code('print(6 * 7)').stdout == '42\\n'
with enclave.HttpSandboxManager(base_url={url!r}) as manager:
    folder = pathlib.Path(tempfile.mkdtemp(dir={folder!r}))
    (folder / 'in').mkdir()
    (folder / 'in' / 'a.txt').write_text('hello')
    (folder / 'p.py').write_text('print(input())')
    with manager.open('docker', {{'tools_config': ['python_executor']}}) as sandbox:
        heard = []
        assert sandbox.execute_command('echo hi', on_stdout=heard.append).stdout == 'hi\\n'
        assert ''.join(heard) == 'hi\\n'
        sandbox.put_dir(folder / 'in', 'data')
        sandbox.get_dir('data', folder / 'back')
        assert (folder / 'back' / 'a.txt').read_text() == 'hello'
        assert sandbox.execute_tool('python_executor', {{'code': 'print(1)'}}).output == '1\\n'
        assert sandbox.id in call('ps')
        assert call('exec', '-n', sandbox.id, 'echo', 'hi') == 'hi\\n'
        call('cp', str(folder / 'p.py'), f'{{sandbox.id}}:q.py')
        call('cp', f'{{sandbox.id}}:data', str(folder / 'copy'))
        assert (folder / 'copy' / 'a.txt').read_text() == 'hello'
    assert call('run', str(folder / 'p.py'), input='line\\n') == 'line\\n'
    manager.initialize_pool(1, 'docker')
    assert [each.unwrap().stdout for each in manager.map('print(input())', ['1', '2'])] == ['1\\n', '2\\n']
print('all of it')
"""


@pytest.mark.docker
@pytest.mark.parametrize('platform', ['win32', 'darwin'])
def test_the_client_and_the_command_line_work_with_a_server(platform: str, tmp_path: Path) -> None:
    with create_server().running() as url:
        found = run_without_unix(PROGRAM.format(url=url, folder=str(tmp_path)), platform)

    assert (found.returncode, found.stdout.splitlines()[-1:]) == (0, ['all of it']), found.stderr[-3000:]
