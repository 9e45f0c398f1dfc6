"""Judges programs through verl's ``sandbox_fusion`` utilities, as they are; prints a JSON object a line.

The folder that holds them is on the path; their package needs nothing but ``requests``.
"""

import json
import sys
import threading

import sandbox_fusion as fusion  # verl/utils/reward_score/sandbox_fusion, as it is in verl
from sandbox_fusion.utils import check_correctness

URL = sys.argv[1] + '/run_code'
DOUBLED = '#include <iostream>\nint main() { int x; std::cin >> x; std::cout << x * 2; }'
CASES = {
    'right': ('print(int(input()) * 2)', {'inputs': ['1', '2'], 'outputs': ['2', '4\n']}, 'python', 10),
    'wrong': ('print(5)', {'inputs': ['1', '2'], 'outputs': ['5', '4']}, 'python', 10),
    'crash': ('raise ValueError', {'inputs': ['1'], 'outputs': ['2']}, 'python', 10),
    'slow': ('while True: pass', {'inputs': ['1'], 'outputs': ['2']}, 'python', 1),
    'asleep': ('import time; time.sleep(60)', {'inputs': ['1'], 'outputs': ['2']}, 'python', 1),
    'memory': ('x = b"x" * (3 << 30)', {'inputs': [''], 'outputs': ['']}, 'python', 10),
    'function': (
        'class Solution:\n    def add(self, a, b):\n        return a + b\n',
        {'inputs': ['1\n2', '3\n4'], 'outputs': ['3', '7'], 'fn_name': 'add'},
        'python',
        10,
    ),
    'asserts': (
        'def f(x): return x',
        {'inputs': ['', ''], 'outputs': [None, None], 'assert_case': ['assert f(1) == 1', 'assert f(1) == 2']},
        'python',
        10,
    ),
    'cpp': (DOUBLED, {'inputs': ['4'], 'outputs': ['8']}, 'cpp', 20),
    'cpp-wrong': ('int main( {', {'inputs': ['4', '5'], 'outputs': ['8', '10']}, 'cpp', 20),
}

for name, (code, cases, language, timeout) in CASES.items():
    if 'no-compiler' in sys.argv and name.startswith('cpp'):
        continue
    results, metadata = check_correctness(URL, cases, code, timeout=timeout, language=language)
    print(json.dumps({'name': name, 'results': results, 'status': [each.get('status') for each in metadata]}))

score, _ = fusion.compute_score(
    URL,
    threading.Semaphore(8),
    1024,
    'Here it is:\n```python\nprint(int(input()) + 1)\n```',
    {'inputs': [str(n) for n in range(40)], 'outputs': [str(n + 1) for n in range(39)] + ['wrong']},
    continuous=False,
    timeout=10,
)
print(json.dumps({'name': 'score', 'results': round(score * 40)}))
