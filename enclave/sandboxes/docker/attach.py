"""Attaching to a sandbox that somebody else started (layer 4, docker).

The owner's agent speaks over the owner's stream and serves nobody else. So attaching starts a second agent in the container, by
the engine's exec, with the limits and the few capabilities of that container. `stop` ends this agent, and with it what was
started through it; the container, its owner's agent and all else in it continue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from enclave.errors import EnclaveError, SandboxGoneError, SandboxNotFoundError, SandboxStartError, SandboxStateError
from enclave.records import SandboxInfo, Usage
from enclave.sandboxes.backend import Backend, Launched, SandboxSpec
from enclave.sandboxes.docker.backend import DockerBackend, NoAgentError
from enclave.sandboxes.docker.docker_config import DockerSandboxConfig
from enclave.sandboxes.docker.engine import Engine, get_engine
from enclave.sandboxes.docker.inventory import (
    describe_sandbox,
    enforced_config,
    inspect_sandbox,
    list_sandboxes,
    measure_usage,
    pause_sandbox,
    remove_sandbox,
    resume_sandbox,
    stop_sandbox,
)
from enclave.sandboxes.docker.sandbox import DockerSandbox
from enclave.sandboxes.docker.shell.operations import EngineOperations
from enclave.sandboxes.operations import Operations

# What of an inspected container a configuration can hold again, and its agent's verbs go by.
_KEPT_OPTIONS = ('image', 'working_dir', 'user', 'read_only', 'privileged')


def attach_sandbox(
    sandbox_id: str, *, tools_config: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None
) -> AttachedDockerSandbox:
    """Return a running sandbox of another process, to be used in a ``with`` block; leaving it leaves the sandbox running.

    Args:
        tools_config: Tools to have here, whatever the owner has enabled.

    Raises:
        SandboxNotFoundError: No container on the engine is this sandbox.
        SandboxStateError: It does not run.
        EngineUnavailableError: The engine does not answer.
    """
    engine = get_engine()
    found = inspect_sandbox(engine, sandbox_id)
    state = found['State']
    if not state.get('Running') or state.get('Paused'):
        raise SandboxStateError(
            f'sandbox {sandbox_id} is {state.get("Status")}, not running, so nothing can be run in it',
            details={'sandbox_id': sandbox_id, 'status': state.get('Status')},
        )
    facts = enforced_config(found)
    config = DockerSandboxConfig(tools_config=tools_config or {}, **{name: facts[name] for name in _KEPT_OPTIONS})
    return AttachedDockerSandbox(config, sandbox_id, engine=engine, container=found['Id'])


class AttachedDockerSandbox(DockerSandbox):
    """A sandbox that another process owns, with all the verbs. Lives from `start` to `stop`, which leave the container alone.

    It has the container's own environment, user and working directory. Made by `attach_sandbox`.
    """

    def __init__(self, config: DockerSandboxConfig, sandbox_id: str, *, engine: Engine, container: str) -> None:
        super().__init__(config, sandbox_id)
        self._engine = engine
        self._container = container

    def _make_backend(self, spec: SandboxSpec) -> Backend:
        return _AttachedBackend(spec, self._engine, self._container)


class _AttachedBackend(DockerBackend):
    """Runs an agent in a container that another process owns."""

    def __init__(self, spec: SandboxSpec, engine: Engine, container: str) -> None:
        super().__init__(spec)
        self.engine = engine
        self._attached_to = container

    def launch(self) -> Launched:
        engine = self.engine
        assert engine is not None
        found = self.inspect(engine, self._attached_to)
        if found is None:
            raise SandboxNotFoundError(f'sandbox {self.id} was removed meanwhile', details={'sandbox_id': self.id})
        self.container = self._attached_to
        self._facts = {
            'container_id': self.container,
            'container_name': found['Name'].lstrip('/'),
            'image': self.config.image,
            'attached': True,
        }
        try:
            operations: Operations = self._exec_agent(engine)
        except NoAgentError:
            self._channel = None
            self._facts.update(agent_python=None, driven_by='engine')
            operations = EngineOperations(engine, self.container, None, name=self.id)
        except SandboxGoneError as error:
            raise SandboxStartError(
                f'could not attach to sandbox {self.id}: {error.message}', details={'sandbox_id': self.id}
            ) from error
        except EnclaveError:
            self._channel = None
            raise
        return Launched(operations, self._facts)

    def _give_working_dir(self, engine: Engine, uid: int, gid: int) -> None:
        """Leave the working directory as its owner made it."""

    def destroy(self, *, keep: bool) -> None:
        """Let go of the container; it is its owner's."""
        self._channel = None
        self.container = ''


class DockerInventory:
    """The sandboxes of all processes on this process's engine; see `enclave.sandboxes.kinds.Inventory`."""

    @property
    def where(self) -> str:
        """The address of the engine, as a text for messages."""
        return f'on the engine at {get_engine().address}'

    def attach(self, sandbox_id: str) -> contextlib.AbstractContextManager[Any]:
        """Use a sandbox by an agent of our own; see `attach_sandbox`."""
        return attach_sandbox(sandbox_id)

    def list(self) -> list[SandboxInfo]:
        """Return what can be said of all; see `list_sandboxes`."""
        return list_sandboxes(get_engine())

    def describe(self, sandbox_id: str) -> SandboxInfo:
        """Return what can be said of one; see `describe_sandbox`."""
        return describe_sandbox(get_engine(), sandbox_id)

    def stop(self, sandbox_id: str) -> None:
        """Stop one; see `stop_sandbox`."""
        stop_sandbox(get_engine(), sandbox_id)

    def pause(self, sandbox_id: str) -> None:
        """Pause one; see `pause_sandbox`."""
        pause_sandbox(get_engine(), sandbox_id)

    def resume(self, sandbox_id: str) -> None:
        """Resume one; see `resume_sandbox`."""
        resume_sandbox(get_engine(), sandbox_id)

    def remove(self, sandbox_id: str) -> None:
        """Take one away; see `remove_sandbox`."""
        remove_sandbox(get_engine(), sandbox_id)

    def measure(self, infos: Sequence[SandboxInfo]) -> Sequence[Usage]:
        """Return what the running ones use; see `measure_usage`."""
        return measure_usage(get_engine(), infos)
