"""What every notebook sandbox can do, whatever its backend (layer 4): cells, kernels, completion, variables.

The verbs are ordinary blocking methods, for any thread. Cells of one kernel run one at a time in the order of asking, cells of
different kernels at once; `interrupt_kernel`, `restart_kernel` and `delete_kernel` never wait behind a running cell.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, ClassVar

from enclave.cells import (
    DEFAULT_KERNEL,
    KERNEL_DELETED,
    SANDBOX_STOPPED,
    CellResult,
    Completion,
    Inspection,
    KernelInfo,
    KernelSpec,
    Variable,
)
from enclave.config import check_env
from enclave.deadline import check_timeout
from enclave.errors import (
    ConflictError,
    InvalidArgumentError,
    KernelDiedError,
    NotFoundError,
    SandboxError,
    SandboxGoneError,
    SandboxStartError,
    SandboxStateError,
    UnsupportedError,
)
from enclave.rendering import strip_escape_codes
from enclave.sandboxes.agent_backed import AgentBackedSandbox
from enclave.sandboxes.agent_operations import AgentOperations
from enclave.sandboxes.notebook.kernel import KernelSettings, NotebookKernel
from enclave.sandboxes.notebook.kernel_process import PYTHON_SPEC, python_spec
from enclave.sandboxes.notebook.notebook_config import loads_all_tools
from enclave.sandboxes.notebook.outputs import is_writable
from enclave.sandboxes.operations import Operations
from enclave.sandboxes.process import Process
from enclave.verb_requests import RunCommand, absolute, as_path

logger = logging.getLogger(__name__)

ASK_SECONDS = 30.0
"""How long completion, inspection and the like may take by default, from the moment that it is their turn. A kernel's first
completion reads much of Python's library, which takes seconds on a busy machine."""
MAX_CODE_CHARACTERS = 8 << 20
MAX_MATCHES = 10_000
MAX_VARIABLES = 1000
"""The size limit of a cell's code, and of a line that answers its ``input()``."""
END_OF_INPUT = '\x04'
"""What Jupyter's kernels take for the end of input."""
Steps = Generator[dict[str, Any] | CellResult, None, None]
"""What `NotebookSandbox.stream_cell` gives: outputs as they come, and at last the result."""
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,62}')

# Runs in the sandbox, under the kernels' Python. It fills in what jupyter_client fills in when it starts a kernel
# (`KernelManager.format_kernel_cmd`, `KernelProvisionerBase`): names in braces in the arguments of the command, variables in the
# values of the environment, and Python itself by its path. The connection file is left for the start.
_FIND_SPECS = """\
import json, os, re, string, sys
from jupyter_client.kernelspec import KernelSpecManager

def fill(argv, resource_dir):
    known = {'resource_dir': resource_dir, 'prefix': sys.prefix}
    argv = [re.sub('{([A-Za-z0-9_]+)}', lambda match: known.get(match[1], match[0]), word) for word in argv]
    if argv[:1] and re.fullmatch('python(%d([.]%d)?)?' % sys.version_info[:2], argv[0]):
        argv[0] = sys.executable
    return argv

found = {}
for name, each in KernelSpecManager().get_all_specs().items():
    spec = found[name] = each['spec']
    try:
        spec['argv'] = fill(spec['argv'], each['resource_dir'])
        spec['env'] = {key: string.Template(value).safe_substitute(os.environ) for key, value in spec['env'].items()}
    except (KeyError, TypeError):
        pass  # it is refused as it is
print(json.dumps(found))
"""

