"""The sandboxes on an engine, of all processes (layer 4, docker): listing, looking, stopping and removing from outside.

A sandbox belongs to the process that made it. These functions are for a person at a command line, or a program that looks
after a host: they act on the containers, found by their label, and know nothing of the agents in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

from enclave.enums import SandboxStatus
from enclave.errors import EngineError, SandboxNotFoundError, SandboxStateError
from enclave.records import SandboxInfo, Usage
from enclave.sandboxes.docker.engine import NOT_JSON, Engine
from enclave.sandboxes.docker.network import PLAIN, QUICK
from enclave.sandboxes.docker.sweep import LABEL, LABEL_KEPT
from enclave.sandboxes.owner import OwnerProcess, current_owner

LABEL_TYPE = 'enclave.type'
_STATUS = {
    'created': SandboxStatus.INITIALIZING,
    'running': SandboxStatus.RUNNING,
    'paused': SandboxStatus.PAUSED,
    'restarting': SandboxStatus.INITIALIZING,
    'removing': SandboxStatus.STOPPING,
    'exited': SandboxStatus.STOPPED,
    'dead': SandboxStatus.ERROR,
}
_ALREADY_REMOVING = 'already in progress'
_LOOKERS = 16


def list_sandboxes(engine: Engine) -> list[SandboxInfo]:
    """Return all sandboxes on the engine, oldest first.

    ``metadata`` holds ``container_id``, ``container_name``, ``image``, ``state`` (as the engine calls it), ``status_text``,
    ``kept`` (it outlives its owner on purpose), ``owner`` (``{'host', 'pid', 'alive'}``, ``alive`` None where this process
    does not know; or None), and ``is_orphan``: its owner is provably dead and nobody asked to keep it.

    Raises:
        EngineUnavailableError: The engine does not answer.
    """
    with engine.translate('list the sandboxes'):
        found = engine.api.containers(all=True, filters={'label': LABEL})
    infos = []
    for container in found:
        labels = container.get('Labels') or {}
        names = container.get('Names') or ['']
        infos.append(
            SandboxInfo(
                id=labels[LABEL],
                type=labels.get(LABEL_TYPE, 'docker'),
                status=_STATUS.get(container.get('State', ''), SandboxStatus.ERROR),
                created_at=datetime.fromtimestamp(container.get('Created') or 0, timezone.utc),
                metadata={
                    'container_id': container['Id'],
                    'container_name': names[0].lstrip('/'),
                    'image': container.get('Image', ''),
                    'state': container.get('State', ''),
                    'status_text': container.get('Status', ''),
                    **_ownership(labels),
                },
            )
        )
    return sorted(infos, key=lambda info: (info.created_at, info.id))


def _ownership(labels: Mapping[str, str]) -> dict[str, Any]:
    owner, kept = OwnerProcess.from_labels(labels), LABEL_KEPT in labels
    if owner is None:
        return {'owner': None, 'kept': kept, 'is_orphan': False}
    is_dead = owner.is_provably_dead()
    alive = False if is_dead else (True if owner.host == current_owner().host and owner.started else None)
    return {
        'owner': {'host': owner.host.split('/', 1)[0], 'pid': owner.pid, 'alive': alive},
        'kept': kept,
        'is_orphan': is_dead and not kept,
    }


def inspect_sandbox(engine: Engine, sandbox_id: str) -> dict[str, Any]:
    """Return what the engine says of a sandbox's container (Docker Engine API, "Inspect a container").

    Raises:
        SandboxNotFoundError: No container on the engine is this sandbox.
        EngineUnavailableError: The engine does not answer.
    """
    what = f'look at sandbox {sandbox_id}'
    with engine.translate(what):
        found = engine.api.containers(all=True, filters={'label': f'{LABEL}={sandbox_id}'})
    if found:
        try:
            with engine.translate(what):
                inspected: dict[str, Any] = engine.api.inspect_container(found[0]['Id'])
                return inspected
        except EngineError as error:
            if error.details.get('status') != 404:
                raise
    raise SandboxNotFoundError(
        f'no sandbox {sandbox_id!r} is on the engine at {engine.address}', details={'sandbox_id': sandbox_id}
    )


def describe_sandbox(engine: Engine, sandbox_id: str) -> SandboxInfo:
    """Return what can be said of one sandbox; see `list_sandboxes`.

    ``config`` holds, by the options of `DockerSandboxConfig`, what the engine enforces; values of variables are never shown.

    Raises:
        SandboxNotFoundError: No container on the engine is this sandbox.
        EngineUnavailableError: The engine does not answer.
    """
    found = inspect_sandbox(engine, sandbox_id)
    labels, state = found['Config'].get('Labels') or {}, found['State']
    metadata = {
        'container_id': found['Id'],
        'container_name': found['Name'].lstrip('/'),
        'image': found['Config'].get('Image', ''),
        'state': state.get('Status', ''),
        'exit_code': None if state.get('Running') else state.get('ExitCode'),
        'oom_killed': bool(state.get('OOMKilled')),
        'address': _address(found),
        'published_ports': {
            port: f'{hosts[0]["HostIp"]}:{hosts[0]["HostPort"]}'
            for port, hosts in (found.get('NetworkSettings', {}).get('Ports') or {}).items()
            if hosts
        },
        **_ownership(labels),
    }
    return SandboxInfo(
        id=sandbox_id,
        type=labels.get(LABEL_TYPE, 'docker'),
        status=_STATUS.get(state.get('Status', ''), SandboxStatus.ERROR),
        created_at=_moment(found.get('Created', '')) or datetime.fromtimestamp(0, timezone.utc),
        started_at=_moment(state.get('StartedAt', '')),
        config=enforced_config(found),
        error=state.get('Error') or None,
        metadata=metadata,
    )


def enforced_config(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an inspected container is held to, by the options of `DockerSandboxConfig`."""
    config, host = found['Config'], found.get('HostConfig') or {}
    network = _network(found)
    return {
        'image': config.get('Image', ''),
        'working_dir': config.get('WorkingDir') or '/',
        'user': config.get('User') or None,
        'memory_limit': host.get('Memory') or None,
        'cpu_limit': (host.get('NanoCpus') or 0) / 1e9 or None,
        'pids_limit': host['PidsLimit'] if (host.get('PidsLimit') or 0) > 0 else None,
        'network_enabled': network != 'none',
        'network': None if network == 'none' else network,
        'read_only': bool(host.get('ReadonlyRootfs')),
        'privileged': bool(host.get('Privileged')),
        'runtime': host.get('Runtime') or None,
        'env_vars': {entry.partition('=')[0]: '***' for entry in config.get('Env') or ()},
        'volumes': {
            mount['Source']: {'bind': mount['Destination'], 'mode': 'rw' if mount.get('RW') else 'ro'}
            for mount in found.get('Mounts') or ()
            if mount.get('Type') == 'bind'
        },
    }


