"""What the documents show is true: every block of code in them runs, every link leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob('*.md')), *sorted(ROOT.glob('docs/**/*.md')), *sorted(ROOT.glob('images/*.md'))]
EXAMPLES = sorted(ROOT.glob('examples/*.py'))
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r'\s*^```text\n(.*?)^```$', re.MULTILINE | re.DOTALL)
"""A block of text right after a program is what that prints; three dots match anything."""
LINK = re.compile(r'\[[^\]]+\]\((?!https?:|#|mailto:)([^)#]+)')
OWN_LINK = re.compile(r'https://github\.com/modelscope/ms-enclave/(?:blob|tree)/main/([^)#\s]+)')
E2B_PAGE = 'docs/e2b.md'
"""The page whose programs need E2B's SDK and a server; tests/e2b runs them."""
RAY_PAGE = 'docs/ray.md'
"""The page whose programs need a cluster of Ray's."""
ENVIRONMENT = {
    **os.environ,
    'PYTHONPATH': str(ROOT),
    'RAY_raylet_start_wait_time_s': '250',
    'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
}


class Block(NamedTuple):
    document: str
    number: int
    language: str
    text: str
    output: str | None = None

    def __str__(self) -> str:
        return f'{self.document}-{self.number}-{self.language}'


def _output_after(path: Path, match: re.Match[str]) -> str | None:
    found = OUTPUT.match(path.read_text(), match.end()) if match[1] in ('python', 'bash') else None
    return None if found is None else found[1]


BLOCKS = [
    Block(str(path.relative_to(ROOT)), number, match[1], match[2], _output_after(path, match))
    for path in DOCUMENTS
    for number, match in enumerate(FENCE.finditer(path.read_text()), 1)
]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def runnable(*languages: str) -> list[Any]:
    """Blocks with the marks of what they run on: Docker, unless they speak of bubblewrap's sandboxes."""
    found = []
    for block in of(*languages):
        if block.document == E2B_PAGE and block.language == 'python':
            continue
        marks = [pytest.mark.bubblewrap if 'bubblewrap' in block.text.lower() else pytest.mark.docker]
        if block.document == RAY_PAGE:
            marks = [pytest.mark.ray, pytest.mark.bubblewrap]
        found.append(pytest.param(block, id=str(block), marks=marks))
    return found


def test_every_block_names_a_language_that_is_checked() -> None:
    known = {'python', 'bash', 'console', 'toml', 'json', 'text', 'yaml'}

    assert not [str(block) for block in BLOCKS if block.language not in known]


