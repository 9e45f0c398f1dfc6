"""What a program for E2B does, step by step. Run by an interpreter that has the SDK; prints a line of JSON for each step.

Every public method of ``e2b`` and ``e2b-code-interpreter`` is called at least once, also those that this server refuses. With
``async`` as its argument the same steps are taken with the asynchronous SDK, whose coroutines then run in a loop of their own.
"""

import base64
import io
import json
import os
import sys
import threading
import time
import traceback

import e2b
import httpx
from blocking import Blocking
from e2b import (
    CommandExitException,
    FileNotFoundException,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)

IS_ASYNC = sys.argv[1:2] == ['async']
if IS_ASYNC:
    import e2b_code_interpreter

    Sandbox = Blocking(e2b_code_interpreter.AsyncSandbox)
    Template, Volume, Secret = (Blocking(each) for each in (e2b.AsyncTemplate, e2b.AsyncVolume, e2b.AsyncSecret))
else:
    from e2b import Secret, Template, Volume
    from e2b_code_interpreter import Sandbox

STEPS = []


def step(function):
    STEPS.append(function)
    return function


def raises(kind, call, message=''):
    try:
        call()
    except kind as error:
        found = error
    else:
        found = None
    assert found is not None, f'{kind} was not raised'
    assert message in str(found), found
    return found


def until(look, seconds=20.0):
    pause, end = threading.Event(), time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, 'it did not come in time'
        pause.wait(0.05)
    return found


def first_output(handle):
    if IS_ASYNC:
        return until(lambda: handle.stdout)
    return next(iter(handle))[0]


def send_all(module, pid, items):
    """Send input over one stream."""
    if not IS_ASYNC:
        module.stream_input(pid, items)
        return
    stream = module.stream_input(pid)
    for each in items:
        stream.send(each)
    stream.close()


def open_terminal(w, **options):
    """Return a terminal and a list that its output is added to, at the latest when `wait_for_terminal` returns."""
    seen = []
    if IS_ASYNC:
        options['on_data'] = seen.append
    return w.sandbox.pty.create(**options), seen


def wait_for_terminal(handle, seen):
    return handle.wait() if IS_ASYNC else handle.wait(on_pty=seen.append)


def as_iterable(pieces):
    return Blocking.iterable(pieces) if IS_ASYNC else iter(pieces)


class World:
    sandbox: Sandbox


# Making and finding ---------------------------------------------------------------------------------------------------


@step
def create(w):
    w.sandbox = Sandbox.create(timeout=600, metadata={'job': 'steps', 'odd': 'a b&c=d'}, envs={'GIVEN': 'yes'})
    assert w.sandbox.sandbox_id
    assert w.sandbox.traffic_access_token
    assert w.sandbox.envd_api_url
    assert w.sandbox.envd_direct_url
    assert w.sandbox.connection_config
    w.sandbox.sandbox_domain  # noqa: B018


@step
def create_twice_with_one_key_is_one(w):
    key = f'steps-{os.getpid()}'
    first = Sandbox.create('base', idempotency_key=key)
    again = Sandbox.create('base', idempotency_key=key)
    assert first.sandbox_id == again.sandbox_id
    first.kill()


@step
def create_of_an_unknown_template(w):
    raises(SandboxException, lambda: Sandbox.create('no-such-template'), 'no template')


@step
def is_running(w):
    assert w.sandbox.is_running()


@step
def get_info(w):
    info = w.sandbox.get_info()
    assert info.sandbox_id == w.sandbox.sandbox_id
    assert info.state is SandboxState.RUNNING
    assert info.metadata == {'job': 'steps', 'odd': 'a b&c=d'}
    assert info.template_id == 'code-interpreter-v1'
    assert Sandbox.get_info(w.sandbox.sandbox_id).sandbox_id == info.sandbox_id


@step
def get_info_of_none(w):
    raises(SandboxNotFoundException, lambda: Sandbox.get_info('nosuchsandbox'))


@step
def set_timeout(w):
    w.sandbox.set_timeout(900)
    Sandbox.set_timeout(w.sandbox.sandbox_id, 1200)
    info = w.sandbox.get_info()
    assert 1100 < (info.end_at - info.started_at).total_seconds() < 1500


@step
def connect(w):
    again = Sandbox.connect(w.sandbox.sandbox_id)
    assert again.commands.run('echo again').stdout == 'again\n'
    assert w.sandbox.connect(timeout=1300).sandbox_id == w.sandbox.sandbox_id
    info = w.sandbox.get_info()
    assert (info.end_at - info.started_at).total_seconds() > 1250


@step
def connect_to_none(w):
    raises(SandboxNotFoundException, lambda: Sandbox.connect('nosuchsandbox'))


