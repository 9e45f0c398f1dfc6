"""``multi_code_executor`` (layer: tools): run a program in one of many languages.

It calls the programs that the image has, those of SandboxFusion's image and of Debian alike. The languages are those of
`enclave.languages.table`; where the two kinds of image differ in their commands, `_ENTRIES` looks for what is there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import frozen

from enclave.enums import ExecutionStatus, SandboxType
from enclave.errors import InvalidArgumentError, NotRegisteredError, UnsupportedError
from enclave.languages.runner import SandboxRunner
from enclave.languages.running import run_program
from enclave.languages.table import Language, find_language
from enclave.languages.values import CodeRequest, CodeResult, StepResult
from enclave.records import CommandResult, ToolResult
from enclave.tools.base import COMMAND_METADATA, Tool, command_result, memory_limit_of
from enclave.tools.schema import argument
from enclave.tools.workspace import Workspace

_PYTHON_BIN = '/root/miniconda3/envs/sandbox-runtime/bin'
_JAVA_RUNTIME = '/root/sandbox/runtime/java'
_JAVA_JARS = f'{_JAVA_RUNTIME}/*.jar /usr/share/java/junit-*.jar /usr/share/java/javatuples.jar'
_JAVA_CP = f'$(ls -d {_JAVA_JARS} 2>/dev/null | tr "\\n" ":").'


def _shell(line: str, *args: str) -> tuple[str, ...]:
    """Return a shell's line as a command; further arguments are its ``"$@"``."""
    return ('sh', '-c', line, 'sh', *args)


_PYTHON = f'PATH="{_PYTHON_BIN}:$PATH"; p=$(command -v python || command -v python3) || exit 127; exec "$p" "$@"'
_ENTRIES: Mapping[str, Mapping[str, Any]] = {
    'python': {'run': _shell(_PYTHON, '{file}'), 'version': _shell(_PYTHON, '--version')},
    'pytest': {
        'run': _shell(
            f'PATH="{_PYTHON_BIN}:$PATH"; command -v pytest >/dev/null && exec pytest "$@"; exec python3 -m pytest "$@"',
            '{file}',
        ),
        'version': _shell(_PYTHON, '-m', 'pytest', '--version'),
    },
    'csharp': {
        'compile': _shell(
            'if command -v dotnet >/dev/null; then '
            'mkdir .source && mv -- * .source/ && dotnet new console -o . --force >/dev/null && '
            'cp -R .source/. . && rm -rf .source && exec dotnet build --nologo -v quiet; '
            'else exec mcs -out:main.exe Program.cs; fi'
        ),
        'run': _shell(
            'if command -v dotnet >/dev/null; then exec dotnet run --no-build -- "$@"; else exec mono main.exe "$@"; fi'
        ),
        'version': _shell('command -v dotnet || exec mono --version'),
    },
    'java': {
        'compile': _shell(f'exec javac -encoding UTF-8 -d . -cp "{_JAVA_CP}" "$@"', '{file}'),
        'run': _shell(f'exec java -ea -cp "{_JAVA_CP}" "$@"', '{class}'),
    },
    'junit': {
        'compile': _shell(f'exec javac -encoding UTF-8 -cp "{_JAVA_CP}" *.java'),
        'run': _shell(f'exec java -ea -cp "{_JAVA_CP}" "$@"', '{name}'),
    },
    'jest': {
        'compile': _shell(
            '[ -f package.json ] && exit 0; exec esbuild "$@" --bundle --platform=node --format=cjs '
            '--external:@jest/globals --log-level=warning --outfile=out/main.test.js',
            '{file}',
        ),
        'run': _shell(
            'if [ -f package.json ]; then exec npm run test -- "$@"; '
            'else exec jest --config "{\\"rootDir\\": \\"$PWD/out\\", \\"transform\\": {}}" '
            '--cacheDirectory "$PWD/.cache" "$@"; fi'
        ),
    },
    'D_ut': {
        'compile': _shell(
            'if command -v dmd >/dev/null; then exec dmd -unittest -main -of=main "$@"; '
            'else exec ldmd2 -unittest -main -of=main "$@"; fi',
            '{file}',
        ),
        'version': _shell('command -v dmd || exec ldc2 --version'),
    },
    'kotlin_script': {
        'run': _shell(
            'command -v kotlinc >/dev/null && exec kotlinc -script "$@"; exec kotlin "$@"',
            '{file}',
        ),
        'version': _shell('command -v kotlinc || command -v kotlin || exit 127'),
    },
    'lean': {
        'run': _shell(
            'if [ -f lakefile.lean ] || [ -f lakefile.toml ]; then exec lake build; else exec lean --run "$@"; fi',
            '{file}',
        ),
    },
    'lua': {
        'run': _shell('command -v lua >/dev/null && exec lua "$@"; exec lua5.4 "$@"', '{file}'),
        'version': _shell('command -v lua || exec lua5.4 -v'),
    },
}
_LANGUAGE_NAMES = {
    'js': 'nodejs',
    'ts': 'typescript',
    'r': 'R',
    'd_ut': 'D_ut',
}