@pytest.mark.parametrize('block', runnable('python'))
def test_python_blocks_run(block: Block, tmp_path: Path) -> None:
    program = tmp_path / 'block.py'
    program.write_text(block.text)

    done = subprocess.run(
        [sys.executable, '-W', 'error::ResourceWarning', str(program)],
        cwd=tmp_path,
        env=ENVIRONMENT | _cluster_of(block),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert 'Warning' not in done.stderr
    assert_printed(block, done.stdout)


def _cluster_of(block: Block) -> dict[str, str]:
    """Return what says to a program which cluster of Ray it is to use: there may be others on this machine."""
    if block.document != RAY_PAGE:
        return {}
    from tests.support.ray import two_nodes

    return {'RAY_ADDRESS': two_nodes().address}


@pytest.mark.parametrize('block', runnable('bash'))
def test_bash_blocks_run(block: Block, tmp_path: Path) -> None:
    done = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', block.text],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert_printed(block, done.stdout)


def assert_printed(block: Block, printed: str) -> None:
    """Check that a program printed what the document shows."""
    if block.output is not None:
        pattern = re.escape(block.output.rstrip()).replace(re.escape('...'), r'[^\0]*')
        assert re.fullmatch(pattern, printed.rstrip()), f'printed:\n{printed}\nshown:\n{block.output}'


@pytest.mark.parametrize('block', of('toml'), ids=str)
def test_toml_blocks_are_policies_and_settings(block: Block, tmp_path: Path) -> None:
    from enclave.server.adapters.e2b import E2BSettings
    from enclave.server.policy import Policy

    path = tmp_path / 'policy.toml'
    path.write_text(block.text)

    if block.document == RAY_PAGE:
        from enclave.ray.ray_options import RayOptions
        from enclave.server.auth import read_settings

        assert RayOptions(**read_settings(path)) != RayOptions()
    elif block.document == 'docs/e2b.md':
        assert E2BSettings.read(path) != E2BSettings()
    else:
        assert Policy.from_file(path) != Policy()


@pytest.mark.parametrize('block', of('yaml'), ids=str)
def test_yaml_blocks_can_be_read(block: Block) -> None:
    yaml = pytest.importorskip('yaml')  # mkdocs brings it

    assert yaml.safe_load(block.text)['available_node_types']


@pytest.mark.parametrize('block', of('json'), ids=str)
def test_json_blocks_are_keys_files(block: Block, tmp_path: Path) -> None:
    from enclave.server.auth import read_keys

    path = tmp_path / 'keys.json'
    path.write_text(block.text)
    path.chmod(0o600)

    assert read_keys(path)


COMMAND = re.compile(r'(?:^|[|;(]\s*)(ms-enclave|make)((?: [a-z]+(?:-[a-z]+)*\b(?![-./*:=]))+)')
GROUPS = ('images', 'mcp', 'notebook', 'pool')


INSTALL = re.compile(r"pip install '?(?:\.|ms-enclave)(?:\[([\w,-]+)\])?(?:>=2\.0)?'?")
EXTRAS = set(
    re.findall(r'^([a-z-]+) =$', (ROOT / 'setup.cfg').read_text().partition('extras_require]')[2], re.MULTILINE)
)


@pytest.mark.processes
@pytest.mark.parametrize('block', of('console'), ids=str)
def test_console_blocks_hold_commands_that_exist(block: Block) -> None:
    """They are what a person types; running them here would set up the machine again or need one's own files.

    So: each target or command is there, and every option that is shown.
    """
    for line in block.text.splitlines():
        shown = line.partition('  #')[0]
        if installed := INSTALL.fullmatch(shown.strip()):
            assert set(filter(None, (installed[1] or '').split(','))) <= EXTRAS, line
            continue
        found = COMMAND.findall(shown)
        assert found or shown.startswith('export '), f'{line!r}: other commands go into a bash block, which is run'
        for program, arguments in found:
            if program == 'make':
                planned = ['make', '-n', *arguments.split()]
            else:
                command = arguments.split()[: 2 if arguments.split()[0] in GROUPS else 1]
                planned = [sys.executable, '-m', 'enclave.cli', *command, '--help']
            done = subprocess.run(planned, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f'{line!r}: {done.stderr}'
            if program == 'ms-enclave':
                ours = shown.partition(' -- ')[0]  # what follows is another program's
                options = {word for word in re.findall(r'(?<= )--[a-z-]+', ours) if word != '--its-own-option'}
                assert not [option for option in options if option not in done.stdout], line


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    missing = [target for target in LINK.findall(document.read_text()) if not (document.parent / target).exists()]

    assert missing == []


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_this_project_lead_somewhere(document: Path) -> None:
    missing = [target for target in OWN_LINK.findall(document.read_text()) if not (ROOT / target).exists()]

    assert missing == []


def test_the_readme_is_whole_on_its_own() -> None:
    """A package index shows it without the repository: its links are absolute. Each program in it says what it prints."""
    text = (ROOT / 'README.md').read_text()

    assert LINK.findall(text) == []
    assert [str(block) for block in of('python') if block.document == 'README.md' and block.output is None] == []
    assert 'make demo\nmake test\n' in text
    hello = text.index('enclave.run_code(')
    assert text[:hello].count('\n') <= 24, 'the first output comes on the first screen'


def example_of(path: Path) -> Any:
    """An example with the marks of what it runs on."""
    needs_ray = path.name.startswith('ray')
    marks = [pytest.mark.ray, pytest.mark.bubblewrap] if needs_ray else [pytest.mark.docker]
    return pytest.param(path, id=path.name, marks=marks)


FEWER = {'ray_rewards.py': ['60']}
"""Arguments of examples that do much: as much as a test needs."""


@pytest.mark.parametrize('example', [example_of(path) for path in EXAMPLES])
def test_examples_run(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example), *FEWER.get(example.name, [])],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert 'Traceback' not in done.stderr


@pytest.mark.processes
def test_the_package_imports_fast_because_it_loads_nothing_heavy() -> None:
    program = (
        'import sys, enclave; print(sorted(set(sys.modules) & {"docker", "cattrs", "attrs", "flask", "requests"}))'
    )

    done = subprocess.run([sys.executable, '-c', program], env=ENVIRONMENT, capture_output=True, text=True, check=True)

    assert done.stdout == '[]\n'


def test_every_public_name_is_there() -> None:
    import enclave

    for name in enclave.__all__:
        assert getattr(enclave, name) is not None
    with pytest.raises(AttributeError):
        _ = enclave.no_such_name