@step
def list_with_paging_and_filters(w):
    others = [Sandbox.create('base', metadata={'job': 'paged'}) for _ in range(2)]
    try:
        pages = Sandbox.list(query=SandboxQuery(metadata={'job': 'paged'}), limit=1, order='asc')
        found = []
        while pages.has_next:
            found += [each.sandbox_id for each in pages.next_items()]
        assert found == [each.sandbox_id for each in others], found
        odd = Sandbox.list(query=SandboxQuery(metadata={'odd': 'a b&c=d'})).next_items()
        assert [each.sandbox_id for each in odd] == [w.sandbox.sandbox_id]
        by = SandboxQuery(template='code-interpreter-v1', started_after=w.sandbox.get_info().started_at)
        assert w.sandbox.sandbox_id in [each.sandbox_id for each in Sandbox.list(query=by).next_items()]
        assert Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED])).next_items() == []
    finally:
        for each in others:
            each.kill()


@step
def client_object_with_options_of_its_own(w):
    client = e2b.E2B(api_key=os.environ['E2B_API_KEY'])
    made = (Blocking(client.AsyncSandbox) if IS_ASYNC else client.Sandbox).create('base')
    with made as sandbox:
        assert sandbox.commands.run('echo bound').stdout == 'bound\n'
    assert not made.is_running()


@step
def metrics(w):
    found = w.sandbox.get_metrics()
    assert found
    assert found[0].mem_used > 0
    assert found[0].cpu_count >= 1
    again = Sandbox.get_metrics(w.sandbox.sandbox_id)
    assert len(again) > len(found)
    assert again[0].timestamp == found[0].timestamp
    last = again[-1].timestamp  # what is asked for is said in whole seconds
    assert all(each.timestamp.timestamp() >= int(last.timestamp()) for each in w.sandbox.get_metrics(start=last))
    assert w.sandbox.get_metrics(end=found[0].timestamp)[0].timestamp == found[0].timestamp


@step
def pause_and_connect(w):
    with Sandbox.create('base', metadata={'job': 'pausing'}) as sandbox:
        handle = sandbox.commands.run('read line; echo $line $$', background=True, stdin=True)
        assert sandbox.pause() is True
        assert sandbox.pause() is False
        assert not sandbox.is_running()
        raises(SandboxNotRunningException, lambda: sandbox.commands.run('true'))
        info = sandbox.get_info()
        assert info.state == SandboxState.PAUSED
        query = SandboxQuery(metadata={'job': 'pausing'}, state=[SandboxState.PAUSED])
        assert [each.sandbox_id for each in Sandbox.list(query=query).next_items()] == [sandbox.sandbox_id]
        query = SandboxQuery(metadata={'job': 'pausing'}, state=[SandboxState.RUNNING])
        assert Sandbox.list(query=query).next_items() == []
        raises(SandboxException, lambda: Sandbox.connect(sandbox.sandbox_id, on_resume='reboot'), 'rebooted')
        again = sandbox.connect(timeout=60)
        assert again.is_running()
        pid = handle.pid
        again.commands.send_stdin(pid, 'kept\n')
        assert again.commands.run('echo runs').stdout == 'runs\n'
        assert sandbox.beta_pause() is True
        assert Sandbox.connect(sandbox.sandbox_id).commands.run('echo again').stdout == 'again\n'


@step
def pause_at_the_end_of_its_time(w):
    lifecycle = {'on_timeout': 'pause'}
    sandbox = Sandbox.create('base', timeout=1, lifecycle=lifecycle)
    until(lambda: sandbox.get_info().state == SandboxState.PAUSED, 120.0)
    assert str(sandbox.get_info().lifecycle['on_timeout']).lower().endswith('pause')
    assert sandbox.connect(timeout=60).commands.run('echo resumed').stdout == 'resumed\n'
    assert sandbox.kill()
    sandbox = Sandbox.create('base', timeout=60, lifecycle={**lifecycle, 'auto_resume': True})
    assert sandbox.get_info().lifecycle['auto_resume'] is True
    assert sandbox.pause()
    assert sandbox.commands.run('echo by itself').stdout == 'by itself\n'
    assert sandbox.pause()
    assert sandbox.kill()


# Commands -------------------------------------------------------------------------------------------------------------


@step
def run(w):
    result = w.sandbox.commands.run('echo out; echo err >&2')
    assert (result.stdout, result.stderr, result.exit_code, result.error) == ('out\n', 'err\n', 0, None)


@step
def run_fails(w):
    error = raises(CommandExitException, lambda: w.sandbox.commands.run('echo out; echo why >&2; exit 7'))
    assert (error.exit_code, error.stdout, error.stderr) == (7, 'out\n', 'why\n')


