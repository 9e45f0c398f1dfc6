"""Tool calls with the real SDKs of model providers, in an environment of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.environments import environment

PROGRAM = Path(__file__).with_name('program.py')


@pytest.mark.providers
@pytest.mark.bubblewrap
def test_the_sdks_objects_are_answered_with_what_their_types_say() -> None:
    python = environment('providers', 'openai', 'anthropic')
    given = {name: value for name, value in os.environ.items() if not name.startswith('ENCLAVE_')}

    done = subprocess.run([str(python), str(PROGRAM)], env=given, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['check_chat ok', 'check_responses ok', 'check_messages ok']
