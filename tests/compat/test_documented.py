"""Every Python block of the documented README, as it stands, each as a program of its own."""

from __future__ import annotations

import re
import socket
import textwrap
from pathlib import Path

import pytest

from tests.compat.running import ROOT, run_program, running_server

README = ROOT.parent / 'shared' / 'documented-readme.md'
PORT = 8000
FRAGMENT = """
import asyncio
from ms_enclave.sandbox.boxes import SandboxFactory
from ms_enclave.sandbox.model import DockerNotebookConfig, DockerSandboxConfig, SandboxType

async def main():
    config = DockerSandboxConfig(tools_config={{'python_executor': {{}}}})
    async with SandboxFactory.create_sandbox(SandboxType.DOCKER, config) as sandbox:
{block}
    print('the fragment ran')

asyncio.run(main())
"""

pytestmark = pytest.mark.docker


def blocks() -> list[str]:
    """Return the Python blocks of the README, in order; none where it is not beside the checkout."""
    return re.findall(r'^```python\n(.*?)^```', README.read_text(), re.S | re.M) if README.exists() else []


def names() -> list[str]:
    return [f'block-{number}' for number in range(1, len(blocks()) + 1)]


@pytest.mark.skipif(not README.exists(), reason=f'{README.name} is not beside the checkout')
def test_there_are_blocks() -> None:
    assert len(blocks()) >= 4


@pytest.mark.parametrize('block', blocks(), ids=names())
def test_a_block_of_the_documented_readme_runs(block: str, tmp_path: Path) -> None:
    if 'asyncio.run(' not in block:
        block = FRAGMENT.format(block=textwrap.indent(block, ' ' * 8))
    if f':{PORT}' in block:
        with socket.socket() as probe:
            if probe.connect_ex(('127.0.0.1', PORT)) == 0:
                pytest.skip(f'port {PORT}, which the block names, is in use')
        with running_server(PORT):
            output = run_program(block, tmp_path)
    else:
        output = run_program(block, tmp_path)

    assert output.strip()
    for quoted in ('Hello from sandbox!', 'hi from enclave', 'Hello remote'):
        if quoted in block:
            assert quoted in output
    if '1/0' in block:
        assert 'ZeroDivisionError' in output