@step
def run_of_a_missing_program(w):
    error = raises(CommandExitException, lambda: w.sandbox.commands.run('no-such-program'))
    assert error.exit_code == 127


@step
def run_with_callbacks(w):
    out, err = [], []
    w.sandbox.commands.run('echo 1; echo 2 >&2; echo 3', on_stdout=out.append, on_stderr=err.append)
    assert ''.join(out) == '1\n3\n'
    assert ''.join(err) == '2\n'


@step
def run_with_environment_and_directory(w):
    result = w.sandbox.commands.run('echo $MINE $GIVEN; pwd', envs={'MINE': 'x y'}, cwd='/tmp')
    assert result.stdout == 'x y yes\n/tmp\n', result.stdout


@step
def run_in_a_missing_directory(w):
    raises(InvalidArgumentException, lambda: w.sandbox.commands.run('true', cwd='/no/such/place'))


@step
def run_as_a_user(w):
    assert w.sandbox.commands.run('echo me', user='user').stdout == 'me\n'


@step
def run_as_nobody_known(w):
    raises(e2b.AuthenticationException, lambda: w.sandbox.commands.run('true', user='no-such-user'))
    raises(e2b.AuthenticationException, lambda: w.sandbox.files.read('/etc/passwd', user='no-such-user'))
    raises(e2b.AuthenticationException, lambda: w.sandbox.files.list('/tmp', user='no-such-user'))


@step
def run_in_the_home_directory(w):
    w.sandbox.files.make_dir('~/of-home')
    assert w.sandbox.commands.run('pwd', cwd='~').stdout == '/home/user\n'
    assert w.sandbox.commands.run('pwd', cwd='~/of-home').stdout == '/home/user/of-home\n'


@step
def run_without_keeping_output(w):
    seen = []
    result = w.sandbox.commands.run('echo seen', retain_output=False, on_stdout=seen.append)
    assert result.stdout is None
    assert ''.join(seen) == 'seen\n'


@step
def run_with_bytes_that_are_no_text(w):
    result = w.sandbox.commands.run("printf 'a\\377b'; printf 'gr\\303\\274n'")
    assert result.stdout == 'a\ufffdbgr\u00fcn', repr(result.stdout)


@step
def run_with_much_output(w):
    result = w.sandbox.commands.run('seq 200000')
    assert len(result.stdout) == 1288895
    assert result.stdout.endswith('200000\n')


@step
def run_out_of_time(w):
    begun = time.monotonic()
    raises(TimeoutException, lambda: w.sandbox.commands.run('echo mark-of-it; sleep 300', timeout=1))
    assert time.monotonic() - begun < 30
    until(lambda: all('sleep 300' not in ' '.join(each.args) for each in w.sandbox.commands.list()))


@step
def run_in_background(w):
    handle = w.sandbox.commands.run('echo started; sleep 200', background=True)
    assert handle.pid in [each.pid for each in w.sandbox.commands.list()]
    assert first_output(handle) == 'started\n'
    assert w.sandbox.commands.kill(handle.pid)
    error = raises(CommandExitException, handle.wait)
    assert error.exit_code == -1
    assert 'killed' in error.error
    assert not w.sandbox.commands.kill(handle.pid)


@step
def handle_kill(w):
    handle = w.sandbox.commands.run('sleep 200', background=True)
    assert handle.kill()
    raises(CommandExitException, handle.wait)


@step
def list_says_what_runs(w):
    handle = w.sandbox.commands.run('sleep 201', background=True, envs={'A': '1'}, cwd='/tmp')
    found = next(each for each in w.sandbox.commands.list() if each.pid == handle.pid)
    assert found.cmd == '/bin/bash'
    assert found.args == ['-l', '-c', 'sleep 201']
    assert found.envs == {'A': '1'}
    assert found.cwd == '/tmp'
    assert found.tag is None
    handle.kill()


@step
def disconnect_and_connect(w):
    handle = w.sandbox.commands.run('for i in 1 2 3; do read x; echo got $x; done', background=True, stdin=True)
    handle.disconnect()
    again = w.sandbox.commands.connect(handle.pid)
    w.sandbox.commands.send_stdin(handle.pid, 'a\nb\nc\n')
    result = again.wait()
    assert result.stdout == 'got a\ngot b\ngot c\n', result
    raises(NotFoundException, lambda: w.sandbox.commands.connect(handle.pid))


@step
def who_has_gone_holds_up_nothing(w):
    handle = w.sandbox.commands.run('seq 400000; echo done > /tmp/flood-done; sleep 100', background=True)
    handle.disconnect()
    until(lambda: w.sandbox.files.exists('/tmp/flood-done'))
    w.sandbox.commands.kill(handle.pid)


