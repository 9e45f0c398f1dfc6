"""Write the table of languages of docs/languages.md from the entries of `enclave.languages.table`.

python scripts/list_languages.py          # writes it
python scripts/list_languages.py --check  # exit code 1 if it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from enclave.languages.table import Language, list_languages

DOCUMENT = Path(__file__).parents[1] / 'docs' / 'languages.md'
BEGIN, END = '<!-- table of languages -->', '<!-- end of the table -->'


def _command(argv: tuple[str, ...]) -> str:
    text = ' '.join(argv)
    text = text if len(text) <= 60 else f'{text[:57]}...'
    return (
        '`'
        + text.replace('|', '\\|')
        .replace('{file}', 'FILE')
        .replace('{name}', 'NAME')
        .replace('{class}', 'NAME')
        .replace('{dir}', 'DIR')
        + '`'
    )


def _row(language: Language) -> str:
    names = ', '.join(f'`{each}`' for each in (language.name, *language.aliases))
    packages = ', '.join(language.packages) or '-'
    if language.npm:
        packages += f'; npm: {", ".join(language.npm)}'
    commands = '; '.join(_command(each) for each in language.compile)
    run = _command(language.run)
    cells = (
        language.title + (f'. {language.note}' if language.note else ''),
        names,
        f'`{language.file.replace("{name}", "NAME")}`',
        commands or '-',
        run,
        packages,
        language.image or '-',
    )
    return f'| {" | ".join(cells)} |'


def table() -> str:
    """Return the table, with its marks."""
    names = ('language', 'names', 'main file', 'compiled by', 'run by', 'Debian packages', 'image')
    head = f'| {" | ".join(names)} |\n|{" --- |" * len(names)}'
    rows = '\n'.join(_row(each) for each in list_languages())
    return f'{BEGIN}\n\n{head}\n{rows}\n\n{END}'


def with_table(text: str) -> str:
    """Return the document with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return f'{before}{table()}{rest.partition(END)[2]}'


def main() -> int:
    """Write the table, or say whether it is true."""
    text = DOCUMENT.read_text('utf-8')
    made = with_table(text)
    if '--check' in sys.argv[1:]:
        return int(text != made)
    DOCUMENT.write_text(made, 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
