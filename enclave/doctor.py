"""What this machine has of what the library needs, and the commands that mend the rest (layer 6).

Each check looks at one thing and says what was found; `examine` makes them all. Nothing is changed. What a kind of sandbox
needs is looked at by that kind (`enclave.sandboxes.kinds.SandboxKind.doctor`). A check is *required* when the first of the
kinds cannot be had without it. Code can run where sandboxes of any kind can be made.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from attrs import Factory, frozen

from enclave.checks import Check, Examiner, failed, ok, warning
from enclave.records import Model
from enclave.sandboxes.choice import TYPE_VARIABLE
from enclave.sandboxes.kinds import KINDS, SandboxKind, load
from enclave.suggest import did_you_mean

_MINIMUM_PYTHON = (3, 10)


@frozen(kw_only=True)
class Diagnosis(Model):
    """All checks. ``backends`` are the kinds in whose sandboxes code can run; ``can_run`` is whether
    there is any."""

    can_run: bool
    backends: list[str] = Factory(list)
    checks: list[Check] = Factory(list)


def examine(base_url: str | None = None) -> Diagnosis:
    """Look at everything and return what was found; takes a second at most where the engine answers at all.

    Args:
        base_url: The engine's address; None chooses it as the library does.
    """
    checks = [check_python()]
    for _, examiner in _examiners():
        checks += examiner.examine(base_url)
    checks += [check_default_kind(checks), check_notebooks(checks)]
    backends = find_backends(checks)
    return Diagnosis(can_run=bool(backends), backends=backends, checks=checks)


def _examiners() -> list[tuple[SandboxKind, Examiner]]:
    """Return the kinds that can say what they need, those that are tried first before the others."""
    ranked = KINDS.ranked()
    kinds = [*ranked, *(kind for kind in KINDS.all() if kind not in ranked)]
    return [(kind, load(kind.doctor)()) for kind in kinds if kind.doctor is not None]


def find_backends(checks: list[Check]) -> list[str]:
    """Return the kinds in whose sandboxes code can run, given all other checks."""
    return [kind.name for kind, examiner in _examiners() if examiner.can_run(checks)]


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Check that this Python is one the library is tested on."""
    text = '.'.join(map(str, version))
    if version[:2] < _MINIMUM_PYTHON:
        return failed(
            'python',
            f'Python {text} is too old; 3.10 or later is needed',
            'apt-get install python3 (on Debian 12 or later), then make the virtual environment with it',
            required=True,
        )
    return ok('python', f'Python {text} at {sys.executable}', required=True)


def check_default_kind(checks: list[Check]) -> Check:
    """Say which kind of sandbox is used where nobody names one, and why."""
    name = 'default kind'
    named = os.environ.get(TYPE_VARIABLE, '').strip()
    if named:
        return _check_named_kind(name, named, checks)
    missing: list[str] = []
    ranked = [(kind, examiner) for kind, examiner in _examiners() if kind.rank is not None]
    for kind, examiner in ranked:
        if examiner.is_there(checks):
            why = ' and '.join([*missing, examiner.yes])
            return ok(name, f'{kind.name}, since {why}')
        missing.append(examiner.no)
    return warning(
        name, f'{ranked[0][0].name}, although {", and ".join(missing)} either', 'mend one of them, as said above'
    )


def _check_named_kind(name: str, named: str, checks: list[Check]) -> Check:
    """Say whether the kind that the environment names can be had."""
    remedy = f'unset {TYPE_VARIABLE}, or have it name another kind'
    names = [kind.name for kind in KINDS.all()]
    if named not in names:
        return failed(
            name, f'{TYPE_VARIABLE} names {named!r}, which is no kind of sandbox; {did_you_mean(named, names)}', remedy
        )
    for kind, examiner in _examiners():
        if named in (kind.name, kind.notebook) and not examiner.is_there(checks):
            return failed(name, f'{named}, since {TYPE_VARIABLE} names it, although {examiner.no}', remedy)
    return ok(name, f'{named}, since {TYPE_VARIABLE} names it')


def check_notebooks(checks: list[Check]) -> Check:
    """Say which kind of notebook sandbox is used where nobody names one, and on what it stands."""
    name = 'notebooks'
    missing: list[str] = []
    for kind, examiner in _examiners():
        if kind.rank is None or kind.notebook is None:
            continue
        is_there, clause = examiner.find_notebooks(checks)
        if is_there:
            return ok(name, f'{kind.notebook}, since {" and ".join([*missing, clause])}')
        missing.append(clause or examiner.no)
    return warning(name, f'none can be started: {", and ".join(missing)}', 'mend one of them, as said above')


def __getattr__(name: str) -> Any:
    """Return a check of a kind's own, which is in that kind's folder."""
    for kind in KINDS.all(installed=False):
        if isinstance(kind.doctor, str) and not name.startswith('__'):
            module = importlib.import_module(kind.doctor.partition(':')[0])
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
