"""EvalScope's MultiPL-E adapter, as it is published, judging programs in the languages of the image `multi`.

Usage: multipl_e_program.py [BASE_URL]

Each language has the prompt of one problem (add two numbers), the tests that the data set would append, and a right solution; a
wrong one has a minus in the place of the plus. Prints a line for each language that was judged right both times, then ``done``.
"""

import sys

from evalscope.api.evaluator import TaskState
from evalscope.api.registry import get_benchmark
from evalscope.benchmarks.multipl_e import multiple_humaneval_adapter  # noqa: F401  (registers itself)
from evalscope.config import TaskConfig

CASES = {
    # language of the data set: (fence, solution, tests)
    'cpp': (
        'cpp',
        '#include <assert.h>\n#include <bits/stdc++.h>\nlong add(long x, long y) {\n    return x + y;\n}\n',
        'int main() {\n    auto candidate = add;\n    assert(candidate((2), (3)) == (5));\n}\n',
    ),
    'ts': (
        'typescript',
        'function add(x: number, y: number): number {\n    return x + y;\n}\n',
        "declare var require: any;\nconst assert = require('node:assert');\n\nfunction test() {\n  let candidate = add;\n"
        '  assert.deepEqual(candidate(2, 3),5);\n}\n\ntest();\n',
    ),
    'js': (
        'js',
        'function add(x, y){\n    return x + y;\n}\n',
        "const assert = require('node:assert');\n\nfunction test() {\n  let candidate = add;\n"
        '  assert.deepEqual(candidate(2, 3),5);\n}\n\ntest();\n',
    ),
    'sh': (
        'bash',
        '#!/bin/bash\nadd() {\n    echo $(($1 + $2))\n}\n',
        'candidate() {\n    add "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate "2" "3") = "5" ]]\n}\n\nrun_test\n',
    ),
    'go_test.go': (
        'go',
        'package add_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\nfunc add(x int, y int) int {\n    return x + y\n}\n',
        'func TestAdd(t *testing.T) {\n  candidate := add\n\tif fmt.Sprintf("%v", candidate(2, 3)) != fmt.Sprintf("%v", 5) {\n'
        '\t\tt.Errorf("wrong")\n\t}\n}\n',
    ),
    'java': (
        'java',
        'import java.util.*;\n\nclass Problem {\n    public static long add(long x, long y) {\n        return x + y;\n    }\n',
        '    public static void main(String[] args) {\n    assert(add((2l), (3l)) == (5l));\n    }\n\n}\n',
    ),
    'lua': (
        'lua',
        'local function add(x, y)\n    return x + y\nend\n',
        "lu = require('luaunit')\n\nfunction test_humaneval()\nlocal candidate = add\n"
        '    lu.assertEquals(candidate(2, 3), 5)\nend\n\nos.exit(lu.LuaUnit.run())\n',
    ),
    'php': (
        'php',
        '<?php\nfunction add($x, $y) {\n    return $x + $y;\n}\n',
        'function candidate(...$args) {\n    return add(...$args);\n}\n\nfunction test(): void {\n'
        '    if (candidate(2, 3) !== 5) { throw new Exception("Test failed!"); }\n}\n\ntest();\n',
    ),
    'pl': (
        'perl',
        'sub add {\n    my($x, $y) = @_;\n    return $x + $y;\n}\n',
        'use Test::Deep;\n\nsub testhumaneval {\n    my $candidate = \\&add;\n        if(eq_deeply($candidate->(2, 3),5)) {\n'
        '        print "ok!" }else{\n        exit 1;\n        }\n}\n\ntesthumaneval();\n',
    ),
    'r': (
        'r',
        'add <- function(x, y) {\n    x + y\n}\n',
        'test_humaneval <- function() {\ncandidate <- add\n'
        '    if(!identical(candidate(2, 3), 5)){quit("no", 1)}\n}\ntest_humaneval()\n',
    ),
    'rs': (
        'rust',
        'fn add(x: isize, y: isize) -> isize {\n    return x + y;\n}\n',
        'fn main() {\n    let candidate = add;\n    assert_eq!(candidate(2, 3), 5);\n}\n',
    ),
    'rb': (
        'ruby',
        'def add(x, y)\n  x + y\nend\n',
        "require 'test/unit'\nclass TestHumanEval < Test::Unit::TestCase\n  def test_add\n    candidate = method(:add)\n"
        '    assert_equal(5, candidate.call(2, 3))\n  end\nend\n',
    ),
}

manager = {'base_url': sys.argv[1], 'timeout': 600} if len(sys.argv) > 1 else {}
config = TaskConfig(
    model='none',
    datasets=['multiple_humaneval'],
    sandbox={
        'enabled': True,
        'engine': 'docker',
        'default_config': {'image': 'multi', 'memory_limit': '1g'},
        'manager_config': manager,
        'pool_size': 1,
    },
)
adapter = get_benchmark('multiple_humaneval', config)
adapter.review_timeout = 600  # of a machine that is busy with other tests


def judge(language, fence, solution, tests):
    record = {'prompt': '', 'tests': tests, 'stop_tokens': [], 'name': f'add_{language}', 'language': language}
    state = TaskState(model='none', sample=adapter.record_to_sample(record))
    answer = adapter.extract_answer(f'Here it is:\n\n```{fence}\n{solution}```\n', state)
    return adapter.match_score(answer, answer, '', state)


for name, (fence, solution, tests) in CASES.items():
    right = judge(name, fence, solution, tests)
    wrong = judge(name, fence, solution.replace(' + ', ' - '), tests)
    if (right.value['acc'], wrong.value['acc']) != (True, False):
        raise SystemExit(f'{name}: {right.metadata["execution_result"]}\n{wrong.metadata["execution_result"]}')
    print(name, flush=True)
adapter.sandbox_finalize()
print('done')
