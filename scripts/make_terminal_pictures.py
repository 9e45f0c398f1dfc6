"""Make the pictures of the terminal that the documents show: ``python scripts/make_terminal_pictures.py`` (bubblewrap).

Each picture is what commands of this library really print, with their colours, as an SVG that loads nothing from elsewhere.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
TARGET = ROOT / 'docs' / 'pictures'
COLUMNS = 92
SESSIONS = {
    'terminal-run': [
        "enclave run -c 'print(6 * 7)'",
        "enclave run --timeout 1 -c 'while True: pass'; echo exit code $?",
        "enclave run --memory 64m -c 'len(bytearray(10**9))'",
        'enclave rnu',
    ],
    'terminal-pool': ['enclave pool run examples/programs'],
}
"""``{name of the picture: commands typed one after the other}``."""


def take(command: str) -> str:
    """Run a command line as at a terminal of `COLUMNS`, and return what it printed, escape codes included."""
    bin_dir = Path(sys.executable).parent
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(('ENCLAVE_', 'NO_COLOR'))},
        'PATH': f'{bin_dir}{os.pathsep}{os.environ["PATH"]}',
        'ENCLAVE_TYPE': 'bubblewrap',
        'FORCE_COLOR': '1',
        'COLUMNS': str(COLUMNS),
    }
    done = subprocess.run(
        ['bash', '-c', command],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode()


def draw(session: list[tuple[str, str]], title: str) -> str:
    """Return commands and what they printed as an SVG.

    Args:
        session: Each command, and what it printed with escape codes.
    """
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system='truecolor')
    for command, printed in session:
        console.print(Text.assemble(('$ ', 'bold green'), (command, 'bold')))
        # What draws over itself, like a progress bar, shows its last state.
        lines = [line.rpartition('\r')[2] for line in printed.replace('\r\n', '\n').rstrip('\n').split('\n')]
        if printed.strip():
            console.print(Text.from_ansi('\n'.join(lines)))
    drawn = console.export_svg(title=title, unique_id='terminal')
    drawn = re.sub(r'@font-face \{.*?\}\s*', '', drawn, flags=re.DOTALL)  # they would be loaded from another host
    drawn = drawn.replace('Fira Code', 'DejaVu Sans Mono, Menlo, Consolas')
    return re.sub(r'[ \t]+\n', '\n', re.sub(r'<!--.*?-->\s*', '', drawn, flags=re.DOTALL)).rstrip() + '\n'


def main() -> None:
    """Write each picture."""
    TARGET.mkdir(exist_ok=True)
    for name, commands in SESSIONS.items():
        session = [(command, take(command)) for command in commands]
        (TARGET / f'{name}.svg').write_text(draw(session, shlex.split(commands[0])[0]))


if __name__ == '__main__':
    main()
