"""The languages there are: one declarative entry each.

To add one of your own::

    from enclave.languages.table import Language, register_language

    register_language(Language(name='awk', title='AWK', file='main.awk', run=('awk', '-f', '{file}')))

In commands ``{file}`` is the main file's name, ``{name}`` what ``name_patterns`` or ``syntax`` found in the source, ``{class}``
what is to be run, with its package, and ``{dir}`` the program's own directory, in which every command starts.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterable
from typing import Any

import attrs
from attrs import field, frozen

from enclave.config import as_dict, as_tuple
from enclave.errors import ConflictError, InvalidArgumentError, NotRegisteredError
from enclave.languages.names import SYNTAXES, find_names, without_templates
from enclave.languages.values import check_relative
from enclave.records import Model
from enclave.suggest import suggest

Command = tuple[str, ...]


def _commands(value: Any) -> Any:
    """Return one command or several as several."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        listed = tuple(value)
        if listed and all(isinstance(each, str) for each in listed):
            return (listed,)
        return tuple(as_tuple(each) for each in listed)
    return value


@frozen(kw_only=True)
class Language(Model):
    """What a language needs.

    Attributes:
        name: What it is called by.
        title: What it is called in a table.
        file: The main file's name.
        run: The command that runs the program; its arguments follow.
        compile: The commands that compile it, one after another; none for a language that is not compiled.
        aliases: Other names.
        version: The command that shows the toolchain's version; it also says whether there is one.
        env: Environment variables for compiling and running.
        files: Further files that are written, unless the request brings them: ``{path: text}``.
        name_patterns: Regular expressions whose first group is ``{name}``, the first that is found counts.
        syntax: ``'java'``, ``'kotlin'`` or ``'scala'``: names are found by reading the source; see `enclave.languages.names`.
        default_name: ``{name}`` if none is found; None makes that a compile error.
        package_pattern: A regular expression whose first group is the package of a source that has one.
        files_for: ``((pattern, file name), ...)``: another name of the main file if the source has the pattern.
        flags: ``((pattern, flags), ...)``: flags that are added to the last compile command if the source has the pattern.
        compile_timeout: Seconds that compiling may take unless the request says otherwise.
        timeout: Seconds that running may take unless the request says otherwise; None is the sandbox's own limit.
        packages: Debian packages of the toolchain.
        npm: Packages of the toolchain on npm, with versions where they matter.
        is_forkable: Whether it is an interpreter of Python that is given the file alone, so that the programs of a batch may be
            forks of one.
        note: What there is to know.
        image: ``'multi'`` for the languages of that image, ``'multi-full'`` for those that only the larger one has, ``''``
            for those that no image of this library has.
    """

    name: str
    title: str
    file: str = field()
    run: Command = field(converter=as_tuple)
    compile: tuple[Command, ...] = field(default=(), converter=_commands)
    aliases: tuple[str, ...] = field(default=(), converter=as_tuple)
    version: Command = field(default=(), converter=as_tuple)
    env: dict[str, str] = field(factory=dict, converter=as_dict)
    files: dict[str, str] = field(factory=dict, converter=as_dict)
    name_patterns: tuple[str, ...] = field(default=(), converter=as_tuple)
    syntax: str = ''
    default_name: str | None = 'Main'
    package_pattern: str = ''
    files_for: tuple[tuple[str, str], ...] = field(default=(), converter=as_tuple)
    flags: tuple[tuple[str, Command], ...] = field(default=(), converter=as_tuple)
    compile_timeout: float = 60.0
    timeout: float | None = None
    packages: tuple[str, ...] = field(default=(), converter=as_tuple)
    npm: tuple[str, ...] = field(default=(), converter=as_tuple)
    is_forkable: bool = False
    note: str = ''
    image: str = 'multi-full'

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidArgumentError(f'name must be text that is not empty, not {self.name!r}')
        for file in (self.file, *(file for _, file in self.files_for)):
            check_relative(file, 'file')
        if self.syntax not in ('', *SYNTAXES):
            raise InvalidArgumentError(f'syntax must be one of {", ".join(map(repr, SYNTAXES))}, not {self.syntax!r}')
        for command in (self.run, *self.compile):
            if not command or not all(isinstance(word, str) for word in command):
                raise InvalidArgumentError(f'a command of {self.name!r} must be a list of strings, not {command!r}')
        conditions = [pattern for pattern, _ in (*self.flags, *self.files_for)]
        for pattern in (*self.name_patterns, self.package_pattern, *conditions):
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidArgumentError(f'a pattern of {self.name!r} is wrong: {error}') from None

    @property
    def is_compiled(self) -> bool:
        """Whether there is anything to compile."""
        return bool(self.compile)

    @property
    def program(self) -> str:
        """The program that a sandbox must have first of all, like ``'g++'``."""
        first = self.compile[0] if self.compile else self.run
        return (self.version or first)[0]

    def find_name(self, source: str) -> str | None:
        """Return ``{name}`` for a source."""
        for pattern in self.name_patterns:
            match = re.search(pattern, source, _FLAGS)
            if match:
                return match[1]
        found = find_names(source, self.syntax).file if self.syntax else None
        return found or self.default_name

    def find_class(self, source: str, name: str) -> str:
        """Return ``{class}``: what is to be run, with its package, where the source has one."""
        if self.syntax:
            return find_names(source, self.syntax).main or name
        match = re.match(self.package_pattern, source) if self.package_pattern else None
        return f'{"".join(match[1].split())}.{name}' if match else name

    def plan(self, source: str, folder: str) -> Plan | None:
        """Return the files and commands for a source; None if it lacks the name that the language needs."""
        name = self.find_name(source)
        if name is None:
            return None
        code = without_templates(source) if self.files_for and self.file.endswith(_SCRIPTS) else source
        file = next((file for pattern, file in self.files_for if re.search(pattern, code, _FLAGS)), self.file)
        file = file.replace('{name}', name)
        values = {'{file}': file, '{name}': name, '{class}': self.find_class(source, name), '{dir}': folder}

        def filled(command: Command) -> Command:
            return tuple(_PLACE.sub(lambda match: values[match[0]], word) for word in command)

        compile_commands = [filled(command) for command in self.compile]
        for pattern, flags in self.flags:
            if compile_commands and re.search(pattern, source, re.MULTILINE):
                compile_commands[-1] = (*compile_commands[-1], *flags)
        return Plan(
            file=file,
            compile=tuple(compile_commands),
            run=filled(self.run),
            env={key: value.replace('{dir}', folder) for key, value in self.env.items()},
            files={path: text.encode() for path, text in self.files.items()},
        )


