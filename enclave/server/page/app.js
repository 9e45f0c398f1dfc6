'use strict';
// The page of a server: what runs there, and a terminal and the files of a sandbox. It uses the same routes as every client.
// The key is kept for this tab only, and travels in a header.

const $ = (id) => document.getElementById(id);
const KEY = 'enclave.key';
const SECONDS = 2;
const history = [];
let shown = null; // the sandbox whose details are shown
let terminal = null; // {process, controller}

function headers(extra) {
  const key = sessionStorage.getItem(KEY);
  return { 'X-Enclave-Protocol': '1', ...(key ? { Authorization: `Bearer ${key}` } : {}), ...extra };
}

async function ask(method, path, body, options = {}) {
  const isRaw = body instanceof Blob;
  const answer = await fetch(path, {
    method,
    headers: headers(body === undefined ? {} : { 'Content-Type': isRaw ? 'application/octet-stream' : 'application/json' }),
    body: body === undefined ? undefined : isRaw ? body : JSON.stringify(body),
    signal: options.signal,
  });
  if (answer.ok) return options.raw ? answer : answer.json();
  let text = `${answer.status} ${answer.statusText}`;
  try { text = (await answer.json()).message || text; } catch { /* no JSON */ }
  const error = new Error(text);
  error.status = answer.status;
  throw error;
}

function row(cells, actions = []) {
  const line = document.createElement('tr');
  for (const cell of cells) {
    const item = document.createElement('td');
    if (cell instanceof Node) item.append(cell); else item.textContent = cell;
    line.append(item);
  }
  if (actions.length) {
    const item = document.createElement('td');
    item.className = 'actions';
    item.append(...actions.flatMap((each) => [each, ' ']));
    line.append(item);
  }
  return line;
}

function button(text, label, action) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  made.setAttribute('aria-label', label);
  made.addEventListener('click', action);
  return made;
}