def _network(found: Mapping[str, Any]) -> str:
    """Return the name of the network that a container was created on."""
    mode: str = (found.get('HostConfig') or {}).get('NetworkMode') or 'default'
    for name, network in (found.get('NetworkSettings', {}).get('Networks') or {}).items():
        if mode in (name, network.get('NetworkID')):
            return PLAIN.name if name == QUICK.name else str(name)
    return mode


def _address(found: Mapping[str, Any]) -> str | None:
    for network in (found.get('NetworkSettings', {}).get('Networks') or {}).values():
        if network.get('IPAddress'):
            return str(network['IPAddress'])
    return None


def _moment(text: str) -> datetime | None:
    """Return an engine's time (RFC 3339 with nanoseconds), or None for its year 1, which means never."""
    if not text or text.startswith('0001-'):
        return None
    seconds = text.rstrip('Z').partition('.')[0]
    try:
        return datetime.strptime(seconds, '%Y-%m-%dT%H:%M:%S').replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def stop_sandbox(engine: Engine, sandbox_id: str) -> None:
    """End what runs in a sandbox. Most are then removed by the engine; one that was to be kept stays, stopped.

    Raises:
        SandboxNotFoundError: No container on the engine is this sandbox.
        EngineUnavailableError: The engine does not answer.
    """
    container = inspect_sandbox(engine, sandbox_id)['Id']
    try:
        with engine.translate(f'stop sandbox {sandbox_id}'):
            engine.api.kill(container)
    except EngineError as error:
        if error.details.get('status') not in (404, 409):  # gone, or not running
            raise


