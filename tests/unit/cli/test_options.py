from __future__ import annotations

import math
import os
from pathlib import Path

import click
import pytest

from enclave.cli.options import (
    Number,
    WholeNumber,
    make_config,
    parse_env,
    parse_files,
    parse_value,
    parse_volume,
    split_target,
)
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig


def test_options_that_nobody_gave_are_the_librarys_defaults() -> None:
    assert make_config() == {}


def test_every_option_of_a_sandbox_is_one_of_its_configuration(tmp_path: Path) -> None:
    config = make_config(
        image='debian:bookworm',
        memory='64m',
        cpus=0.5,
        pids=100,
        network=False,
        env=['A=1'],
        user='1000:1000',
        volumes=[f'{tmp_path}:/data:ro'],
        workdir='/work',
        read_only=True,
        options=['cap_add=["NET_RAW"]', 'runtime=runsc', 'timeout=5'],
    )

    checked = DockerSandboxConfig(**config)

    assert checked.memory_limit == '64m'
    assert checked.network_enabled is False
    assert checked.volumes == {str(tmp_path): {'bind': '/data', 'mode': 'ro'}}
    assert checked.cap_add == ('NET_RAW',)
    assert checked.runtime == 'runsc'
    assert checked.timeout == 5


def test_memory_can_be_unlimited() -> None:
    assert make_config(memory='none') == {'memory_limit': None}


def test_variable_without_a_value_takes_this_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ENCLAVE_TEST_TOKEN', 'abc')

    assert parse_env(['ENCLAVE_TEST_TOKEN', 'EMPTY=', 'X=a=b', 'ENCLAVE_TEST_MISSING']) == {
        'ENCLAVE_TEST_TOKEN': 'abc',
        'EMPTY': '',
        'X': 'a=b',
    }


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        ('a', ('a', None)),
        ('a:b', ('a', 'b')),
        ('a:', ('a', '')),
        ('./a:/b:c', ('./a', '/b:c')),
        ('C:\\data:/b', ('C:\\data', '/b')),
        ('C:/data', ('C:/data', None)),
        ('c:b', ('c', 'b')),
    ],
)
def test_targets_are_split_at_the_first_colon_that_is_no_drives(text: str, parts: tuple[str, str | None]) -> None:
    assert split_target(text) == parts


def test_relative_volume_is_of_this_directory() -> None:
    assert parse_volume('.:/work') == (os.getcwd(), {'bind': '/work', 'mode': 'rw'})


@pytest.mark.parametrize('text', ['a', 'a:b', ':/b', 'a:', 'a:/b:rx', 'a:/b:ro,z', 'a:/b:'])
def test_volume_without_an_absolute_target_is_a_wrong_call(text: str) -> None:
    with pytest.raises(click.BadParameter, match='HOST:PATH'):
        parse_volume(text)


def test_files_go_under_their_own_name_unless_asked(tmp_path: Path) -> None:
    (tmp_path / 'a.txt').write_text('a')

    assert parse_files([f'{tmp_path}/a.txt', f'{tmp_path}:/data']) == [
        (tmp_path / 'a.txt', 'a.txt'),
        (tmp_path, '/data'),
    ]
    with pytest.raises(click.BadParameter, match='does not exist'):
        parse_files([f'{tmp_path}/none'])


def test_values_are_json_or_text() -> None:
    assert [parse_value(text) for text in ('1', 'true', '["a"]', 'null', 'text', '{bad')] == [
        1,
        True,
        ['a'],
        None,
        'text',
        '{bad',
    ]


def test_nothing_is_no_file_to_copy() -> None:
    with pytest.raises(click.BadParameter, match='SRC:DST'):
        parse_files([':/data'])


@pytest.mark.parametrize('text', ['abc', 'nan', '-nan', '', '1h'])
def test_what_is_no_number_of_seconds_is_said_in_words(text: str) -> None:
    with pytest.raises(click.BadParameter, match='is not a number of seconds, like 30'):
        Number(minimum=0, what='a number of seconds').convert(text, None, None)


def test_numbers_keep_their_bounds() -> None:
    assert Number(minimum=0).convert('inf', None, None) == math.inf
    with pytest.raises(click.BadParameter, match='it must be at least 0, not -1'):
        Number(minimum=0).convert('-1', None, None)
    with pytest.raises(click.BadParameter, match='it must be at least 0 and at most 65535, not 65536'):
        WholeNumber(0, 65535).convert('65536', None, None)
    with pytest.raises(click.BadParameter, match=r"'1\.5' is not a whole number"):
        WholeNumber(1).convert('1.5', None, None)
