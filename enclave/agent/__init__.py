"""The agent: the one program of this library that runs inside every sandbox (layer 0).

`agent_command` is the command line that starts it, with a tiny loader on it; `bootstrap` is what must then be sent first. The
loader speaks any Python, so that one which is too old can say so instead of failing on syntax.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import marshal
from functools import lru_cache
from pathlib import Path
from types import CodeType

OLD_PYTHON_EXIT_CODE = 97
"""The exit code of a loader that found a Python below 3.6."""

_FILE = '<enclave-agent>'

# A Python of this process's own version takes the code as it was compiled here: that spares each start 30 ms. Any other
# compiles the source, in a forked child that hands over the code object alone: compiling takes several megabytes that Python
# would keep, and the agent is to be small (measured with CPython 3.11: 14.9 MB resident without the fork, 11 MB with).
_LOADER = """\
import posix as o,sys
def r(f,n):
 b=b''
 while len(b)<n:
  c=o.read(f,n-len(b))
  if not c:o._exit(0)
  b+=c
 return b
if sys.version_info<(3,6):
 o.write(2,('enclave-agent: Python %d.%d is too old'%sys.version_info[:2]).encode());o._exit(97)
import marshal,_frozen_importlib_external as e
m=r(0,4)
c=r(0,int(r(0,8)))
s=r(0,int(r(0,8)))
g=dict((k,int(v)) for k,v in (w.split('=') for w in r(0,int(r(0,8))).decode().split()))
if m!=e.MAGIC_NUMBER:
 i,j=o.pipe()
 p=o.fork()
 if not p:
  c=marshal.dumps(compile(s,'<enclave-agent>','exec'))
  c=b'%08d'%len(c)+c
  while c:c=c[o.write(j,c):]
  o._exit(0)
 o.close(j)
 c=r(i,int(r(i,8)))
 o.close(i)
 o.waitpid(p,0)
c=marshal.loads(c)
del s
exec(c,{'__name__':'__enclave_agent__','SETTINGS':g})
"""


def agent_command(python: str = 'python3') -> list[str]:
    """Return the argv that starts an agent with the given interpreter."""
    return [python, '-I', '-S', '-c', _LOADER]


@lru_cache(maxsize=1)
def _program() -> bytes:
    spec = importlib.util.find_spec('enclave.agent.program')
    assert spec is not None
    assert spec.origin is not None
    # Not the loader of the spec, which may be another's: pytest rewrites the assertions of its plug-ins' packages.
    code = importlib.machinery.SourceFileLoader(spec.name, spec.origin).get_code(spec.name)
    assert code is not None
    compiled = marshal.dumps(_renamed(code))
    source = Path(spec.origin).read_bytes()
    return importlib.util.MAGIC_NUMBER + b'%08d' % len(compiled) + compiled + b'%08d' % len(source) + source


def bootstrap(**settings: int) -> bytes:
    """Return the bytes an agent's standard input must begin with.

    Four bytes of bytecode magic number, then three times eight digits of length and so many bytes: the marshalled code, the
    source, and the settings as ``NAME=number`` with blanks between.

    Args:
        settings: Values for the names in the agent's module that are set from outside, like ``PIDS_LIMIT=512``.
    """
    text = ' '.join(f'{name}={value}' for name, value in settings.items()).encode('ascii')
    return _program() + b'%08d' % len(text) + text


def _renamed(code: CodeType) -> CodeType:
    """Return the code with our file's place on this machine left out of it: it is nobody's business in a sandbox."""
    constants = tuple(_renamed(each) if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.replace(co_filename=_FILE, co_consts=constants)
