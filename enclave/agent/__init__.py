"""The agent: the one program of ours that runs inside every sandbox (floor 0).

`LOADER` is the command line that starts it, `bootstrap` what must then be sent first. The loader speaks any Python, so
that one which is too old can say so instead of failing on syntax.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

OLD_PYTHON_EXIT_CODE = 97
"""The exit code of a loader that found a Python below 3.6."""

# The program is compiled in a forked child that hands over the code object alone: compiling takes several megabytes that
# Python would keep, and the agent is to be small (measured with CPython 3.11: 14.9 MB resident without, 10.9 MB with).
_LOADER = """\
import os,sys
def r(f,n):
 b=b''
 while len(b)<n:
  c=os.read(f,n-len(b))
  if not c:os._exit(0)
  b+=c
 return b
if sys.version_info<(3,6):
 os.write(2,('enclave-agent: Python %d.%d is too old'%sys.version_info[:2]).encode());os._exit(97)
import marshal
i,o=os.pipe()
p=os.fork()
if not p:
 c=marshal.dumps(compile(r(0,int(r(0,8))),'<enclave-agent>','exec'))
 c=b'%08d'%len(c)+c
 while c:c=c[os.write(o,c):]
 os._exit(0)
os.close(o)
c=marshal.loads(r(i,int(r(i,8))))
os.close(i)
os.waitpid(p,0)
exec(c,{'__name__':'__enclave_agent__'})
"""


def agent_command(python: str = 'python3') -> list[str]:
    """Return the argv that starts an agent with the given interpreter."""
    return [python, '-I', '-S', '-c', _LOADER]


@lru_cache(maxsize=1)
def bootstrap() -> bytes:
    """Return the bytes an agent's standard input must begin with: eight digits of length, then the program."""
    source = Path(__file__).with_name('program.py').read_bytes()
    return b'%08d' % len(source) + source
