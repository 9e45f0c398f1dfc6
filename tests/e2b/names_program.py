"""A few steps of each of E2B's services, by whatever names the environment says; ``E2B_TEST_PROXY`` is a proxy to go through."""

import os

import httpx
from e2b_code_interpreter import Sandbox

proxy = os.environ.get('E2B_TEST_PROXY')
options = {'proxy': proxy} if proxy else {}
sandbox = Sandbox.create(**options)
print('command', sandbox.commands.run('echo here').stdout.strip())
sandbox.files.write('/tmp/a.txt', 'written')
print(
    'file', sandbox.files.read('/tmp/a.txt'), [each.name for each in sandbox.files.list('/tmp') if each.name == 'a.txt']
)
print('code', sandbox.run_code('6 * 7').text, len(sandbox.list_code_contexts()))
print('running', sandbox.is_running())
print('listed', sandbox.sandbox_id in [each.sandbox_id for each in Sandbox.list(**options).next_items()])
if proxy:
    client = httpx.Client(proxy=proxy, verify=os.environ['SSL_CERT_FILE'])
    print('signed', client.get(sandbox.download_url('/tmp/a.txt')).text)
    handle = sandbox.commands.run('cd /tmp && exec python3 -u -m http.server 8000', background=True)
    token = {'E2B-Traffic-Access-Token': sandbox.traffic_access_token}
    for _ in range(100):
        answer = client.get(f'https://{sandbox.get_host(8000)}/a.txt', headers=token)
        if answer.status_code == 200:
            break
    print('port', answer.text, client.get(f'https://{sandbox.get_host(8000)}/a.txt').status_code)
    print('killed', handle.kill(), sandbox.kill(), sandbox.is_running())
else:
    print('signed', httpx.get(sandbox.download_url('/tmp/a.txt')).text)
    print('killed', sandbox.kill())
