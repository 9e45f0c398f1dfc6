"""What the HTTP clients of ms-enclave 0.0.1 to 0.0.8 do, each as far as it can. Prints a line for each step that was right.

Usage: old_client.py BASE_URL RELEASE
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import ms_enclave
from ms_enclave.sandbox.manager import HttpSandboxManager
from ms_enclave.sandbox.model import DockerSandboxConfig, ExecutionStatus, SandboxStatus, SandboxType


def check(what, fits, *seen):
    if not fits:
        raise SystemExit(f'{what}: {seen!r}')
    print(what)


async def raises(kind, message, call):
    try:
        found = await call
    except kind as error:
        check(f'{kind.__name__} {message}', message in str(error), error)
    else:
        raise SystemExit(f'{message}: nothing was raised, but {found!r} returned')


async def main(url):
    tools = {name: {} for name in ('python_executor', 'shell_executor', 'file_operation', 'none_such')}
    config = DockerSandboxConfig(memory_limit='256m', tools_config=tools, env_vars={'A': 'b'})
    async with HttpSandboxManager(base_url=url, timeout=120) as manager:
        check('health', (await manager.health_check())['healthy'])
        made = await manager.create_sandbox(SandboxType.DOCKER, config)
        info = await manager.get_sandbox_info(made)
        check('info', (info.id, info.status, info.type) == (made, SandboxStatus.RUNNING, 'docker'), info)
        check('tools', set(info.available_tools) == set(tools) - {'none_such'}, info.available_tools)
        check('schemas', set(await manager.get_sandbox_tools(made)) == set(tools) - {'none_such'})
        check('list', made in [each.id for each in await manager.list_sandboxes(SandboxStatus.RUNNING)])

        async def call(name, **parameters):
            return await manager.execute_tool(made, name, parameters)

        done = await call('python_executor', code='print(6 * 7)')
        check('python', (done.status, done.output, done.error) == (ExecutionStatus.SUCCESS, '42\n', None), done)
        done = await call('shell_executor', command='exit 7')
        check('exit code', done.error == 'Command failed with exit code 7', done)
        done = await call('shell_executor', command=['sleep', '60'], timeout=0.5)
        check('timeout', done.status == ExecutionStatus.TIMEOUT, done)
        done = await call('file_operation', operation='write', file_path='x', content='y', encoding='utf-8')
        check('write', done.output == 'File written successfully: x', done)
        done = await call('file_operation', operation='read', file_path='x', content=None)
        check('read', done.output == 'y', done)
        if hasattr(manager, 'put_dir'):  # from 0.0.6 on
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, 'f').write_text('sent')
                check('put_dir', await manager.put_dir(made, folder, '/data/in'))
            check('sent', (await call('shell_executor', command='cat /data/in/f')).output == 'sent')
        await raises(ValueError, 'not found', manager.execute_tool('none', 'shell_executor', {}))
        await raises(ValueError, 'is not available', call('none_such'))
        await raises(RuntimeError, 'argument', call('shell_executor', cmd='x'))
        await raises(RuntimeError, 'Failed to create sandbox', manager.create_sandbox(SandboxType.DUMMY))
        volumes = DockerSandboxConfig(volumes={'/srv/x': {'bind': '/data', 'mode': 'rw'}})
        await raises(RuntimeError, 'mounts = ["/srv/x:rw"]', manager.create_sandbox(SandboxType.DOCKER, volumes))
        check('stop', await manager.stop_sandbox(made))
        check('stopped', (await manager.get_sandbox_info(made)).status == SandboxStatus.STOPPED)
        await raises(ValueError, 'is not active', call('shell_executor', command='true'))
        check('delete', await manager.delete_sandbox(made))
        check('gone', await manager.get_sandbox_info(made) is None)
        if not hasattr(manager, 'initialize_pool'):  # before 0.0.4
            return
        await raises(ValueError, 'pool is empty', manager.execute_tool_in_pool('python_executor', {}))
        ids = await manager.initialize_pool(2, SandboxType.DOCKER, config)
        check('pool', (len(ids), manager._pool_initialized) == (2, True), ids)
        results = await asyncio.gather(
            *(manager.execute_tool_in_pool('python_executor', {'code': f'print({n})'}) for n in range(5))
        )
        check('pooled', [each.output for each in results] == [f'{n}\n' for n in range(5)], results)
        sleep = {'code': 'import time; time.sleep(5)'}
        held = [asyncio.create_task(manager.execute_tool_in_pool('python_executor', sleep)) for _ in ids]
        await asyncio.sleep(1)
        await raises(
            TimeoutError, 'Timeout', manager.execute_tool_in_pool('python_executor', {'code': '1'}, timeout=0.2)
        )
        await asyncio.gather(*held)
        await raises(ValueError, 'is not available', manager.execute_tool_in_pool('none_such', {}))
        check('left open', len(await manager.list_sandboxes()) == 2)
    async with HttpSandboxManager(base_url=url) as manager:
        check('nothing left', await manager.list_sandboxes() == [], await manager.list_sandboxes())


check('release', sys.argv[2] in ms_enclave.__file__ or ms_enclave.__version__ == sys.argv[2], ms_enclave.__file__)
asyncio.run(main(sys.argv[1]))
print('done')
