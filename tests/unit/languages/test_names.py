"""What a source of Java or Scala is called, and which of its types is run."""

from __future__ import annotations

import time

import pytest

from enclave.languages.names import SYNTAXES, find_names, without_templates
from enclave.languages.table import get_language

MAIN = 'public static void main(String[] args) { }'


@pytest.mark.parametrize(
    ('source', 'file', 'main'),
    [
        (f'public class Hello {{ {MAIN} }}', 'Hello', 'Hello'),
        (f'class Hello {{ {MAIN} }}', 'Hello', 'Hello'),
        (f'public interface Shape {{ }}\nclass Main {{ {MAIN} }}', 'Shape', 'Main'),
        (f'public enum Colour {{ RED {{ void f() {{}} }}, GREEN; }}\nclass App {{ {MAIN} }}', 'Colour', 'App'),
        (f'public record Point(int x, int y) {{ }}\nclass App {{ {MAIN} }}', 'Point', 'App'),
        (f'public @interface Marked {{ }}\nclass App {{ {MAIN} }}', 'Marked', 'App'),
        (
            f'public sealed interface S permits A {{ }}\nrecord A() implements S {{ }}\nclass App {{ {MAIN} }}',
            'S',
            'App',
        ),
        (f'public class Library {{ }}\nclass App {{ {MAIN} }}', 'Library', 'App'),
        ('public enum E { A; public static void main(String... a) { } }', 'E', 'E'),
        ('interface I { static void main(String[] a) { } }', 'I', 'I'),
        ('record R(int x) { static public void main(final String[] a) { } }', 'R', 'R'),
        (f'// public class Wrong {{\n/* public class Wrong2 {{ */ public class Right {{ {MAIN} }}', 'Right', 'Right'),
        (f'class A {{ String s = "public class B {{ {MAIN}"; char c = \'"\'; {MAIN} }}', 'A', 'A'),
        (f'class A {{ String s = """\n  public class B {{ {MAIN}\n  """; {MAIN} }}', 'A', 'A'),
        (f'class Util {{ String s = """\n  a\\\\"""; }}\npublic class Main {{ {MAIN} }}', 'Main', 'Main'),
        (f'class A {{ String s = """\n  \\"""\n  class B {{ """; {MAIN} }}', 'A', 'A'),
        (f'class Helper {{ public class Inner {{ }} }}\nclass Main {{ {MAIN} }}', 'Main', 'Main'),
        (f'class Solution {{ static class Inner {{ }} {MAIN} }}', 'Solution', 'Solution'),
        (f'class A {{ static class B {{ {MAIN} }} }}\nclass C {{ {MAIN} }}', 'C', 'C'),
        (f'class First {{ {MAIN} }}\nclass Main {{ {MAIN} }}', 'Main', 'Main'),
        (f'class First {{ {MAIN} }}\npublic class Second {{ {MAIN} }}', 'Second', 'Second'),
        (f'package a . b;\nimport java.util.*;\npublic final class X {{ {MAIN} }}', 'X', 'a.b.X'),
        (f'/* package no; */ package a;\nclass X {{ {MAIN} }}', 'X', 'a.X'),
        (f'@SuppressWarnings({{"a", "b"}})\npublic class X {{ {MAIN} }}', 'X', 'X'),
        ('public class X { public static synchronized void main(String[] a) throws Exception { } }', 'X', 'X'),
        ('public class X { void main() { } }\nclass Y { static int main(int x) { return 1; } }', 'X', 'X'),
        (f'\ufeffpublic class X\r\n{{\r\n\t{MAIN}\r\n}}', 'X', 'X'),
        (f'public class Größe {{ {MAIN} }}', 'Größe', 'Größe'),
        (f'public class $A_1 {{ {MAIN} }}', '$A_1', '$A_1'),
        (f'public class X<T extends Comparable<T>> {{ {MAIN} }}', 'X', 'X'),
        (f'class X {{ Class<?> k = Y.class; int[] a = {{1, 2}}; {MAIN} }} class Y {{ }}', 'X', 'X'),
        (f'class X {{ Runnable r = () -> {{ }}; {MAIN} }}', 'X', 'X'),
        ('void main() { }', None, None),
        ('', None, None),
        ('class {{{ ((( """ \' /*', None, None),
    ],
)
def test_java(source: str, file: str | None, main: str | None) -> None:
    found = find_names(source, 'java')

    assert (found.file, found.main) == (file, main)


