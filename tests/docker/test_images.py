from __future__ import annotations

import io
import json
import os
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.errors import EngineError, ImageNotFoundError, InvalidArgumentError, NotFoundError, UnsupportedError
from enclave.sandboxes.docker.engine import Engine
from enclave.sandboxes.images.build import build_image, import_image
from enclave.sandboxes.images.catalog import (
    LABEL_BUILT_BY,
    ImageRecipe,
    Progress,
    ensure_image,
    find_image,
    get_recipe,
    list_images,
    load_recipe,
)
from tests.support.relay import make_certificates

pytestmark = pytest.mark.docker

BASE = 'python:3.11-slim'


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    """The name of an image that is removed at the end."""
    made = f'enclave-test-{uuid.uuid4().hex[:10]}:1'
    yield made
    found = find_image(engine, made)
    if found is not None:
        engine.api.remove_image(found.id, force=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tar of a root file system with one file."""
    path = tmp_path / 'tree.tar'
    with tarfile.open(path, 'w') as archive:
        member = tarfile.TarInfo('hello.txt')
        member.size = 5
        archive.addfile(member, io.BytesIO(b'hello'))
    return path


def make_recipe(folder: Path, **fields: object) -> ImageRecipe:
    folder.mkdir(parents=True)
    values = {'name': folder.name, 'image': folder.name, 'version': '1', 'description': 'for a test', **fields}
    (folder / 'recipe.json').write_text(json.dumps(values))
    return load_recipe(folder)


def install_fake_mmdebstrap(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program named mmdebstrap first on the PATH; it finds the tar's path in $tree."""
    folder.mkdir(exist_ok=True)
    program = folder / 'mmdebstrap'
    program.write_text(f'#!/bin/sh\nfor each; do case "$each" in */root.tar) tree=$each;; esac; done\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')


def test_imported_tree_is_found_and_listed_as_local(engine: Engine, name: str, tree: Path) -> None:
    import_image(engine, tree, name, changes=['CMD ["/hello.txt"]', 'LABEL colour=blue'])

    found = find_image(engine, name)
    listed = [each for each in list_images(engine) if name in each.names]

    assert found is not None
    assert found.origin == 'local'
    assert found.labels == {'colour': 'blue'}
    assert [each.id for each in listed] == [found.id]
    assert listed[0].labels == {'colour': 'blue'}


def test_image_that_is_there_is_not_pulled(engine: Engine, name: str, tree: Path) -> None:
    import_image(engine, tree, name)

    assert name in ensure_image(engine, name).names
    assert name in ensure_image(engine, name, pull='never').names


def test_missing_image_that_may_not_be_pulled_is_named(engine: Engine, name: str) -> None:
    with pytest.raises(ImageNotFoundError, match=f"'{name}' is not on the engine.*pull='never'"):
        ensure_image(engine, name, pull='never')


def test_missing_image_is_an_error_with_the_words_of_the_engine(engine: Engine) -> None:
    with pytest.raises(ImageNotFoundError, match=r"'localhost:1/nosuch:1'.*could not be pulled") as caught:
        ensure_image(engine, 'localhost:1/nosuch:1')

    assert caught.value.details['reason']


def test_image_for_another_platform_counts_as_missing(engine: Engine, name: str, tree: Path) -> None:
    import_image(engine, tree, name)

    with pytest.raises(ImageNotFoundError, match='linux/s390x'):
        ensure_image(engine, name, platform='linux/s390x', pull='never')


def test_name_that_no_image_can_have_is_not_found(engine: Engine) -> None:
    assert find_image(engine, 'Not A//Name') is None


def test_unknown_pull_policy_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgumentError, match='sometimes'):
        ensure_image(engine, BASE, pull='sometimes')  # type: ignore[arg-type]


def test_unknown_recipe_lists_those_there_are(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match=r'nosuch.*python:3\.11-slim'):
        build_image(engine, 'nosuch')


