"""Programs with known ends, in many languages.

Each language has ``add`` (prints the sum of the two numbers on the first line of its input), ``broken`` (is not of the
language), ``crash`` (ends with a failure), ``loop`` (never ends) and ``file`` (prints what is in ``data/in.txt``).
"""

from __future__ import annotations

PROGRAMS: dict[str, dict[str, str]] = {
    'python': {
        'add': 'a, b = map(int, input().split())\nprint(a + b)\n',
        'broken': 'def (\n',
        'crash': 'raise ValueError(1)\n',
        'loop': 'while True:\n    pass\n',
        'file': 'print(open("data/in.txt").read())\n',
    },
    'nodejs': {
        'add': 'const [a, b] = require("fs").readFileSync(0, "utf8").split(/\\s+/).map(Number);\nconsole.log(a + b);\n',
        'broken': 'function (\n',
        'crash': 'throw new Error("x");\n',
        'loop': 'while (true) {}\n',
        'file': 'console.log(require("fs").readFileSync("data/in.txt", "utf8"));\n',
    },
    'typescript': {
        'add': (
            'import { readFileSync } from "fs";\n'
            'const [a, b]: number[] = readFileSync(0, "utf8").split(/\\s+/).map(Number);\nconsole.log(a + b);\n'
        ),
        'broken': 'function (\n',
        'crash': 'throw new Error("x" as string);\n',
        'loop': 'while (true) {}\n',
        'file': 'import { readFileSync } from "fs";\nconsole.log(readFileSync("data/in.txt", "utf8"));\n',
    },
    'bash': {
        'add': 'read -r a b\necho $((a + b))\n',
        'broken': 'if (((\n',
        'crash': 'exit 3\n',
        'loop': 'while :; do :; done\n',
        'file': 'cat data/in.txt\n',
    },
    'c': {
        'add': '#include <stdio.h>\nint main(void) { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); return 0; }\n',
        'broken': 'int main( {\n',
        'crash': '#include <stdlib.h>\nint main(void) { abort(); }\n',
        'loop': 'int main(void) { volatile int x = 1; while (x) {} }\n',
        'file': (
            '#include <stdio.h>\nint main(void) { char s[99]; FILE *f = fopen("data/in.txt", "r"); '
            'fgets(s, 99, f); puts(s); return 0; }\n'
        ),
    },
    'cpp': {
        'add': '#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << "\\n"; }\n',
        'broken': 'int main( {\n',
        'crash': '#include <stdexcept>\nint main() { throw std::runtime_error("x"); }\n',
        'loop': 'int main() { volatile int x = 1; while (x) {} }\n',
        'file': (
            '#include <fstream>\n#include <iostream>\nint main() { std::ifstream f("data/in.txt"); '
            'std::string s; std::getline(f, s); std::cout << s << "\\n"; }\n'
        ),
    },
    'go': {
        'add': 'package main\n\nimport "fmt"\n\nfunc main() {\n\tvar a, b int\n\tfmt.Scan(&a, &b)\n\tfmt.Println(a + b)\n}\n',
        'broken': 'package main\n\nfunc main( {\n',
        'crash': 'package main\n\nfunc main() { panic("x") }\n',
        'loop': 'package main\n\nfunc main() {\n\tfor {\n\t}\n}\n',
        'file': (
            'package main\n\nimport (\n\t"fmt"\n\t"os"\n)\n\nfunc main() {\n\tdata, _ := os.ReadFile("data/in.txt")\n'
            '\tfmt.Println(string(data))\n}\n'
        ),
    },
    'rust': {
        'add': (
            'use std::io;\nfn main() { let mut s = String::new(); io::stdin().read_line(&mut s).unwrap();\n'
            'let n: i64 = s.split_whitespace().map(|x| x.parse::<i64>().unwrap()).sum(); println!("{}", n); }\n'
        ),
        'broken': 'fn main( {\n',
        'crash': 'fn main() { panic!("x"); }\n',
        'loop': 'fn main() { loop { std::hint::spin_loop(); } }\n',
        'file': 'fn main() { println!("{}", std::fs::read_to_string("data/in.txt").unwrap()); }\n',
    },
    'java': {
        'add': (
            'import java.util.*;\npublic class Sum { public static void main(String[] x) { Scanner s = new Scanner(System.in); '
            'System.out.println(s.nextInt() + s.nextInt()); } }\n'
        ),
        'broken': 'public class Sum { void (\n',
        'crash': 'class A { public static void main(String[] x) { throw new RuntimeException("x"); } }\n',
        'loop': 'class A { public static void main(String[] x) { while (true) {} } }\n',
        'file': (
            'import java.nio.file.*;\nclass A { public static void main(String[] x) throws Exception { '
            'System.out.println(Files.readString(Path.of("data/in.txt"))); } }\n'
        ),
    },
    'ruby': {
        'add': 'puts gets.split.map(&:to_i).sum\n',
        'broken': 'def (\n',
        'crash': 'raise "x"\n',
        'loop': 'loop {}\n',
        'file': 'puts File.read("data/in.txt")\n',
    },
    'php': {
        'add': '<?php [$a, $b] = explode(" ", trim(fgets(STDIN))); echo $a + $b, "\\n";\n',
        'broken': '<?php function (\n',
        'crash': '<?php throw new Exception("x");\n',
        'loop': '<?php while (true) {}\n',
        'file': '<?php echo file_get_contents("data/in.txt"), "\\n";\n',
    },
    'perl': {
        'add': 'my ($a, $b) = split " ", <STDIN>; print $a + $b, "\\n";\n',
        'broken': 'sub (\n',
        'crash': 'die "x";\n',
        'loop': '1 while 1;\n',
        'file': 'open my $f, "<", "data/in.txt"; print <$f>, "\\n";\n',
    },
    'lua': {
        'add': 'local a, b = io.read("n", "n")\nprint(a + b)\n',
        'broken': 'function (\n',
        'crash': 'error("x")\n',
        'loop': 'while true do end\n',
        'file': 'print(io.open("data/in.txt"):read("a"))\n',
    },
    'R': {
        'add': 'x <- scan(file("stdin"), quiet = TRUE, n = 2)\ncat(sum(x), "\\n")\n',
        'broken': 'f <- function( {\n',
        'crash': 'stop("x")\n',
        'loop': 'while (TRUE) {}\n',
        'file': 'cat(readLines("data/in.txt", warn = FALSE), "\\n")\n',
    },
    'awk': {
        'add': '{ print $1 + $2; exit }\n',
        'broken': 'BEGIN { print (\n',
        'crash': 'BEGIN { exit 3 }\n',
        'loop': 'BEGIN { while (1) {} }\n',
        'file': 'BEGIN { getline line < "data/in.txt"; print line }\n',
    },
}