@step
def input(w):
    handle = w.sandbox.commands.run('cat', background=True, stdin=True)
    handle.send_stdin('one\n')
    w.sandbox.commands.send_stdin(handle.pid, b'two\n')
    send_all(w.sandbox.commands, handle.pid, ['three\n', b'four\n'])
    handle.close_stdin()
    assert handle.wait().stdout == 'one\ntwo\nthree\nfour\n'


@step
def input_for_one_that_takes_none(w):
    handle = w.sandbox.commands.run('sleep 100', background=True)
    raises(SandboxException, lambda: w.sandbox.commands.send_stdin(handle.pid, 'x'), 'no input')
    raises(SandboxException, lambda: w.sandbox.pty.resize(handle.pid, PtySize(rows=5, cols=5)), 'no terminal')
    handle.kill()


@step
def input_is_sent_as_it_comes(w):
    handle = w.sandbox.commands.run('while read x; do echo "<$x>"; done', background=True, stdin=True)
    if IS_ASYNC:
        stream = w.sandbox.commands.stream_input(handle.pid)
        stream.send('a\n')
        until(lambda: handle.stdout == '<a>\n')
        stream.send('b\n')
        until(lambda: handle.stdout == '<a>\n<b>\n')
        stream.close()
        w.sandbox.commands.close_stdin(handle.pid)
        handle.wait()
        return
    events, seen = iter(handle), []

    def conversation():
        for word in ('a', 'b'):
            yield f'{word}\n'
            seen.append(next(events)[0])  # which comes only if what was sent has arrived

    w.sandbox.commands.stream_input(handle.pid, conversation())
    assert seen == ['<a>\n', '<b>\n'], seen
    w.sandbox.commands.close_stdin(handle.pid)
    handle.wait()


@step
def input_to_none(w):
    raises(NotFoundException, lambda: w.sandbox.commands.send_stdin(999999, 'x'))
    raises(NotFoundException, lambda: send_all(w.sandbox.commands, 999999, ['x']))


# Terminals ------------------------------------------------------------------------------------------------------------


@step
def terminal(w):
    handle, seen = open_terminal(w, size=PtySize(rows=30, cols=100), envs={'PS1': '> '}, cwd='/tmp')
    w.sandbox.pty.send_stdin(handle.pid, b'stty size; tty -s && echo is-terminal; exit 0\n')
    wait_for_terminal(handle, seen)
    text = b''.join(seen)
    assert b'30 100' in text, text
    assert b'is-terminal' in text, text


@step
def terminal_resize_and_kill(w):
    handle, _ = open_terminal(w, size=PtySize(rows=24, cols=80))
    w.sandbox.pty.resize(handle.pid, PtySize(rows=50, cols=120))
    send_all(w.sandbox.pty, handle.pid, ['stty size > /tmp/size\n'])
    until(lambda: w.sandbox.files.exists('/tmp/size') and w.sandbox.files.read('/tmp/size') == '50 120\n')
    handle.disconnect()
    again = w.sandbox.pty.connect(handle.pid, **({'on_data': lambda _: None} if IS_ASYNC else {}))
    assert again.pid == handle.pid
    assert w.sandbox.pty.kill(handle.pid)
    raises(CommandExitException, again.wait)
    assert not w.sandbox.pty.kill(handle.pid)


# Files ----------------------------------------------------------------------------------------------------------------


@step
def write_and_read(w):
    info = w.sandbox.files.write('/tmp/deep/er/a.txt', 'gr\u00fcn')
    assert (info.name, info.path, info.type) == ('a.txt', '/tmp/deep/er/a.txt', FileType.FILE)
    assert w.sandbox.files.read('/tmp/deep/er/a.txt') == 'gr\u00fcn'
    assert w.sandbox.files.read('/tmp/deep/er/a.txt', format='bytes') == bytearray('gr\u00fcn'.encode())


@step
def relative_paths_begin_at_home(w):
    w.sandbox.files.write('relative.txt', 'r')
    assert w.sandbox.files.read('/home/user/relative.txt') == 'r'
    assert w.sandbox.commands.run('cat relative.txt').stdout == 'r'


@step
def write_bytes_files_and_iterators(w):
    data = bytes(range(256)) * 8192
    w.sandbox.files.write('/tmp/bytes', data)
    assert bytes(w.sandbox.files.read('/tmp/bytes', format='bytes')) == data
    w.sandbox.files.write('/tmp/io', io.BytesIO(data))
    w.sandbox.files.write('/tmp/iter', as_iterable([data[at : at + 65536] for at in range(0, len(data), 65536)]))
    sums = w.sandbox.commands.run('cksum < /tmp/bytes; cksum < /tmp/io; cksum < /tmp/iter').stdout.splitlines()
    assert len(set(sums)) == 1, sums


