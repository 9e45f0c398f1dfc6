"""The pictures of an analysis: code draws in a notebook sandbox, and the files are here afterwards.

Run with: python examples/analysis_pictures.py [FOLDER]
"""

from __future__ import annotations

import sys

import enclave

ANALYSIS = """
import matplotlib.pyplot as plt
days, visits = [1, 2, 3, 4, 5], [120, 180, 90, 240, 210]
plt.plot(days, visits)
plt.title('visits')
plt.show()
plt.bar(days, visits)
plt.show()
"""

with enclave.open_sandbox('docker_notebook', network_enabled=False) as sandbox:
    pictures = sandbox.execute_cell(ANALYSIS).save_pictures(sys.argv[1] if len(sys.argv) > 1 else 'pictures')

print('wrote', ', '.join(str(path) for path in pictures))
