from __future__ import annotations

import pytest

from enclave.suggest import did_you_mean, suggest

SHELL = ['command', 'timeout', 'cwd', 'env', 'stdin']


@pytest.mark.parametrize(
    ('name', 'missing', 'meant'),
    [
        ('cmd', ['command'], 'command'),
        ('cmd', [], 'cwd'),
        ('comand', ['command'], 'command'),
        ('script', ['command'], 'command'),
        ('timeot', [], 'timeout'),
        ('quite_another', [], None),
    ],
)
def test_what_is_missing_is_meant_before_anything_else(name: str, missing: list[str], meant: str | None) -> None:
    assert suggest(name, SHELL, missing=missing, is_only=True) == meant


def test_of_several_unknown_names_each_gets_the_one_it_is_like() -> None:
    known = ['operation', 'file_path', 'content']

    assert suggest('path', known, missing=['operation', 'file_path']) == 'file_path'
    assert suggest('op', known, missing=['operation', 'file_path']) == 'operation'


def test_where_nothing_is_alike_all_names_are_listed() -> None:
    assert did_you_mean('zzz', ['a', 'b']) == 'known: a, b'
    assert did_you_mean('zzz', []) == 'known: none'
    assert did_you_mean('cmd', SHELL, missing=['command']) == "did you mean 'command'?"


@pytest.mark.parametrize(('name', 'meant'), [('memroy', 'memory_limit'), ('cpus', 'cpu_limit'), ('zzz', None)])
def test_a_name_that_is_like_one_word_of_another_means_it(name: str, meant: str | None) -> None:
    assert suggest(name, ['memory_limit', 'cpu_limit', 'pids_limit', 'network_enabled']) == meant
