"""The files that a public forge reads are what it takes: workflows by the schema of their language, and what they run exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text())['jobs']
    return [step for job in jobs.values() for step in job.get('steps', ())]


@pytest.mark.processes
def test_workflows_are_what_the_schema_of_the_forge_says() -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'check_jsonschema', '--builtin-schema', 'vendor.github-workflows', *map(str, WORKFLOWS)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(WORKFLOWS) >= 3


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_of_a_version_and_expressions_name_what_there_is(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    for step in steps(path):
        assert ('uses' in step) != ('run' in step)
        if 'uses' in step:
            assert re.fullmatch(r'\./.*|[\w-]+/[\w./-]+@(v\d+[\w.]*|release/v\d+|[0-9a-f]{40})', step['uses']), step[
                'uses'
            ]
    for job in workflow['jobs'].values():
        known = set((job.get('strategy') or {}).get('matrix', {}))
        assert set(re.findall(r'\$\{\{\s*matrix\.(\w+)', str(job))) <= known
        needed = job.get('needs', [])
        assert {needed} if isinstance(needed, str) else set(needed) <= set(workflow['jobs'])


def test_what_workflows_call_in_this_repository_exists() -> None:
    text = '\n'.join(step.get('run', '') for path in WORKFLOWS for step in steps(path))
    makefile = (ROOT / 'Makefile').read_text()

    for target in re.findall(r'\bmake ([a-z][\w-]*)', text):
        assert re.search(rf'^{target}:', makefile, re.MULTILINE), target
    for script in re.findall(r'(?:python|bash) ((?:scripts|\.ci|examples)/\S+)', text):
        assert (ROOT / script).exists(), script
    assert 'bash .ci/run' in text


def test_every_python_of_the_metadata_is_tried() -> None:
    versions = re.findall(r'Python :: (3\.\d+)$', (ROOT / 'setup.cfg').read_text(), re.MULTILINE)
    environments = (ROOT / 'tox.ini').read_text()

    assert '3.14' in versions
    assert all(f'py{version.replace(".", "")}' in environments for version in versions)
