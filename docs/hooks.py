"""What the site shows besides the pages of this folder: files of the repository, the command line's help, the HTTP routes."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    'changelog.md': 'CHANGELOG.md',
    'contributing.md': 'CONTRIBUTING.md',
    'security.md': 'SECURITY.md',
    'releasing.md': 'RELEASING.md',
}
"""Pages that are files at the top of the repository."""
_LINK = re.compile(r'(\]\()([^)#:\s]+)(#[^)\s]*)?\)')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    for page, source in PAGES.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text('utf-8')))
    files.append(File.generated(config, 'reference/command-line.md', content=command_line()))
    files.append(File.generated(config, 'reference/http.md', content=http_routes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files outside this folder into links to their pages, or to the repository."""
    here = page.file.src_uri
    base = '' if here in PAGES else posixpath.join('docs', posixpath.dirname(here))

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(base, match[2]))
        anchor = match[3] or ''
        for page_name, source in PAGES.items():
            if target == source:
                return f'{match[1]}{posixpath.relpath(page_name, posixpath.dirname(here) or ".")}{anchor})'
        if target.startswith('docs/'):
            inside = posixpath.relpath(target.removeprefix('docs/'), posixpath.dirname(here) or '.')
            return f'{match[1]}{inside}{anchor})'
        return f'{match[1]}{config.repo_url}/blob/main/{target}{anchor})'

    parts = re.split(r'(^```.*?^```$)', markdown, flags=re.MULTILINE | re.DOTALL)
    return ''.join(part if part.startswith('```') else _LINK.sub(link, part) for part in parts)


def command_line() -> str:
    """Return the help of every command as a page."""
    from enclave.cli.main import COMMANDS, cli

    lines = ['# Command line', '', 'What `ms-enclave COMMAND --help` prints.', '']
    for name in sorted(COMMANDS):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        lines += _help(command, f'ms-enclave {name}', '##')
        if isinstance(command, click.Group):
            for inner in sorted(command.commands):
                lines += _help(command.commands[inner], f'ms-enclave {name} {inner}', '###')
    return '\n'.join(lines)


def _help(command: click.Command, name: str, heading: str) -> list[str]:
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    return [f'{heading} {name}', '', '```text', command.get_help(context), '```', '']


def http_routes() -> str:
    """Return the routes of the server as a page, from its OpenAPI document."""
    from enclave.server.openapi import document as make_document

    document = make_document()
    lines = [
        '# HTTP',
        '',
        'The routes of `ms-enclave server`; the whole document is at `/openapi.json` of a server.',
        '',
    ]
    by_tag: dict[str, list[str]] = {}
    for path, methods in sorted(document['paths'].items()):
        for method, operation in methods.items():
            if not isinstance(operation, dict) or 'responses' not in operation:
                continue
            text = operation.get('summary') or (operation.get('description') or '').split('\n')[0]
            row = f'| `{method.upper()} {path}` | {text.replace("|", "&#124;")} |'
            by_tag.setdefault((operation.get('tags') or ['other'])[0], []).append(row)
    for tag, rows in by_tag.items():
        lines += [f'## {tag}', '', '| route | what it does |', '| --- | --- |', *rows, '']
    return '\n'.join(lines)