class MultiCodeExecutor(Tool):
    """Run a program in one of many languages, compiled first where its language is compiled."""

    name = 'multi_code_executor'
    description = (
        'Run a program in one of many programming languages, compiling it first where that is needed, and return what it '
        'prints. Every call has a directory of its own, which is gone afterwards.'
    )
    needs = frozenset({'commands', 'files'})
    metadata = COMMAND_METADATA
    _sandbox_type = SandboxType.DOCKER

    LANG_MAIN_FILES: ClassVar[dict[str, str]] = {
        'python': 'main.py',
        'pytest': 'test_main.py',
        'cpp': 'main.cpp',
        'csharp': 'Program.cs',
        'go': 'main.go',
        'go_test': 'main_test.go',
        'java': 'Main.java',
        'junit': 'Main.java',
        'nodejs': 'main.js',
        'js': 'main.js',
        'ts': 'main.ts',
        'typescript': 'main.ts',
        'jest': 'main.test.ts',
        'rust': 'main.rs',
        'swift': 'main.swift',
        'php': 'main.php',
        'bash': 'main.sh',
        'lua': 'main.lua',
        'perl': 'main.pl',
        'ruby': 'main.rb',
        'r': 'main.R',
        'julia': 'main.jl',
        'racket': 'main.rkt',
        'd_ut': 'main.d',
        'scala': 'Main.scala',
        'kotlin_script': 'main.kts',
        'verilog': 'main.sv',
        'lean': 'Main.lean',
    }
    """``{language: name of its main file}``; other languages of the table have what their entries say."""
    time_limits: ClassVar[Mapping[str, float | None]] = {'compile_timeout': None, 'run_timeout': 30.0}
    LANGS_REQUIRE_PY_ENV: ClassVar[set[str]] = {'python', 'pytest'}
    JAVA_RUNTIME_CP: ClassVar[str] = f'{_JAVA_RUNTIME}/*:.'

    @frozen(kw_only=True)
    class Arguments:
        """The arguments of a call."""

        language: str = argument(description='The programming language, like "cpp", "java" or "rust".')
        code: str = argument(description="The program's source code.")
        files: Mapping[str, str] | None = argument(
            default=None, description='Further files beside the program: names to contents.'
        )
        compile_timeout: float | None = argument(
            default=None, minimum=0, description='Seconds that compiling may take. Default is no limit.'
        )
        run_timeout: float | None = argument(
            default=30, minimum=0, description='Seconds that running may take; 0 for no limit.'
        )

    def run(self, workspace: Workspace, arguments: Arguments) -> ToolResult:
        """Compile and run the program."""
        if not arguments.language.strip() or not arguments.code.strip():
            return self.failure('Invalid input', error_code=InvalidArgumentError.code)
        language = self._find_language(arguments.language)
        if language is None:
            return self.failure(f'Unsupported language: {arguments.language}', error_code=NotRegisteredError.code)
        main = language.file.replace('{name}', language.find_name(arguments.code) or '')
        files = {posixpath.basename(path): text for path, text in (arguments.files or {}).items()}
        request = CodeRequest(
            code=arguments.code,
            language=language.name,
            files={name: text for name, text in files.items() if name not in ('', '.', '..', main)},
            compile_timeout=arguments.compile_timeout or 0,
            timeout=30 if arguments.run_timeout is None else arguments.run_timeout,
        )
        try:
            # Its callers count real time: a program's limit is not longer where the machine is busy.
            result = run_program(SandboxRunner(workspace), request, language, patience=0.0)
        except UnsupportedError as error:  # the image lacks the language's programs
            return self.failure(error.message, error_code=error.code)
        return self._reported_result(result, request, workspace)

    @classmethod
    def _find_language(cls, name: str) -> Language | None:
        found = find_language(_LANGUAGE_NAMES.get(name.strip().casefold(), name))
        if found is None:
            return None
        return attrs.evolve(found, **_ENTRIES.get(found.name, {}))

    def _reported_result(self, result: CodeResult, request: CodeRequest, workspace: Workspace) -> ToolResult:
        built, ran = result.compile, result.run
        if ran is None:
            assert built is not None
            if result.language == 'scala' and not built.execution_time and not built.timed_out:
                return self.failure('Object name not found.')
            reported = self._report_step(built, request.compile_timeout, workspace)
            error = reported.error if built.timed_out or built.oom_killed else built.stderr.strip() and built.stderr
            return attrs.evolve(reported, error=error or 'Compilation failed')
        reported = self._report_step(ran, request.timeout, workspace)
        outputs = [text for text in (built.stdout if built is not None else '', ran.stdout) if text]
        return attrs.evolve(reported, output='\n'.join(outputs), execution_time=result.execution_time)

    def _report_step(self, step: StepResult, timeout: float | None, workspace: Workspace) -> ToolResult:
        plain: CommandResult = step
        if step.status is ExecutionStatus.SUCCESS and step.exceeded is not None:
            plain = attrs.evolve(step, status=ExecutionStatus.ERROR)
        return command_result(self.name, plain, timeout=timeout, memory_limit=memory_limit_of(workspace))
