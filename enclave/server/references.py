"""Names of images, and patterns of them (layer 6).

A name is ``[registry/]path[:tag][@digest]``. Its first part is a registry's address if it has a dot or a colon or is
``localhost``, as engines read it; without one it is Docker Hub's, and ``python`` there is ``library/python``.
Source: https://github.com/distribution/reference
"""

from __future__ import annotations

import re

from attrs import frozen

_HUB = 'docker.io'
_HUB_NAMES = ('index.docker.io', 'registry-1.docker.io')
_ID = re.compile(r'(sha256:)?[0-9a-f]{6,64}')
_SEPARATORS = re.compile(r'(\*\*|\*|\?)')


@frozen
class Reference:
    """An image's name in its parts; ``tag`` is ``latest`` where neither tag nor digest is given."""

    registry: str
    path: str
    tag: str
    digest: str


def parse_reference(text: str) -> Reference:
    """Return the parts of a name, or of a pattern of names."""
    rest, _, digest = text.partition('@')
    first, slash, below = rest.partition('/')
    is_registry = bool(slash) and ('.' in first or ':' in first or first == 'localhost')
    registry, path = (first.lower(), below) if is_registry else (_HUB, rest)
    if registry in _HUB_NAMES:
        registry = _HUB
    head, colon, tag = path.rpartition(':')
    if not colon or '/' in tag:
        head, tag = path, ''
    if registry == _HUB and '/' not in head and head != '**':
        head = f'library/{head}'
    return Reference(registry, head, tag or ('' if digest else 'latest'), digest)


def matches(name: str, pattern: str) -> bool:
    """Return whether an image's name is one of those that a pattern means.

    ``*`` alone is any image. Elsewhere ``*`` and ``?`` match characters of one part and ``**`` for several parts of a path; a
    pattern without a tag means ``latest``. A digest says what an image is whatever its tag, so the pattern must have ``:*`` or a
    pattern of digests. What may be an image's id is none of its names.
    """
    if pattern == '*' or name == pattern:
        return True
    if _ID.fullmatch(name):
        return False
    asked, allowed = parse_reference(name), parse_reference(pattern)
    if not (_fits(asked.registry, allowed.registry) and _fits(asked.path, allowed.path)):
        return False
    if asked.digest:
        return allowed.tag == '*' or (bool(allowed.digest) and _fits(asked.digest, allowed.digest))
    return not allowed.digest and _fits(asked.tag, allowed.tag)


def _fits(text: str, pattern: str) -> bool:
    wildcards = {'**': '.*', '*': '[^/]*', '?': '[^/]'}
    parts = (wildcards.get(part) or re.escape(part) for part in _SEPARATORS.split(pattern))
    return re.fullmatch(''.join(parts), text, re.DOTALL) is not None