@frozen(kw_only=True)
class Plan:
    """A language's entry, filled in for one program."""

    file: str
    compile: tuple[Command, ...]
    run: Command
    env: dict[str, str]
    files: dict[str, bytes]


_FLAGS = re.MULTILINE | re.DOTALL
_SCRIPTS = ('.js', '.ts')  # endings of JavaScript and TypeScript
_PLACE = re.compile(r'\{(?:file|name|class|dir)\}')
# Modules of ECMAScript, which Node.js before 22 knows by their files' names.
_NO_COMMONJS = r'\A(?!.*(?:\brequire\s*\(|\bmodule\.exports|\b__dirname\b|\b__filename\b)).*'
_AWAIT = r'^(?:(?:const|let|var)\s[^=\n]*=\s*)?await\s'
_MODULE = r'^[ \t]*(?:import(?:\s+[\w$]|\s*[*{"\'])|export(?:\s+\w|\s*[*{]))'
_GO_ENV = {
    'GOCACHE': '{dir}/.cache/go-build',
    'GOPATH': '{dir}/.cache/go',
    'GOFLAGS': '-mod=mod',
    'GO111MODULE': 'on',
    'GOTOOLCHAIN': 'local',
    'GOPROXY': 'off',
    'GOTELEMETRY': 'off',
}
_GO_MOD = {'go.mod': 'module program\n\ngo 1.18\n'}  # a module called main cannot be tested
_JAVAC = (
    'javac',
    '-J-XX:TieredStopAtLevel=1',
    '-J-XX:+UseSerialGC',
    '-J-Xshare:auto',
    '-J-XX:SharedArchiveFile=/usr/local/lib/enclave/javac.jsa',  # of our images; passed over where it is not there
    '-encoding',
    'UTF-8',
)
_JAVA = ('java', '-XX:+UseSerialGC', '-Xshare:auto', '-Xss64m', '-ea')
_JUNIT = (
    '.:/usr/share/java/junit-platform-console.jar:/usr/share/java/junit-jupiter-api.jar:'
    '/usr/share/java/junit-jupiter-engine.jar:/usr/share/java/junit-jupiter-params.jar:'
    '/usr/share/java/junit-platform-commons.jar:/usr/share/java/junit-platform-engine.jar:'
    '/usr/share/java/junit-platform-launcher.jar:/usr/share/java/junit-platform-reporting.jar:'
    '/usr/share/java/junit-vintage-engine.jar:/usr/share/java/junit4.jar:/usr/share/java/hamcrest-all.jar:'
    '/usr/share/java/hamcrest-core.jar:/usr/share/java/opentest4j.jar:/usr/share/java/apiguardian-api.jar:'
    '/usr/share/java/picocli.jar:/usr/share/java/univocity-parsers.jar'
)
_ESCRIPT = (
    'head -c 2 "$0" | grep -q "#!" || sed -i "1i #!/usr/bin/env escript" "$0"'  # which passes over the first line
)
_OPENSSL = (r'^[ \t]*#[ \t]*include[ \t]*<openssl/', ('-lssl', '-lcrypto'))


