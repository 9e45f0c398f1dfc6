"""The page of a server in a real browser: Debian's Chromium, headless, driven by Playwright (``make test-browser``)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.server.serve import SandboxServer
from tests.support.server import serving

pytestmark = [pytest.mark.browser, pytest.mark.bubblewrap]

KEY = 'typed-once-and-kept-nowhere'
PICTURES = Path(__file__).parents[2] / 'docs' / 'pictures'


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    """A browser."""
    sync_api = pytest.importorskip('playwright.sync_api')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if chromium is None:
        pytest.fail('this suite needs Chromium: apt-get install chromium')
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield made
        made.close()


@contextlib.contextmanager
def opened(browser: Any, server: SandboxServer, **options: Any) -> Iterator[Any]:
    """Open the page; what goes wrong in its script fails the test."""
    context = browser.new_context(**options)
    page = context.new_page()
    problems: list[str] = []
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.on('console', lambda message: problems.append(message.text) if 'Content Security' in message.text else None)
    requests: list[str] = []
    page.on('request', lambda request: requests.append(request.url))
    page.goto(f'{server.url}/')
    yield page
    context.close()
    assert problems == []
    assert not [url for url in requests if not url.startswith((server.url, 'blob:'))]
    assert not [url for url in requests if KEY in url]


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    """A server whose sandboxes are bubblewrap's."""
    with serving(sandbox_type='bubblewrap') as made:
        yield made


def make_sandbox(page: Any) -> str:
    page.get_by_role('button', name='Make a sandbox').click()
    page.get_by_role('button', name='Open sandbox').first.wait_for()
    found: str = page.locator('#sandboxes td').first.inner_text()
    return found


def test_a_sandbox_is_made_shown_and_deleted(browser: Any, server: SandboxServer) -> None:
    with opened(browser, server) as page:
        made = make_sandbox(page)
        assert 'running' in page.locator('#sandboxes').inner_text()
        page.on('dialog', lambda dialog: dialog.accept())
        page.get_by_role('button', name=f'Delete sandbox {made}').click()
        page.get_by_text('No sandboxes.').wait_for()


def test_a_terminal_and_files(browser: Any, server: SandboxServer, tmp_path: Path) -> None:
    (tmp_path / 'from-here.txt').write_text('carried in')
    with opened(browser, server) as page:
        make_sandbox(page)
        page.get_by_role('button', name='Open sandbox').first.click()
        page.get_by_role('button', name='Open a terminal').click()
        terminal = page.locator('#terminal')
        terminal.filter(has_text='$').wait_for()
        terminal.type('echo $((6*7)) > answer.txt; cat answer.txt; mkdir -p deep\n')
        page.locator('#terminal', has_text='42').wait_for()
        page.get_by_role('button', name='Show', exact=True).click()
        page.get_by_role('button', name='Show answer.txt').click()
        page.locator('#file', has_text='42').wait_for()
        page.get_by_role('button', name='Enter deep').click()
        page.get_by_text('..', exact=True).wait_for()
        page.set_input_files('#upload', tmp_path / 'from-here.txt')
        page.get_by_role('button', name='Show deep/from-here.txt').click()
        page.locator('#file', has_text='carried in').wait_for()
        with page.expect_download() as download:
            page.get_by_role('button', name='Save deep/from-here.txt').click()
        assert Path(download.value.path()).read_text() == 'carried in'
        page.get_by_role('button', name='Close it').click()
        page.get_by_role('button', name='Open a terminal').wait_for()


def test_a_key_is_asked_for_once_and_never_in_an_address(browser: Any) -> None:
    with serving(sandbox_type='bubblewrap', api_key=KEY) as server, opened(browser, server) as page:
        page.get_by_label('API key').fill('a wrong key of some length')
        page.get_by_role('button', name='Enter').click()
        page.locator('#key-error', has_text='does not know').wait_for()
        page.get_by_label('API key').fill(KEY)
        page.get_by_role('button', name='Enter').click()
        page.get_by_text('No sandboxes.').wait_for()
        page.reload()
        page.get_by_text('No sandboxes.').wait_for()
        assert KEY not in page.url
        assert page.evaluate('Object.values(localStorage).length') == 0
        page.get_by_role('button', name='Forget the key').click()
        page.get_by_label('API key').wait_for()


def test_it_works_at_360_pixels_and_by_keyboard_alone(browser: Any, server: SandboxServer) -> None:
    with opened(browser, server, viewport={'width': 360, 'height': 740}) as page:
        make_sandbox(page)
        assert page.evaluate('document.documentElement.scrollWidth') <= 360
        page.get_by_role('button', name='Open sandbox').first.focus()
        page.keyboard.press('Enter')
        assert page.evaluate('document.activeElement.id') == 'back'
        page.keyboard.press('Tab')
        assert page.evaluate('document.activeElement.id') == 'open-terminal'
        page.keyboard.press('Enter')
        page.locator('#terminal', has_text='$').wait_for()
        assert page.evaluate('document.activeElement.id') == 'terminal'
        page.keyboard.type('echo by keyboard\n')
        page.locator('#terminal', has_text='by keyboard\nby keyboard').or_(
            page.locator('#terminal', has_text='by keyboard')
        ).wait_for()
        page.keyboard.press('Shift+Tab')
        assert page.evaluate('document.activeElement.id') == 'close-terminal'
        assert page.evaluate('document.documentElement.scrollWidth') <= 360


def test_what_a_guest_names_its_files_is_text_and_nothing_else(browser: Any, server: SandboxServer) -> None:
    with opened(browser, server) as page:
        make_sandbox(page)
        page.get_by_role('button', name='Open sandbox').first.click()
        page.get_by_role('button', name='Open a terminal').click()
        page.locator('#terminal', has_text='$').wait_for()
        page.locator('#terminal').type("touch '<img src=x onerror=alert(1)>'; printf '<script>alert(2)</script>'\n")
        page.on('dialog', lambda dialog: pytest.fail('a guest ran a script in the page'))
        page.locator('#terminal', has_text='</script>').wait_for()
        page.get_by_role('button', name='Show', exact=True).click()
        page.get_by_text('<img src=x onerror=alert(1)>').wait_for()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_pictures_of_it(browser: Any, server: SandboxServer, scheme: str, tmp_path: Path) -> None:
    with opened(browser, server, color_scheme=scheme, viewport={'width': 900, 'height': 700}) as page:
        make_sandbox(page)
        page.get_by_role('button', name='Open sandbox').first.click()
        page.get_by_role('button', name='Open a terminal').click()
        page.locator('#terminal', has_text='$').wait_for()
        page.locator('#terminal').type("python3 -c 'print(6 * 7)'\n")
        page.locator('#terminal', has_text='42').wait_for()
        picture = page.screenshot(path=tmp_path / f'{scheme}.png')
    assert len(picture) > 10_000
