"""A web application that runs its users' code: the sandboxes are a server's, and the key stays with the application.

Run with: python examples/web_application.py [--serve]

Here both are started in one process and asked once; --serve leaves the application running on port 5000. In production the
server is a process of its own (`ms-enclave server`), and ENCLAVE_URL and ENCLAVE_API_KEY name it to the application.
"""

from __future__ import annotations

import secrets
import sys

from flask import Flask, request

import enclave

app = Flask(__name__)
key = secrets.token_urlsafe()


@app.post('/run')
def run():
    """Run the request's body as a program, in whichever sandbox is free, and answer with what became of it."""
    result = app.config['sandboxes'].run_code_in_pool(request.get_data(), timeout=5)
    return result.to_dict()


with enclave.create_server(api_key=key).running() as url, enclave.HttpSandboxManager(url, api_key=key) as sandboxes:
    sandboxes.initialize_pool(2, config={'network_enabled': False})
    app.config['sandboxes'] = sandboxes
    if '--serve' in sys.argv:
        app.run(port=5000)
    answer = app.test_client().post('/run', data='print("hello from a sandbox")').get_json()
    print(answer['run']['stdout'], end='')
