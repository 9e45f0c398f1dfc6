"""The table of languages."""

from __future__ import annotations

import pytest

from enclave.errors import ConflictError, InvalidArgumentError, NotRegisteredError
from enclave.languages import table
from enclave.languages.table import Language, find_language, get_language, list_languages, register_language

SANDBOX_FUSION = (
    *('python', 'cpp', 'nodejs', 'go', 'go_test', 'java', 'php', 'csharp', 'bash', 'typescript', 'sql', 'rust', 'cuda'),
    *('lua', 'R', 'perl', 'D_ut', 'ruby', 'scala', 'julia', 'pytest', 'junit', 'kotlin_script', 'jest', 'verilog'),
    *('python_gpu', 'lean', 'swift', 'racket'),
)


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test registers is gone after it."""
    monkeypatch.setattr(table, '_languages', dict(table._languages))
    monkeypatch.setattr(table, '_names', dict(table._names))


@pytest.mark.parametrize('name', SANDBOX_FUSION)
def test_there_is_every_language_of_sandbox_fusion(name: str) -> None:
    assert get_language(name).name == name


@pytest.mark.parametrize('name', ['JavaScript', 'js', 'C++', 'PY', ' python3 ', 'golang', 'r', 'TS', 'c#'])
def test_a_language_is_found_by_other_names_in_any_letter_case(name: str) -> None:
    assert find_language(name) is not None


def test_no_name_means_two_languages() -> None:
    names = [each.casefold() for language in list_languages() for each in (language.name, *language.aliases)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize('language', list_languages(), ids=lambda each: each.name)
def test_every_entry_is_whole(language: Language) -> None:
    assert language.title
    assert language.version
    assert language.image in ('multi', 'multi-full', '')
    assert bool(language.image) == bool(language.packages)
    plan = language.plan('object Main\nclass Main { static void main() {} }\nfun main() {}', '/tmp/x')
    assert plan is not None
    assert not any('{file}' in word or '{name}' in word for word in (*plan.run, *sum(plan.compile, ())))


def test_an_unknown_language_is_named_with_the_nearest_there_is() -> None:
    with pytest.raises(NotRegisteredError, match=r"no language 'pythn'; did you mean 'python'\?"):
        get_language('pythn')


def test_a_language_of_ones_own() -> None:
    register_language(Language(name='Mine', title='Mine', aliases=('my own',), file='x.mine', run=('cat', '{file}')))

    assert get_language('MY OWN').plan('text', '/d').run == ('cat', 'x.mine')  # type: ignore[union-attr]


def test_a_taken_name_stays_unless_it_is_to_be_replaced() -> None:
    other = Language(name='other', title='Other', aliases=('python3',), file='x', run=('x',))
    with pytest.raises(ConflictError, match='python3'):
        register_language(other)

    register_language(other, replace=True)

    assert get_language('python3').name == 'other'


@pytest.mark.parametrize(
    'changes',
    [{'run': ()}, {'file': '../x'}, {'file': '/x'}, {'name_patterns': ('(',)}, {'name': ''}, {'compile': ((),)}],
)
def test_an_impossible_entry_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        Language(**{'name': 'x', 'title': 'X', 'file': 'x', 'run': ('x',), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('source', 'file', 'name'),
    [
        ('public class Solution { public static void main(String[] a) {} }', 'Solution.java', 'Solution'),
        ('class A {}\nclass B { static public void x() {} public static void main(String[] a) {} }', 'B.java', 'B'),
        ('interface I {}\npublic final class Deep { }', 'Deep.java', 'Deep'),
        ('record P(int x) {}', 'P.java', 'P'),
        ('package foo; public class Bar { }', 'Bar.java', 'foo.Bar'),
        (
            '// package no;\n/* package neither; */\npackage a .b.c ;\nclass X { static void main() {} }',
            'X.java',
            'a.b.c.X',
        ),
        ('import x.y;\npublic class Bar { String s = "package z;"; }', 'Bar.java', 'Bar'),
        ('packages x; public class Bar { }', 'Bar.java', 'Bar'),
    ],
)
def test_a_java_program_goes_by_the_name_of_its_class(source: str, file: str, name: str) -> None:
    plan = get_language('java').plan(source, '/d')

    assert plan is not None
    assert (plan.file, plan.run[-1]) == (file, name)


@pytest.mark.parametrize(
    'source',
    ['\n' * 300_000, '/**/' * 100_000, '// x\n' * 100_000, '/*' * 200_000, 'class A ' * 50_000, 'public ' * 50_000],
)
def test_no_source_makes_its_patterns_slow(source: str) -> None:
    """A pattern that looks at everything from every place takes minutes for these, and holds up the whole process."""
    for language in list_languages():
        language.plan(source, '/d')


def test_flags_come_with_what_a_source_includes() -> None:
    plan = get_language('cpp').plan('#include <openssl/md5.h>\n', '/d')

    assert plan is not None
    assert plan.compile[0][-2:] == ('-lssl', '-lcrypto')