@step
def read_as_a_stream(w):
    with w.sandbox.files.read('/tmp/bytes', format='stream') as stream:
        assert b''.join(stream) == bytes(range(256)) * 8192


@step
def write_packed_and_as_octets(w):
    w.sandbox.files.write('/tmp/packed', 'x' * 100000, gzip=True)
    w.sandbox.files.write('/tmp/octets', 'y' * 100000, use_octet_stream=True)
    assert w.sandbox.files.read('/tmp/packed', gzip=True) == 'x' * 100000
    assert w.sandbox.files.read('/tmp/octets') == 'y' * 100000


@step
def write_several(w):
    files = [{'path': f'/tmp/many/{name}.txt', 'data': name} for name in ('one', 'two', 'three')]
    assert [each.path for each in w.sandbox.files.write_files(files)] == [each['path'] for each in files]
    assert w.sandbox.files.read('/tmp/many/two.txt') == 'two'
    assert w.sandbox.files.write_files([]) == []


@step
def metadata_of_files(w):
    info = w.sandbox.files.write('/tmp/meta.txt', 'm', metadata={'Owner': 'me', 'purpose': 'a test'})
    assert info.metadata == {'owner': 'me', 'purpose': 'a test'}
    assert w.sandbox.files.get_info('/tmp/meta.txt').metadata == {'owner': 'me', 'purpose': 'a test'}
    assert w.sandbox.files.rename('/tmp/meta.txt', '/tmp/meta2.txt').metadata == info.metadata


@step
def read_of_none(w):
    raises(FileNotFoundException, lambda: w.sandbox.files.read('/no/such/file'))
    raises(InvalidArgumentException, lambda: w.sandbox.files.read('/tmp'))
    raises(FileNotFoundException, lambda: w.sandbox.files.read('/no/such/file', format='stream'))


@step
def write_onto_a_directory(w):
    raises(InvalidArgumentException, lambda: w.sandbox.files.write('/tmp', 'x'))


@step
def list_files(w):
    w.sandbox.files.write('/tmp/tree/a/b/c.txt', 'c')
    w.sandbox.commands.run('ln -s a /tmp/tree/link')
    names = {each.path: each for each in w.sandbox.files.list('/tmp/tree')}
    assert set(names) == {'/tmp/tree/a', '/tmp/tree/link'}
    assert names['/tmp/tree/a'].type is FileType.DIR
    assert names['/tmp/tree/link'].type is FileType.SYMLINK
    assert names['/tmp/tree/link'].symlink_target == '/tmp/tree/a'
    deep = {each.path for each in w.sandbox.files.list('/tmp/tree', depth=3)}
    assert deep == {'/tmp/tree/a', '/tmp/tree/link', '/tmp/tree/a/b', '/tmp/tree/a/b/c.txt'}, deep
    raises(FileNotFoundException, lambda: w.sandbox.files.list('/no/such/place'))
    raises(InvalidArgumentException, lambda: w.sandbox.files.list('/tmp/tree/a/b/c.txt'))


@step
def links_that_lead_nowhere_are_listed(w):
    w.sandbox.commands.run(
        'mkdir /tmp/links; cd /tmp/links; ln -s gone away; ln -s round round; mkfifo pipe; touch file'
    )
    assert sorted(each.name for each in w.sandbox.files.list('/tmp/links')) == ['away', 'file', 'round']
    info = w.sandbox.files.get_info('/tmp/links/away')
    assert (info.type, info.symlink_target) == (FileType.SYMLINK, '/tmp/links/gone')
    assert w.sandbox.files.exists('/tmp/links/away')
    w.sandbox.files.remove('/tmp/links/away')
    assert not w.sandbox.files.exists('/tmp/links/away')


@step
def get_file_info(w):
    w.sandbox.files.write('/tmp/info.txt', '12345')
    info = w.sandbox.files.get_info('/tmp/info.txt')
    assert (info.name, info.type, info.size, info.mode) == ('info.txt', FileType.FILE, 5, 0o644), info
    assert info.permissions == '-rw-r--r--'
    assert info.owner
    assert info.group
    assert abs(info.modified_time.timestamp() - time.time()) < 300
    raises(FileNotFoundException, lambda: w.sandbox.files.get_info('/no/such/file'))


@step
def exists(w):
    assert w.sandbox.files.exists('/tmp')
    assert not w.sandbox.files.exists('/no/such/file')