def test_mmdebstrap_recipe_makes_a_labelled_image(
    engine: Engine, name: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_mmdebstrap(tmp_path / 'bin', f'echo "I: working" >&2; cp {tree} "$tree"', monkeypatch)
    recipe = make_recipe(
        tmp_path / 'tiny', method='mmdebstrap', suite='bookworm', packages=['bash'], changes=['ENV COLOUR=blue']
    )
    steps: list[Progress] = []

    built = build_image(engine, recipe, tag=name, progress=steps.append, ca_bundle=None)

    assert built.origin == 'built here'
    assert built.recipe == 'tiny'
    assert built.labels[LABEL_BUILT_BY].startswith('ms-enclave')
    assert 'working' in [each.message for each in steps]
    assert 'COLOUR=blue' in engine.api.inspect_image(name)['Config']['Env']


def test_build_that_replaces_one_of_ours_leaves_no_nameless_image(
    engine: Engine, name: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_mmdebstrap(tmp_path / 'bin', f'cp {tree} "$tree"', monkeypatch)
    recipe = make_recipe(tmp_path / 'tiny', method='mmdebstrap', suite='bookworm')
    first = build_image(engine, recipe, tag=name, ca_bundle=None)
    changed = make_recipe(tmp_path / 'other', method='mmdebstrap', suite='bookworm', changes=['ENV COLOUR=red'])

    second = build_image(engine, changed, tag=name, ca_bundle=None)

    assert second.id != first.id
    assert find_image(engine, first.id) is None


def test_failed_build_shows_the_last_lines_and_leaves_no_image(
    engine: Engine, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_mmdebstrap(tmp_path / 'bin', 'echo "E: no such package: bsh" >&2; exit 25', monkeypatch)
    recipe = make_recipe(tmp_path / 'tiny', method='mmdebstrap', suite='bookworm')

    with pytest.raises(EngineError, match=r'exit code 25(.|\n)*no such package: bsh'):
        build_image(engine, recipe, tag=name, ca_bundle=None)

    assert find_image(engine, name) is None


def test_build_without_mmdebstrap_names_the_command_that_installs_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))

    with pytest.raises(UnsupportedError, match='apt-get install mmdebstrap'):
        build_image(engine, get_recipe('python:3.11-slim'), tag='enclave-test-never:1', ca_bundle=None)


def test_dockerfile_recipe_stands_on_its_base_and_trusts_the_given_authority(
    engine: Engine, name: str, tmp_path: Path
) -> None:
    make_certificates(tmp_path / 'certificates')
    recipes = tmp_path / 'recipes'
    recipe = make_recipe(recipes / 'small', method='dockerfile', base=BASE)
    (recipes / 'small' / 'Dockerfile').write_text('ARG BASE\nFROM ${BASE}\n# @HOST_CA@\nRUN echo made > /made.txt\n')
    helper = Path(get_recipe(BASE).folder).parent / 'add_host_ca.py'
    (recipes / 'add_host_ca.py').write_bytes(helper.read_bytes())
    authority = tmp_path / 'certificates' / 'ca.pem'

    built = build_image(engine, recipe, tag=name, ca_bundle=authority)
    environment = engine.api.inspect_image(name)['Config']['Env']
    shown = run(engine, name, 'cat', '/made.txt', '/etc/ssl/certs/ca-certificates.crt')

    assert built.origin == 'built here'
    assert 'PIP_CERT=/etc/ssl/certs/ca-certificates.crt' in environment
    assert shown.startswith('made\n')
    assert ''.join(authority.read_text().split()) in ''.join(shown.split())


def test_failed_step_of_a_dockerfile_shows_its_output_and_leaves_no_layer(
    engine: Engine, name: str, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path / 'recipes' / 'small', method='dockerfile', base=BASE)
    mark = uuid.uuid4().hex
    steps = f'ARG BASE\nFROM ${{BASE}}\nLABEL mark={mark}\nRUN true\nRUN echo trouble; exit 3\n'
    (tmp_path / 'recipes' / 'small' / 'Dockerfile').write_text(steps)

    with pytest.raises(EngineError, match=r'trouble(.|\n)*3'):
        build_image(engine, recipe, tag=name, ca_bundle=None)

    assert engine.api.images(all=True, filters={'label': f'mark={mark}'}) == []
    assert find_image(engine, BASE) is not None


def test_default_image_runs_python_under_both_names(engine: Engine) -> None:
    shown = run(engine, BASE, 'sh', '-c', 'python --version; python3 -m pip --version; bash -c "echo $BASH_VERSION"')

    assert shown.startswith('Python 3.11')
    assert 'pip ' in shown


def run(engine: Engine, image: str, *command: str) -> str:
    host_config = engine.api.create_host_config(network_mode='none')
    container = engine.api.create_container(image, list(command), host_config=host_config)['Id']
    try:
        engine.api.start(container)
        engine.api.wait(container)
        return engine.api.logs(container).decode()
    finally:
        engine.api.remove_container(container, force=True)
