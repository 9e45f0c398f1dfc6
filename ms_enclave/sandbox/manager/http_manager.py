"""Sandboxes of a server."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_enclave.sandbox.boxes.base import make_config
from ms_enclave.sandbox.manager.base import Config, SandboxManager, register_manager
from ms_enclave.sandbox.manager.wire import NoConnectionError, Wire, WireResponse, path_of
from ms_enclave.sandbox.model.base import SandboxManagerType, SandboxStatus, SandboxType
from ms_enclave.sandbox.model.config import SandboxConfig, SandboxManagerConfig
from ms_enclave.sandbox.model.responses import SandboxInfo, ToolResult
from ms_enclave.sandbox.utils.archive import tar_directory
from ms_enclave.utils.logger import logger

NO_POOL = 'Sandbox pool is empty, call initialize_pool first'
_ENDED = ('stopped', 'error')


@register_manager(SandboxManagerType.HTTP)
class HttpSandboxManager(SandboxManager):
    """Sandboxes of a server. Leaving it deletes those that it made, of its pool too, and no others.

    Attributes:
        base_url: Address of the server.
        timeout: Seconds that one request may take; None is no limit.
        api_key: The key that the server wants. Without one, it is the environment variable ``ENCLAVE_API_KEY``, or what a server
            of the same user on this machine left in a file.
    """

    def __init__(
        self,
        config: SandboxManagerConfig | Mapping[str, Any] | str | None = None,
        *older: Any,
        **kwargs: Any,
    ) -> None:
        """Make a manager; nothing is connected yet.

        Args:
            config: Its configuration, whose values come before the keywords; or the address of the server.
            older: ``timeout`` and ``api_key``, as earlier releases had them.
            kwargs: ``base_url``, ``timeout`` and ``api_key``.

        Raises:
            ValueError: There is no address.
        """
        if isinstance(config, str):
            kwargs, config = {'base_url': config, **kwargs}, None
        kwargs = {**dict(zip(('timeout', 'api_key'), older, strict=False)), **kwargs}
        timeout = kwargs.get('timeout')
        if isinstance(timeout, float) and not timeout.is_integer():
            kwargs.pop('timeout')  # seconds with a fraction are fine here, and no whole number
        super().__init__(config, **kwargs)

        def option(name: str) -> Any:
            value = getattr(self.config, name, None)
            return kwargs.get(name) if value is None else value

        self.base_url = str(option('base_url') or '').rstrip('/')
        self.timeout: float | None = timeout if self.config.timeout is None else self.config.timeout
        self.api_key: str | None = option('api_key')
        if not self.base_url:
            raise ValueError("base_url is required for HttpSandboxManager, like 'http://127.0.0.1:8000'")
        self._wire: Wire | None = None
        self._pool_ids: set[str] = set()

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; a second time does nothing."""
        if self._wire is None:
            self._wire = Wire(self.base_url, self.api_key, self.timeout)
        self._running = True

    async def stop(self) -> None:
        """End, and delete on the server what this manager made; a second time does nothing."""
        wire = self._wire
        if wire is None:
            return
        try:
            await self.cleanup_all_sandboxes()
        finally:
            self._wire, self._running = None, False
            wire.close()

    def _started(self) -> Wire:
        if self._wire is None:
            raise RuntimeError('Manager not started: use it with "async with", or await start()')
        return self._wire

    async def _ask(self, method: str, path: str, **options: Any) -> WireResponse:
        return await self._started().ask(method, path, **options)

    # Sandboxes --------------------------------------------------------------------------------------------------------

    async def create_sandbox(
        self, sandbox_type: SandboxType | str, config: Config = None, sandbox_id: str | None = None
    ) -> str:
        """Make and start a sandbox on the server, and return its id, which the server chooses.

        Raises:
            RuntimeError: An option is wrong, or the server refused or cannot be reached.
        """
        kind = _word(sandbox_type)
        answer = await self._ask('POST', '/sandbox/create', query={'sandbox_type': kind}, body=_body(kind, config))
        made = str(_field(answer, 'sandbox_id'))
        self._note(made, kind)
        await self.get_sandbox_info(made)
        return made

    def _note(self, sandbox_id: str, kind: str) -> None:
        self._sandboxes[sandbox_id] = SandboxInfo(id=sandbox_id, status=SandboxStatus.RUNNING, type=kind)

    async def get_sandbox_info(self, sandbox_id: str) -> SandboxInfo | None:
        """Return what can be said of a sandbox; None if there is none, or the server cannot be reached."""
        try:
            answer = await self._ask('GET', path_of(sandbox_id))
            if answer.status == 404:
                return None
            info = SandboxInfo.model_validate(_value(answer))
        except (RuntimeError, ValueError) as error:
            self._check_started(error)
            logger.error('Asking for sandbox %s failed: %s', sandbox_id, error)
            return None
        if sandbox_id in self._sandboxes:
            self._sandboxes[sandbox_id] = info
        return info

    def _check_started(self, error: Exception) -> None:
        """Raise what says that the manager is not started, which no call makes up for."""
        if self._wire is None:
            raise error

    async def list_sandboxes(self, status_filter: SandboxStatus | None = None) -> list[SandboxInfo]:
        """Return what can be said of all sandboxes of the server, or of those in one state; [] if it cannot be reached."""
        query = {'status': None if status_filter is None else _word(status_filter)}
        try:
            return [
                SandboxInfo.model_validate(each) for each in _value(await self._ask('GET', '/sandboxes', query=query))
            ]
        except (RuntimeError, ValueError) as error:
            self._check_started(error)
            logger.error('Listing the sandboxes failed: %s', error)
            return []

    async def stop_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox, which stays listed; False if that was not possible."""
        done = await self._try('POST', f'{path_of(sandbox_id)}/stop')
        if done and sandbox_id in self._sandboxes:
            self._sandboxes[sandbox_id].status = SandboxStatus.STOPPED
        return done

    async def delete_sandbox(self, sandbox_id: str) -> bool:
        """Take a sandbox away; False if that was not possible."""
        done = await self._try('DELETE', path_of(sandbox_id))
        if done:
            self._forget(sandbox_id)
        return done

    def _forget(self, sandbox_id: str) -> None:
        self._sandboxes.pop(sandbox_id, None)
        self._pool_ids.discard(sandbox_id)
        if sandbox_id in self._sandbox_pool:
            self._sandbox_pool.remove(sandbox_id)

    async def _try(self, method: str, path: str) -> bool:
        try:
            answer = await self._ask(method, path)
            _value(answer)
        except RuntimeError as error:
            self._check_started(error)
            logger.error('%s %s failed: %s', method, path, error)
            return False
        return True

    async def execute_tool(
        self, sandbox_id: str, tool_name: str, parameters: Mapping[str, Any] | None = None
    ) -> ToolResult:
        """Run a tool in a sandbox.

        Raises:
            ValueError: There is no such sandbox, or it has no such tool, or it does not run.
            RuntimeError: The server refused or cannot be reached.
        """
        body = {
            'sandbox_id': sandbox_id,
            'tool_name': tool_name,
            'parameters': _plain(parameters or {}),
            'timeout': None,
        }
        answer = await self._ask('POST', '/sandbox/tool/execute', body=body)
        if answer.status == 404:
            raise ValueError(answer.detail)
        return ToolResult.model_validate(_value(answer))

    async def get_sandbox_tools(self, sandbox_id: str) -> dict[str, Any]:
        """Return ``{tool name: schema}`` of a sandbox.

        Raises:
            ValueError: There is none.
            RuntimeError: The server refused or cannot be reached.
        """
        answer = await self._ask('GET', f'{path_of(sandbox_id)}/tools')
        if answer.status == 404:
            raise ValueError(answer.detail)
        found: dict[str, Any] = _value(answer)
        return found

    async def put_archive(self, sandbox_id: str, target_dir: str, data: bytes) -> bool:
        """Unpack a tar archive into a directory of a sandbox.

        Raises:
            ValueError: There is no such sandbox, no target, or ``data`` is empty or no bytes.
            RuntimeError: The server refused or cannot be reached.
        """
        if not target_dir:
            raise ValueError('target_dir must name a directory of the sandbox')
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ValueError(f'data must be the bytes of an archive, not {type(data).__name__}')
        answer = await self._ask(
            'POST', f'{path_of(sandbox_id)}/archive', query={'target_dir': target_dir}, archive=bytes(data)
        )
        if answer.status in (400, 404):
            raise ValueError(answer.detail)
        return bool(_field(answer, 'ok'))

    async def put_dir(self, sandbox_id: str, source_dir: str | Path, target_dir: str) -> bool:
        """Copy what is in a directory of this machine, symlinks left out, into a directory of a sandbox.

        Raises:
            FileNotFoundError: ``source_dir`` is no directory.
            ValueError, RuntimeError: As for `put_archive`.
        """
        source = Path(source_dir).expanduser()
        if not source.is_dir():
            raise FileNotFoundError(f'there is no directory {str(source)!r} on this machine')
        return await self.put_archive(sandbox_id, target_dir, tar_directory(source))

    async def get_stats(self) -> dict[str, Any]:
        """Return the server's numbers, and those of what this manager made; with ``error`` if it cannot be reached."""
        try:
            found: dict[str, Any] = dict(_value(await self._ask('GET', '/stats')))
        except RuntimeError as error:
            self._check_started(error)
            logger.error('Asking for the numbers failed: %s', error)
            found = {'error': str(error)}
        tracked = list(self._sandboxes.values())
        return {
            **found,
            'manager_type': 'http',
            'base_url': self.base_url,
            'tracked_sandboxes': len(tracked),
            'tracked_status_counts': dict(collections.Counter(_word(each.status) for each in tracked)),
            'tracked_sandbox_types': dict(collections.Counter(each.type for each in tracked)),
            'running': self._running,
            'pool_size': len(self._sandbox_pool),
            'pool_enabled': self.config.pool_size > 0,
            'pool_initialized': self._pool_initialized,
        }

    async def health_check(self) -> dict[str, Any]:
        """Return whether the server is well; ``{'healthy': False, 'error': text}`` if it cannot be reached."""
        try:
            found: dict[str, Any] = _value(await self._ask('GET', '/health'))
        except RuntimeError as error:
            self._check_started(error)
            return {'healthy': False, 'error': str(error)}
        return found

    async def cleanup_all_sandboxes(self) -> None:
        """Delete the sandboxes that this manager made, of its pool too; its pool is gone then."""
        self._started()
        await asyncio.gather(*(self.delete_sandbox(each) for each in list(self._sandboxes)))
        self._sandbox_pool.clear()
        self._pool_ids.clear()
        self._sandboxes.clear()
        self._pool_initialized = False

    # Pool -------------------------------------------------------------------------------------------------------------

    async def initialize_pool(
        self, pool_size: int | None = None, sandbox_type: SandboxType | str | None = None, config: Config = None
    ) -> list[str]:
        """Have the server make sandboxes that wait for calls, and return their ids.

        Raises:
            RuntimeError: The server refused or cannot be reached.
        """
        size = self.config.pool_size if pool_size is None else pool_size
        kind = _word(SandboxType.DOCKER if sandbox_type is None else sandbox_type)
        given = self.config.sandbox_config if config is None else config
        if size <= 0:
            self._started()
            logger.warning('The pool is not made: its size is %s', size)
            return []
        answer = await self._ask(
            'POST',
            '/pool/initialize',
            query={'pool_size': size, 'sandbox_type': kind},
            body=_body(kind, given),
        )
        ids = [str(each) for each in _field(answer, 'sandbox_ids')]
        for each in ids:
            self._note(each, kind)
            self._sandbox_pool.append(each)
            self._pool_ids.add(each)
        self._pool_initialized = self._pool_initialized or bool(ids)
        return ids

    async def execute_tool_in_pool(
        self, tool_name: str, parameters: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> ToolResult:
        """Run a tool in a sandbox of the pool.

        Args:
            timeout: Seconds to wait for a sandbox.

        Raises:
            ValueError: This manager made no pool, or its sandboxes have no such tool.
            TimeoutError: No sandbox was free in time.
            RuntimeError: The server refused or cannot be reached.
        """
        if not self._pool_initialized:
            raise ValueError(NO_POOL)
        answer = await self._ask(
            'POST', '/pool/execute', query={'tool_name': tool_name, 'timeout': timeout}, body=_plain(parameters or {})
        )
        if answer.status == 400:
            raise ValueError(answer.detail)
        if answer.status == 408:
            raise TimeoutError(answer.detail)
        return ToolResult.model_validate(_value(answer))


def _value(answer: WireResponse) -> Any:
    """Return what an answer holds.

    Raises:
        RuntimeError: The server refused.
    """
    if answer.status >= 400:
        raise RuntimeError(f'HTTP {answer.status}: {answer.detail}')
    return answer.value


def _field(answer: WireResponse, name: str) -> Any:
    """Return one value of what an answer holds.

    Raises:
        RuntimeError: The server refused, or what answers is none of sandboxes.
    """
    value = _value(answer)
    if not isinstance(value, Mapping) or name not in value:
        raise RuntimeError(f'the answer has no {name!r}, so what answers is no server of sandboxes; check base_url')
    return value[name]


def _body(kind: str, config: Config) -> dict[str, Any] | None:
    """Return a configuration as it is sent.

    Raises:
        RuntimeError: A value in it is wrong.
    """
    if config is None:
        return None
    try:
        checked = config if isinstance(config, SandboxConfig) else make_config(kind, config)
    except ValueError as error:  # a refusal as the server's would be
        raise RuntimeError(f'Failed to create sandbox: {error}') from error
    dumped: dict[str, Any] = checked.model_dump(mode='json', exclude_none=True)
    return dumped


def _plain(parameters: Mapping[str, Any]) -> Any:
    from ms_enclave.sandbox.model.modeling import dumped

    return dumped(dict(parameters), mode='json')


def _word(value: Any) -> str:
    return str(getattr(value, 'value', value))


__all__ = ['HttpSandboxManager', 'NoConnectionError']