def _in_multi(name: str, title: str, file: str, *, image: str = 'multi', **entry: Any) -> Language:
    """Return an entry of a language that the image ``multi`` has; ``--version`` shows its version, unless the entry says how."""
    made = Language(name=name, title=title, file=file, image=image, **entry)
    return made if made.version else attrs.evolve(made, version=(made.program, '--version'))


_in_full = functools.partial(_in_multi, image='multi-full')
_elsewhere = functools.partial(_in_multi, image='')


ENTRIES: tuple[Language, ...] = (
    # In the image `multi` ---------------------------------------------------------------------------------------------
    _in_multi(
        'python',
        'Python',
        'main.py',
        aliases=('python3', 'py'),
        run=('python3', '{file}'),
        packages=('python3',),
        is_forkable=True,
    ),
    _in_multi(
        'pytest',
        'Python tests (pytest)',
        'test_main.py',
        run=('python3', '-m', 'pytest', '-p', 'no:cacheprovider', '{file}'),
        version=('python3', '-m', 'pytest', '--version'),
        env={'PYTHONDONTWRITEBYTECODE': '1'},
        packages=('python3', 'python3-pytest'),
    ),
    _in_multi(
        'nodejs',
        'JavaScript (Node.js)',
        'main.js',
        aliases=('javascript', 'js', 'node'),
        files_for=((f'{_NO_COMMONJS}(?:{_MODULE}|{_AWAIT})', 'main.mjs'),),
        run=('node', '{file}'),
        packages=('nodejs',),
    ),
    _in_multi(
        'typescript',
        'TypeScript (tsx)',
        'main.ts',
        aliases=('ts',),
        files_for=((f'{_NO_COMMONJS}{_AWAIT}', 'main.mts'),),
        run=('tsx', '{file}'),
        env={'TSX_DISABLE_CACHE': '1'},
        packages=('nodejs',),
        npm=('tsx', 'typescript'),
        note='Types are left out, not checked.',
    ),
    _in_multi('bash', 'Bash', 'main.sh', aliases=('sh', 'shell'), run=('bash', '{file}'), packages=('bash',)),
    _in_multi(
        'c',
        'C',
        'main.c',
        compile=('gcc', '-O2', '-std=gnu17', '-o', 'main', '{file}', '-lm', '-pthread'),
        run=('./main',),
        flags=(_OPENSSL,),
        packages=('gcc', 'libc6-dev'),
    ),
    _in_multi(
        'cpp',
        'C++',
        'main.cpp',
        aliases=('c++', 'cxx'),
        compile=('g++', '-O2', '-std=c++17', '-o', 'main', '{file}', '-pthread'),
        run=('./main',),
        flags=(_OPENSSL,),
        packages=('g++', 'libc6-dev', 'libssl-dev'),
    ),
    _in_multi(
        'go',
        'Go',
        'main.go',
        aliases=('golang',),
        # Into a directory: then a package that is not main is an error.
        compile=('sh', '-c', 'go build -o .out/ . && mv .out/* main'),
        run=('./main',),
        env=_GO_ENV,
        files=_GO_MOD,
        version=('go', 'version'),
        packages=('golang-go',),
    ),
    _in_multi(
        'go_test',
        'Go tests',
        'main_test.go',
        compile=('go', 'test', '-c', '-o', 'main.test'),
        run=('./main.test', '-test.v'),
        env=_GO_ENV,
        files=_GO_MOD,
        version=('go', 'version'),
        packages=('golang-go',),
    ),
    _in_multi(
        'rust',
        'Rust',
        'main.rs',
        aliases=('rs',),
        compile=('rustc', '--edition', '2021', '-O', '-o', 'main', '{file}'),
        run=('./main',),
        packages=('rustc', 'gcc', 'libc6-dev'),
    ),
    _in_multi(
        'java',
        'Java',
        '{name}.java',
        syntax='java',
        compile=(*_JAVAC, '-cp', '.', '-d', '.', '{file}'),
        run=(*_JAVA, '-cp', '.', '{class}'),
        version=('javac', '-version'),
        packages=('openjdk-17-jdk-headless',),
    ),
    _in_full(
        'junit',
        'Java tests (JUnit 5 and 4)',
        '{name}.java',
        syntax='java',
        compile=('sh', '-c', f'exec {" ".join(_JAVAC)} -cp {_JUNIT} -d classes *.java'),
        run=(
            *_JAVA,
            '-cp',
            f'classes:{_JUNIT}',
            'org.junit.platform.console.ConsoleLauncher',
            '--disable-banner',
            '--scan-class-path',
            'classes',
        ),
        version=('javac', '-version'),
        packages=('openjdk-17-jdk-headless', 'junit5', 'junit4'),
    ),
    _in_multi('ruby', 'Ruby', 'main.rb', aliases=('rb',), run=('ruby', '{file}'), packages=('ruby',)),
    _in_multi('php', 'PHP', 'main.php', run=('php', '-f', '{file}', '--'), packages=('php-cli',)),
    _in_multi('perl', 'Perl', 'main.pl', aliases=('pl',), run=('perl', '{file}'), packages=('perl',)),
    _in_multi('lua', 'Lua', 'main.lua', run=('lua5.4', '{file}'), version=('lua5.4', '-v'), packages=('lua5.4',)),
    _in_multi('R', 'R', 'main.R', aliases=('rscript',), run=('Rscript', '{file}'), packages=('r-base-core',)),
    _in_multi(
        'sql',
        'SQL (SQLite)',
        'main.sql',
        aliases=('sqlite', 'sqlite3'),
        run=('sqlite3', '-batch', '-bail', ':memory:', '.read {file}'),
        packages=('sqlite3',),
        note='A database in memory; programs read no stdin.',
    ),
    # In `multi-full` --------------------------------------------------------------------------------------------------
    _in_full(
        'csharp',
        'C# (Mono)',
        'Program.cs',
        aliases=('c#', 'cs'),
        compile=('mcs', '-define:DEBUG', '-out:main.exe', '{file}'),
        run=('mono', 'main.exe'),
        note='A failed `Debug.Assert` does not end a program under Mono.',
        version=('mono', '--version'),
        packages=('mono-mcs', 'mono-runtime'),
    ),
    _in_full(
        'scala',
        'Scala',
        'Main.scala',
        syntax='scala',
        default_name=None,
        compile=('scalac', '-d', '.', '{file}'),
        run=('scala', '-cp', '.', '{class}'),
        compile_timeout=120.0,
        version=('scala', '-version'),
        packages=('scala',),
    ),
    _in_full(
        'kotlin',
        'Kotlin',
        'main.kt',
        aliases=('kt',),
        compile=('kotlinc', '{file}', '-include-runtime', '-d', 'main.jar'),
        run=(*_JAVA, '-cp', 'main.jar', '{class}'),
        syntax='kotlin',
        default_name=None,
        compile_timeout=120.0,
        version=('kotlinc', '-version'),
        packages=('kotlin',),
    ),
    _in_full(
        'kotlin_script',
        'Kotlin script',
        'main.kts',
        aliases=('kts',),
        run=('kotlinc', '-script', '{file}'),
        timeout=120.0,
        version=('kotlinc', '-version'),
        packages=('kotlin',),
    ),
    _in_full(
        'haskell',
        'Haskell',
        'main.hs',
        aliases=('hs',),
        name_patterns=(r'^module\s+([A-Z][\w.]*)',),
        compile=('ghc', '-O', '-v0', '-main-is', '{name}', '-o', 'main', '{file}'),
        run=('./main',),
        packages=('ghc',),
    ),
    _in_full(
        'D',
        'D',
        'main.d',
        aliases=('dlang',),
        compile=('ldmd2', '-of=main', '{file}'),
        run=('./main',),
        version=('ldc2', '--version'),
        packages=('ldc',),
    ),
    _in_full(
        'D_ut',
        'D unit tests',
        'main.d',
        compile=('ldmd2', '-unittest', '-main', '-of=main', '{file}'),
        run=('./main',),
        version=('ldc2', '--version'),
        packages=('ldc',),
    ),
    _in_full('racket', 'Racket', 'main.rkt', aliases=('rkt',), run=('racket', '{file}'), packages=('racket',)),
    _in_full(
        'verilog',
        'Verilog (Icarus)',
        'main.sv',
        aliases=('sv', 'systemverilog'),
        compile=('iverilog', '-g2012', '-o', 'main.vvp', '{file}'),
        flags=((r'\bmodule\s+tb\b', ('-s', 'tb')),),
        run=('vvp', '-n', 'main.vvp'),
        version=('iverilog', '-V'),
        packages=('iverilog',),
        note='The top module is `tb`, or what no other module uses.',
    ),
    _in_full(
        'jest',
        'JavaScript and TypeScript tests (Jest)',
        'main.test.ts',
        compile=(
            'esbuild',
            '{file}',
            '--bundle',
            '--platform=node',
            '--format=cjs',
            '--external:@jest/globals',
            '--log-level=warning',
            '--outfile=out/main.test.js',
        ),
        run=('jest', '--config', '{"rootDir": "{dir}/out", "transform": {}}', '--cacheDirectory', '{dir}/.cache'),
        version=('jest', '--version'),
        packages=('nodejs',),
        npm=('jest', 'esbuild'),
    ),
    _in_full(
        'fortran',
        'Fortran',
        'main.f90',
        aliases=('f90',),
        compile=('gfortran', '-O2', '-o', 'main', '{file}'),
        run=('./main',),
        packages=('gfortran',),
    ),
    _in_full(
        'pascal',
        'Pascal (Free Pascal)',
        'main.pas',
        aliases=('pas',),
        compile=('fpc', '-O2', '-v0e', '-omain', '{file}'),
        run=('./main',),
        version=('fpc', '-iV'),
        packages=('fp-compiler', 'fp-units-rtl', 'fp-units-base'),
    ),
    _in_full(
        'ocaml',
        'OCaml',
        'main.ml',
        aliases=('ml',),
        compile=('ocamlfind', 'ocamlopt', '-package', 'str,unix', '-linkpkg', '-o', 'main', '{file}'),
        run=('./main',),
        version=('ocamlfind', 'ocamlopt', '-version'),
        packages=('ocaml-nox', 'ocaml-findlib'),
    ),
    _in_full(
        'tcl',
        'Tcl',
        'main.tcl',
        run=('tclsh', '{file}'),
        version=('sh', '-c', "echo 'puts [info patchlevel]' | tclsh"),
        packages=('tcl',),
    ),
    _in_full(
        'scheme',
        'Scheme (Guile)',
        'main.scm',
        aliases=('guile',),
        run=('guile', '--no-auto-compile', '-s', '{file}'),
        packages=('guile-3.0',),
    ),
    _in_full(
        'lisp',
        'Common Lisp (SBCL)',
        'main.lisp',
        aliases=('commonlisp', 'sbcl'),
        run=('sbcl', '--script', '{file}'),
        packages=('sbcl',),
    ),
    _in_full(
        'erlang',
        'Erlang (escript)',
        'main.erl',
        aliases=('erl',),
        run=('sh', '-c', f'{_ESCRIPT}; exec escript "$0" "$@"', '{file}'),
        version=('erl', '-noshell', '-eval', 'io:format("~s~n", [erlang:system_info(otp_release)]), halt().'),
        packages=('erlang-base',),
        note='With a `main/1`.',
    ),
    _in_full(
        'elixir',
        'Elixir',
        'main.exs',
        aliases=('exs',),
        run=('elixir', '{file}'),
        version=('elixir', '--short-version'),
        packages=('elixir',),
    ),
    _in_full(
        'prolog',
        'Prolog (SWI)',
        'main.pro',
        aliases=('swipl',),
        run=('swipl', '-q', '-g', 'main', '-t', 'halt', '{file}', '--'),
        packages=('swi-prolog-nox',),
        note='With a `main/0`.',
    ),
    _in_full(
        'nim',
        'Nim',
        'main.nim',
        compile=('nim', 'c', '--hints:off', '-d:release', '--nimcache:{dir}/.cache', '-o:main', '{file}'),
        run=('./main',),
        packages=('nim',),
    ),
    _in_full(
        'cobol',
        'COBOL (GnuCOBOL)',
        'main.cob',
        compile=('cobc', '-x', '-free', '-o', 'main', '{file}'),
        run=('./main',),
        packages=('gnucobol',),
        note='In free format.',
    ),
    _in_full(
        'ada',
        'Ada (GNAT)',
        'main.adb',
        aliases=('adb',),
        compile=('gnatmake', '-q', '-O2', '{file}', '-o', 'main'),
        run=('./main',),
        packages=('gnat',),
        note='The main procedure is `Main`.',
    ),
    _in_full(
        'octave',
        'Octave',
        'main.m',
        aliases=('matlab',),
        run=('octave-cli', '--no-gui', '--no-init-file', '{file}'),
        packages=('octave',),
    ),
    _in_multi(
        'awk',
        'AWK',
        'main.awk',
        run=('awk', '-f', '{file}'),
        version=('sh', '-c', 'readlink -f "$(command -v awk)"'),
        packages=('mawk',),
    ),
    _in_full(
        'clojure',
        'Clojure',
        'main.clj',
        aliases=('clj',),
        run=('clojure', '{file}'),
        timeout=60.0,
        version=('clojure', '-e', '(clojure-version)'),
        packages=('clojure',),
    ),
    _in_full('groovy', 'Groovy', 'main.groovy', run=('groovy', '{file}'), timeout=60.0, packages=('groovy',)),
    _in_full(
        'gtest',
        'C++ tests (GoogleTest)',
        'main.cpp',
        compile=('g++', '-O0', '-std=c++17', '-o', 'main', '{file}', '-lgtest', '-lgtest_main', '-pthread'),
        run=('./main',),
        packages=('g++', 'libgtest-dev'),
    ),
    # Not in Debian 12: for images that bring them ---------------------------------------------------------------------
    _elsewhere(
        'julia', 'Julia', 'main.jl', aliases=('jl',), run=('julia', '--startup-file=no', '{file}'), timeout=60.0
    ),
    _elsewhere(
        'swift',
        'Swift',
        'main.swift',
        compile=('swiftc', '-o', 'main', '{file}'),
        run=('./main',),
        flags=((r'^[ \t]*@main\b', ('-parse-as-library',)),),
        compile_timeout=120.0,
    ),
    _elsewhere('lean', 'Lean 4', 'Main.lean', run=('lean', '--run', '{file}'), timeout=120.0),
    _elsewhere(
        'cuda',
        'CUDA C++',
        'main.cu',
        compile=('nvcc', '-o', 'main', '{file}'),
        run=('./main',),
        compile_timeout=120.0,
        note='Needs a GPU.',
    ),
    _elsewhere(
        'python_gpu',
        'Python, with a GPU',
        'main.py',
        run=('python3', '{file}'),
        version=('nvidia-smi', '--version'),
        note='Needs a GPU.',
    ),
    _elsewhere('python2', 'Python 2', 'main.py', run=('python2', '{file}')),
)


