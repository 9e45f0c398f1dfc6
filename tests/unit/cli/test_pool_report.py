"""What `ms-enclave pool run` finds to run, and what it says of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from enclave.cli.pool_cases import Case, find_cases
from enclave.cli.pool_report import CaseOutcome, print_report, write_report
from enclave.enums import Verdict
from enclave.languages.values import CodeRequest, CodeResult, StepResult


def find(*paths: Path) -> list[Case]:
    return find_cases(paths, 5.0, 'lines')


def outcome(name: str, **fields: Any) -> CaseOutcome:
    verdict = fields.pop('verdict', None)
    step = StepResult(**{'command': 'x', 'status': 'success', **fields})
    return CaseOutcome(Case(path=Path(name)), CodeResult(language='python', run=step, verdict=verdict))


OUTCOMES = [
    outcome('good.py', stdout='1\n', verdict='accepted', execution_time=0.25),
    outcome('wrong.py', stdout='2 \x1b[31m\x00\ud800\n', verdict='wrong_answer'),
    outcome('slow.py', status='timeout', exit_code=137, signal='SIGKILL', timed_out=True, verdict='time_limit'),
    outcome('ran.py', stderr='a warning\n'),
    CaseOutcome(Case(path=Path('none.py'), name='7'), None, 'the sandbox is gone'),
]


def test_programs_have_their_input_and_output_beside_them(tmp_path: Path) -> None:
    files = {
        'double.py': 'print(int(input()) * 2)',
        'double.in': '21\n',
        'double.out': '42\n',
        'many.sh': 'cat',
        'many.small.in': 's',
        'many.large.in': 'l',
        'many.large.out': 'l',
        'deep/alone.js': 'x',
        'notes.txt': 'no program',
        'double.in.bak': 'no input',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    found = find(tmp_path, tmp_path / 'double.py')

    cases = [(str(each.path.relative_to(tmp_path)), each.name) for each in found]
    assert cases == [('deep/alone.js', ''), ('double.py', ''), ('many.sh', 'large'), ('many.sh', 'small')]
    requests = [each.request for each in found]
    assert [each and (each.language, each.stdin, each.expected_output) for each in requests] == [
        ('nodejs', None, None),
        ('python', '21\n', '42\n'),
        ('bash', 'l', 'l'),
        ('bash', 's', None),
    ]


def test_lines_of_json_are_cases(tmp_path: Path) -> None:
    (tmp_path / 'p.py').write_text('print(1)')
    lines = [
        {'id': 'a', 'code': 'x', 'input': '1', 'expected': '2', 'timeout': 1},
        {'path': 'p.py', 'compare': 'tokens'},
        {'code': 'x', 'languag': 'c'},
        {'stdin': 'x'},
        {'path': 'missing.py'},
    ]
    path = tmp_path / 'tasks.jsonl'
    path.write_text('\n\n'.join(map(json.dumps, lines)) + '\nno json\n[]\n')

    found = find(path)

    assert [(each.name, each.problem is None) for each in found] == [
        ('a', True),
        ('3', True),
        ('5', False),
        ('7', False),
        ('9', False),
        ('10', False),
        ('11', False),
    ]
    assert found[0].request == CodeRequest(code='x', stdin='1', expected_output='2', timeout=1, compare='lines')
    assert found[1].request == CodeRequest(code='print(1)', timeout=5.0, compare='tokens')
    assert "did you mean 'language'" in (found[2].problem or '')
    assert "'code' is missing" in (found[3].problem or '')


def test_the_report_for_people_counts_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(OUTCOMES, 1.5)

    seen = capsys.readouterr()
    assert seen.err == '2 succeeded, 3 did not (1 wrong_answer, 1 time_limit, 1 failed), in 1.5 s\n'
    rows = {line.split()[0]: line.split()[1:3] for line in seen.out.splitlines()}
    assert rows['slow.py'] == ['time_limit', '124']
    assert rows['ran.py'] == ['success', '0']


def test_the_report_for_programs_is_json(tmp_path: Path) -> None:
    write_report(OUTCOMES, 1.5, tmp_path / 'report.json')

    report = json.loads((tmp_path / 'report.json').read_text())
    assert (report['total'], report['succeeded'], report['failed']) == (5, 2, 3)
    assert report['verdicts']['accepted'] == 1
    assert [each['verdict'] for each in report['outcomes']][:3] == ['accepted', 'wrong_answer', 'time_limit']
    assert report['outcomes'][2]['result']['exit_code'] == 124


def test_the_report_is_junit_xml_whatever_was_printed(tmp_path: Path) -> None:
    write_report(OUTCOMES, 1.5, tmp_path / 'report.xml')

    root = ElementTree.parse(tmp_path / 'report.xml').getroot()
    assert {key: root[0].get(key) for key in ('tests', 'failures', 'errors')} == {
        'tests': '5',
        'failures': '2',
        'errors': '1',
    }
    cases = {node.get('name'): node for node in root.iter('testcase')}
    assert [child.tag for child in cases['good.py']] == ['system-out']
    assert cases['wrong.py'][0].get('type') == 'wrong_answer'
    assert '\\x00' in (cases['wrong.py'][1].text or '')
    assert cases['7'][0].get('message') == 'the sandbox is gone'


def test_what_is_shortened_in_the_table_says_so_and_a_problem_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    problem = 'line 2 is not valid JSON: Expecting value: line 2 column 1 (char 19), and so on to the end'

    print_report(
        [
            outcome('long.py', stderr='e' * 61),
            outcome('much.py', stdout='o' * 61, verdict=Verdict.WRONG_ANSWER),
            CaseOutcome(Case(path=Path('none.py')), None, problem),
        ],
        1.0,
    )

    shown = capsys.readouterr().out
    assert f'{"e" * 60}...' in shown
    assert f"printed ...'{'o' * 60}'" in shown
    assert problem in shown
