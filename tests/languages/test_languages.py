"""Programs in every language of the image ``multi``, and in the others where this host has the toolchain."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from enclave.enums import Verdict
from enclave.errors import EnclaveError, UnsupportedError
from enclave.languages.runner import SandboxRunner
from enclave.languages.table import Language, get_language, list_languages
from enclave.languages.toolchains import HELLOS, find_toolchains
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.bubblewrap.rootfs import DEFAULT_PATH
from enclave.sandboxes.docker.engine import get_engine
from enclave.sandboxes.images.catalog import find_image
from enclave.sandboxes.sandbox_factory import SandboxFactory
from tests.languages.odd_programs import ODD
from tests.languages.programs import PROGRAMS

pytestmark = pytest.mark.languages
IMAGE = 'multi'
KINDS = [
    pytest.param('docker', marks=pytest.mark.docker),
    pytest.param('bubblewrap', marks=pytest.mark.bubblewrap),
]
MULTI = [language.name for language in list_languages() if language.image == 'multi']
OPTIONS = {'memory_limit': '2g', 'cpu_limit': 2.0, 'network_enabled': False, 'timeout': 120}


@pytest.fixture(scope='module', params=KINDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[AgentBackedSandbox]:
    options = dict(OPTIONS)
    if request.param == 'docker':
        try:
            found = find_image(get_engine(), IMAGE)
        except EnclaveError:
            found = None
        if found is None:
            pytest.skip(f'the image {IMAGE} is not there: ms-enclave images build {IMAGE}')
        options.update(image=IMAGE, pull='never')
    made = SandboxFactory.create_sandbox(request.param, options)
    assert isinstance(made, AgentBackedSandbox)
    with made:
        yield made


def run_or_skip(sandbox: AgentBackedSandbox, code: str, language: str, **options: object) -> object:
    """Return what becomes of a program; a host need not have every toolchain, the image does."""
    try:
        return sandbox.run_code(code, language, **options)  # type: ignore[arg-type]
    except UnsupportedError as error:
        if sandbox.sandbox_type == 'docker':
            raise
        pytest.skip(str(error))


def test_every_language_of_the_image_has_programs() -> None:
    assert set(MULTI) == {*PROGRAMS, 'pytest', 'go_test', 'sql'}


@pytest.mark.parametrize('language', sorted(PROGRAMS))
def test_a_program_reads_its_input_and_is_judged(sandbox: AgentBackedSandbox, language: str) -> None:
    result = run_or_skip(sandbox, PROGRAMS[language]['add'], language, stdin='19 23\n', expected_output='42')

    assert result.verdict is Verdict.ACCEPTED, result  # type: ignore[attr-defined]
    assert (result.compile is not None) is get_language(language).is_compiled  # type: ignore[attr-defined]


@pytest.mark.parametrize('language', sorted(PROGRAMS))
def test_what_is_no_program_is_reported(sandbox: AgentBackedSandbox, language: str) -> None:
    result = run_or_skip(sandbox, PROGRAMS[language]['broken'], language)

    expected = Verdict.COMPILE_ERROR if get_language(language).is_compiled else Verdict.RUNTIME_ERROR
    assert result.verdict is expected, result  # type: ignore[attr-defined]
    assert result.stderr + result.stdout  # type: ignore[attr-defined]


@pytest.mark.parametrize('language', sorted(PROGRAMS))
def test_a_program_that_fails_is_a_runtime_error(sandbox: AgentBackedSandbox, language: str) -> None:
    assert run_or_skip(sandbox, PROGRAMS[language]['crash'], language).verdict is Verdict.RUNTIME_ERROR  # type: ignore[attr-defined]


@pytest.mark.parametrize('language', sorted(PROGRAMS))
def test_a_program_that_never_ends_is_ended(sandbox: AgentBackedSandbox, language: str) -> None:
    result = run_or_skip(sandbox, PROGRAMS[language]['loop'], language, timeout=30, cpu_time_limit=2.0)

    assert result.verdict is Verdict.TIME_LIMIT, result  # type: ignore[attr-defined]


@pytest.mark.parametrize('language', sorted(PROGRAMS))
def test_a_program_finds_its_files(sandbox: AgentBackedSandbox, language: str) -> None:
    result = run_or_skip(
        sandbox,
        PROGRAMS[language]['file'],
        language,
        files={'data/in.txt': 'from the file'},
        expected_output='from the file',
        fetch_files=['data/in.txt'],
    )

    assert result.verdict is Verdict.ACCEPTED, result  # type: ignore[attr-defined]
    assert result.files == {'data/in.txt': b'from the file'}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ('language', 'right', 'wrong'),
    [
        ('pytest', 'def test_x():\n    assert 1 + 1 == 2\n', 'def test_x():\n    assert 1 + 1 == 3\n'),
        (
            'go_test',
            'package main\n\nimport "testing"\n\nfunc TestX(t *testing.T) {\n\tif 1+1 != 2 {\n\t\tt.Fatal()\n\t}\n}\n',
            'package main\n\nimport "testing"\n\nfunc TestX(t *testing.T) {\n\tif 1+1 != 3 {\n\t\tt.Fatal()\n\t}\n}\n',
        ),
        (
            'sql',
            'create table t (x); insert into t values (19), (23); select sum(x) from t;',
            'select nothing from nowhere;',
        ),
    ],
)
def test_suites_pass_and_fail(sandbox: AgentBackedSandbox, language: str, right: str, wrong: str) -> None:
    passed = run_or_skip(sandbox, right, language)

    assert passed.success, passed  # type: ignore[attr-defined]
    assert run_or_skip(sandbox, wrong, language).verdict is Verdict.RUNTIME_ERROR  # type: ignore[attr-defined]
    if language == 'sql':
        assert passed.stdout == '42\n'  # type: ignore[attr-defined]


@pytest.mark.bubblewrap
@pytest.mark.parametrize('language', sorted(set(HELLOS) - set(MULTI)))
def test_the_other_languages_run_where_this_host_has_them(language: str) -> None:
    with SandboxFactory.create_sandbox('bubblewrap', OPTIONS) as sandbox:
        result = run_or_skip(sandbox, HELLOS[language], language)  # type: ignore[arg-type]

        assert result.success, result  # type: ignore[attr-defined]
        assert language == 'python_gpu' or 'hello' in result.stdout + result.stderr  # type: ignore[attr-defined]


def works_here(language: Language) -> bool:
    """Return whether this host has a language's toolchain, by itself and where every sandbox sees it."""
    command = language.version or (language.program, '--version')
    try:
        done = subprocess.run(command, env={'PATH': DEFAULT_PATH, 'HOME': '/tmp'}, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.bubblewrap
def test_every_toolchain_of_this_host_works_on_bubblewrap() -> None:
    chosen = [language for language in list_languages() if works_here(language)]
    assert {'python', 'bash'} <= {language.name for language in chosen}

    with SandboxFactory.create_sandbox('bubblewrap', {**OPTIONS, 'memory_limit': '2g'}) as sandbox:
        found = find_toolchains(SandboxRunner(sandbox), chosen)

    assert [each for each in found if each.status != 'ok'] == []


def test_odd_programs_get_the_verdicts_that_they_deserve(sandbox: AgentBackedSandbox) -> None:
    requests = [{'code': code, 'language': language, 'timeout': 100, **options} for language, code, options, _ in ODD]
    wrong = []
    for outcome in sandbox.run_many(requests, concurrency=2):
        language, code, _, expected = ODD[outcome.index]
        if isinstance(outcome.error, UnsupportedError) and sandbox.sandbox_type != 'docker':
            continue  # a host need not have every toolchain
        result = outcome.unwrap()
        found = str(result.verdict) if result.verdict else result.stdout.strip()
        if found != expected:
            wrong.append((language, code, expected, found, result.stderr[:300]))

    assert wrong == []