# By name --------------------------------------------------------------------------------------------------------------

_lock = threading.Lock()  # guards the two below
_languages: dict[str, Language] = {}
_names: dict[str, str] = {}  # folded name or alias -> name


def _add(language: Language) -> None:
    _languages[language.name] = language
    for each in (language.name, *language.aliases):
        _names[each.casefold()] = language.name


for _entry in ENTRIES:
    _add(_entry)


def register_language(language: Language, *, replace: bool = False) -> Language:
    """Add a language of your own to the table of this process, and return it.

    Args:
        replace: Take the place of one of the same name or alias.

    Raises:
        ConflictError: A name or alias is taken, and ``replace`` is false.
    """
    if not isinstance(language, Language):
        raise InvalidArgumentError(f'register_language takes a Language, not {language!r}')
    with _lock:
        for each in (language.name, *language.aliases):
            taken = _names.get(each.casefold())
            if taken is not None and not replace and _languages[taken] != language:
                raise ConflictError(f'{each!r} is a name of the language {taken!r}; choose another, or replace=True')
        old = _languages.pop(_names.get(language.name.casefold(), ''), None)
        if old is not None:
            for each in (old.name, *old.aliases):
                _names.pop(each.casefold(), None)
        _add(language)
    return language


def find_language(name: str) -> Language | None:
    """Return the language of a name or alias, in whatever letter case, or None."""
    with _lock:
        found = _names.get(str(name).strip().casefold())
        return None if found is None else _languages[found]


def get_language(name: str) -> Language:
    """Return the language of a name or alias, in whatever letter case.

    Raises:
        NotRegisteredError: There is none; it is a `ValueError` too.
    """
    found = find_language(name)
    if found is None:
        with _lock:
            known = {each: each for each in _languages} | dict(_names)
        meant = suggest(str(name).casefold(), list(known))
        hint = f'did you mean {known[meant]!r}? ' if meant is not None else ''
        raise NotRegisteredError(
            f'there is no language {str(name)[:60]!r}; {hint}There are: '
            f'{", ".join(sorted(set(known.values()), key=str.casefold))}',
            details={'language': str(name)[:60]},
        )
    return found


def list_languages() -> list[Language]:
    """Return all languages, ours in the order of the table, then those that were registered."""
    with _lock:
        return list(_languages.values())