@step
def make_dir(w):
    assert w.sandbox.files.make_dir('/tmp/made/deep')
    assert not w.sandbox.files.make_dir('/tmp/made/deep')
    assert w.sandbox.files.get_info('/tmp/made/deep').type is FileType.DIR


@step
def rename(w):
    w.sandbox.files.write('/tmp/old.txt', 'o')
    w.sandbox.files.write('/tmp/new.txt', 'n')
    assert w.sandbox.files.rename('/tmp/old.txt', '/tmp/new.txt').path == '/tmp/new.txt'
    assert w.sandbox.files.read('/tmp/new.txt') == 'o'
    assert not w.sandbox.files.exists('/tmp/old.txt')
    raises(FileNotFoundException, lambda: w.sandbox.files.rename('/tmp/old.txt', '/tmp/x.txt'))


@step
def remove(w):
    w.sandbox.files.remove('/tmp/made')
    assert not w.sandbox.files.exists('/tmp/made')
    w.sandbox.files.remove('/tmp/made')


class Watching:
    """What changes in a directory, by turns or as it comes."""

    def __init__(self, w, path, **options):
        self.found, self.exits = [], []
        if IS_ASYNC:
            self.handle = w.sandbox.files.watch_dir(
                path, on_event=self.found.append, on_exit=self.exits.append, **options
            )
        else:
            self.handle = w.sandbox.files.watch_dir(path, **options)

    def events(self):
        if not IS_ASYNC:
            self.found += self.handle.get_new_events()
        return [(each.name, each.type.value) for each in self.found]


@step
def watch_a_directory(w):
    w.sandbox.files.write('/tmp/watched/old.txt', 'o')
    watching = Watching(w, '/tmp/watched')
    w.sandbox.files.write('/tmp/watched/new.txt', 'n')
    until(lambda: {('new.txt', 'create'), ('new.txt', 'write')} <= set(watching.events()))
    w.sandbox.files.write('/tmp/watched/old.txt', 'older')
    until(lambda: ('old.txt', 'write') in watching.events())
    w.sandbox.commands.run('chmod 600 /tmp/watched/old.txt')
    until(lambda: ('old.txt', 'chmod') in watching.events())
    w.sandbox.files.rename('/tmp/watched/old.txt', '/tmp/watched/moved.txt')
    until(lambda: {('old.txt', 'rename'), ('moved.txt', 'create')} <= set(watching.events()))
    w.sandbox.files.remove('/tmp/watched/moved.txt')
    until(lambda: ('moved.txt', 'remove') in watching.events())
    watching.handle.stop()
    if not IS_ASYNC:
        raises(SandboxException, watching.handle.get_new_events, 'stopped')


@step
def watch_all_below_with_entries(w):
    w.sandbox.files.make_dir('/tmp/tree-watched/a/b')
    watching = Watching(w, '/tmp/tree-watched', recursive=True, include_entry=True, allow_network_mounts=True)
    w.sandbox.files.write('/tmp/tree-watched/a/b/c.txt', '123')
    until(lambda: ('a/b/c.txt', 'create') in watching.events())
    entry = next(each.entry for each in watching.found if each.name == 'a/b/c.txt')
    assert entry.path == '/tmp/tree-watched/a/b/c.txt'
    assert entry.size == 3
    watching.handle.stop()


@step
def watch_of_none(w):
    raises(FileNotFoundException, lambda: Watching(w, '/no/such/place'))
    w.sandbox.files.write('/tmp/no-directory', 'x')
    raises(InvalidArgumentException, lambda: Watching(w, '/tmp/no-directory'))


@step
def signed_addresses(w):
    url = w.sandbox.upload_url('/tmp/signed.txt', use_signature_expiration=60)
    answer = httpx.post(url, files={'file': ('signed.txt', b'by address')})
    assert answer.status_code == 200, answer.text
    assert httpx.get(w.sandbox.download_url('/tmp/signed.txt')).content == b'by address'
    wrong = w.sandbox.download_url('/tmp/signed.txt').replace('signed.txt', 'other.txt')
    assert httpx.get(wrong).status_code == 401
    late = w.sandbox.download_url('/tmp/signed.txt', use_signature_expiration=-10)
    assert httpx.get(late).status_code == 401


@step
def names_of_ports(w):
    assert w.sandbox.get_host(8080).startswith('8080-')
    assert '/mcp' in w.sandbox.get_mcp_url()


# Code -----------------------------------------------------------------------------------------------------------------


@step
def run_code(w):
    done = w.sandbox.run_code('x = 20\nprint("hello")\nx + 1')
    assert done.text == '21'
    assert done.logs.stdout == ['hello\n']
    assert done.error is None
    assert isinstance(done.execution_count, int)
    assert w.sandbox.run_code('x + 2').text == '22'