function age(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 360) / 10} h`;
}

function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < 3) { bytes /= 1024; unit += 1; }
  return `${unit ? bytes.toFixed(1) : bytes} ${['B', 'KiB', 'MiB', 'GiB'][unit]}`;
}

// A table is written anew only when it has changed, so that the focus stays where it is.
function fill(id, lines, nothing) {
  const table = $(id);
  const text = JSON.stringify(lines.map((each) => each.textContent));
  if (table.dataset.text === text) return;
  table.dataset.text = text;
  const empty = row([nothing]);
  empty.firstChild.colSpan = 9;
  table.replaceChildren(...(lines.length ? lines : [empty]));
}

// Overview -------------------------------------------------------------------------------------------------------------

async function refresh() {
  try {
    const [stats, sandboxes, calls] = await Promise.all([ask('GET', '/stats'), ask('GET', '/sandboxes'), ask('GET', '/calls')]);
    $('key-form').hidden = true;
    $('leave').hidden = !sessionStorage.getItem(KEY);
    $('overview').hidden = shown !== null;
    $('state').textContent = 'connected';
    show(stats, sandboxes, calls);
  } catch (error) {
    if (error.status === 401) {
      $('state').textContent = 'a key is needed';
      $('key-error').textContent = sessionStorage.getItem(KEY) ? error.message : '';
      sessionStorage.removeItem(KEY);
      $('overview').hidden = $('detail').hidden = true;
      if ($('key-form').hidden) { $('key-form').hidden = false; $('key').focus(); }
      return;
    }
    $('state').textContent = error.status ? error.message : 'the server does not answer';
  }
  setTimeout(refresh, SECONDS * 1000);
}

function show(stats, sandboxes, calls) {
  const numbers = { sandboxes: stats.total_sandboxes, 'calls running': calls.length, pools: Object.keys(stats.pools || {}).length };
  $('stats').replaceChildren(...Object.entries(numbers).map(([name, value]) => {
    const group = document.createElement('div');
    const term = document.createElement('dt');
    const number = document.createElement('dd');
    term.textContent = name;
    number.textContent = value;
    group.append(term, number);
    return group;
  }));
  history.push(calls.length);
  if (history.length > 150) history.shift();
  const top = Math.max(4, ...history);
  const points = history.map((value, at) => `${(at * 300) / 149},${56 - (value * 52) / top}`).join(' ');
  $('chart').innerHTML = `<polyline points="${points}"/>`;
  const now = Date.now();
  fill('sandboxes', sandboxes.map((each) => row(
    [each.id, each.type, each.status, age((now - Date.parse(each.created_at)) / 1000), String(each.active_calls)],
    [button('Open', `Open sandbox ${each.id}`, () => open(each.id)), button('Delete', `Delete sandbox ${each.id}`, () => remove(each.id))],
  )), 'No sandboxes.');
  fill('calls', calls.map((each) => row([each.what, each.sandbox_id || '', age(each.seconds)])), 'No calls are running.');
  fill('pools', Object.entries(stats.pools || {}).map(([name, pool]) => row(
    [name, `${pool.size}`, `${pool.idle}`, `${pool.leased}`, `${pool.waiting}`],
  )), 'No pools.');
}

async function remove(id) {
  if (!confirm(`Delete sandbox ${id} with its files?`)) return;
  try { await ask('DELETE', `/sandbox/${encodeURIComponent(id)}`); $('message').textContent = ''; } catch (error) { $('message').textContent = error.message; }
}

$('create-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const kind = $('create-type').value.trim();
  $('message').textContent = '';
  $('state').textContent = 'making a sandbox';
  try {
    await ask('POST', `/sandbox/create${kind ? `?sandbox_type=${encodeURIComponent(kind)}` : ''}`, null);
    $('state').textContent = 'made';
  } catch (error) { $('message').textContent = error.message; $('state').textContent = 'connected'; }
});

$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $('key').value);
  $('key').value = '';
  refresh();
});
$('leave').addEventListener('click', () => { sessionStorage.removeItem(KEY); location.reload(); });

// One sandbox ----------------------------------------------------------------------------------------------------------

function open(id) {
  shown = id;
  $('overview').hidden = true;
  $('detail').hidden = false;
  $('detail-title').textContent = `Sandbox ${id}`;
  $('file').hidden = true;
  $('path').value = '.';
  $('back').focus();
  list();
}

$('back').addEventListener('click', () => {
  leaveTerminal();
  shown = null;
  $('detail').hidden = true;
  $('overview').hidden = false;
  $('create-type').focus();
});

const address = (rest) => `/sandbox/${encodeURIComponent(shown)}${rest}`;

async function list() {
  $('file-message').textContent = '';
  const folder = $('path').value || '.';
  const inside = (name) => (folder === '.' ? name : `${folder.replace(/\/$/, '')}/${name}`);
  try {
    const entries = await ask('GET', address(`/files?path=${encodeURIComponent(folder)}&max_entries=1000`));
    const lines = entries.map((each) => {
      const path = inside(each.path);
      const enter = () => { $('path').value = path; list(); };
      return each.kind === 'directory'
        ? row([`${each.path}/`, ''], [button('Enter', `Enter ${path}`, enter)])
        : row([each.path, size(each.size)], [button('Show', `Show ${path}`, () => view(path)), button('Save', `Save ${path}`, () => save(path))]);
    });
    if (folder !== '.' && folder !== '/') {
      const above = folder.includes('/') ? folder.replace(/\/[^/]*$/, '') || '/' : '.';
      lines.unshift(row(['..', ''], [button('Enter', 'Enter the directory above', () => { $('path').value = above; list(); })]));
    }
    delete $('files').dataset.text;
    fill('files', lines, 'Nothing here.');
  } catch (error) { $('file-message').textContent = error.message; }
}
$('path-form').addEventListener('submit', (event) => { event.preventDefault(); list(); });

async function view(path) {
  try {
    const answer = await ask('GET', address(`/file?path=${encodeURIComponent(path)}&max_bytes=200000`), undefined, { raw: true });
    $('file').textContent = await answer.text();
    $('file').hidden = false;
    $('file').focus();
  } catch (error) { $('file-message').textContent = error.message; }
}

async function save(path) {
  try {
    const answer = await ask('GET', address(`/file?path=${encodeURIComponent(path)}`), undefined, { raw: true });
    const link = document.createElement('a');
    link.href = URL.createObjectURL(await answer.blob());
    link.download = path.split('/').pop();
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) { $('file-message').textContent = error.message; }
}

$('upload').addEventListener('change', async () => {
  const file = $('upload').files[0];
  if (!file) return;
  const folder = $('path').value || '.';
  try {
    await ask('PUT', address(`/file?path=${encodeURIComponent(`${folder}/${file.name}`)}`), new Blob([file]));
    list();
  } catch (error) { $('file-message').textContent = error.message; }
  $('upload').value = '';
});

// Terminal -------------------------------------------------------------------------------------------------------------

// What a simple terminal shows: text, carriage returns, backspaces; other control sequences are left out.
function write(text) {
  const box = $('terminal');
  let line = box.textContent;
  text = text.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[@-_]|\x07/g, '').replace(/\r\n/g, '\n');
  for (const sign of text) {
    if (sign === '\b') line = line.slice(0, -1);
    else if (sign === '\r') line = line.slice(0, line.lastIndexOf('\n') + 1);
    else line += sign;
  }
  box.textContent = line.slice(-100000);
  box.scrollTop = box.scrollHeight;
}

$('open-terminal').addEventListener('click', async () => {
  const box = $('terminal');
  box.textContent = '';
  box.hidden = false;
  $('open-terminal').hidden = true;
  $('close-terminal').hidden = false;
  box.focus();
  const controller = new AbortController();
  terminal = { controller, process: null, queue: Promise.resolve() };
  try {
    const answer = await ask('POST', address('/stream'), {
      command: ['sh', '-i'], tty: [24, 80], open_stdin: true, timeout: 0, env: { TERM: 'dumb', PS1: '$ ' },
    }, { raw: true, signal: controller.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const line of lines) if (line) take(JSON.parse(line));
    }
  } catch (error) {
    if (error.name !== 'AbortError') write(`\n${error.message}\n`);
  }
  if (terminal && terminal.controller === controller) ended();
});

function take(event) {
  if (event.event === 'started') terminal.process = event.process_id;
  else if (event.event === 'end') write(`\n[the shell ended with exit code ${event.result.exit_code}]\n`);
  else if (event.event === 'error') write(`\n[${event.error.message}]\n`);
  else if (event.text !== undefined && event.text !== null) write(event.text);
  else if (event.data) write(new TextDecoder().decode(Uint8Array.from(atob(event.data), (sign) => sign.charCodeAt(0))));
}

const KEYS = { Enter: '\r', Backspace: '\x7f', Tab: '\t', Escape: '\x1b', ArrowUp: '\x1b[A', ArrowDown: '\x1b[B', ArrowRight: '\x1b[C', ArrowLeft: '\x1b[D', Delete: '\x1b[3~' };

function type(text) {
  if (!terminal || !terminal.process) return;
  const { process } = terminal;
  // In order: each waits for the one before.
  terminal.queue = terminal.queue.then(() => ask('POST', address(`/processes/${process}/input`), new Blob([text]))).catch((error) => write(`\n[${error.message}]\n`));
}

$('terminal').addEventListener('keydown', (event) => {
  if (event.altKey || event.metaKey || (event.key === 'Tab' && event.shiftKey)) return; // shift and tab leave it
  let text = KEYS[event.key];
  if (event.ctrlKey && /^[a-z]$/i.test(event.key)) {
    if (event.key.toLowerCase() === 'v') return; // paste
    text = String.fromCharCode(event.key.toUpperCase().charCodeAt(0) - 64);
  } else if (text === undefined && event.key.length === 1 && !event.ctrlKey) text = event.key;
  if (text === undefined) return;
  event.preventDefault();
  type(text);
});
$('terminal').addEventListener('paste', (event) => { event.preventDefault(); type(event.clipboardData.getData('text')); });

function ended() {
  terminal = null;
  $('open-terminal').hidden = false;
  $('close-terminal').hidden = true;
}

function leaveTerminal() {
  if (!terminal) return;
  const { controller, process } = terminal;
  if (process) ask('DELETE', address(`/processes/${process}`)).catch(() => {});
  controller.abort();
  ended();
}
$('close-terminal').addEventListener('click', () => { leaveTerminal(); $('open-terminal').focus(); });
addEventListener('pagehide', leaveTerminal);

refresh();
