from __future__ import annotations

import runpy
import shlex
from pathlib import Path

import pytest

from enclave.errors import InvalidArgumentError
from enclave.sandboxes.images import build, catalog
from enclave.sandboxes.images.catalog import find_recipe, get_recipe, list_recipes

ONE = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'
TWO = '-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n'


@pytest.fixture(autouse=True)
def _host_without_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ('PIP_CERT', 'REQUESTS_CA_BUNDLE', 'SSL_CERT_FILE', 'CURL_CA_BUNDLE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build, '_LOCAL_CAS', tmp_path / 'no-local-cas')


def test_every_recipe_that_ships_can_be_loaded_and_found_by_its_image() -> None:
    recipes = list_recipes()

    assert {each.image for each in recipes} == {'python:3.11-slim', 'jupyter-kernel-gateway', 'multi', 'multi-full'}
    assert {each.image for each in recipes if each.is_default} == {'python:3.11-slim', 'jupyter-kernel-gateway'}
    assert all(find_recipe(each.image) == each for each in recipes)


@pytest.mark.parametrize('name', ['jupyter-kernel-gateway', 'jupyter-kernel-gateway:latest'])
def test_recipe_is_found_with_and_without_the_default_tag(name: str) -> None:
    assert get_recipe(name).name == 'jupyter-kernel-gateway'


def test_recipe_of_another_tag_is_not_taken() -> None:
    assert find_recipe('python:3.12-slim') is None


def test_sources_of_both_formats_are_read_and_those_of_third_parties_left_out(tmp_path: Path) -> None:
    parts = tmp_path / 'sources.list.d'
    parts.mkdir()
    (tmp_path / 'sources.list').write_text(
        '# a comment\ndeb [signed-by=/k.gpg] http://one/debian bookworm main # more\ndeb-src http://one/debian bookworm main\n'
    )
    (parts / 'debian.sources').write_text(
        'Types: deb\nURIs: http://two/debian\nSuites: bookworm-updates\n bookworm-security\nComponents: main\n'
        'Signed-By: /k.gpg\n\nTypes: deb\nURIs: http://off/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n'
    )
    (parts / 'other.list').write_text(
        'deb http://third/party bookworm-pgdg main\ndeb http://third/cloud bookworm cloud\n'
    )

    assert build.host_apt_sources('bookworm', tmp_path) == [
        'deb [signed-by=/k.gpg] http://one/debian bookworm main',
        'deb [signed-by=/k.gpg] http://two/debian bookworm-updates main',
        'deb [signed-by=/k.gpg] http://two/debian bookworm-security main',
    ]


def test_host_of_another_release_leaves_the_mirror_to_mmdebstrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, 'host_apt_sources', lambda suite: [])

    command = build.mmdebstrap_command(get_recipe('python:3.11-slim'), tmp_path, tmp_path / 'root.tar', None)

    assert command[-2:] == ['bookworm', str(tmp_path / 'root.tar')]


def test_certificate_bundle_goes_in_before_the_tree_is_finished(tmp_path: Path) -> None:
    command = build.mmdebstrap_command(get_recipe('python:3.11-slim'), tmp_path, tmp_path / 'root.tar', ONE.encode())

    hooks = [each for each in command if each.startswith('--customize-hook')]
    assert 'host-ca.pem' in hooks[0]
    assert 'customize.sh' in hooks[-1]
    assert (tmp_path / 'host-ca.pem').read_text() == ONE


def test_recipes_may_share_a_script_which_is_given_their_packages_of_npm(tmp_path: Path) -> None:
    for name, packages in (('multi', ['tsx', 'typescript']), ('multi-full', ['tsx', 'typescript', 'jest', 'esbuild'])):
        command = build.mmdebstrap_command(get_recipe(name), tmp_path, tmp_path / 'root.tar', None)

        (hook,) = [each for each in command if each.startswith('--customize-hook')]
        assert shlex.split(hook.partition('=')[2]) == ['sh', str(tmp_path / 'customize.sh'), '$1', *packages]
        assert '"$@"' in (tmp_path / 'customize.sh').read_text('utf-8')


def test_bundle_that_the_host_was_asked_to_use_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / 'bundle.pem'
    bundle.write_text(ONE)
    monkeypatch.setenv('SSL_CERT_FILE', str(bundle))

    assert build.find_host_ca() == ONE.encode()


def test_host_that_knows_nothing_adds_nothing() -> None:
    assert build.find_host_ca() is None


def test_local_authorities_of_the_host_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'company.crt').write_text(ONE)
    monkeypatch.setattr(build, '_LOCAL_CAS', tmp_path)

    assert build.find_host_ca() == ONE.encode()


def test_file_without_a_certificate_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / 'empty.pem'
    path.write_text('nothing')

    with pytest.raises(InvalidArgumentError, match=r'empty\.pem'):
        build._read_bundle(path)
    with pytest.raises(InvalidArgumentError, match=r'missing\.pem'):
        build._read_bundle(tmp_path / 'missing.pem')


def test_settings_of_pip_that_mean_nothing_in_an_image_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv('PIP_INDEX_URL', 'http://mirror/simple')
    monkeypatch.setenv(
        'PIP_EXTRA_INDEX_URL', 'file:///opt/simple https://user:secret@private/simple http://more/simple'
    )
    monkeypatch.setenv('PIP_TRUSTED_HOST', 'mirror')

    settings = build._host_settings(lambda step: said.append(step.message))

    assert settings['PIP_INDEX_URL'] == 'http://mirror/simple'
    assert settings['PIP_EXTRA_INDEX_URL'] == 'http://more/simple'
    assert settings['PIP_TRUSTED_HOST'] == 'mirror'
    assert said
    assert 'secret' not in ' '.join(said)


def test_only_authorities_that_the_image_lacks_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(get_recipe('python:3.11-slim').folder).parent / 'add_host_ca.py'
    functions = runpy.run_path(str(program))
    bundle, source = tmp_path / 'etc' / 'bundle.crt', tmp_path / 'host.pem'
    bundle.parent.mkdir()
    bundle.write_text(ONE)
    source.write_text(ONE.replace('\n', '\r\n') + TWO)
    monkeypatch.setitem(functions['main'].__globals__, 'BUNDLE', str(bundle))
    monkeypatch.setenv('PATH', str(tmp_path))

    functions['main'](str(source))

    assert bundle.read_text() == ONE + TWO


def test_pull_progress_adds_the_layers_up() -> None:
    layers: dict[str, tuple[int, int]] = {}
    line = {'status': 'Downloading', 'id': 'a', 'progressDetail': {'current': 10, 'total': 100}}

    catalog._pull_progress(line, layers)
    step = catalog._pull_progress({**line, 'id': 'b'}, layers)
    done = catalog._pull_progress({'status': 'Pull complete', 'id': 'a'}, layers)

    assert (step.done_bytes, step.total_bytes) == (20, 200)
    assert (done.done_bytes, done.total_bytes) == (110, 200)
