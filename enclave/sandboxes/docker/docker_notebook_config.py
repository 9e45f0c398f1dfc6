"""The options of a Docker notebook sandbox's configuration (layer 4), beside those of any Docker sandbox."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs
from attrs import field, frozen

from enclave.config import checked, is_a, refuses_unknown_keys, whole_number
from enclave.errors import ConfigurationError
from enclave.quoting import quoted
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig, as_address, check_address
from enclave.sandboxes.notebook.notebook_config import NotebookConfig

NOTEBOOK_IMAGE = 'jupyter-kernel-gateway'
_TOKEN_CHARACTERS = 4096
"""A gateway refuses requests whose header has much more."""
GATEWAY_PORT = '8888/tcp'
"""Where a kernel gateway listens inside."""


def _check_token(value: Any, name: str) -> None:
    if value is not None and (not isinstance(value, str) or not value or not value.isprintable() or ' ' in value):
        # The value itself may be a secret, so it is not quoted.
        raise ConfigurationError(f'{name} must be a string without white space, or None')
    if value is not None and len(value) > _TOKEN_CHARACTERS:
        raise ConfigurationError(f'{name} must have at most {_TOKEN_CHARACTERS} characters, not {len(value)}')


@refuses_unknown_keys
@frozen(kw_only=True)
class DockerNotebookConfig(DockerSandboxConfig, NotebookConfig):
    """What a Docker notebook sandbox can be asked, beyond `DockerSandboxConfig` and `NotebookConfig`.

    Cells need no port and no network. A Jupyter Kernel Gateway, which other programs can attach to, runs in the sandbox only if
    one of ``port``, ``host``, ``token`` or the port 8888 in ``ports`` asks for it; it then is published on 127.0.0.1, unless
    ``host`` or ``ports`` names another address, and always wants a token.

    Attributes:
        image: Default is an image of our own recipe, which is built on the engine where it is missing. Any image that has
            ipykernel will do.
        port: Port of this machine for the gateway; 0 takes a free one.
        host: IP address of this machine for the gateway; ``'0.0.0.0'`` is all of them.
        token: What the gateway's clients must know; default is a new one. It is reported as ``gateway_token`` of the sandbox and
        in
            the metadata of its info, and never shown in logs, reprs or the info's configuration.
        gateway_auth: False lets every program on this machine use the gateway without a token; only on a loopback address.
    """

    image: str = field(default=NOTEBOOK_IMAGE)
    port: int | None = field(default=None, validator=whole_number(0, 65535, none=True))
    host: str | None = field(
        default=None, converter=as_address, validator=attrs.validators.optional(checked(check_address))
    )
    token: str | None = field(default=None, validator=checked(_check_token), repr=False)
    gateway_auth: bool = field(default=True, validator=is_a(bool))

    @image.validator
    def _check_own_image(self, attribute: Any, value: Any) -> None:
        self._check_image(attribute, value)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if not self.has_gateway:
            return
        if not self.network_enabled:
            raise ConfigurationError(
                'a kernel gateway (port, host, token) needs a network, and network_enabled is False; drop one of them. '
                'Cells run without either'
            )
        self._check_auth()
        published = self.ports.get(GATEWAY_PORT)
        if published is None:
            return
        for name, mine, other in (('host', self.host, published[0]), ('port', self.port, published[1])):
            if mine is not None and mine != other:
                raise ConfigurationError(
                    f'{name} is {quoted(mine)}, but ports[{quoted(GATEWAY_PORT)}] says {quoted(other)}; drop one of them'
                )

    def _check_auth(self) -> None:
        if self.gateway_auth:
            return
        if self.token is not None:
            raise ConfigurationError('token is given although gateway_auth is False; drop one of them')
        if not ipaddress.ip_address(self.gateway_binding[0]).is_loopback:
            raise ConfigurationError(
                f'gateway_auth=False is for loopback addresses only, and the gateway is published on {self.gateway_binding[0]}; '
                'give a token instead'
            )

    @property
    def has_gateway(self) -> bool:
        """Whether a kernel gateway is asked for."""
        asked = (self.port, self.host, self.token)
        return any(each is not None for each in asked) or GATEWAY_PORT in self.ports

    @property
    def gateway_binding(self) -> tuple[str, int | None]:
        """Where the gateway is to be published: address and port of this machine; None is a free port."""
        return self.ports.get(GATEWAY_PORT) or (self.host or '127.0.0.1', self.port or None)

    def redacted(self) -> dict[str, Any]:
        """Return the options as JSON-compatible values, with secrets' values replaced by ``'***'``."""
        dumped = super().redacted()
        if dumped['token'] is not None:
            dumped['token'] = '***'
        return dumped
