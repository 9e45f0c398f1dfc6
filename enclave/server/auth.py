"""Who may come in (layer 6): named API keys, and the checks of Host and Origin where there is no key.

A key comes in a header only, ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``, never in an address, which proxies log.
Only digests of keys are held, and each request is compared with all of them in constant time.

On loopback no key is needed; what then protects is that a request names a loopback host (a page whose name was rebound to
127.0.0.1 does not) and does not come from another site's page (a browser says, and pages cannot make it not to).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attrs import field, frozen

from enclave import wire
from enclave.config import is_a, refuses_unknown_keys, whole_number
from enclave.errors import AuthenticationError, ConfigurationError, PolicyError
from enclave.managers.keyfile import is_loopback
from enclave.managers.protocol import API_KEY_ENVIRONMENT, API_KEY_HEADER
from enclave.records import OptionsModel

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

ANONYMOUS = 'anonymous'
KEY_LENGTH = 16
"""How long a secret should be at least."""
_NAME_LIMIT = 64
_HOST_LIMIT = 512


@refuses_unknown_keys
@frozen(kw_only=True)
class ApiKey(OptionsModel):
    """A key with its own quotas; what is None takes the policy's.

    Attributes:
        name: Who it is, for audit lines; each name sees only its own sandboxes.
        key: The secret itself, at least `KEY_LENGTH` characters. Only its digest is kept in use.
        key_sha256: Its SHA-256 in hexadecimal, instead of ``key``, so that the file holds no secret.
        max_sandboxes: How many sandboxes it may have at once.
        max_concurrent_calls: How many calls it may have running at once.
    """

    name: str = field(validator=is_a(str))
    key: str | None = field(default=None, validator=is_a(str, none=True), repr=False)
    key_sha256: str | None = field(default=None, validator=is_a(str, none=True), repr=False)
    max_sandboxes: int | None = field(default=None, validator=whole_number(0, none=True))
    max_concurrent_calls: int | None = field(default=None, validator=whole_number(1, none=True))

    def __attrs_post_init__(self) -> None:
        if not self.name or len(self.name) > _NAME_LIMIT or not self.name.isprintable() or self.name == ANONYMOUS:
            raise ConfigurationError(
                f'the name of a key must be 1 to {_NAME_LIMIT} printable characters, not {self.name!r}'
            )
        if (self.key is None) == (self.key_sha256 is None):
            raise ConfigurationError(f'the key {self.name!r} needs either key or key_sha256')
        if self.key is not None and (
            len(self.key) < KEY_LENGTH or not self.key.isascii() or not self.key.isprintable()
        ):
            raise ConfigurationError(f'the key {self.name!r} must be at least {KEY_LENGTH} printable ASCII characters')
        if self.key_sha256 is not None and (
            len(self.key_sha256) != 64 or set(self.key_sha256.lower()) - set('0123456789abcdef')
        ):
            raise ConfigurationError(f'key_sha256 of {self.name!r} must be 64 hexadecimal digits')

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret."""
        if self.key is not None:
            return hashlib.sha256(self.key.encode()).digest()
        return bytes.fromhex(self.key_sha256 or '')


def one_key(secret: str) -> ApiKey:
    """Return the key of a server that has one, named ``default``. A short one is taken, and warned of.

    Raises:
        ConfigurationError: It cannot be sent in a header.
    """
    if not secret or not secret.isascii() or not secret.isprintable() or ' ' in secret:
        raise ConfigurationError('api_key must be printable ASCII characters without blanks')
    if len(secret) >= KEY_LENGTH:
        return ApiKey(name='default', key=secret)
    logger.warning(
        'the API key of the server has %d characters, so that it may be guessed; use %d or more',
        len(secret),
        KEY_LENGTH,
    )
    return ApiKey(name='default', key_sha256=hashlib.sha256(secret.encode()).hexdigest())


def make_key() -> str:
    """Return a new secret of 256 bits."""
    return secrets.token_urlsafe(32)


def read_keys(path: str | os.PathLike[str]) -> list[ApiKey]:
    """Return the keys of a file: ``{"keys": [{"name": ..., "key": ..., "max_sandboxes": ...}, ...]}``, in JSON or TOML.

    Raises:
        ConfigurationError: The file cannot be read, or says something wrong.
    """
    found = read_settings(path)
    entries = found.get('keys') if isinstance(found, Mapping) else None
    if not isinstance(entries, list) or not entries or set(found) != {'keys'}:
        raise ConfigurationError(f'{os.fspath(path)} must hold a list of keys under the name "keys"')
    return [wire.decode(entry, ApiKey, error=ConfigurationError, what=f'{os.fspath(path)}: keys') for entry in entries]


def is_readable_by_others(path: str | os.PathLike[str]) -> bool:
    """Return whether other users of the machine may read a file."""
    try:
        return os.name != 'nt' and bool(stat.S_IMODE(os.stat(path).st_mode) & 0o004)
    except OSError:
        return False