# Runs in the kernel, in a namespace of its own, and leaves nothing there. What it looks at may be hostile, or only odd: nothing
# of a value is called or looked up outside of a `try`, and what comes of it is made a plain string of bounded length.
_LOOK_AT_VARIABLES = """\
import base64, json, reprlib, types
from IPython import get_ipython
shell = get_ipython()
short = reprlib.Repr()
short.maxstring = short.maxother = 200
plain = lambda text: str.__str__(text)[:200]
name_of = lambda kind: plain(type.__dict__['__name__'].__get__(kind))
is_a = lambda value, *kinds: issubclass(type(value), kinds)

def attempt(look):
    try:
        return plain(look())
    except BaseException as error:
        return '<%s>' % name_of(type(error))

def shape_of(value):
    shape = getattr(value, 'shape', None)
    if is_a(shape, tuple):
        return str(tuple(shape))
    if is_a(value, str, bytes, list, tuple, dict, set, frozenset):
        return str(len(value))
    return ''

found = []
for name, value in list(shell.user_ns.items()):
    if type(name) is not str or name.startswith('_') or is_a(value, types.ModuleType):
        continue
    if name in shell.user_ns_hidden and shell.user_ns_hidden[name] is value:
        continue
    text, shape = attempt(lambda: short.repr(value)), attempt(lambda: shape_of(value))
    found.append([plain(name), name_of(type(value)), text, '' if shape[:1] == '<' else shape])
    if len(found) >= 1000:
        break
result = base64.b64encode(json.dumps(found).encode()).decode()
"""
# An expression in the user's own names: any of these may mean something else there than Python's, but for `__import__`.
_ASK_VARIABLES = (
    f'(lambda space: (__import__("builtins").exec({_LOOK_AT_VARIABLES!r}, space), space["result"])[1])({{}})'
)


class CellVerbs(ABC):
    """What is the same for cells of every sandbox, whatever keeps its kernels."""

    def execute_cell(
        self,
        code: str,
        timeout: float | None = None,
        *,
        kernel: str = DEFAULT_KERNEL,
        on_output: Callable[[dict[str, Any]], None] | None = None,
        on_input: Callable[[str, bool], str | None] | None = None,
        silent: bool = False,
        store_history: bool = True,
        keep_escapes: bool = False,
        max_output_bytes: int | None = None,
    ) -> CellResult:
        """Run code in a kernel, after the cells that were asked for before, and return what became of it.

        At its time limit the cell is interrupted, as by Ctrl-C, and the kernel with its state stays; a kernel whose cell does
        not yield is killed, and the next cell gets a new one. ``input()`` in a cell fails at once without ``on_input``.

        Args:
            code: At most 8,388,608 (`MAX_CODE_CHARACTERS`) characters.
            timeout: Seconds from the moment the cell is sent to the kernel; None takes the configuration's, 0 is no limit.
            kernel: Which kernel; see `create_kernel`.
            on_output: Called with each output as it comes, on this thread; see `stream_cell` for what it gets.
            on_input: Called with the prompt, and whether what is typed is to be hidden, when the cell asks for input; what it
                returns is the cell's, None is the end of input. It runs on this thread, and the cell's time continues meanwhile.
            silent: Run it without a number and without showing its last value.
            store_history: Count it and keep it in the kernel's history.
            keep_escapes: Leave a terminal's escape codes in tracebacks, and colours in texts.
            max_output_bytes: Cap on each of stdout and stderr; None takes the configuration's.

        Raises:
            InvalidArgumentError: An argument is impossible.
            NotFoundError: There is no such kernel.
            CallCancelledError: It was cancelled before it ran.
            SandboxStateError, SandboxGoneError, SandboxBrokenError: The sandbox does not run, or was lost meanwhile.
        """
        check_cell(code, max_output_bytes)
        options = {
            'silent': silent,
            'store_history': store_history,
            'keep_escapes': keep_escapes,
            'max_output_bytes': max_output_bytes,
        }
        if on_output is None and on_input is None:
            return self._run_cell(code, timeout, kernel, options)
        with contextlib.closing(
            self._cell_steps(code, timeout, kernel, {**options, 'allow_input': on_input is not None})
        ) as steps:
            for step in steps:
                if isinstance(step, CellResult):
                    return step
                if on_input is not None and step['output_type'] == 'input_request':
                    self.answer_input(on_input(step['prompt'], step['password']), kernel=kernel)
                elif on_output is not None:
                    on_output(step)
        raise AssertionError('unreachable')

    def stream_cell(
        self,
        code: str,
        timeout: float | None = None,
        *,
        kernel: str = DEFAULT_KERNEL,
        silent: bool = False,
        store_history: bool = True,
        keep_escapes: bool = False,
        max_output_bytes: int | None = None,
        allow_input: bool = False,
    ) -> Steps:
        """Yield a cell's outputs as they come, and at last its `CellResult`; the arguments are those of `execute_cell`.

        The cell's time limit holds however slowly the outputs are taken.

        Each output is a dict as a notebook stores it, of a stream the new text only, and of a display that can be updated with
        its ``display_id`` besides; there are also
        ``{'output_type': 'clear_output', 'wait': bool}`` and
        ``{'output_type': 'update_display_data', 'display_id': str, 'data': ..., 'metadata': ...}``. With ``allow_input`` the cell
        may ask for input by ``{'output_type': 'input_request', 'prompt': str, 'password': bool}``, and waits until `answer_input`
        is called; without, ``input()`` fails at once.
        Closing the iterator early interrupts the cell.
        """
        check_cell(code, max_output_bytes)
        options = {
            'silent': silent,
            'store_history': store_history,
            'keep_escapes': keep_escapes,
            'max_output_bytes': max_output_bytes,
            'allow_input': allow_input,
        }
        return self._cell_steps(code, timeout, kernel, options)

    @abstractmethod
    def _cell_steps(self, code: str, timeout: float | None, kernel: str, options: dict[str, Any]) -> Steps:
        """Yield the outputs of a cell whose text was checked, and at last its `CellResult`."""

    def _run_cell(self, code: str, timeout: float | None, kernel: str, options: dict[str, Any]) -> CellResult:
        """Run a cell whose text was checked, of which nobody wants more than the result."""
        with contextlib.closing(self._cell_steps(code, timeout, kernel, {**options, 'allow_input': False})) as steps:
            for step in steps:
                if isinstance(step, CellResult):
                    return step
        raise AssertionError('unreachable')

    @abstractmethod
    def answer_input(self, text: str | None, *, kernel: str = DEFAULT_KERNEL) -> None:
        """Give the cell that runs in a kernel the line that it asked for; None is the end of input."""