@pytest.mark.parametrize(
    ('source', 'main'),
    [
        ('object Hello { def main(args: Array[String]): Unit = println("x") }', 'Hello'),
        ('object Helper { def f = 1 }\nobject Main extends App { println(Helper.f) }', 'Main'),
        ('class Main\nobject Main { def main(a: Array[String]) { } }', 'Main'),
        ('case object Red\nobject Run extends Base with App { }', 'Run'),
        ('object A { object B { def main(a: Array[String]) = 1 } }\nobject C { def main(a: Array[String]) = 1 }', 'C'),
        ('// object Wrong extends App\nobject Right extends App { println("object Wrong") }', 'Right'),
        ('package a.b\nobject X extends App { }', 'a.b.X'),
        ('object A { val p = """C:\\dir\\""" }\nobject B { def main(a: Array[String]) = 1 }', 'B'),
        ('package a\n\nimport b._\nobject X { def main(a: Array[String]) = 1 }', 'a.X'),
        ('object OnlyOne { }', 'OnlyOne'),
        ('println("x")', None),
    ],
)
def test_scala(source: str, main: str | None) -> None:
    assert find_names(source, 'scala').main == main


@pytest.mark.parametrize(
    ('source', 'main'),
    [
        ('fun main() { println("x") }', 'MainKt'),
        ('package a.b\nimport c.d\nfun helper() = 1\nfun main(args: Array<String>) = println(1)', 'a.b.MainKt'),
        ('@file:JvmName("Own")\nfun main() { }', 'Own'),
        ('class A { fun main() { } }\nfun main() { }', 'MainKt'),
        ('object Run { @JvmStatic fun main(args: Array<String>) { } }', 'Run'),
        ('data class P(val x: Int)\nclass A { companion object { @JvmStatic fun main(a: Array<String>) { } } }', 'A'),
        ('suspend fun main() { }', 'MainKt'),
        ('val p = """C:\\dir\\"""\nfun main() { println(p) }', 'MainKt'),
        ('// fun main() {}\nval s = "fun main() {}"', None),
        ('class A { fun main() { } }', None),
    ],
)
def test_kotlin(source: str, main: str | None) -> None:
    assert find_names(source, 'kotlin').main == main


@pytest.mark.parametrize(
    'source',
    [
        '{' * 500_000 + 'a ' * 250_000,
        'class A{' + 'void main ' * 100_000,
        '"""' + '\\"' * 500_000,
        '[{' * 500_000,
        '=/a(' * 250_000,
    ],
    ids=['brackets', 'words', 'text', 'both', 'slashes'],
)
def test_a_long_source_takes_no_more_time_for_each_of_its_characters(source: str) -> None:
    began = time.process_time()
    for syntax in SYNTAXES:
        find_names(source, syntax)
    without_templates(source)

    assert time.process_time() - began < 30  # it is one second; it was minutes


@pytest.mark.parametrize(
    ('language', 'source', 'file'),
    [
        ('nodejs', 'const fs = require("fs");\nimport("x");', 'main.js'),
        ('nodejs', 'import fs from "fs";\nconsole.log(1)', 'main.mjs'),
        ('nodejs', 'import { a } from "fs";', 'main.mjs'),
        ('nodejs', 'import "fs";', 'main.mjs'),
        ('nodejs', 'const x = await f();', 'main.mjs'),
        ('nodejs', 'export default 1', 'main.mjs'),
        ('nodejs', 'async function f() {\n  const x = await g();\n}\nf()', 'main.js'),
        ('nodejs', 'import fs from "fs";\nconst x = require("y")', 'main.js'),
        ('nodejs', 'console.log("import x from y")', 'main.js'),
        ('nodejs', 'importScripts("x")', 'main.js'),
        ('nodejs', 'const t = `\nimport things here\n`; x = 5', 'main.js'),
        ('nodejs', '/*\nimport things here\n*/ x = 5', 'main.js'),
        ('nodejs', 'const t = "`";\nimport fs from "fs";\nconst u = "`";', 'main.mjs'),
        ('nodejs', "// it's `one\nimport fs from 'fs';\n// `another", 'main.mjs'),
        ('nodejs', 'const t = s.replace(/`/g, "");\nconst x = await f();\nt.split(/`/);', 'main.mjs'),
        ('nodejs', 'const t = `\\`\nimport a\n`;\nimport fs from "fs";', 'main.mjs'),
        ('nodejs', 'import fs from "fs";\nconst t = `require("x")`;', 'main.mjs'),
        ('nodejs', 'const x = 4 / 2;\nimport "fs";\nconst t = `not closed', 'main.mjs'),
        ('typescript', 'const t = `\nawait nothing\n`;', 'main.ts'),
        ('typescript', 'import * as fs from "fs";', 'main.ts'),
        ('typescript', 'import * as fs from "fs";\nconst x: number = await f();', 'main.mts'),
        ('haskell', 'module Foo where\nmain = print 1', 'main.hs'),
    ],
)
def test_a_source_chooses_its_file(language: str, source: str, file: str) -> None:
    plan = get_language(language).plan(source, '/d')

    assert plan is not None
    assert plan.file == file


def test_a_module_of_haskell_that_is_not_called_main_is_run() -> None:
    entry = get_language('haskell')
    named, unnamed = (entry.plan(text, '/d') for text in ('module Foo.Bar where\nmain = print 1', 'main = print 1'))

    assert named is not None
    assert unnamed is not None
    assert 'Foo.Bar' in named.compile[0]
    assert 'Main' in unnamed.compile[0]
