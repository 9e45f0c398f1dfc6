"""Make the pictures of the server's page that the documents show: ``python scripts/make_pictures.py`` (Chromium, Playwright)."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from enclave.server.serve import create_server

TARGET = Path(__file__).parents[1] / 'docs' / 'pictures'


def main() -> None:
    """Write one picture of the overview and one of a terminal, in light and dark."""
    TARGET.mkdir(exist_ok=True)
    with create_server(sandbox_type='bubblewrap').running() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        for scheme in ('light', 'dark'):
            page = browser.new_context(color_scheme=scheme, viewport={'width': 900, 'height': 620}).new_page()
            page.goto(url)
            page.get_by_role('button', name='Make a sandbox').click()
            page.get_by_role('button', name='Open sandbox').first.wait_for()
            page.screenshot(path=TARGET / f'page-overview-{scheme}.png')
            page.get_by_role('button', name='Open sandbox').first.click()
            page.get_by_role('button', name='Open a terminal').click()
            page.locator('#terminal', has_text='$').wait_for()
            page.locator('#terminal').type("python3 -c 'print(6 * 7)' > answer.txt; cat answer.txt\n")
            page.locator('#terminal', has_text='42').wait_for()
            page.get_by_role('button', name='Show', exact=True).click()
            page.get_by_role('button', name='Show answer.txt').wait_for()
            page.screenshot(path=TARGET / f'page-terminal-{scheme}.png')
        browser.close()


if __name__ == '__main__':
    main()
