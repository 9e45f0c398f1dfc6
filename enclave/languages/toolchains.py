"""Which languages work in a sandbox: each toolchain's version, and whether it runs a small program."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from enclave.errors import EnclaveError
from enclave.languages.running import Runner, run_program
from enclave.languages.table import Language, list_languages
from enclave.languages.values import CodeRequest
from enclave.parallel import Batch
from enclave.records import Model

VERSION_SECONDS = 60.0
HELLO_SECONDS = 120.0


@frozen(kw_only=True)
class Toolchain(Model):
    """What a sandbox has for a language.

    ``status`` is ``ok``, ``broken`` (the toolchain is there and does not run a small program; ``problem`` says why) or
    ``missing``. ``version`` is the first line that the toolchain says about itself.
    """

    language: str
    title: str
    status: str
    version: str | None = None
    problem: str | None = None
    packages: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()


def find_toolchains(
    runner: Runner, languages: Iterable[Language] | None = None, *, concurrency: int = 2
) -> list[Toolchain]:
    """Return what a sandbox has for each language, in the order of the table. Takes a second or two for each that it has."""
    chosen = list_languages() if languages is None else list(languages)
    with Batch(lambda language: _look(runner, language), chosen, concurrency=concurrency, is_ordered=True) as found:
        return [each.unwrap() for each in found]


def _look(runner: Runner, language: Language) -> Toolchain:
    version = _find_version(runner, language)
    facts = {'language': language.name, 'title': language.title, 'packages': language.packages, 'npm': language.npm}
    if version is None:
        return Toolchain(status='missing', **facts)  # type: ignore[arg-type]
    problem = _find_problem(runner, language)
    status = 'ok' if problem is None else 'broken'
    return Toolchain(status=status, version=version, problem=problem, **facts)  # type: ignore[arg-type]


def _find_version(runner: Runner, language: Language) -> str | None:
    try:
        result = runner.run_step(language.version or (language.program, '--version'), timeout=VERSION_SECONDS)
    except EnclaveError:
        return None
    lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    # Kotlin's begins with what the Java machine has to say about its options.
    lines = [line for line in lines if 'warning:' not in line.lower()] or lines
    return lines[0][:120] if result.success and lines else None


def _find_problem(runner: Runner, language: Language) -> str | None:
    """Return why a small program does not run, or None."""
    source = HELLOS.get(language.name)
    if source is None:
        return None
    request = CodeRequest(code=source, language=language.name, timeout=HELLO_SECONDS, compile_timeout=HELLO_SECONDS)
    try:
        result = run_program(runner, request, language)
    except EnclaveError as error:
        return error.message
    if result.success:
        return None
    step = result.last
    lines = [line.strip() for line in (step.stderr or step.stdout).splitlines() if line.strip()]
    return (lines[0] if lines else f'exit code {step.exit_code}')[:200]


HELLOS: dict[str, str] = {
    'python': 'print("hello")\n',
    'pytest': 'def test_hello():\n    assert 1 + 1 == 2\n',
    'nodejs': 'console.log("hello")\n',
    'typescript': 'const text: string = "hello";\nconsole.log(text);\n',
    'bash': 'echo hello\n',
    'c': '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n',
    'cpp': '#include <iostream>\nint main() { std::cout << "hello\\n"; }\n',
    'go': 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n',
    'go_test': 'package main\n\nimport "testing"\n\nfunc TestHello(t *testing.T) {}\n',
    'rust': 'fn main() { println!("hello"); }\n',
    'java': 'public class Hello { public static void main(String[] a) { System.out.println("hello"); } }\n',
    'ruby': 'puts "hello"\n',
    'php': '<?php echo "hello\\n";\n',
    'perl': 'print "hello\\n";\n',
    'lua': 'print("hello")\n',
    'R': 'cat("hello\\n")\n',
    'sql': "select 'hello';\n",
    'awk': 'BEGIN { print "hello" }\n',
    'julia': 'println("hello")\n',
    'swift': 'print("hello")\n',
    'lean': 'def main : IO Unit := IO.println "hello"\n',
    'cuda': '#include <cstdio>\nint main() { puts("hello"); }\n',
    'python_gpu': 'print("hello")\n',
    'python2': 'print "hello"\n',
    'csharp': 'class P { static void Main() { System.Console.WriteLine("hello"); } }\n',
    'scala': 'object Hello { def main(args: Array[String]): Unit = println("hello") }\n',
    'kotlin': 'fun main(args: Array<String>) { println("hello") }\n',
    'kotlin_script': 'println("hello")\n',
    'haskell': 'main :: IO ()\nmain = putStrLn "hello"\n',
    'D': 'import std.stdio;\nvoid main() { writeln("hello"); }\n',
    'D_ut': 'import std.stdio;\nunittest { writeln("hello"); assert(1 + 1 == 2); }\n',
    'racket': '#lang racket/base\n(displayln "hello")\n',
    'verilog': 'module tb;\n  initial begin\n    $display("hello");\n    $finish;\n  end\nendmodule\n',
    'jest': 'test("adds", () => { console.log("hello"); expect((1 as number) + 1).toBe(2); });\n',
    'fortran': 'program hello\n  print "(A)", "hello"\nend program\n',
    'pascal': "program hello;\nbegin\n  writeln('hello');\nend.\n",
    'ocaml': 'let () = print_endline "hello"\n',
    'tcl': 'puts hello\n',
    'scheme': '(display "hello") (newline)\n',
    'lisp': '(format t "hello~%")\n',
    'erlang': '#!/usr/bin/env escript\nmain(_) -> io:format("hello~n").\n',
    'elixir': 'IO.puts("hello")\n',
    'prolog': 'main :- write(hello), nl.\n',
    'nim': 'echo "hello"\n',
    'cobol': 'IDENTIFICATION DIVISION.\nPROGRAM-ID. HELLO.\nPROCEDURE DIVISION.\nDISPLAY "hello".\nSTOP RUN.\n',
    'ada': 'with Ada.Text_IO;\nprocedure Main is\nbegin\n   Ada.Text_IO.Put_Line ("hello");\nend Main;\n',
    'octave': 'disp("hello")\n',
    'clojure': '(println "hello")\n',
    'groovy': 'println "hello"\n',
    'gtest': '#include <gtest/gtest.h>\n#include <cstdio>\nTEST(A, b) { puts("hello"); EXPECT_EQ(1 + 1, 2); }\n',
    'junit': (
        'import org.junit.jupiter.api.*;\nclass MainTest { @Test void adds() { System.out.println("hello"); '
        'Assertions.assertEquals(2, 1 + 1); } }\n'
    ),
}
"""A program of each language that ends well, and mostly says hello."""
