"""Leaves files and a process behind; the next program meets neither."""

import subprocess
import sys
from pathlib import Path

print(sorted(path.name for path in Path('/sandbox').iterdir()))
Path('/sandbox/left-behind').touch()
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'], start_new_session=True)
