"""The page of a server, at ``/`` (layer 6): plain HTML, one style and one script, which use the routes that every client uses.

The page itself needs no key, since it shows nothing by itself; what its script asks for does. The key is typed once, kept for
the browser's tab, and sent in a header.
"""

from __future__ import annotations

from importlib.resources import files

from enclave.server.route import Context, Text, route

HTML, CSS, SCRIPT = 'text/html; charset=utf-8', 'text/css; charset=utf-8', 'text/javascript; charset=utf-8'
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text('utf-8')


@route('GET', '/', answers=HTML, is_open=True, while_draining=True, tag='server')
def get_page(context: Context) -> Text:
    """Show the server to a person: sandboxes, pools, calls that run, a terminal and files."""
    return Text(_read('index.html'), HTML)


@route('GET', '/page/style.css', answers=CSS, is_open=True, while_draining=True, tag='server')
def get_page_style(context: Context) -> Text:
    """Return the style of the page."""
    return Text(_read('style.css'), CSS)


@route('GET', '/page/app.js', answers=SCRIPT, is_open=True, while_draining=True, tag='server')
def get_page_script(context: Context) -> Text:
    """Return the script of the page."""
    return Text(_read('app.js'), SCRIPT)
