"""The E2B client of openai-agents, used as its runner uses it: a session, commands, files, a terminal, an archive."""

import asyncio
import io
import logging
import os
import sys

from agents.extensions.sandbox.e2b import E2BSandboxClient, E2BSandboxClientOptions
from agents.sandbox.entries import File
from agents.sandbox.manifest import Manifest

logging.basicConfig(level=logging.WARNING)


async def main(sandbox_type):
    client = E2BSandboxClient()
    manifest = Manifest(root='/home/user/workspace', entries={'notes/a.txt': File(content=b'from the manifest')})
    options = E2BSandboxClientOptions(
        sandbox_type=sandbox_type, timeout=600, metadata={'of': 'agents'}, envs={'E': 'e'}
    )
    session = await client.create(manifest=manifest, options=options)
    async with session:
        done = await session.exec('cat notes/a.txt; echo; pwd; echo $E')
        print('exec', done.exit_code, done.stdout.split())
        failed = await session.exec('exit 3')
        print('failed', failed.exit_code)
        await session.write('out/b.txt', io.BytesIO(b'written'))
        print('read', (await session.read('out/b.txt')).read())
        print('ls', sorted(str(each.path).rsplit('/', 1)[-1] for each in await session.ls('.')))
        await session.mkdir('made', parents=True)
        await session.rm('made', recursive=True)
        print('running', await session.running())
        archive = await session.persist_workspace()
        print('archive', len(archive.read()) > 512)
        update = await session.pty_exec_start('read x; echo "got $x"', tty=True, yield_time_s=1)
        if update.process_id is not None:
            update = await session.pty_write_stdin(session_id=update.process_id, chars='line\n', yield_time_s=3)
        print('pty', b'got line' in update.output)
        state = session.state
    print('stopped', not await session.running())
    await client.delete(session)
    again = await client.resume(state)
    async with again:
        print('resumed', (await again.exec('cat notes/a.txt')).stdout)


asyncio.run(main(sys.argv[1]))
sys.stdout.flush()
os._exit(0)  # a native library of the SDK aborts now and then while the interpreter ends, after all of this has worked
