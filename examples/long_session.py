"""A long session: a server runs in a sandbox, is waited for, asked from here, and changed while it runs.

Run with: python examples/long_session.py
"""

from __future__ import annotations

from urllib.request import urlopen

import enclave

with enclave.open_sandbox(network_enabled=False, timeout=0) as sandbox:
    sandbox.write_file('site/index.html', b'<h1>first</h1>')
    with sandbox.start_process('python3 -m http.server 8000 --bind 127.0.0.1', cwd='site'):
        sandbox.wait_for_port(8000)
        with sandbox.forward_port(8000) as forward:
            print(urlopen(forward.url).read().decode())
            sandbox.execute_command('echo "<h1>second</h1>" > site/index.html')
            print(urlopen(forward.url).read().decode().strip())

    sandbox.execute_command(
        'for n in 1 2 3; do echo step $n; sleep 0.1; done', on_stdout=lambda text: print(text, end='')
    )
