"""A notebook sandbox: cells that share their state, a plot, a time limit, and the session as an .ipynb file.

Run with: python examples/notebook_example.py [FILE.ipynb]
"""

from __future__ import annotations

import sys

from enclave import DockerNotebookConfig, EnclaveError, SandboxFactory, SandboxType


def main() -> None:
    config = DockerNotebookConfig(network_enabled=False, tools_config={'notebook_executor': {}})
    with SandboxFactory.create_sandbox(SandboxType.DOCKER_NOTEBOOK, config) as sandbox:
        print('1. State lasts from call to call.')
        run(sandbox, 'import math\nradius = 2')
        run(sandbox, 'math.pi * radius ** 2')

        print('2. Rich outputs come by MIME type.')
        result = run(sandbox, '%matplotlib inline\nimport matplotlib.pyplot as plt\n_ = plt.plot([1, 4, 2])')
        for output in result.metadata['outputs']:
            print(f'   {output["output_type"]}: {", ".join(output["data"])}')

        print('3. A cell that takes too long is interrupted; what was defined stays.')
        run(sandbox, 'import time\ntime.sleep(60)', timeout=0.5)
        run(sandbox, 'radius')

        print('4. A kernel that dies is reported as that, and another is there.')
        run(sandbox, 'import os\nos._exit(3)')
        run(sandbox, '1 + 1')

        print('5. Kernels of their own.')
        run(sandbox, "side = 'apart'", kernel='other')
        run(sandbox, "'side' in globals()")

        if len(sys.argv) > 1:
            from enclave import NotebookDocument

            document = NotebookDocument()
            document.add_markdown('# Written by a sandbox')
            for code in ('x = 20', 'print(x)\nx + 1'):
                document.run_cell(sandbox, code)
            document.save(sys.argv[1])
            print(f'wrote {sys.argv[1]}')


def run(sandbox, code, **arguments):
    """Run a cell through the tool and show it."""
    result = sandbox.execute_tool('notebook_executor', {'code': code, **arguments})
    text = result.output if result.success else result.error.splitlines()[0]
    print(f'   {code.splitlines()[-1]:40}  {result.status}: {text.strip()}')
    return result


if __name__ == '__main__':
    try:
        main()
    except EnclaveError as error:
        sys.exit(f'{type(error).__name__}: {error}')
