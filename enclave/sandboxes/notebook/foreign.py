"""Kernels that are not Python's own (layer 4): what keeps their output from being lost on its way.

A kernel publishes its output over a ZeroMQ socket that drops what its reader does not take in time, beyond 1000 messages and
without a word (zmq_setsockopt(3), ZMQ_SNDHWM). A reader on the other side of a sandbox's stream is slower than a loop that
prints. So a kernel that is written in Python, as most are, is started with sockets that keep everything, in its own memory. For
all others a relay in the sandbox takes what they publish as fast as it comes, and holds it until it is read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

_PYTHON = re.compile(r'python(\d+(\.\d+)?)?')
_TAKE_ARGUMENT = ('-X', '-W')

# Runs under the kernel's Python, before the kernel. 1 and 9 are PUB and XPUB, 23 is SNDHWM, in every version of libzmq.
_KEEP_ALL = """\
import runpy, sys
try:
    import zmq
    make = zmq.Context.socket
    def socket(self, kind, *args, **kwargs):
        made = make(self, kind, *args, **kwargs)
        try:
            if int(kind) in (1, 9):
                made.setsockopt(23, 0)
        except Exception:
            pass
        return made
    zmq.Context.socket = socket
except Exception:
    pass
how, name = sys.argv[1:3]
sys.argv[:] = [name] + sys.argv[3:]
if how == '-m':
    runpy.run_module(name, run_name='__main__', alter_sys=True)
else:
    runpy.run_path(name, run_name='__main__')
"""

# Runs under the agent's Python, which may be as old as that can be. It has two threads for each direction of a connection: one
# takes what the kernel publishes, whatever becomes of it. It is killed with its kernel.
RELAY = """\
import collections, os, socket, sys, threading

port, path = int(sys.argv[1]), sys.argv[2]
server = socket.socket(socket.AF_UNIX)
server.bind(path + '.new')
server.listen(8)
os.rename(path + '.new', path)

def carry(source, target):
    try:
        while True:
            data = source.recv(65536)
            if not data:
                break
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass

def serve(client):
    try:
        kernel = socket.create_connection(('127.0.0.1', port))
    except OSError:
        client.close()
        return
    waiting, changed = collections.deque(), threading.Condition()

    def take():
        data = b'.'
        while data:
            try:
                data = kernel.recv(1 << 20)
            except OSError:
                data = b''
            with changed:
                waiting.append(data)
                changed.notify()

    for target, args in ((carry, (client, kernel)), (take, ())):
        thread = threading.Thread(target=target, args=args)
        thread.daemon = True
        thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting)
                data = waiting.popleft()
            if not data:
                break
            client.sendall(data)
    except OSError:
        pass
    client.close()
    kernel.close()

while True:
    thread = threading.Thread(target=serve, args=(server.accept()[0],))
    thread.daemon = True
    thread.start()
"""


def with_all_output(argv: Sequence[str]) -> tuple[str, ...] | None:
    """Return the command of a kernel that is written in Python, changed so that it keeps all output; None for any other."""
    if not argv or _PYTHON.fullmatch(posixpath.basename(argv[0])) is None:
        return None
    at = 1
    while at < len(argv) and argv[at].startswith('-') and argv[at] not in ('-m', '-c', '-'):
        at += 2 if argv[at] in _TAKE_ARGUMENT else 1
    if at < len(argv) and argv[at] == '-m' and at + 1 < len(argv):
        return (*argv[:at], '-c', _KEEP_ALL, *argv[at:])
    if at < len(argv) and not argv[at].startswith('-'):
        return (*argv[:at], '-c', _KEEP_ALL, 'path', *argv[at:])
    return None