def pause_sandbox(engine: Engine, sandbox_id: str) -> None:
    """Keep what is in a sandbox from running; see `Sandbox.pause`. Its owner's calls in it end by their own limits.

    Raises:
        SandboxNotFoundError: No container on the engine is this sandbox.
        SandboxStateError: It does not run.
        EngineUnavailableError: The engine does not answer.
    """
    _move(engine, sandbox_id, 'pause', 'is already paused')


def resume_sandbox(engine: Engine, sandbox_id: str) -> None:
    """Let what is in a paused sandbox continue; errors are those of `pause_sandbox`."""
    _move(engine, sandbox_id, 'unpause', 'is not paused')


def _move(engine: Engine, sandbox_id: str, verb: str, is_done: str) -> None:
    found = inspect_sandbox(engine, sandbox_id)
    if not found['State'].get('Running'):
        status = found['State'].get('Status')
        raise SandboxStateError(
            f'sandbox {sandbox_id} is {status}, not running', details={'sandbox_id': sandbox_id, 'status': status}
        )
    try:
        with engine.translate(f'{verb} sandbox {sandbox_id}'):
            getattr(engine.api, verb)(found['Id'])
    except EngineError as error:
        if is_done not in error.message.lower():
            raise


def remove_sandbox(engine: Engine, sandbox_id: str) -> None:
    """Take a sandbox away, running or not.

    Raises:
        SandboxNotFoundError: No container on the engine is this sandbox.
        EngineUnavailableError: The engine does not answer.
    """
    container = inspect_sandbox(engine, sandbox_id)['Id']
    try:
        with engine.translate(f'remove sandbox {sandbox_id}'):
            engine.api.remove_container(container, force=True, v=True)
    except EngineError as error:
        if error.details.get('status') != 404 and _ALREADY_REMOVING not in error.message:
            raise


def measure_usage(engine: Engine, infos: Sequence[SandboxInfo]) -> list[Usage]:
    """Return what the running ones of these sandboxes use, in their order; takes one to two seconds, the engine's own sampling.

    Raises:
        EngineUnavailableError: The engine does not answer.
    """
    running = [info for info in infos if info.status is SandboxStatus.RUNNING]
    if not running:
        return []
    with ThreadPoolExecutor(min(_LOOKERS, len(running)), thread_name_prefix='enclave-usage') as looking:
        found = looking.map(lambda info: _measure(engine, info), running)
        return [usage for usage in found if usage is not None]


def _measure(engine: Engine, info: SandboxInfo) -> Usage | None:
    try:
        with engine.translate(f'measure sandbox {info.id}'):
            sample: dict[str, Any] = engine.api.stats(info.metadata['container_id'], stream=False)
    except EngineError as error:
        # It ended meanwhile; while the engine sampled it, and then the answer is empty.
        if error.details.get('status') in (404, 409) or error.details.get('reason') == NOT_JSON:
            return None
        raise
    memory = sample.get('memory_stats') or {}
    used = memory.get('usage')
    if used is not None:
        # As `docker stats` counts: page cache that can be dropped at once is not counted (by the names of cgroup v2 and v1).
        kept = memory.get('stats') or {}
        used = max(0, used - kept.get('inactive_file', kept.get('total_inactive_file', 0)))
    networks = (sample.get('networks') or {}).values()
    return Usage(
        sandbox_id=info.id,
        cpu_percent=_cpu_percent(sample),
        memory_bytes=used,
        memory_limit_bytes=memory.get('limit'),
        pids=(sample.get('pids_stats') or {}).get('current'),
        received_bytes=sum(each.get('rx_bytes', 0) for each in networks) if networks else None,
        sent_bytes=sum(each.get('tx_bytes', 0) for each in networks) if networks else None,
    )


def _cpu_percent(sample: Mapping[str, Any]) -> float | None:
    now, before = sample.get('cpu_stats') or {}, sample.get('precpu_stats') or {}
    try:
        spent = now['cpu_usage']['total_usage'] - before['cpu_usage']['total_usage']
        passed = now['system_cpu_usage'] - before['system_cpu_usage']
        cpus = now.get('online_cpus') or len(now['cpu_usage'].get('percpu_usage') or [0])
    except KeyError:
        return None
    return round(100.0 * spent / passed * cpus, 1) if passed > 0 and spent >= 0 else None
