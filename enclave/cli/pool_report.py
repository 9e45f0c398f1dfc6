"""What `ms-enclave pool run` has to say of its programs (layer: entries): for people, as JSON and as JUnit XML.

Source of the XML: the schema that Jenkins and GitLab read, ``testsuites/testsuite/testcase`` with ``failure`` or ``error``.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from enclave.cli.output import print_table
from enclave.cli.pool_cases import Case
from enclave.enums import ExecutionStatus, Verdict
from enclave.errors import EnclaveError, InvalidArgumentError
from enclave.languages.values import CodeResult
from enclave.managers.protocol import error_response
from enclave.records import ToolResult
from enclave.tools.base import command_result

TIMED_OUT = 124
"""The exit code that a timeout is shown with, as timeout(1) and `ms-enclave run` have it."""
_SHOWN_OUTPUT = 60
_UNWRITABLE = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')  # what XML 1.0 cannot hold


@frozen
class CaseOutcome:
    """What became of one case; ``problem`` is why there is no result."""

    case: Case
    result: CodeResult | None
    problem: str | None = None
    error: EnclaveError | None = None

    @property
    def status(self) -> str:
        """``success``, ``error``, ``timeout`` or ``cancelled``, and ``failed`` where there is no result."""
        return 'failed' if self.result is None else str(self.result.status)

    @property
    def success(self) -> bool:
        """Whether it ended with exit code 0 and printed what it should, where that is known."""
        return self.result is not None and self.result.success

    @property
    def verdict(self) -> str:
        """A word for it: the judge's, where there is one, else the status."""
        if self.result is None or self.result.verdict is None:
            return self.status
        return str(self.result.verdict)

    @property
    def exit_code(self) -> int | None:
        """The program's exit code, and 124 for one that ran out of time."""
        if self.result is None:
            return None
        return TIMED_OUT if self.result.status is ExecutionStatus.TIMEOUT else self.result.exit_code

    def tool_result(self) -> ToolResult | None:
        """Return the result in the form that tools have."""
        if self.result is None:
            return None
        result = command_result(self.result.language, self.result.last)
        return result.model_copy(update={'exit_code': self.exit_code})

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-compatible values."""
        result = self.tool_result()
        return {
            'path': str(self.case.path),
            'case': self.case.name or None,
            'status': self.status,
            'verdict': self.verdict,
            'success': self.success,
            'result': None if result is None else result.to_dict(),
            'problem': self.problem,
            'error': None if result is not None else self._error_record(),
        }

    def _error_record(self) -> dict[str, Any]:
        error = self.error or InvalidArgumentError(self.problem or 'there is no result')
        return error_response(error).model_dump(mode='json')

    def last_line(self) -> str:
        """Return the line that most likely says what went wrong: a program's own is shortened, and what it lost is marked."""
        if self.result is None:
            return self.problem or ''
        if self.result.verdict is Verdict.WRONG_ANSWER:
            printed = self.result.stdout.strip()
            return f'printed {"..." * (len(printed) > _SHOWN_OUTPUT)}{printed[-_SHOWN_OUTPUT:]!r}'
        lines = (self.result.stderr.strip() or self.result.stdout.strip()).splitlines() or ['']
        return lines[-1] if len(lines[-1]) <= _SHOWN_OUTPUT else f'{lines[-1][:_SHOWN_OUTPUT]}...'


def print_report(outcomes: Sequence[CaseOutcome], seconds: float) -> None:
    """Print a table of all outcomes, and how many there were of which."""
    ordered = sorted(outcomes, key=lambda each: each.case.label)
    rows = [
        (
            each.case.label,
            each.verdict,
            each.exit_code,
            '' if each.result is None else f'{each.result.execution_time:.2f}',
            each.last_line(),
        )
        for each in ordered
    ]
    print_table(('PROGRAM', 'STATUS', 'EXIT', 'SECONDS', 'LAST OUTPUT'), rows)
    succeeded = sum(each.success for each in outcomes)
    counts = Counter(each.verdict for each in outcomes if not each.success)
    kinds = ', '.join(f'{count} {kind}' for kind, count in counts.most_common())
    failed = f' ({kinds})' if kinds else ''
    click.echo(f'{succeeded} succeeded, {len(outcomes) - succeeded} did not{failed}, in {seconds:.1f} s', err=True)


def write_report(outcomes: Sequence[CaseOutcome], seconds: float, path: Path) -> None:
    """Write a report for programs: JUnit XML where the file's name ends in ``.xml``, else JSON."""
    text = _junit(outcomes, seconds) if path.suffix.lower() == '.xml' else _json(outcomes, seconds)
    path.write_text(text, 'utf-8', errors='backslashreplace')  # lone surrogates, which are escapes in JSON then


def _json(outcomes: Sequence[CaseOutcome], seconds: float) -> str:
    succeeded = sum(each.success for each in outcomes)
    report = {
        'total': len(outcomes),
        'succeeded': succeeded,
        'failed': len(outcomes) - succeeded,
        'verdicts': dict(Counter(each.verdict for each in outcomes)),
        'seconds': round(seconds, 3),
        'outcomes': [each.as_json() for each in outcomes],
    }
    return json.dumps(report, indent=2, ensure_ascii=False) + '\n'


def _junit(outcomes: Sequence[CaseOutcome], seconds: float) -> str:
    numbers = {
        'tests': str(len(outcomes)),
        'failures': str(sum(each.result is not None and not each.success for each in outcomes)),
        'errors': str(sum(each.result is None for each in outcomes)),
        'time': f'{seconds:.3f}',
    }
    root = ElementTree.Element('testsuites', numbers)
    suite = ElementTree.SubElement(root, 'testsuite', {'name': 'ms-enclave pool run', **numbers})
    for each in outcomes:
        time = 0.0 if each.result is None else each.result.execution_time
        facts = {'classname': str(each.case.path), 'name': each.case.name or each.case.path.name, 'time': f'{time:.3f}'}
        node = ElementTree.SubElement(suite, 'testcase', {key: _xml(value) for key, value in facts.items()})
        if each.result is None:
            ElementTree.SubElement(node, 'error', {'message': _xml(each.problem or 'it did not run')})
            continue
        if not each.success:
            message = f'{each.verdict}, exit code {each.exit_code}: {each.last_line()}'
            ElementTree.SubElement(node, 'failure', {'type': each.verdict, 'message': _xml(message)})
        for name, text in (('system-out', each.result.stdout), ('system-err', each.result.stderr)):
            if text:
                ElementTree.SubElement(node, name).text = _xml(text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding='unicode') + '\n'


def _xml(text: str) -> str:
    """Return text that XML can hold: other characters are escapes."""
    return _UNWRITABLE.sub(lambda match: match[0].encode('unicode_escape', 'surrogatepass').decode('ascii'), text)