@step
def run_code_with_callbacks(w):
    out, err, results = [], [], []
    w.sandbox.run_code(
        'import sys\nprint("o")\nprint("e", file=sys.stderr)\n"r"',
        on_stdout=lambda each: out.append(each.line),
        on_stderr=lambda each: err.append(each.line),
        on_result=results.append,
    )
    assert ''.join(out) == 'o\n'
    assert ''.join(err) == 'e\n'
    assert results[0].text == 'r'


@step
def run_code_that_fails(w):
    errors = []
    done = w.sandbox.run_code('1 / 0', on_error=errors.append)
    assert done.error.name == 'ZeroDivisionError'
    assert 'division' in done.error.value
    assert errors
    assert 'ZeroDivisionError' in done.error.traceback


@step
def results_in_many_forms(w):
    done = w.sandbox.run_code(FORMS)
    result = done.results[0]
    assert result.html == '<b>h</b>'
    assert result.markdown == '*m*'
    assert result.svg == '<svg/>'
    assert result.latex == '$l$'
    assert result.json == {'a': [1]}
    assert result.javascript == 'j()'
    assert result.text == 't'
    assert result.pdf == 'cGRm'
    assert base64.b64decode(result.png) == b'png' * 40
    assert result.jpeg == 'anBn'
    assert result.data == {'d': 1}
    assert result.extra == {'x/y': 'z'}
    assert result.chart.title == 'c'
    assert result.chart.elements[0].points == [(1, 2)]
    assert result.is_main_result is False
    assert set(result.formats()) >= {'html', 'png', 'chart', 'x/y'}


FORMS = """
import base64
from IPython.display import display
display({
    'text/plain': 't', 'text/html': '<b>h</b>', 'text/markdown': '*m*', 'image/svg+xml': '<svg/>', 'text/latex': '$l$',
    'application/json': {'a': [1]}, 'application/javascript': 'j()', 'application/pdf': 'cGRm',
    'image/png': base64.encodebytes(b'png' * 40).decode(), 'image/jpeg': 'anBn', 'x/y': 'z', 'e2b/data': {'d': 1},
    'e2b/chart': {
        'type': 'line', 'title': 'c', 'x_label': None, 'y_label': None, 'x_unit': None, 'y_unit': None, 'x_ticks': [],
        'x_tick_labels': [], 'x_scale': 'linear', 'y_ticks': [], 'y_tick_labels': [], 'y_scale': 'linear',
        'elements': [{'label': 'e', 'points': [[1, 2]]}],
    },
}, raw=True)
"""


@step
def run_code_with_environment(w):
    assert w.sandbox.run_code('import os; os.environ["ONE"]', envs={'ONE': "it's 1"}).text == "it's 1"
    assert w.sandbox.run_code('os.environ.get("ONE"), os.environ["GIVEN"]').text == "(None, 'yes')"


@step
def run_code_out_of_time(w):
    raises(TimeoutException, lambda: w.sandbox.run_code('import time\ntime.sleep(300)', timeout=1))
    assert w.sandbox.run_code('x').text == '20'  # interrupted, and its state is there


@step
def contexts(w):
    context = w.sandbox.create_code_context(cwd='/tmp')
    assert context.language == 'python'
    assert context.cwd == '/tmp'
    assert context.id
    assert w.sandbox.run_code('import os; os.getcwd()', context=context).text == '/tmp'
    assert w.sandbox.run_code('x', context=context).error.name == 'NameError'
    w.sandbox.run_code('y = 1', context=context)
    w.sandbox.restart_code_context(context)
    assert w.sandbox.run_code('y', context=context).error.name == 'NameError'
    assert context.id in [each.id for each in w.sandbox.list_code_contexts()]
    w.sandbox.remove_code_context(context.id)
    assert context.id not in [each.id for each in w.sandbox.list_code_contexts()]
    raises(NotFoundException, lambda: w.sandbox.run_code('1', context=context))
    raises(NotFoundException, lambda: w.sandbox.restart_code_context(context))


@step
def languages(w):
    assert w.sandbox.run_code('2 + 3', language='python').text == '5'
    error = raises(NotFoundException, lambda: w.sandbox.run_code('1', language='cobol'))
    assert 'it has: ' in str(error)
    raises(NotFoundException, lambda: w.sandbox.create_code_context(language='cobol'))


@step
def code_and_commands_share_files(w):
    w.sandbox.run_code('open("/tmp/from-code", "w").write("shared")')
    assert w.sandbox.commands.run('cat /tmp/from-code').stdout == 'shared'


