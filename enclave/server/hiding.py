"""Texts without what they say of the server's machine (layer 6)."""

from __future__ import annotations

import functools
import os
import re
import sys

import enclave

HIDDEN = '(a path of the server)'
"""What stands in the place of a path of the host."""
_ADDRESS = re.compile(r'(?:unix|npipe|tcp|ssh)://[^\s,;)\'"`]*')


@functools.cache
def _host_paths() -> re.Pattern[str]:
    """Return what matches paths of this program and of what it keeps; none that is common in sandboxes too."""
    home = os.path.expanduser('~')
    own = {
        sys.prefix,
        sys.base_prefix,
        os.getcwd(),
        os.path.dirname(os.path.dirname(enclave.__file__)),
        os.environ.get('ENCLAVE_CACHE_DIR', ''),
        '/var/cache/enclave',
        os.path.join(home, '.cache', 'enclave'),
        os.path.join(home, '.local', 'state', 'enclave'),
    }
    named = sorted((path for path in own if path.count('/') > 1 and path != '/usr/local'), key=len, reverse=True)
    return re.compile('|'.join(re.escape(path) + r'(?:/[^\s,;:)\'"`]*)?' for path in named))


def without_host(text: str) -> str:
    """Return a message without what it says of the machine of the server: where an engine listens, where things lie."""
    return _host_paths().sub(HIDDEN, _ADDRESS.sub('(an address of the server)', text))
