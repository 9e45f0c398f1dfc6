"""Many sandboxes with one owner, in this process."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from enclave.aio.proxies import run
from enclave.errors import EnclaveError
from enclave.sandboxes.housekeeping import find_housekeeper
from ms_enclave.sandbox.boxes.base import SandboxFactory
from ms_enclave.sandbox.manager.base import Config, SandboxManager, register_manager
from ms_enclave.sandbox.manager.pooling import PoolCondition, Waiters
from ms_enclave.sandbox.model.base import SandboxManagerType, SandboxStatus, SandboxType
from ms_enclave.sandbox.model.config import SandboxConfig, SandboxManagerConfig
from ms_enclave.sandbox.model.constants import DEFAULT_POOL_EXECUTION_TIMEOUT
from ms_enclave.sandbox.model.responses import SandboxInfo
from ms_enclave.utils.logger import logger

DEFAULT_CLEANUP_INTERVAL = 300
ENDED_FOR = timedelta(hours=1)
"""How long a sandbox that ended stays listed."""
OLDEST = timedelta(hours=48)
"""How long any sandbox lives."""
_ACTIVE = (SandboxStatus.RUNNING, SandboxStatus.IDLE, SandboxStatus.BUSY)
_ENDED = (SandboxStatus.STOPPED, SandboxStatus.ERROR)


@register_manager(SandboxManagerType.LOCAL)
class LocalSandboxManager(SandboxManager):
    """Owner of many sandboxes in this process.

    It may be used from several event loops, one after the other or at once; it is started in one and stopped in another.
    """

    def __init__(self, config: SandboxManagerConfig | Mapping[str, Any] | int | None = None, **kwargs: Any) -> None:
        """Make a manager.

        Args:
            config: Its configuration; a number is the interval of its clean-ups, as earlier releases had it.
            kwargs: ``cleanup_interval`` and other options, where there is no configuration.
        """
        if isinstance(config, int):
            kwargs, config = {'cleanup_interval': config, **kwargs}, None
        super().__init__(config, **kwargs)
        asked: int | None = kwargs.get('cleanup_interval')  # beside a configuration that has none, too
        self._cleanup_interval = self.config.cleanup_interval or asked or DEFAULT_CLEANUP_INTERVAL
        self._waiters = Waiters(self._take_idle)
        self._reaper: asyncio.Task[None] | None = None
        self._reaper_loop: asyncio.AbstractEventLoop | None = None

    @property
    def _pool_condition(self) -> PoolCondition:
        """A condition of the running event loop, for programs that change the pool."""
        condition: PoolCondition = self._of_loop('condition', lambda: PoolCondition(asyncio.Lock(), self._waiters))
        return condition

    # Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; a second time does nothing."""
        if not self._running:
            self._running = True
            await run(_sweep)
        self._watch()

    async def stop(self) -> None:
        """End, and take every sandbox away; a second time does nothing."""
        was, self._running = self._running, False
        reaper, self._reaper = self._reaper, None
        if reaper is not None and not reaper.done() and self._reaper_loop is asyncio.get_running_loop():
            reaper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reaper
        if was or self._sandboxes:
            await self.cleanup_all_sandboxes()
        self._sandbox_pool.clear()
        self._pool_initialized = False

    def _watch(self) -> None:
        """Have a reaper in the running event loop, where the one there was ended with its own."""
        loop = asyncio.get_running_loop()
        gone = self._reaper is None or self._reaper.done() or self._reaper_loop is None or self._reaper_loop.is_closed()
        if self._running and gone:
            self._reaper_loop = loop
            self._reaper = loop.create_task(self._reap(), name='enclave-reaper')

    async def _reap(self) -> None:
        while self._running:
            await asyncio.sleep(self._cleanup_interval)
            try:
                await self._clean_up()
            except Exception:
                logger.exception('Cleaning up sandboxes failed')

    async def _clean_up(self) -> None:
        """Take away what ended long ago, and what is too old."""
        now = datetime.now()
        for sandbox_id, sandbox in list(self._sandboxes.items()):
            has_ended = sandbox.status in _ENDED and now - sandbox.updated_at > ENDED_FOR
            if has_ended or now - sandbox.created_at > OLDEST:
                logger.info('Sandbox %s is taken away: it %s', sandbox_id, 'ended' if has_ended else 'is too old')
                await self.delete_sandbox(sandbox_id)

    def _check_running(self) -> None:
        if not self._running:
            raise RuntimeError('Sandbox manager not started: use it with "async with", or await start()')
        self._watch()

    # Sandboxes --------------------------------------------------------------------------------------------------------

    async def create_sandbox(
        self, sandbox_type: SandboxType | str, config: Config = None, sandbox_id: str | None = None
    ) -> str:
        """Make and start a sandbox, and return its id.

        Raises:
            RuntimeError: It could not be made, for whatever reason; the text has it.
        """
        self._watch()
        try:
            if sandbox_id is not None and sandbox_id in self._sandboxes:
                raise ValueError(f'there is a sandbox {sandbox_id!r} already')
            sandbox = SandboxFactory.create_sandbox(sandbox_type, config, sandbox_id)
            await self._start(sandbox)
        except Exception as error:
            logger.error('A sandbox could not be made: %s', error)
            cause = error.__cause__ if isinstance(error.__cause__, EnclaveError) else error
            raise RuntimeError(f'Failed to create sandbox: {error}') from cause
        self._sandboxes[sandbox.id] = sandbox
        logger.info('Sandbox %s was made', sandbox.id)
        return str(sandbox.id)

    async def _start(self, sandbox: Any) -> None:
        try:
            await sandbox.start()
        except BaseException:
            with contextlib.suppress(Exception):
                await sandbox.cleanup()
            raise

    async def get_sandbox(self, sandbox_id: str) -> Any:
        """Return a sandbox, or None if there is none."""
        return self._sandboxes.get(sandbox_id)

    async def get_sandbox_info(self, sandbox_id: str) -> SandboxInfo | None:
        """Return what can be said of a sandbox; None if there is none."""
        sandbox = self._sandboxes.get(sandbox_id)
        info: SandboxInfo | None = None if sandbox is None else sandbox.get_info()
        return info

    async def list_sandboxes(self, status_filter: SandboxStatus | None = None) -> list[SandboxInfo]:
        """Return what can be said of all sandboxes, or of those in one state."""
        found = [sandbox.get_info() for sandbox in list(self._sandboxes.values())]
        return [info for info in found if status_filter is None or info.status == status_filter]

    async def stop_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox, which stays listed; False if there is none or it failed."""
        return await self._end(sandbox_id, 'stop')

    async def delete_sandbox(self, sandbox_id: str) -> bool:
        """Take a sandbox away; False if there is none or it failed."""
        sandbox = self._sandboxes.get(sandbox_id)
        done = await self._end(sandbox_id, 'cleanup')
        if done and self._sandboxes.get(sandbox_id) is sandbox:
            self._sandboxes.pop(sandbox_id, None)
        return done

    async def _end(self, sandbox_id: str, how: str) -> bool:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            logger.warning('Sandbox %s was not found', sandbox_id)
            return False
        try:
            if how == 'cleanup' and sandbox.status not in _ENDED:
                await sandbox.stop()
            await getattr(sandbox, how)()
        except Exception as error:
            logger.error('Sandbox %s could not be %s: %s', sandbox_id, 'stopped' if how == 'stop' else 'deleted', error)
            return False
        return True

    def _active(self, sandbox_id: str) -> Any:
        sandbox = self._existing(sandbox_id)
        if sandbox.status not in _ACTIVE:
            raise ValueError(f'Sandbox {sandbox_id} is not active: it is {_word(sandbox.status)}')
        return sandbox

    def _existing(self, sandbox_id: str) -> Any:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise ValueError(f'Sandbox {sandbox_id} not found')
        return sandbox

    async def execute_tool(self, sandbox_id: str, tool_name: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a tool in a sandbox, and return what it returned.

        Raises:
            ValueError: There is no such sandbox, or it does not run, or it has no such tool.
            RuntimeError: The manager is not started.
        """
        self._check_running()
        return await self._active(sandbox_id).execute_tool(tool_name, parameters or {})

    async def get_sandbox_tools(self, sandbox_id: str) -> dict[str, Any]:
        """Return ``{tool name: schema}`` of a sandbox.

        Raises:
            ValueError: There is none.
        """
        found: dict[str, Any] = self._existing(sandbox_id).get_available_tools()
        return found

    async def put_archive(self, sandbox_id: str, target_dir: str, data: bytes) -> bool:
        """Unpack a tar archive into a directory of a sandbox.

        Raises:
            ValueError: There is no such sandbox, or it does not run.
        """
        self._check_running()
        return bool(await self._active(sandbox_id).put_archive(target_dir, data))

    async def put_dir(self, sandbox_id: str, source_dir: str | Path, target_dir: str) -> bool:
        """Copy what is in a directory of this machine, symlinks left out, into a directory of a sandbox.

        Raises:
            ValueError: There is no such sandbox, or it does not run.
            FileNotFoundError: ``source_dir`` is no directory.
        """
        self._check_running()
        return bool(await self._active(sandbox_id).put_dir(source_dir, target_dir))

    async def get_stats(self) -> dict[str, Any]:
        """Return numbers."""
        sandboxes = list(self._sandboxes.values())
        return {
            'manager_type': 'local',
            'total_sandboxes': len(sandboxes),
            'status_counts': dict(collections.Counter(_word(each.status) for each in sandboxes)),
            'sandbox_types': dict(collections.Counter(_word(each.sandbox_type) for each in sandboxes)),
            'running': self._running,
            'cleanup_interval': self._cleanup_interval,
            'pool_size': len(self._sandbox_pool),
            'pool_enabled': self.config.pool_size > 0,
            'pool_initialized': self._pool_initialized,
        }

    async def cleanup_all_sandboxes(self) -> None:
        """Take all sandboxes away. The pool keeps their ids, which nobody gets any more."""
        ids = list(self._sandboxes)
        await asyncio.gather(*(self.delete_sandbox(each) for each in ids))

    # Pool -------------------------------------------------------------------------------------------------------------

    async def initialize_pool(
        self, pool_size: int | None = None, sandbox_type: SandboxType | str | None = None, config: Config = None
    ) -> list[str]:
        """Make sandboxes that wait for calls, and return their ids. Those that cannot be made are logged and left out.

        Args:
            pool_size: How many; default is the configuration's.
            sandbox_type: Their kind; default is Docker.
            config: Their configuration; default is the manager's ``sandbox_config``.
        """
        self._watch()
        size = self.config.pool_size if pool_size is None else pool_size
        if size <= 0:
            logger.warning('The pool is not made: its size is %s', size)
            return []
        kind = SandboxType.DOCKER if sandbox_type is None else sandbox_type
        given = self.config.sandbox_config if config is None else config
        made = await asyncio.gather(
            *(self.create_sandbox(kind, _own(given)) for _ in range(size)), return_exceptions=True
        )
        ids = []
        for each in made:
            if isinstance(each, str):
                ids.append(each)
            elif not isinstance(each, Exception):
                raise each
        for each in ids:
            self._sandboxes[each].update_status(SandboxStatus.IDLE)
            self._sandbox_pool.append(each)
        if ids:
            self._pool_initialized = True
        if len(ids) < size:
            logger.error('Only %d of %d sandboxes of the pool could be made', len(ids), size)
        for _ in ids:
            self._waiters.wake()
        return ids

    def _take_idle(self) -> str | None:
        """Take the sandbox that was used longest ago out of the pool; those that are gone are dropped."""
        while self._sandbox_pool:
            sandbox_id = self._sandbox_pool.popleft()
            sandbox = self._sandboxes.get(sandbox_id)
            if sandbox is not None and sandbox.status in _ACTIVE:
                sandbox.update_status(SandboxStatus.BUSY)
                return sandbox_id
        return None

    def _give_back(self, sandbox_id: str) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is not None and sandbox.status in _ACTIVE:
            sandbox.update_status(SandboxStatus.IDLE)
            self._sandbox_pool.append(sandbox_id)
        self._waiters.wake()

    @contextlib.asynccontextmanager
    async def lease(self, timeout: float | None = None) -> AsyncIterator[Any]:
        """Have a sandbox of the pool for the length of an ``async with`` block.

        Raises:
            ValueError: There is no pool.
            TimeoutError: None was free in time.
        """
        if not self._pool_initialized:
            raise ValueError('Sandbox pool is empty, call initialize_pool first')
        self._check_running()
        sandbox_id = await self._waiters.take(timeout or self.config.timeout or DEFAULT_POOL_EXECUTION_TIMEOUT)
        try:
            yield self._sandboxes[sandbox_id]
        finally:
            self._give_back(sandbox_id)

    async def execute_tool_in_pool(
        self, tool_name: str, parameters: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """Run a tool in the sandbox of the pool that was used longest ago, and return what it returned.

        Args:
            timeout: Seconds to wait for one; None and 0 are the configuration's, else an hour. The tool is not bounded by it.

        Raises:
            ValueError: There is no pool, or the sandbox has no such tool.
            TimeoutError: No sandbox was free in time.
        """
        async with self.lease(timeout) as sandbox:
            return await sandbox.execute_tool(tool_name, parameters or {})

    @contextlib.asynccontextmanager
    async def open(
        self, sandbox_type: SandboxType | str = SandboxType.DOCKER, config: Config = None, sandbox_id: str | None = None
    ) -> AsyncIterator[Any]:
        """Have a new sandbox for the length of an ``async with`` block."""
        made = await self.create_sandbox(sandbox_type, config, sandbox_id)
        try:
            yield self._sandboxes[made]
        finally:
            await self.delete_sandbox(made)


def _own(config: Config) -> Any:
    """Return a configuration of its own for each sandbox, since sandboxes change theirs."""
    return config.model_copy(deep=True) if isinstance(config, SandboxConfig) else config


def _word(value: Any) -> str:
    return str(getattr(value, 'value', value))


def _sweep() -> None:
    """Remove what processes that died have left on the engine."""
    housekeeper = find_housekeeper('docker')
    if housekeeper is not None:
        try:
            housekeeper.sweep()
        except EnclaveError as error:
            logger.log(logging.DEBUG, 'The engine was not swept: %s', error)


__all__ = ['LocalSandboxManager']
