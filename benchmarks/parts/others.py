"""The smaller parts, by name; each returns its tables, as far as the kinds of sandboxes that there are allow."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.parts import aio, bubblewrap, e2b, languages, managers, notebook, server
from benchmarks.table import Table

PARTS: dict[str, Callable[[list[str], float], list[Table]]] = {
    'managers': managers.measure,
    'notebook': notebook.measure,
    'server': server.measure,
    'bubblewrap': bubblewrap.measure,
    'aio': aio.measure,
    'languages': languages.measure,
    'e2b': e2b.measure,
}
