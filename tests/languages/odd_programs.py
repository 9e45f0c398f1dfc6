"""Programs as they are found in data sets: names, texts, threads and ends that a judge must bear."""

from __future__ import annotations

from typing import Any

ODD: list[tuple[str, str, dict[str, Any], str]] = [
    (
        'java',
        (
            'public interface Shape { double area(); }\n'
            'class Main { public static void main(String[] args) { System.out.println("ok"); } }'
        ),
        {},
        'ok',
    ),
    (
        'java',
        (
            'import java.util.*;\n'
            'public enum Colour { RED, GREEN }\n'
            'class App { public static void main(String[] args) { System.out.println(Colour.RED); } }'
        ),
        {},
        'RED',
    ),
    (
        'java',
        (
            'public record P(int x) { }\n'
            'class App { public static void main(String[] args) { System.out.println(new P(1)); } }'
        ),
        {},
        'P[x=1]',
    ),
    (
        'java',
        (
            'class A { static class B { public static void main(String[] args) {} } }\n'
            'class C { public static void main(String[] args) { System.out.println("C"); } }'
        ),
        {},
        'C',
    ),
    (
        'java',
        (
            '\ufeffpublic class X {\r\n'
            '\tpublic static void main(String[] args) {\r\n'
            '\t\tSystem.out.print("größe");\r\n'
            '\t}\r\n'
            '}'
        ),
        {},
        'größe',
    ),
    ('java', ('public class Größe { public static void main(String[] args) { System.out.println("ü"); } }'), {}, 'ü'),
    (
        'java',
        (
            'public class X { static int f(int n){ return n==0?0:1+f(n-1);} public static void '
            'main(String[] args) { System.out.println(f(100000)); } }'
        ),
        {},
        '100000',
    ),
    (
        'java',
        (
            'public class X { public static void main(String[] args) throws Exception { Thread[] t=new '
            'Thread[50]; for(int i=0;i<50;i++){t[i]=new Thread(()->{try{Thread.sleep(200);}catch(Exception '
            'e){}});t[i].start();} for(Thread x:t)x.join(); System.out.println("t"); } }'
        ),
        {},
        't',
    ),
    (
        'java',
        (
            'public class X { public static void main(String[] args) { int[] a=new int[20_000_000]; '
            'System.out.println(a.length); } }'
        ),
        {},
        '20000000',
    ),
    ('java', ('public class X { public static void main(String[] args) { System.exit(7); } }'), {}, 'runtime_error'),
    ('java', ('public class X { public static void main(String[] args) { assert 1==2; } }'), {}, 'runtime_error'),
    (
        'java',
        (
            'public class X { public static void main(String[] args) { java.util.Scanner s=new '
            'java.util.Scanner(System.in); int n=0; while(s.hasNextLine()){s.nextLine();n++;} '
            'System.out.println(n); } }'
        ),
        {'stdin': 'line\n' * 100000},
        '100000',
    ),
    ('java', '```java\npublic class X { }\n```', {}, 'compile_error'),
    ('go', 'package main\nimport "fmt"\nfunc main(){ fmt.Print("no newline") }', {}, 'no newline'),
    ('go', 'package foo\nimport "fmt"\nfunc Main(){ fmt.Print("x") }', {}, 'compile_error'),
    ('go', 'package main\nfunc helper(){}', {}, 'compile_error'),
    ('go', ('\ufeffpackage main\r\nimport "fmt"\r\nfunc main(){\r\n\tfmt.Println("crlf")\r\n}'), {}, 'crlf'),
    (
        'go',
        (
            'package main\n'
            'import ("fmt";"sync")\n'
            'func main(){ var w sync.WaitGroup; for i:=0;i<10000;i++{w.Add(1); go func(){w.Done()}()}; '
            'w.Wait(); fmt.Println("g") }'
        ),
        {},
        'g',
    ),
    (
        'go',
        (
            'package main\n'
            'import ("fmt";"runtime";"sync")\n'
            'func main(){ var w sync.WaitGroup; for i:=0;i<40;i++{w.Add(1); go '
            'func(){runtime.LockOSThread(); w.Done()}()}; w.Wait(); fmt.Println("th") }'
        ),
        {},
        'th',
    ),
    (
        'go',
        ('package main\nimport "fmt"\nfunc main(){ a:=make([]byte, 300<<20); a[5]=1; fmt.Println(len(a)) }'),
        {'memory_limit': '200m'},
        '314572800',
    ),
    ('go', 'package main\nimport "os"\nfunc main(){ os.Exit(3) }', {}, 'runtime_error'),
    ('go', 'package main\nimport "unused"\nfunc main(){}', {}, 'compile_error'),
    ('go', ('package main\nimport "fmt"\nfunc main(){ x := 1; fmt.Println("unused") }'), {}, 'compile_error'),
    ('rust', 'fn helper() {}', {}, 'compile_error'),
    ('rust', '\ufefffn main() {\r\n\tprintln!("größe");\r\n}', {}, 'größe'),
    ('rust', 'fn main() { let v: Vec<i32> = vec![]; println!("{}", v[0]); }', {}, 'runtime_error'),
    (
        'rust',
        ('use std::io::{self,BufRead};\nfn main() { println!("{}", io::stdin().lock().lines().count()); }'),
        {'stdin': 'x\n' * 200000},
        '200000',
    ),
    ('rust', 'fn main() { std::process::exit(9) }', {}, 'runtime_error'),
    (
        'rust',
        (
            'use std::thread;\n'
            'fn main() { let h: Vec<_> = (0..30).map(|i| thread::spawn(move || i)).collect(); '
            'println!("{}", h.into_iter().map(|x| x.join().unwrap()).sum::<i32>()); }'
        ),
        {},
        '435',
    ),
    (
        'c',
        (
            '#include <stdio.h>\n'
            '#include <unistd.h>\n'
            '#include <sys/wait.h>\n'
            'int main(){ if(fork()==0){ printf("child "); return 0;} wait(0); printf("parent"); }'
        ),
        {},
        'child parent',
    ),
    ('c', ('\ufeff#include <stdio.h>\r\nint main(void){\r\n\tputs("crlf");\r\n}\r\n'), {}, 'crlf'),
    (
        'c',
        (
            '#include <stdio.h>\n'
            'int f(int n){ char b[1000]; b[n%1000]=n; return n?f(n-1)+b[n%1000]:0; }\n'
            'int main(){ printf("%d", f(5000)!=12345); }'
        ),
        {},
        '1',
    ),
    (
        'c',
        ('int f(int n){ volatile char b[1000]; b[0]=n; return f(n+1)+b[0]; }\nint main(){ return f(0); }'),
        {},
        'runtime_error',
    ),
    ('c', 'int main(){ return 300; }', {}, 'runtime_error'),
    ('c', ('#include <math.h>\n#include <stdio.h>\nint main(){ printf("%.1f", sqrt(2.0)); }'), {}, '1.4'),
    (
        'c',
        ('#include <stdio.h>\nint main(){ fprintf(stderr,"e1\\n"); printf("o1\\n"); fprintf(stderr,"e2\\n"); }'),
        {},
        'o1',
    ),
    ('c', 'int helper(){ return 1; }', {}, 'compile_error'),
    ('c', 'int main(){ int *p=0; *p=1; }', {}, 'runtime_error'),
    (
        'cpp',
        (
            '#include <bits/stdc++.h>\n'
            'using namespace std;\n'
            'int main(){ ios::sync_with_stdio(false); cin.tie(0); long long s=0,x; while(cin>>x) s+=x; '
            'cout<<s; }'
        ),
        {'stdin': '1 ' * 500000},
        '500000',
    ),
    (
        'cpp',
        ('#include <thread>\n#include <iostream>\nint main(){ std::thread t([]{ std::cout<<"t"; }); t.join(); }'),
        {},
        't',
    ),
    ('cpp', '#include <stdexcept>\nint main(){ throw std::runtime_error("x"); }', {}, 'runtime_error'),
    (
        'cpp',
        ('#include <vector>\n#include <cstdio>\nint main(){ std::vector<int> v(3); v.at(10); }'),
        {},
        'runtime_error',
    ),
    ('nodejs', ('import fs from "fs";\nconsole.log(fs.readFileSync(0,"utf8").trim());'), {'stdin': 'hi\n'}, 'hi'),
    (
        'nodejs',
        (
            'import * as readline from "node:readline";\n'
            'const rl = readline.createInterface({input: process.stdin});\n'
            'for await (const l of rl) console.log(l);'
        ),
        {'stdin': 'a\nb\n'},
        'a\nb',
    ),
    (
        'nodejs',
        ('const rl=require("readline").createInterface({input:process.stdin});rl.on("line",l=>console.log(l.length));'),
        {'stdin': 'abc'},
        '3',
    ),
    ('nodejs', 'function f(n){return n?1+f(n-1):0}\nconsole.log(f(9000))', {}, '9000'),
    ('nodejs', 'function f(n){return 1+f(n+1)}\nf(0)', {}, 'runtime_error'),
    ('nodejs', '\ufeffconsole.log("bom")\r\n', {}, 'bom'),
    ('nodejs', 'process.exit(4)', {}, 'runtime_error'),
    ('nodejs', 'Promise.reject(new Error("x"))', {}, 'runtime_error'),
    ('nodejs', 'const x = await Promise.resolve(5);\nconsole.log(x)', {}, '5'),
    (
        'typescript',
        ('import * as fs from "fs";\nconst s: string = fs.readFileSync(0, "utf8");\nconsole.log(s.length);'),
        {'stdin': 'abc'},
        '3',
    ),
    ('typescript', ('import fs from "fs";\nconst x: number = await Promise.resolve(5);\nconsole.log(x)'), {}, '5'),
    ('typescript', ('enum A { X = 1 }\nnamespace N { export const y = 2 }\nconsole.log(A.X + N.y)'), {}, '3'),
    ('typescript', ('\ufeffinterface A { x: number }\r\nconst a: A = {x: 1};\r\nconsole.log(a.x)'), {}, '1'),
    ('bash', '\ufeffecho bom', {}, 'bom'),
    ('bash', '#!/bin/bash\nread x; echo "<$x>"', {'stdin': 'no newline'}, '<no newline>'),
    ('bash', 'exit 5', {}, 'runtime_error'),
    ('bash', 'set -e; false; echo never', {}, 'runtime_error'),
    ('bash', 'for i in {1..3}; do echo -n $i; done', {}, '123'),
    ('ruby', '\ufeffputs "größe"', {}, 'größe'),
    ('ruby', 'def f(n) n==0 ? 0 : 1+f(n-1) end\nputs f(5000)', {}, '5000'),
    ('ruby', 'puts STDIN.read.size', {'stdin': 'x' * 1000000}, '1000000'),
    ('ruby', 'puts $stdin.gets.nil?', {}, 'true'),
    ('ruby', 'exit 3', {}, 'runtime_error'),
    ('php', '<?php\necho trim(fgets(STDIN));', {'stdin': 'hi\n'}, 'hi'),
    ('php', '\ufeff<?php\nfunction f($n){return $n?1+f($n-1):0;} echo f(20000);', {}, '20000'),
    ('php', '<?php echo "no close"; ?>', {}, 'no close'),
    ('php', '<?php throw new Exception("x");', {}, 'runtime_error'),
    ('php', '<?php exit(3);', {}, 'runtime_error'),
    ('php', '<?php $a=str_repeat("x",300*1024*1024); echo strlen($a);', {}, '314572800'),
    ('perl', '\ufeffprint "ok"', {}, 'ok'),
    (
        'perl',
        'use strict; use warnings; my @a=<STDIN>; print scalar @a;',
        {'stdin': 'x\nx\nx\nx\nx\nx\nx\nx\nx\nx\n'},
        '10',
    ),
    ('perl', 'die "x"', {}, 'runtime_error'),
    ('lua', '\ufeffprint("ok")', {}, 'ok'),
    ('lua', 'print(io.read("n"))', {'stdin': '42'}, '42'),
    ('lua', 'error("x")', {}, 'runtime_error'),
    ('lua', ('local function f(n) if n==0 then return 0 end return 1+f(n-1) end print(f(100000))'), {}, '100000'),
    ('R', 'cat(sum(as.numeric(readLines(file("stdin")))))', {'stdin': '1\n2\n3'}, '6'),
    ('R', 'x <- readLines("stdin"); cat(length(x))', {'stdin': '1\n2\n'}, '2'),
    ('R', 'stop("x")', {}, 'runtime_error'),
    ('R', 'quit(status=3)', {}, 'runtime_error'),
    ('R', '\ufeffcat("ok")', {}, 'ok'),
    ('sql', 'select 1', {}, '1'),
    ('sql', ('create table t(x);\r\ninsert into t values(1),(2);\r\nselect sum(x) from t;'), {}, '3'),
    ('sql', 'select * from nothere;', {}, 'runtime_error'),
    ('sql', '\ufeffselect 5;', {}, '5'),
    (
        'python',
        ('def f(n): return 0 if n==0 else 1+f(n-1)\nimport sys; sys.setrecursionlimit(20000); print(f(10000))'),
        {},
        '10000',
    ),
    ('python', '\ufeffprint("ü")\r\n', {}, 'ü'),
    ('python', 'if True:\n\tprint(1)', {}, '1'),
    ('python', 'größe = 1\nprint(größe)', {}, '1'),
    ('python', 'import sys; sys.stdout.write("x")', {}, 'x'),
    ('python', 'import sys; print(len(sys.stdin.read()))', {'stdin': 'x' * 3000000}, '3000000'),
    ('python', 'print("not read")', {'stdin': 'x' * 3000000}, 'not read'),
    (
        'python',
        (
            'import threading\n'
            't=[threading.Thread(target=lambda: None) for _ in range(50)]\n'
            '[x.start() for x in t]; [x.join() for x in t]; print("t")'
        ),
        {},
        't',
    ),
    ('python', 'import sys; sys.exit("msg")', {}, 'runtime_error'),
    ('python', '```python\nprint(1)\n```', {}, 'runtime_error'),
    ('awk', 'BEGIN { while ((getline l) > 0) n++; print n }', {'stdin': 'a\nb\n'}, '2'),
    ('awk', 'BEGIN { exit 3 }', {}, 'runtime_error'),
    (
        'go_test',
        ('package main_test\nimport "testing"\nfunc TestA(t *testing.T) { t.Fatal("x") }'),
        {},
        'runtime_error',
    ),
    ('pytest', 'def test_a():\n    assert 1 == 2', {}, 'runtime_error'),
]
"""Language, source, options of the request, and what is printed, or the verdict of one that fails."""
