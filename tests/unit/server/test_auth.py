from __future__ import annotations

import json
from pathlib import Path

import pytest

from enclave.errors import AuthenticationError, ConfigurationError, PolicyError
from enclave.server.auth import ApiKey, Authenticator, HostGuard, host_name, make_key, read_keys, sent_key

SECRET = 'a-secret-of-some-length'


def test_a_key_is_known_by_either_header() -> None:
    authenticator = Authenticator([ApiKey(name='alice', key=SECRET)])

    for headers in (
        {'Authorization': f'Bearer {SECRET}'},
        {'Authorization': f'bearer {SECRET}'},
        {'X-API-Key': SECRET},
    ):
        found = authenticator.identify(headers)
        assert found is not None
        assert found.name == 'alice'


def test_a_key_may_be_given_as_its_digest() -> None:
    digest = '1c8ab9dbd6e2ef6f9e2a4f6e8b8ef6ed7c3b8a8ee3cf1a40c79e0a0f9d0d5d6a'
    key = ApiKey(name='bob', key_sha256=ApiKey(name='bob', key=SECRET).digest.hex())

    found = Authenticator([ApiKey(name='other', key_sha256=digest), key]).identify({'X-API-Key': SECRET})

    assert found is not None
    assert found.name == 'bob'


@pytest.mark.parametrize(
    'headers',
    [
        {},
        {'Authorization': ''},
        {'Authorization': 'Bearer '},
        {'Authorization': f'Basic {SECRET}'},
        {'Authorization': SECRET},
        {'Authorization': f'Bearer {SECRET}x'},
        {'X-API-Key': SECRET[:-1]},
        {'X-API-Key': 'é' * 20},
        {'Cookie': f'key={SECRET}'},
    ],
)
def test_anything_else_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        Authenticator([ApiKey(name='alice', key=SECRET)]).identify(headers)


def test_without_keys_nobody_is_asked() -> None:
    authenticator = Authenticator()

    assert not authenticator.needs_key
    assert authenticator.identify({}) is None


def test_the_refusal_shows_no_key() -> None:
    with pytest.raises(AuthenticationError) as info:
        Authenticator([ApiKey(name='alice', key=SECRET)]).identify({'X-API-Key': 'not-the-right-one'})

    assert 'not-the-right-one' not in str(info.value)
    assert SECRET not in str(info.value) + repr(ApiKey(name='alice', key=SECRET))


@pytest.mark.parametrize(
    'fields',
    [
        {'name': 'a'},
        {'name': 'a', 'key': 'short'},
        {'name': 'a', 'key': SECRET, 'key_sha256': '0' * 64},
        {'name': 'a', 'key_sha256': 'x' * 64},
        {'name': '', 'key': SECRET},
        {'name': 'anonymous', 'key': SECRET},
        {'name': 'a', 'key': 'line\nbreak-in-a-key'},
        {'name': 'a', 'key': SECRET, 'max_sandboxes': -1},
        {'name': 'a', 'key': SECRET, 'quota': 1},
    ],
)
def test_impossible_keys_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as info:
        ApiKey(**fields)  # type: ignore[arg-type]
    assert SECRET not in str(info.value)


def test_names_and_secrets_are_one_to_one() -> None:
    with pytest.raises(ConfigurationError, match='two keys are named'):
        Authenticator([ApiKey(name='a', key=SECRET), ApiKey(name='a', key=SECRET + 'x')])
    with pytest.raises(ConfigurationError, match='same key'):
        Authenticator([ApiKey(name='a', key=SECRET), ApiKey(name='b', key=SECRET)])


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / 'keys.json'
    path.write_text(json.dumps({'keys': [{'name': 'a', 'key': SECRET, 'max_sandboxes': 3}]}))

    (key,) = read_keys(path)

    assert (key.name, key.max_sandboxes) == ('a', 3)


@pytest.mark.parametrize(
    'text',
    ['', '[]', '{}', '{"keys": []}', '{"keys": [{"name": 1}]}', '{"keys": [{"name": "a", "kye": "x"}]}', '{"key": 1}'],
)
def test_wrong_files_of_keys_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'keys.json'
    path.write_text(text)

    with pytest.raises(ConfigurationError, match='keys'):
        read_keys(path)
    with pytest.raises(ConfigurationError, match='cannot be read'):
        read_keys(tmp_path / 'missing.json')


def test_made_keys_differ() -> None:
    assert make_key() != make_key()
    assert len(make_key()) >= 40
    assert sent_key({'X-API-Key': ' padded '}) == 'padded'


# Host and Origin ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('host', 'name'),
    [
        ('localhost:8000', 'localhost'),
        ('LOCALHOST', 'localhost'),
        ('127.0.0.1', '127.0.0.1'),
        ('[::1]:8000', '[::1]'),
        ('[::1]', '[::1]'),
        ('[::1]x', ''),
        ('[::1', ''),
        ('a:b', ''),
        ('a:1:2', ''),
        ('', ''),
    ],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize('host', ['localhost:8000', '127.0.0.1:9', '127.8.8.8', '[::1]:1', 'localhost.', 'box.lan'])
def test_our_own_names_pass(host: str) -> None:
    HostGuard(hosts=frozenset({'box.lan'})).check('POST', {'Host': host})


@pytest.mark.parametrize(
    'host',
    ['evil.example', '', '10.0.0.1', 'localhost.evil.example', '127.0.0.1.nip.io', 'localhost:x', '169.254.169.254'],
)
def test_other_names_are_refused(host: str) -> None:
    with pytest.raises(PolicyError, match='not this server'):
        HostGuard().check('GET', {'Host': host})


@pytest.mark.parametrize(
    'headers',
    [
        {'Origin': 'http://evil.example'},
        {'Origin': 'null'},
        {'Origin': ''},
        {'Origin': 'http://localhost:3000'},
        {'Sec-Fetch-Site': 'cross-site'},
        {'Sec-Fetch-Site': 'same-site'},
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(PolicyError):
        HostGuard().check('POST', {'Host': 'localhost:8000', **headers})


def test_a_page_of_ours_passes() -> None:
    headers = {'Host': 'localhost:8000', 'Origin': 'http://localhost:8000', 'Sec-Fetch-Site': 'same-origin'}

    HostGuard().check('POST', headers)
    HostGuard().check('GET', {'Host': 'localhost:8000', 'Sec-Fetch-Site': 'cross-site'})


def test_where_a_key_protects_any_name_passes() -> None:
    HostGuard(hosts=None).check('POST', {'Host': 'sandboxes.example'})