@step
def no_kernels_without_their_template(w):
    with Sandbox.create('base') as plain:
        raises(SandboxException, lambda: plain.run_code('1'), 'code-interpreter-v1')


# What is not to be had ------------------------------------------------------------------------------------------------


@step
def pausing_without_memory_is_refused(w):
    raises(SandboxException, lambda: w.sandbox.pause(mode='filesystem'), 'keeps memory')
    raises(
        SandboxException,
        lambda: Sandbox.create('base', lifecycle={'on_timeout': {'action': 'pause', 'mode': 'filesystem'}}),
    )


@step
def snapshots_are_refused(w):
    raises(SandboxException, lambda: w.sandbox.create_snapshot(), 'no snapshots')
    assert w.sandbox.list_snapshots().next_items() == []
    assert Sandbox.list_snapshots().next_items() == []
    assert Sandbox.delete_snapshot('none') is False


@step
def forks_are_refused(w):
    raises(SandboxException, lambda: w.sandbox.fork(), 'cannot copy')


@step
def network_rules_are_refused(w):
    raises(SandboxException, lambda: w.sandbox.update_network({'allow_out': ['1.1.1.1']}), 'settled when it is made')
    raises(SandboxException, lambda: Sandbox.create(network={'allow_out': ['1.1.1.1']}), 'without rules')


@step
def gateways_volumes_and_identity_are_refused(w):
    raises(SandboxException, lambda: Sandbox.create('base', mcp={'x': {}}), 'MCP')
    raises(SandboxException, lambda: Sandbox.create('base', volume_mounts={'/v': 'v'}), 'volumes')
    raises(FileNotFoundException, lambda: w.sandbox.get_mcp_token())
    raises(Exception, lambda: Volume.create('v'), 'no volumes')
    raises(Exception, lambda: Secret.list().next_items(), 'no secrets')


@step
def templates(w):
    assert Template.exists('base')
    assert not Template.exists('none-such')
    template = (e2b.AsyncTemplate if IS_ASYNC else e2b.Template)().from_image('python:3.11-slim')
    raises(Exception, lambda: Template.build(template, alias='mine', cpu_count=1, memory_mb=1024), 'no templates')


@step
def a_network_can_be_left_out(w):
    with Sandbox.create('base', allow_internet_access=False) as sandbox:
        assert sandbox.get_info().allow_internet_access is False
    with Sandbox.create('base', network={'deny_out': ['0.0.0.0/0']}) as sandbox:
        assert sandbox.get_info().allow_internet_access is False


@step
def git(w):
    module = w.sandbox.git
    if not w.sandbox.files.exists('/usr/bin/git'):
        raises(Exception, lambda: module.init('/tmp/repository'))
        return
    module.init('/tmp/repository', initial_branch='main')
    module.configure_user('A', 'a@example.com')
    w.sandbox.files.write('/tmp/repository/a.txt', 'a')
    module.add('/tmp/repository')
    module.commit('/tmp/repository', 'First')
    assert module.status('/tmp/repository').is_clean
    module.create_branch('/tmp/repository', 'other')
    assert set(module.branches('/tmp/repository').branches) == {'main', 'other'}


# The end --------------------------------------------------------------------------------------------------------------


@step
def end_by_its_own_time(w):
    sandbox = Sandbox.create('base', timeout=1)
    until(lambda: not sandbox.is_running(), 60.0)
    raises(SandboxNotRunningException, lambda: sandbox.commands.run('true'))
    raises(SandboxNotRunningException, lambda: sandbox.files.read('/etc/passwd'))


@step
def kill_while_a_command_runs(w):
    sandbox = Sandbox.create('base')
    handle = sandbox.commands.run('sleep 100', background=True)
    assert sandbox.kill()
    raises((TimeoutException, CommandExitException), handle.wait)


@step
def kill(w):
    assert w.sandbox.kill() is True
    assert w.sandbox.kill() is False
    assert Sandbox.kill(w.sandbox.sandbox_id) is False
    assert not w.sandbox.is_running()
    raises(SandboxNotRunningException, lambda: w.sandbox.commands.run('true'))
    raises(TimeoutException, lambda: w.sandbox.run_code('1'))
    raises(SandboxNotFoundException, lambda: w.sandbox.set_timeout(10))


def main(only):
    world = World()
    for each in STEPS:
        if only and each.__name__ not in only and each.__name__ != 'create':
            continue
        begun = time.monotonic()
        try:
            each(world)
            reported = None
        except BaseException:
            reported = traceback.format_exc()
        seconds = round(time.monotonic() - begun, 3)
        print(json.dumps({'step': each.__name__, 'error': reported, 'seconds': seconds}), flush=True)


if __name__ == '__main__':
    main(sys.argv[2:])
