"""What the documents and examples show is right to checkers of types, too: an editor marks none of it.

Functions in examples may be without annotations, as people write them; all else is checked strictly.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import test_documents
from tests.support import type_checking
from tests.support.environments import environment

ROOT = Path(__file__).parents[2]
AWAITED = "(await (await enclave.aio.LocalSandboxManager().open('docker_notebook').__aenter__()).execute_cell('1'))"
WRONG = {
    'a word that is no option': "enclave.open_sandbox(memory_limits='1g')",
    'an option of a wrong type': 'enclave.DockerSandboxConfig(cap_add=3)',
    'an option of a configuration': "enclave.DockerSandboxConfig(imag='x')",
    'a missing result': "enclave.LocalSandboxManager().get_sandbox('x').id",
    'a cell where there is no kernel': "enclave.open_sandbox('docker').execute_cell('1')",
    'a command that is no command': 'enclave.run_command(7)',
    'an option of a manager': "enclave.LocalSandboxManager(pool_polcy='fresh')",
    'a misspelt option of a command': "enclave.open_sandbox().execute_command('ls', workdir='/')",
    'the same by a manager': "enclave.LocalSandboxManager().execute_command('x', 'ls', workdir='/')",
    'an option of a program': "enclave.LocalSandboxManager().run_code('x', 'print(1)', stdn='')",
    'what no cell gives, awaited': f'async def f() -> None: {AWAITED}.stdout_of',
    'bytes that are a number': "enclave.open_sandbox().get_file('a', 'b').decode()",
}
"""What a checker must not let pass."""
RIGHT = [f'async def g() -> None: {AWAITED}.outputs']
"""What is much like it, and right."""
HEAD = 'import enclave, enclave.aio\n'


@pytest.fixture(scope='module')
def blocks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every block of Python in the documents, and every example, as a file each."""
    folder = tmp_path_factory.mktemp('blocks')
    paths = []
    for block in test_documents.of('python'):
        path = folder / f'{re.sub(r"[^a-z0-9]+", "_", str(block).lower())}.py'
        path.write_text(block.text)
        paths.append(path)
    return [*paths, *sorted((ROOT / 'examples').glob('*.py'))]


def mypy(*paths: Path, relaxed: bool = False) -> subprocess.CompletedProcess[str]:
    """Check strictly; ``relaxed`` lets functions be without annotations."""
    options = ['--ignore-missing-imports']
    if relaxed:
        options += ['--allow-untyped-defs', '--allow-incomplete-defs', '--allow-untyped-calls']
    return type_checking.mypy(*options, *map(str, paths), cwd=ROOT, env=test_documents.ENVIRONMENT)


def test_blocks_and_examples_pass_mypy(blocks: list[Path]) -> None:
    examples = [path for path in blocks if path.parent.name == 'examples']
    done = mypy(*(path for path in blocks if path not in examples))
    assert done.returncode == 0, done.stdout

    done = mypy(*examples, relaxed=True)
    assert done.returncode == 0, done.stdout


def test_mypy_finds_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / 'wrong.py'
    path.write_text(HEAD + ''.join(f'{line}\n' for line in [*WRONG.values(), *RIGHT]))

    found = {int(match[1]) for match in re.finditer(r'wrong\.py:(\d+): error', mypy(path).stdout)}

    assert found == set(range(2, len(WRONG) + 2))


@pytest.mark.pyright
def test_blocks_and_examples_pass_pyright(blocks: list[Path], tmp_path: Path) -> None:
    assert pyright(*blocks) == []

    wrong = tmp_path / 'wrong.py'
    wrong.write_text(HEAD + ''.join(f'{line}\n' for line in [*WRONG.values(), *RIGHT]))
    assert {line for _, line, _ in pyright(wrong)} == set(range(1, len(WRONG) + 1))


def pyright(*paths: Path) -> list[tuple[str, int, str]]:
    """Return what pyright finds: file, line from 0, and message."""
    python = environment('pyright', 'pyright[nodejs]', with_enclave=False)
    command = [str(python), '-m', 'pyright', '--outputjson', '--pythonpath', sys.executable]
    done = subprocess.run([*command, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)['generalDiagnostics']
    # A package that an example may use and that is not installed here is no fault of the example.
    errors = [each for each in found if each['severity'] == 'error' and each.get('rule') != 'reportMissingImports']
    return [(Path(each['file']).name, each['range']['start']['line'], each['message']) for each in errors]