class NotebookSandbox(CellVerbs, AgentBackedSandbox):
    """A sandbox with Jupyter kernels, beside all the verbs of `AgentBackedSandbox`.

    A kernel called ``'default'`` is there from the start. A kind's class names its backend, and its configuration
    derives from `enclave.sandboxes.notebook.notebook_config.NotebookConfig`.
    """

    offers: ClassVar[frozenset[str]] = frozenset({'commands', 'files', 'notebook'})

    def __init__(self, config: Any = None, sandbox_id: str | None = None) -> None:
        super().__init__(config, sandbox_id)
        self._kernels: dict[str, NotebookKernel] = {}
        self._kernels_lock = threading.Lock()  # guards _kernels

    def _own_processes(self) -> list[Process]:
        with self._kernels_lock:
            kernels = list(self._kernels.values())
        return [*super()._own_processes(), *(process for kernel in kernels for process in kernel.processes)]

    # Life -------------------------------------------------------------------------------------------------------------

    def _loads_all_tools(self) -> bool:
        return loads_all_tools(self.config.notebook_tools)

    def _start(self) -> None:
        super()._start()
        try:
            self._start_notebook()
        except BaseException as error:
            try:
                self._stop(keep=self.backend.has_history)
            except Exception:
                logger.warning('sandbox %s: taking away a failed start failed', self.id, exc_info=True)
            if isinstance(error, KernelDiedError):
                raise SandboxStartError(
                    f'sandbox {self.id}: {error.message}{self._advise(error)}', details={'sandbox_id': self.id}
                ) from error
            raise

    def _start_notebook(self) -> None:
        """Start what makes it a notebook sandbox. The sandbox runs, but is not usable by others yet."""
        spec = self._find_spec(self.config.kernel_name)
        kernel = self._make_kernel(DEFAULT_KERNEL, spec, self.config.working_dir, {})
        with self._kernels_lock:
            self._kernels = {DEFAULT_KERNEL: kernel}
        kernel.start()
        self.metadata.update(self.backend.settle())

    def _advise(self, error: KernelDiedError) -> str:
        tail = str(error.details.get('stderr_tail', ''))
        if 'ipykernel' in tail or error.details.get('exit_code') == 127:
            return f'. {self.backend.explain_missing_kernel()}'
        return ''

    def _stop(self, *, keep: bool) -> None:
        with self._kernels_lock:
            kernels, self._kernels = self._kernels, {}
        for kernel in kernels.values():
            kernel.close(f'sandbox {self.id} was stopped', SANDBOX_STOPPED)
        super()._stop(keep=keep)

    @property
    def active_calls(self) -> int:
        """How many commands, file transfers and cells are running; a kernel that waits for its next cell is none."""
        with self._kernels_lock:
            kernels = list(self._kernels.values())
        held = sum(kernel.held_calls for kernel in kernels)
        return max(0, super().active_calls - held) + sum(kernel.is_running for kernel in kernels)

    def _agent(self) -> AgentOperations:
        operations = self._operations
        if operations is None:
            raise SandboxStateError(f'sandbox {self.id} is being stopped', details={'sandbox_id': self.id})
        return agent_of(operations, self.id)

    # Cells ------------------------------------------------------------------------------------------------------------

    def _cell_steps(self, code: str, timeout: float | None, kernel: str, options: dict[str, Any]) -> Steps:
        seconds = self.config.timeout if timeout is None else check_timeout(timeout)
        return self._steps(self._kernel(kernel), code, seconds, options)

    def answer_input(self, text: str | None, *, kernel: str = DEFAULT_KERNEL) -> None:
        """Give the cell that runs in a kernel the line that it asked for; None is the end of input.

        Raises:
            ConflictError: No cell of this kernel waits for input.
        """
        line = check_input(text)
        found = self._kernel(kernel)
        with self._explaining_loss():
            found.answer_input(line)

    def _steps(self, kernel: NotebookKernel, code: str, timeout: float | None, options: dict[str, Any]) -> Steps:
        with self._explaining_loss():
            result = yield from kernel.run_cell(code, timeout, **options)
        yield result

    # Kernels ----------------------------------------------------------------------------------------------------------

    def create_kernel(
        self,
        name: str,
        spec: str = PYTHON_SPEC.name,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        exist_ok: bool = False,
    ) -> KernelInfo:
        """Start a further kernel, with a state of its own, and return when it takes cells.

        Args:
            name: 1 to 63 letters, digits, ``.``, ``_`` or ``-``.
            spec: The kind of kernel; see `list_kernel_specs`.
            cwd: Where it runs; default is the sandbox's working directory.
            env: Added to the sandbox's environment.
            exist_ok: Return the kernel that has the name, if one has.

        Raises:
            ConflictError: A kernel has this name.
            NotFoundError: The sandbox has no such kind of kernel; the message names those it has.
            KernelDiedError: It ended at once; the message has the end of its output.
        """
        check_new_kernel(name, env)
        self._check_usable()
        with self._kernels_lock:
            known = self._kernels.get(name)
        if known is not None and exist_ok:
            return known.info()
        with self._explaining_loss():
            kernel = self._make_kernel(name, self._find_spec(spec), self._place(cwd), env or {})
            with self._kernels_lock:
                taken = self._kernels.setdefault(name, kernel)
            if taken is not kernel:
                if exist_ok:
                    return taken.info()
                raise ConflictError(f'sandbox {self.id} has a kernel called {name!r}; delete it or choose another name')
            try:
                kernel.start()
            except BaseException:
                self._forget_kernel(kernel)
                raise
        return kernel.info()

    def delete_kernel(self, name: str) -> None:
        """End a kernel and forget its name; a cell that runs in it ends with an error.

        The default kernel stays as long as the sandbox; `restart_kernel` takes its state away.

        Raises:
            InvalidArgumentError: It is the default kernel.
            NotFoundError: There is no such kernel.
        """
        if name == DEFAULT_KERNEL:
            raise InvalidArgumentError(
                f'the kernel {name!r} cannot be deleted, since cells run in it that name none; restart_kernel empties it',
                details={'sandbox_id': self.id, 'kernel': name},
            )
        self._forget_kernel(self._kernel(name))

    def _forget_kernel(self, kernel: NotebookKernel) -> None:
        with self._kernels_lock:
            if self._kernels.get(kernel.name) is kernel:
                del self._kernels[kernel.name]
        kernel.close(f'the kernel {kernel.name!r} was deleted', KERNEL_DELETED)
        kernel.remove_files()

    def list_kernels(self) -> list[KernelInfo]:
        """Return the kernels there are, in the order of their creation."""
        with self._kernels_lock:
            kernels = list(self._kernels.values())
        return [kernel.info() for kernel in kernels]

    def list_kernel_specs(self) -> list[KernelSpec]:
        """Return the kinds of kernels that the sandbox has, by name."""
        self._check_usable()
        with self._explaining_loss():
            return sorted(self._specs().values(), key=lambda spec: spec.name)

    def interrupt_kernel(self, name: str = DEFAULT_KERNEL) -> None:
        """Interrupt the cell that runs in a kernel, as Ctrl-C does; where none runs, nothing happens."""
        kernel = self._kernel(name)
        with self._explaining_loss():
            kernel.interrupt()

    def restart_kernel(self, name: str = DEFAULT_KERNEL) -> None:
        """Give a kernel a new process, without the old one's state, and return when it takes cells.

        A cell that runs ends with an error that says so; cells that wait run in the new process.
        """
        kernel = self._kernel(name)
        with self._explaining_loss():
            kernel.restart()

    # Questions --------------------------------------------------------------------------------------------------------

    def complete_code(
        self, code: str, cursor: int | None = None, *, kernel: str = DEFAULT_KERNEL, timeout: float = ASK_SECONDS
    ) -> Completion:
        """Return what could stand at a place in the code, after the cells that were asked for before, 10,000 matches at most.

        Args:
            cursor: Characters before the place; default is the end of the code.

        Raises:
            OperationTimeoutError: The kernel did not answer in time.
        """
        reply = self._ask('complete_request', place(code, cursor), kernel, timeout)
        matches = reply.get('matches')
        end = len(code) if cursor is None else cursor
        return Completion(
            matches=[each for each in matches if isinstance(each, str)][:MAX_MATCHES]
            if isinstance(matches, list)
            else [],
            start=_position(reply.get('cursor_start'), len(code), end),
            end=_position(reply.get('cursor_end'), len(code), end),
        )

    def inspect_code(
        self,
        code: str,
        cursor: int | None = None,
        *,
        detail: int = 0,
        kernel: str = DEFAULT_KERNEL,
        timeout: float = ASK_SECONDS,
    ) -> Inspection:
        """Return what the kernel knows of the name at a place in the code; ``detail=1`` asks for more, like its source."""
        check_detail(detail)
        reply = self._ask('inspect_request', {**place(code, cursor), 'detail_level': detail}, kernel, timeout)
        data = reply.get('data')
        data = {mime: each for mime, each in data.items() if is_writable(each)} if isinstance(data, dict) else {}
        text = data.get('text/plain', '')
        return Inspection(
            found=reply.get('found') is True,
            text=strip_escape_codes(text) if isinstance(text, str) else '',
            data=data,
        )

    def check_complete(
        self, code: str, *, kernel: str = DEFAULT_KERNEL, timeout: float = ASK_SECONDS
    ) -> tuple[str, str]:
        """Return whether code could be run as it is: ``(status, indent)``.

        The status is ``'complete'``, ``'incomplete'`` (``indent`` is then what its next line begins with), ``'invalid'`` or
        ``'unknown'``.
        """
        reply = self._ask('is_complete_request', {'code': place(code, None)['code']}, kernel, timeout)
        status, indent = reply.get('status'), reply.get('indent', '')
        known = status if status in ('complete', 'incomplete', 'invalid') else 'unknown'
        return str(known), indent if isinstance(indent, str) else ''

    def list_variables(self, *, kernel: str = DEFAULT_KERNEL, timeout: float = ASK_SECONDS) -> list[Variable]:
        """Return the variables of a Python kernel, by name: no modules, none that begin with an underscore, 1000 at most.

        Raises:
            UnsupportedError: The kernel is not Python's.
        """
        if self._kernel(kernel).info().language != 'python':
            raise UnsupportedError(f'the variables of {kernel!r} cannot be listed: it is not a Python kernel')
        content = {
            'code': '',
            'silent': True,
            'store_history': False,
            'user_expressions': {'found': _ASK_VARIABLES},
            'allow_stdin': False,
            'stop_on_error': False,
        }
        reply = self._ask('execute_request', content, kernel, timeout)
        try:
            text = reply['user_expressions']['found']['data']['text/plain']
            rows = json.loads(base64.b64decode(text.strip('\'"'), validate=True))
            return sorted(
                (
                    Variable(name=_text(a), type=_text(b), text=_text(c), shape=_text(d))
                    for a, b, c, d in rows[:MAX_VARIABLES]
                ),
                key=lambda variable: variable.name,
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, binascii.Error) as error:
            raise SandboxError(f'the kernel {kernel!r} gave no list of its variables') from error

    def _ask(self, kind: str, content: dict[str, Any], kernel: str, timeout: float) -> dict[str, Any]:
        found = self._kernel(kernel)
        seconds = check_timeout(timeout)
        with self._explaining_loss():
            return found.ask(kind, content, ASK_SECONDS if seconds is None else seconds)

    # Help -------------------------------------------------------------------------------------------------------------

    def _kernel(self, name: str) -> NotebookKernel:
        self._check_usable()
        with self._kernels_lock:
            found = self._kernels.get(name)
            known = list(self._kernels)
        if found is None:
            raise NotFoundError(
                f'sandbox {self.id} has no kernel {name!r}; it has: {", ".join(known)}. create_kernel makes one',
                details={'sandbox_id': self.id, 'kernel': str(name)},
            )
        return found

    def _place(self, cwd: str | None) -> str:
        return absolute(as_path(cwd or '.', 'path'), self.config.working_dir)

    def _make_kernel(self, name: str, spec: KernelSpec, cwd: str, env: Mapping[str, str]) -> NotebookKernel:
        settings = KernelSettings(
            max_output_bytes=self.config.max_output_bytes,
            max_display_bytes=self.config.max_display_bytes,
            interrupt_grace=self.config.interrupt_grace,
            memory_limit=self.config.memory_limit,
        )
        return NotebookKernel(self._agent(), name, spec, settings, sandbox_id=self.id, cwd=cwd, env=env)

    def _find_spec(self, name: str) -> KernelSpec:
        if name == PYTHON_SPEC.name:
            return python_spec(self.backend.kernel_python)
        specs = self._specs()
        if name not in specs:
            raise NotFoundError(
                f'sandbox {self.id} has no kernel of the kind {name!r}; it has: {", ".join(sorted(specs))}',
                details={'spec': str(name)},
            )
        return specs[name]

    def _specs(self) -> dict[str, KernelSpec]:
        """Ask the sandbox's own jupyter_client, which knows where kernels are installed there."""
        python = self.backend.kernel_python
        request = RunCommand(command=[python, '-c', _FIND_SPECS], timeout=60.0, max_output_bytes=1 << 20)
        result = self._agent().run(request)
        found: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(result.stdout) if result.success else None
        specs = {PYTHON_SPEC.name: python_spec(python)}
        for name, about in found.items() if isinstance(found, dict) else ():
            if not isinstance(about, dict):
                continue
            with contextlib.suppress(InvalidArgumentError):
                specs[name] = KernelSpec.model_validate(
                    {
                        'name': name,
                        'display_name': about.get('display_name', ''),
                        'language': about.get('language', ''),
                        'argv': about.get('argv', []),
                        'env': about.get('env', {}),
                        'interrupt_mode': about.get('interrupt_mode', 'signal'),
                    }
                )
        return specs

    @contextlib.contextmanager
    def _explaining_loss(self) -> Iterator[None]:
        """Report the loss of the sandbox as every other verb says it."""
        try:
            yield
        except SandboxGoneError as error:
            raise self._gone(error) from error


