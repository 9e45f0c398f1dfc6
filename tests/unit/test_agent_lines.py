"""The recorder of the lines that the agent executes."""

from __future__ import annotations

import importlib.util
import marshal
from pathlib import Path
from typing import Any

from enclave.sandboxes.bubblewrap import launch
from tests.support.agent_lines import PLACE_IN_PRELUDE, measured_program, read_lines


def test_the_program_runs_under_the_recorder_as_it_is() -> None:
    code = marshal.dumps(compile('found = __name__', '<enclave-agent>', 'exec'))
    program = importlib.util.MAGIC_NUMBER + b'%08d' % len(code) + code + b'the rest'

    measured = measured_program(program)

    size = int(measured[4:12])
    space: dict[str, Any] = {'__name__': 'agent'}
    exec(marshal.loads(measured[12 : 12 + size]), space)
    assert space['found'] == 'agent'
    assert measured[:4] + measured[12 + size :] == importlib.util.MAGIC_NUMBER + b'the rest'


def test_the_recorder_has_its_place_in_what_starts_an_agent_in_bubblewrap() -> None:
    assert launch._PRELUDE.count(PLACE_IN_PRELUDE) == 1


def test_lines_are_read_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / 'lines').write_bytes(b'\0\1\0\0\1')

    assert read_lines(tmp_path / 'lines') == [1, 4]
