"""The server, as programs written for ms-enclave make and run it. See `enclave.server` for all that it can do."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from enclave import server as core
from enclave.aio.managers import SandboxManager
from enclave.errors import ConfigurationError
from enclave.managers.base import SandboxManager as BlockingManager
from enclave.server.auth import ANONYMOUS
from enclave.server.serve import DEFAULT_PORT
from ms_enclave.sandbox.model.config import SandboxManagerConfig
from ms_enclave.sandbox.server.application import Application
from ms_enclave.utils.logger import logger

_SERVED_OPTIONS = frozenset(('policy', 'keys', 'insecure', 'allowed_hosts', 'audit_file', 'stop_grace', 'manager'))
"""Keywords of `enclave.server.SandboxServer`."""


class SandboxServer(core.SandboxServer):
    """A server of sandboxes. On an address that other machines reach it always wants a key; see ``docs/migration.md``.

    Attributes:
        api_key: The key that was given, if one was.
        start_time: When it was made, in seconds since the epoch.
    """

    def __init__(self, config: SandboxManagerConfig | Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Make a server, not started.

        Args:
            config: Configuration of its manager; its ``api_key`` is the server's key, before the keyword's.
            kwargs: ``api_key``, ``cleanup_interval`` and the like where there is no configuration, and what
                `enclave.server.SandboxServer` takes.
        """
        served = {name: kwargs.pop(name) for name in list(kwargs) if name in _SERVED_OPTIONS}
        if config is None:
            config = SandboxManagerConfig(**kwargs)
        elif not isinstance(config, SandboxManagerConfig):
            config = SandboxManagerConfig.model_validate(config)
        self._early_manager: BlockingManager | None = None  # of a server that does not run yet
        # The configuration's comes first; one that was given in any other way is never dropped, which would open the server.
        self.api_key = config.api_key if config.api_key is not None else kwargs.get('api_key')
        self.start_time = time.time()
        self.app = Application(self)
        options: dict[str, Any] = {'cleanup_interval': config.cleanup_interval, 'pool_size': config.pool_size}
        options = {name: value for name, value in options.items() if value is not None}
        if config.sandbox_config is not None:
            options['sandbox_config'] = _core_sandbox_config(config.sandbox_config)
        options.update(config.further_options)
        super().__init__(None, api_key=self.api_key, **served, **options)

    @property
    def manager(self) -> SandboxManager:
        """The manager of the sandboxes, to be awaited; also before the server runs, which then serves what it has."""
        service = self.service
        if service is None:
            if self._early_manager is None:
                name = self._keys[0].name if self._keys else ANONYMOUS
                self._early_manager = super()._make_manager(name, self.policy.max_sandboxes)
            found = self._early_manager
        else:
            found = service.tenant(service.authenticator.keys[0] if service.authenticator.keys else None).manager
        made: SandboxManager = SandboxManager._proxy_registry.present(found)
        return made

    def _make_manager(self, tenant: str, max_sandboxes: int | None) -> BlockingManager:
        early, self._early_manager = self._early_manager, None
        return super()._make_manager(tenant, max_sandboxes) if early is None else early

    def stop(self) -> None:
        """End, also a server that never ran: its sandboxes go."""
        super().stop()
        early, self._early_manager = self._early_manager, None
        if early is not None:
            early.stop()

    def run(self, host: str = '0.0.0.0', port: int = DEFAULT_PORT, **kwargs: Any) -> None:
        """Serve until the process gets a signal to end.

        Args:
            host: Where to listen. Where other machines reach it and no key was given, one is made and printed.
            port: Where to listen.
            kwargs: ``log_level`` is heeded; other options, which are those of another server program, have no effect, and a
                warning names them.
        """
        log_level = kwargs.pop('log_level', None)
        if log_level is not None:
            _set_level(log_level)
        if kwargs:
            logger.warning('run() takes no option %s; it has no effect', ', '.join(map(repr, kwargs)))
        super().run(host, port)


def _set_level(log_level: int | str) -> None:
    level = log_level.upper() if isinstance(log_level, str) else log_level
    level = {'TRACE': 'DEBUG'}.get(level, level) if isinstance(level, str) else level
    try:
        logging.getLogger('enclave').setLevel(level)
        logger.setLevel(level)
    except ValueError:
        raise ConfigurationError(
            f"log_level must be 'critical', 'error', 'warning', 'info' or 'debug', not {log_level!r}"
        ) from None


def _core_sandbox_config(config: Any) -> dict[str, Any]:
    """Return the configuration of sandboxes that clients make without one."""
    from ms_enclave.sandbox.boxes.core_options import docker_options, notebook_options, plain_options
    from ms_enclave.sandbox.model.config import DockerNotebookConfig, DockerSandboxConfig

    if isinstance(config, DockerNotebookConfig):
        options = notebook_options(config, is_served=True)
    elif isinstance(config, DockerSandboxConfig):
        options = docker_options(config, is_served=True)
    else:
        options = plain_options(config)
    return {**options, **config.further_options, 'timeout': config.timeout or None, 'tools_config': config.tools_config}


def create_server(config: SandboxManagerConfig | Mapping[str, Any] | None = None, **kwargs: Any) -> SandboxServer:
    """Return a server, not started; see `SandboxServer`."""
    return SandboxServer(config, **kwargs)


__all__ = ['SandboxServer', 'create_server']
