"""The asynchronous proxies: many sandboxes from one event loop, a pool, cancelling, and a tool written with `async def`.

Run with: python examples/async_example.py. Needs a Docker engine on this machine.
"""

from __future__ import annotations

import asyncio
from typing import Any

from enclave.aio import DockerSandboxConfig, LocalSandboxManager, SandboxFactory, SandboxType, Tool, register_tool
from enclave.tools import ToolParams


@register_tool('largest_files')
class LargestFiles(Tool):
    """List the largest files below a directory."""

    parameters = ToolParams(properties={'path': {'type': 'string'}}, required=['path'])

    async def execute(self, sandbox_context: Any, **kwargs: Any) -> Any:
        # Two commands at once in the same sandbox; blocking programs can call this tool as well.
        listing, total = await asyncio.gather(
            sandbox_context.execute_command(f'find {kwargs["path"]} -type f -printf "%s %p\\n" | sort -rn | head -3'),
            sandbox_context.execute_command(['du', '-sh', kwargs['path']]),
        )
        return {'largest': listing.stdout.splitlines(), 'total': total.stdout.split()[0]}


async def one_sandbox() -> None:
    config = DockerSandboxConfig(network_enabled=False, tools_config=['python_executor', 'largest_files'])
    async with SandboxFactory.create_sandbox(SandboxType.DOCKER, config) as sandbox:
        result = await sandbox.execute_tool('python_executor', {'code': 'print(sum(range(101)))'})
        print('sum:', result.output.strip())

        print('files:', (await sandbox.execute_tool('largest_files', {'path': '/usr/lib'})).output)

        # Output as it comes.
        async with await sandbox.start_process('for n in 1 2 3; do echo step $n; sleep 0.2; done') as process:
            async for chunk in process.chunks():
                print('live:', chunk.text.strip())

        # A cancelled await ends the program in the sandbox; the sandbox continues.
        try:
            await asyncio.wait_for(sandbox.execute_command('sleep 3600'), timeout=0.5)
        except asyncio.TimeoutError:
            left = await sandbox.execute_command('cat /proc/[0-9]*/comm | grep -c sleep')
            print('given up; sleeping programs left in the sandbox:', left.stdout.strip())


async def many_sandboxes() -> None:
    config = DockerSandboxConfig(network_enabled=False, tools_config=['python_executor'])
    async with LocalSandboxManager(sandbox_config=config) as manager:
        await manager.initialize_pool(4)

        async def square(number: int) -> int:
            async with manager.lease() as sandbox:
                result = await sandbox.execute_tool('python_executor', {'code': f'print({number} ** 2)'})
                return int(result.output)

        print('squares:', await asyncio.gather(*(square(number) for number in range(20))))


async def main() -> None:
    await one_sandbox()
    await many_sandboxes()


if __name__ == '__main__':
    asyncio.run(main())
