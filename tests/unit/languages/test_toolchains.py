"""What a sandbox has for a language, by what its toolchain says."""

from __future__ import annotations

from typing import Any

from enclave.languages.table import Language
from enclave.languages.toolchains import find_toolchains
from enclave.records import CommandResult


class Runner:
    """Says what toolchains print of their version."""

    id = 'box'
    has_sources = False
    preload = None

    def __init__(self, **said: str) -> None:
        self._said = said

    def run_step(self, command: Any, **_: Any) -> CommandResult:
        text = self._said.get(command[0])
        status, code = ('error', 127) if text is None else ('success', 0)
        return CommandResult(command=list(command), status=status, exit_code=code, stderr=text or '')


def language(name: str) -> Language:
    return Language(name=name, title=name, file='x', run=(name,), version=(name, '--version'))


def test_a_version_is_what_the_toolchain_says_and_not_its_warnings() -> None:
    runner: Any = Runner(
        kotlinish='OpenJDK 64-Bit Server VM warning: Options are deprecated\ninfo: kotlinc 1.3.31\n',
        warns='Warning: nothing else\n',
        plain='\nplain 1.2\nmore\n',
    )

    found = find_toolchains(runner, [language(name) for name in ('kotlinish', 'warns', 'plain', 'none')])

    assert [each.version for each in found] == ['info: kotlinc 1.3.31', 'Warning: nothing else', 'plain 1.2', None]
    assert [each.status for each in found] == ['ok', 'ok', 'ok', 'missing']
