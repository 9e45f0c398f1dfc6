"""What the adapter is to know (layer 6): which template is which sandbox, and under which names it is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from enclave.config import checked, is_a, refuses_unknown_keys
from enclave.errors import ConfigurationError
from enclave.quoting import quoted
from enclave.server.auth import FileSettings

_DOMAIN = re.compile(r'[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?')


def _as_templates(value: Any) -> Any:
    """Return templates as ``{name: {'sandbox_type': ..., 'config': {...}}}``; a kind alone is its name."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: {'sandbox_type': each} if isinstance(each, str) else dict(each) if isinstance(each, Mapping) else each
        for name, each in value.items()
    }


def _check_templates(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise ConfigurationError(f'{name} must be {{template: kind or {{sandbox_type, config}}}}, not {quoted(value)}')
    for template, made in value.items():
        if not isinstance(template, str) or not template:
            raise ConfigurationError(f'{name} has a template name that is not a string: {template!r}')
        if not isinstance(made, dict) or set(made) - {'sandbox_type', 'config'}:
            raise ConfigurationError(f"{name}[{template!r}] must have 'sandbox_type', 'config' or both, not {made!r}")
        if not isinstance(made.get('sandbox_type', ''), str) or not isinstance(made.get('config', {}), Mapping):
            raise ConfigurationError(f'{name}[{template!r}]: sandbox_type must be a name and config a dict of options')


def _check_domain(value: Any, name: str) -> None:
    if value is not None and (not isinstance(value, str) or not _DOMAIN.fullmatch(value)):
        raise ConfigurationError(
            f"{name} must be a domain in lower case like 'sandboxes.example.com', not {quoted(value)}"
        )


@refuses_unknown_keys
@frozen(kw_only=True)
class E2BSettings(FileSettings):
    """How a server answers E2B's SDK.

    Attributes:
        templates: ``{template: {'sandbox_type': kind, 'config': options}}``, or ``{template: kind}``. Without a kind it is the
            server's own; ``base`` and ``code-interpreter-v1`` are there without being named. The policy holds for these too.
        debug: Whether to listen on the three ports of loopback that the SDK uses under ``E2B_DEBUG``.
        domain: The domain of ``E2B_DOMAIN``: requests for ``api.DOMAIN`` and ``PORT-SANDBOX.DOMAIN`` are then answered, by their
            Host header. TLS and the names are the business of the proxy in front.
    """

    templates: dict[str, dict[str, Any]] = field(
        factory=dict, converter=_as_templates, validator=checked(_check_templates)
    )
    debug: bool = field(default=False, validator=is_a(bool))
    domain: str | None = field(default=None, validator=checked(_check_domain))
