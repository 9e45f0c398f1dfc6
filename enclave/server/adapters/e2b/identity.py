"""Who asks (layer 6): a key of this library, or the token of one sandbox, or a signature that the token made.

A token says whose sandbox it is for and proves it, by a code that only this server can make; nothing has to be remembered. It
opens that one sandbox and nothing else. A signature stands in an address, without anything that names the sandbox, so it is
compared with what each sandbox's token would give.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping

from attrs import field, frozen

from enclave.errors import AuthenticationError
from enclave.server.auth import ANONYMOUS, ApiKey, Authenticator, sent_key

TOKEN_HEADERS = ('X-Access-Token', 'E2B-Traffic-Access-Token')
_TOKEN = re.compile(r'ent_[A-Za-z0-9_-]{43}')


@frozen
class Tokens:
    """Makes and knows the tokens. Lives as long as the server; any thread may ask it."""

    _authenticator: Authenticator
    _secret: bytes = field(factory=lambda: secrets.token_bytes(32), repr=False)

    def make(self, tenant: str, sandbox_id: str) -> str:
        """Return the token of a sandbox."""
        code = hmac.new(self._secret, f'{tenant}\0{sandbox_id}'.encode(), hashlib.sha256).digest()
        return f'ent_{base64.urlsafe_b64encode(code).decode("ascii").rstrip("=")}'

    def identify(self, headers: Mapping[str, str], sandbox_id: str | None) -> ApiKey | None:
        """Return the key that a request acts for which names a sandbox; None where none is needed.

        Raises:
            AuthenticationError: It has neither a key nor the sandbox's token, or one that nobody has.
        """
        token = next((value for name in TOKEN_HEADERS if (value := headers.get(name, '').strip())), None)
        if token is not None and sandbox_id is not None:
            return self._key_of(token, sandbox_id)
        if token is None and self._authenticator.needs_key and sent_key(headers) is None:
            raise AuthenticationError(
                'this server needs the access token of the sandbox, which its creation answered with; create it, or connect '
                'to it, with a key of this server as E2B_API_KEY'
            )
        return self._authenticator.identify(headers)

    def _key_of(self, token: str, sandbox_id: str) -> ApiKey | None:
        """Return the key whose sandbox a token is for."""
        found: list[ApiKey | None] = []
        if _TOKEN.fullmatch(token):
            for key in self._authenticator.keys or (None,):
                name = ANONYMOUS if key is None else key.name
                # No early end: how long this takes says nothing about which keys there are.
                if hmac.compare_digest(self.make(name, sandbox_id), token):
                    found.append(key)
        if not found:
            raise AuthenticationError(f'this is not the access token of sandbox {sandbox_id}; connect to it anew')
        return found[0]

    def find_signed(
        self, signature: str, make_text: Callable[[str], str], expires: str | None, known: Mapping[str, list[str]]
    ) -> tuple[str, str]:
        """Return the tenant and the sandbox whose token made a signature.

        Args:
            make_text: Gives what was signed, for a token.
            expires: When the signature ends, in seconds since 1970, as the address has it.
            known: The sandboxes of each tenant.

        Raises:
            AuthenticationError: None of them did, or it has ended.
        """
        if expires is not None and (not re.fullmatch('[0-9]{1,12}', expires) or int(expires) < time.time()):
            raise AuthenticationError('the signature of this address has expired; make a new one')
        found = None
        for tenant, ids in known.items():
            for sandbox_id in ids:
                digest = hashlib.sha256(make_text(self.make(tenant, sandbox_id)).encode('utf-8', 'replace')).digest()
                mine = f'v1_{base64.b64encode(digest).decode("ascii").rstrip("=")}'
                if hmac.compare_digest(mine.encode(), signature.encode('utf-8', 'replace')):
                    found = tenant, sandbox_id
        if found is None:
            raise AuthenticationError('no sandbox here has signed this address; it may have ended')
        return found