def agent_of(operations: Operations, sandbox_id: str) -> AgentOperations:
    """Return the operations of an agent, which kernels need.

    Raises:
        SandboxStartError: They are not an agent's.
    """
    if not isinstance(operations, AgentOperations):
        raise SandboxStartError(
            f'sandbox {sandbox_id}: kernels need an image with python3, which our agent runs on; this one has none'
        )
    return operations


# Checks, for every class that has these verbs ---------------------------------------------------------------------------


def is_kernel_name(name: object) -> bool:
    """Return whether a kernel can have this name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_cell(code: object, max_output_bytes: object) -> None:
    """Return if a cell may have this code and this cap.

    Raises:
        InvalidArgumentError: It may not.
    """
    _check_code(code)
    cap = max_output_bytes
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or not 1 <= cap <= 1 << 30):
        raise InvalidArgumentError(f'max_output_bytes must be a whole number from 1 to {1 << 30}, not {cap!r}')


def _check_code(code: object, name: str = 'code') -> None:
    """Return if this can be sent to a kernel: messages are JSON in UTF-8, which has no lone surrogates."""
    if not isinstance(code, str):
        raise InvalidArgumentError(f'{name} must be a string, not {type(code).__name__}')
    if len(code) > MAX_CODE_CHARACTERS:
        raise InvalidArgumentError(f'{name} has {len(code)} characters; the limit is {MAX_CODE_CHARACTERS}')
    try:
        code.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f'{name} is not proper text: character {error.start} is a lone surrogate') from None


def check_input(text: object) -> str:
    """Return a line for a cell as its kernel is given it.

    Raises:
        InvalidArgumentError: It is no text that can be sent.
    """
    if text is None:
        return END_OF_INPUT
    _check_code(text, 'text')
    return str(text)


def check_new_kernel(name: object, env: Mapping[str, str] | None) -> None:
    """Return if a new kernel may have this name and environment.

    Raises:
        InvalidArgumentError: It may not.
    """
    if not is_kernel_name(name):
        raise InvalidArgumentError(f'a kernel\'s name is 1 to 63 letters, digits, ".", "_" or "-"; not {name!r}')
    if env is not None:
        check_env(env, 'env')


def check_detail(detail: object) -> None:
    """Return if an inspection may be as detailed as this.

    Raises:
        InvalidArgumentError: It may not.
    """
    if detail not in (0, 1):
        raise InvalidArgumentError(f'detail must be 0 or 1, not {detail!r}')


def place(code: str, cursor: int | None) -> dict[str, Any]:
    """Return a place in code as a kernel is reported it: ``{'code': ..., 'cursor_pos': characters before it}``.

    Raises:
        InvalidArgumentError: There is no such place.
    """
    _check_code(code)
    at = len(code) if cursor is None else cursor
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at <= len(code):
        raise InvalidArgumentError(f'cursor must be a whole number from 0 to {len(code)}, not {cursor!r}')
    return {'code': code, 'cursor_pos': at}


def _text(value: Any) -> str:
    """Return a guest's word as text that can travel: lone surrogates are written as escapes."""
    return str(value).encode('utf-8', 'backslashreplace').decode()


def _position(value: Any, high: int, otherwise: int) -> int:
    return value if type(value) is int and 0 <= value <= high else otherwise
