"""What docs/extending.md says a change takes is what it takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/extending.md').read_text('utf-8')


def test_a_verb_is_written_in_the_six_files_that_the_page_names() -> None:
    chapter = PAGE.split('## A verb\n')[1].split('\n## ')[0]
    named = re.findall(r'^\d\. `(enclave/[\w/]+\.py)`', chapter, re.MULTILINE)

    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'enclave').rglob('*.py')
        if 'testing' not in path.parts  # which holds backends to what verbs promise
        and re.search(r'\b(copy_path|CopyPath|COPY_PATH)\b', path.read_text('utf-8'))
    }

    assert sorted(named) == sorted(found)
    assert len(named) == 6


def test_a_verb_is_everywhere_it_should_be() -> None:
    from enclave import aio
    from enclave.sandboxes.verbs import Verbs
    from enclave.server import openapi
    from enclave.server.route import ROUTES
    from enclave.tools.tool_factory import ToolFactory
    from enclave.tools.workspace import Workspace

    schema = ToolFactory.create_tool('file_operation').schema

    assert callable(Verbs.copy_path)
    assert callable(Workspace.copy_path)
    assert callable(aio.RemoteSandbox.copy_path)
    assert 'post' in openapi.document()['paths']['/sandbox/{sandbox_id}/copy']
    assert ROUTES['copy_path'].is_repeatable
    assert 'copy' in schema['function']['parameters']['properties']['operation']['enum']


@pytest.mark.processes
def test_a_backend_in_a_child_process_has_every_verb(tmp_path: Path) -> None:
    program = (
        'import sys, enclave, examples.subprocess_backend\n'
        'with enclave.SandboxFactory.create_sandbox("subprocess", {"working_dir": sys.argv[1]}) as sandbox:\n'
        '    sandbox.write_file("a/b", "text")\n'
        '    sandbox.copy_path("a", "c", recursive=True)\n'
        '    print(sandbox.read_file("c/b").decode(), sandbox.run_script(["sh"], "echo $1", args=["hi"]).stdout)\n'
        '    print(sandbox.sandbox_type, sandbox.is_alive())\n'
    )

    command = [sys.executable, '-c', program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)

    assert done.stdout.split() == ['text', 'hi', 'subprocess', 'True']