def read_settings(path: str | os.PathLike[str]) -> Any:
    """Return what a JSON or TOML file (by its ending) says.

    Raises:
        ConfigurationError: It cannot be read or is not valid; TOML needs Python 3.11 or the package ``tomli``.
    """
    place = Path(path)
    form = 'TOML' if place.suffix.lower() == '.toml' else 'JSON'
    try:
        text = place.read_text(encoding='utf-8')
        if form == 'TOML':
            return _toml().loads(text)
        return json.loads(text)
    except OSError as error:
        raise ConfigurationError(f'{place} cannot be read: {error.strerror or error}') from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f'{place} is not valid {form}: {error}') from None


class FileSettings(OptionsModel):
    """Settings of a part of a server, which may stand in a file."""

    __slots__ = ()

    @classmethod
    def read(cls, value: Self | Mapping[str, Any] | str | os.PathLike[str] | None) -> Self:
        """Return the settings of an instance, a dict, the path of a JSON or TOML file, or None for the defaults.

        Raises:
            ConfigurationError: They cannot be read, or say something wrong.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, (str, os.PathLike)):
            found = read_settings(value)
            if not isinstance(found, Mapping):
                raise ConfigurationError(
                    f'{os.fspath(value)} must hold an object whose keys are those of {cls.__name__}'
                )
            value = found
        given: Any = value or {}
        return cls(**{str(name): each for name, each in dict(given).items()})


def _toml() -> Any:
    try:
        import tomllib  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            import tomli as tomllib  # type: ignore[no-redef, import-not-found, unused-ignore]
        except ImportError:
            raise ConfigurationError(
                'reading TOML on Python 3.10 needs the package tomli; install it, or write the file as JSON'
            ) from None
    return tomllib


class Authenticator:
    """Knows the keys. Lives as long as the server; any thread may ask it."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = tuple(keys)
        names = [key.name for key in self.keys]
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f'two keys are named {name!r}')
        self._digests = tuple(key.digest for key in self.keys)
        if len(set(self._digests)) < len(self._digests):
            raise ConfigurationError('two names have the same key')

    @property
    def needs_key(self) -> bool:
        """Whether a request without a key is refused."""
        return bool(self.keys)

    def identify(self, headers: Mapping[str, str]) -> ApiKey | None:
        """Return the key of a request, or None where none is needed.

        Raises:
            AuthenticationError: There is no key in the request, or nobody has it.
        """
        if not self.keys:
            return None
        sent = sent_key(headers)
        if sent is None:
            raise AuthenticationError(
                f'this server needs an API key: send it as "Authorization: Bearer KEY" or "{API_KEY_HEADER}: KEY" (not in the '
                'address, which ends up in logs); '
                f'the client library takes api_key= or the environment variable {API_KEY_ENVIRONMENT}'
            )
        digest = hashlib.sha256(sent.encode('utf-8', 'surrogateescape')).digest()
        found = None
        for key, known in zip(self.keys, self._digests, strict=True):
            # No early end: how long this takes says nothing about which keys there are.
            if hmac.compare_digest(digest, known):
                found = key
        if found is None:
            raise AuthenticationError('the server does not know this API key')
        return found


def sent_key(headers: Mapping[str, str]) -> str | None:
    """Return the key a request carries, or None."""
    scheme, _, token = headers.get('Authorization', '').strip().partition(' ')
    if scheme.lower() == 'bearer' and token.strip():
        return token.strip()
    return headers.get(API_KEY_HEADER, '').strip() or None


@frozen
class HostGuard:
    """Refuses what only a browser that was led astray would send.

    Args:
        hosts: Host names that are ours besides the loopback ones, lower case; None takes any name (where a key protects).
        domain: What further names of this library end with, a dot first.
    """

    hosts: frozenset[str] | None = frozenset()
    domain: str | None = None

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Return if the request may be one of this library.

        Raises:
            PolicyError: It names another host than this, or comes from another site's page.
        """
        host = headers.get('Host', '')
        if self.hosts is not None:
            name, is_here = _named(host[:_HOST_LIMIT])
            is_below = self.domain is not None and name.endswith(self.domain)
            if not (is_here or name in self.hosts or is_below):
                raise PolicyError(
                    f'the request is for the host {host!r}, which is not this server; '
                    'if it is another name of this machine, name it in allowed_hosts',
                    details={'host': host},
                )
        origin = headers.get('Origin')
        if origin is not None and _netloc(origin) != host.lower():
            raise PolicyError(
                f'the request comes from a page of {origin!r}; pages of other sites may not use this server',
                details={'origin': origin},
            )
        site = headers.get('Sec-Fetch-Site', 'none')
        if method not in ('GET', 'HEAD') and site not in ('none', 'same-origin'):
            raise PolicyError('the request was made by a page of another site', details={'site': site})


@functools.lru_cache(maxsize=256)
def _named(host: str) -> tuple[str, bool]:
    """Return the name in a Host header, and whether it is one of loopback."""
    name = host_name(host)
    return name, is_loopback(name)


def _netloc(origin: str) -> str | None:
    """Return the host and port of an Origin header; None where it makes no sense, as ``null`` does."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port, lower case; ``''`` where it makes no sense."""
    if host.startswith('['):
        end = host.find(']')
        rest = host[end + 1 :]
        return host[: end + 1].lower() if end > 0 and (not rest or (rest[0] == ':' and rest[1:].isdigit())) else ''
    name, colon, port = host.partition(':')
    return '' if colon and not port.isdigit() else name.lower()
