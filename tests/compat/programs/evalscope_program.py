"""What EvalScope does with sandboxes: its agent environment, its pools, its mixin. Prints a line for each step that was right.

Usage: evalscope_program.py [BASE_URL]
"""

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from evalscope.agent.environments.enclave import EnclaveAgentEnvironment
from evalscope.api.mixin.code_execution_sandbox_mixin import CodeExecutionSandboxMixin
from evalscope.api.sandbox import SandboxEngine, build_sandbox_config, get_sandbox_service, resolve_engine
from evalscope.api.sandbox.engine import get_enclave_types

MANAGER = {'base_url': sys.argv[1], 'timeout': 120} if len(sys.argv) > 1 else {}


def check(what, fits, *seen):
    if not fits:
        raise SystemExit(f'{what}: {seen!r}')
    print(what)


async def environment():
    made = EnclaveAgentEnvironment(
        engine='docker', sandbox_config={'memory_limit': '512m', 'cpu_limit': '1.0'}, manager_config=MANAGER
    )
    if not MANAGER:
        made.merge_sandbox_config({'extra_hosts': {'host.docker.internal': 'host-gateway'}})
    done = await made.exec(['bash', '-c', 'echo out; echo err >&2; exit 3'])
    # The exit code stands in the text only where nothing was written to standard error.
    check('stderr', (done.stdout, done.stderr, done.returncode) == ('out\n', 'err\n', 1), done)
    done = await made.exec(['bash', '-c', 'exit 3'])
    check('exit code', done.returncode == 3, done)
    done = await made.exec(['cat'], input='typed', cwd='/tmp', env={'A': 'b'})
    check('stdin', (done.stdout, done.returncode) == ('typed', 0), done)
    done = await made.exec(['sleep', '60'], timeout=0.5)
    check('timeout', (done.timed_out, done.returncode) == (True, -1), done)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'f').write_text('sent')
        await made.put_dir(folder, '/workspace/in')
    done = await made.exec(['cat', '/workspace/in/f'])
    check('put_dir', done.stdout == 'sent', done)
    await made.close()
    await made.close()


class Benchmark(CodeExecutionSandboxMixin):
    """The mixin with the little of a benchmark that it reads."""

    def __init__(self, benchmark_meta, task_config):
        with contextlib.suppress(TypeError):  # the mixin hands on to a benchmark's own class
            super().__init__(benchmark_meta, task_config)


def pool():
    tools = ['python_executor', 'shell_executor', 'multi_code_executor']
    meta = SimpleNamespace(sandbox_config={'image': 'python:3.11-slim', 'tools_config': tools, 'memory_limit': '512m'})
    sandbox = SimpleNamespace(enabled=True, engine='docker', manager_config=MANAGER, default_config={}, pool_size=2)
    benchmark = Benchmark(meta, SimpleNamespace(sandbox=sandbox, eval_batch_size=2))
    done = benchmark.execute_code_in_sandbox('print(6 * 7)', timeout=30)
    check('python', (done['status'], done['output']) == ('success', '42\n'), done)
    done = benchmark.execute_code_in_sandbox('raise ValueError("no")', timeout=30)
    check('failure', done['status'] == 'error' and 'ValueError' in done['error'], done)
    done = benchmark.execute_code_in_sandbox('import time; time.sleep(60)', timeout=1)
    check('too long', done['status'] == 'timeout', done)
    done = benchmark.execute_code_in_sandbox('exit 7', timeout=30, language='shell')
    check('shell', done['error'] == 'Command failed with exit code 7', done)
    done = benchmark.execute_code_in_sandbox('echo hi', timeout=30, language='bash')
    check('language', done['output'] == 'hi\n', done)
    check('initialized', getattr(benchmark.sandbox_manager, '_pool_initialized', False))
    benchmark.sandbox_finalize()


check('engines', resolve_engine('volc') is SandboxEngine.VOLCENGINE)
check('names', all(get_enclave_types(SandboxEngine.VOLCENGINE)))
config = build_sandbox_config(
    SandboxEngine.DOCKER,
    {
        'pull_progress': True,
        'pull_progress_interval': 2,
        'entrypoint': [],
        'command': ['sleep', 'infinity'],
        'other': 1,
    },
)
check('configuration', (config.entrypoint, config.pull_progress) == ([], True), config)
asyncio.run(environment())
pool()
check('service', get_sandbox_service() is not None)
print('done')
