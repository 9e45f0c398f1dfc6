"""What only Unix has of the standard library, as the stubs of typeshed say, which come with mypy; and a child without it."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path

MODULES = ('fcntl', 'grp', 'posix', 'pty', 'pwd', 'readline', 'resource', 'syslog', 'termios', 'tty')
"""The modules that only Unix has."""
PARTIAL = ('os', 'signal', 'socket', 'select', 'time', 'mmap', 'errno', 'asyncio', 'locale')
"""Those of which Windows has a part."""

# Everything that is not ours is imported first, so that only our modules meet a machine without these names.
_CHILD = """
import importlib, json, sys
order = json.load(sys.stdin)
for name in [*order['others'], *order['names']]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for name in order['modules']:
    sys.modules[name] = None
for name, gone in order['names'].items():
    module = importlib.import_module(name)
    for each in gone:
        if hasattr(module, each):
            delattr(module, each)
sys.platform = order['platform']
assert not [name for name in sys.modules if name.split('.')[0] in ('enclave', 'ms_enclave')]
exec(order['program'])
"""
_LIST = """
import sys
exec(sys.stdin.read())
print(*sorted(name for name in sys.modules if name.split('.')[0] not in ('enclave', 'ms_enclave', '__main__')))
"""


def _holds(test: ast.expr, platform: str) -> bool:
    """Evaluate a condition of a stub, which is one on `sys.platform` or `sys.version_info`."""
    names = {'sys': type('sys', (), {'platform': platform, 'version_info': sys.version_info}), 'TYPE_CHECKING': True}
    return bool(eval(compile(ast.Expression(test), '<stub>', 'eval'), names))


def _defined(body: list[ast.stmt], platform: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.If):
            yield from _defined(node.body if _holds(node.test, platform) else node.orelse, platform)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            if isinstance(node, ast.ClassDef) and node.name == 'Signals':
                yield from _defined(node.body, platform)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


@functools.cache
def unix_only(module: str, platform: str = 'win32') -> frozenset[str]:
    """Return the names of a module that Linux has and this platform has not."""
    spec = util.find_spec('mypy')
    assert spec is not None
    assert spec.origin is not None
    stdlib = Path(spec.origin).parent / 'typeshed' / 'stdlib'
    place = next(each for each in (stdlib / f'{module}.pyi', stdlib / module / '__init__.pyi') if each.exists())
    body = ast.parse(place.read_text()).body
    return frozenset(_defined(body, 'linux')) - frozenset(_defined(body, platform))


def run_without_unix(program: str, platform: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a child interpreter in which what this platform does not have is taken away."""
    import json

    listed = subprocess.run([sys.executable, '-c', _LIST], input=program, capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    lacking = 'win32' if platform == 'linux' else platform
    order = {
        'others': listed.stdout.splitlines()[-1].split(),
        'modules': MODULES if lacking == 'win32' else (),
        'names': {name: sorted(unix_only(name, lacking)) for name in PARTIAL},
        'platform': platform,
        'program': program,
    }
    return subprocess.run(
        [sys.executable, '-c', _CHILD],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
