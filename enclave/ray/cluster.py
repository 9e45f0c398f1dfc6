"""What is asked of Ray (layer 6), which has its one entry point here. It is imported when it is first needed."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import socket
import threading
from collections.abc import Iterable
from typing import Any

from enclave.deadline import Deadline
from enclave.errors import ConfigurationError, EngineUnavailableError, UnsupportedError

NAMESPACE = 'enclave'
"""The namespace of Ray that shards have their names in."""
PREFIX = 'enclave-shard'
NOT_CONNECTED = (
    'this program is not connected to a cluster of Ray any more (ray.shutdown() was called); make a new manager'
)
LISTENER_SECONDS = 10.0
"""How long the head of a cluster may take until it listens."""
REST_SECONDS = 0.2
CONTROL_THREADS = 4
"""How many calls of Ray a shard answers at once: reports, and its end. What is asked of sandboxes goes another way."""


def load_ray() -> Any:
    """Return the module of Ray.

    Raises:
        UnsupportedError: It is not installed.
    """
    try:
        return importlib.import_module('ray')
    except ImportError as error:
        raise UnsupportedError(
            f"a manager on a Ray cluster needs Ray ({error}); install it with: pip install 'ms-enclave[ray]'"
        ) from None


def connect(address: str | None) -> Any:
    """Return Ray, connected to its cluster; a program that is connected already stays so.

    Args:
        address: As ``ray.init`` takes it; None is the cluster of ``RAY_ADDRESS``, else one on this machine that Ray starts.
    """
    ray = load_ray()
    if not ray.is_initialized():
        named = os.environ.get('RAY_ADDRESS', '') if address in (None, 'auto') else address
        _await_listener(named or '')
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.WARNING,
                ignore_reinit_error=True,
            )
        except Exception as error:  # Ray's own errors, for a wrong token for example, have no common class with others
            where = 'the cluster of RAY_ADDRESS, or one on this machine' if address is None else repr(address)
            raise EngineUnavailableError(f'Ray does not answer ({where}): {error}') from error
    if ray.util.client.ray.is_connected():
        raise UnsupportedError(
            'this program uses Ray Client (ray://), from where the nodes of the cluster cannot be reached; run it on a node '
            'of the cluster, as a job for example: ray job submit -- python program.py'
        )
    return ray


def _await_listener(address: str) -> None:
    """Wait for somebody to listen at an address like ``host:port``, which Ray itself does for some minutes.

    Raises:
        EngineUnavailableError: Nobody does.
    """
    found = re.fullmatch(r'\[?([\w.:%-]+?)\]?:(\d{1,5})', address)
    if found is None:  # 'auto', 'local', ray://
        return
    deadline, rest = Deadline.after(LISTENER_SECONDS), threading.Event()
    while True:
        try:
            socket.create_connection((found[1], int(found[2])), timeout=deadline.as_timeout()).close()
            return
        except (OSError, OverflowError, UnicodeError) as error:
            if deadline.has_expired():
                raise EngineUnavailableError(
                    f'Ray does not answer ({address!r}): {error}; is the cluster up, and is this the address of its head?'
                ) from error
        rest.wait(REST_SECONDS)


def is_connected() -> bool:
    """Return whether this program is connected to a cluster."""
    return bool(load_ray().is_initialized())


def _connected() -> Any:
    """Return Ray, if it is connected; a call of a Ray that was shut down would start another one on this machine.

    Raises:
        EngineUnavailableError: It is not.
    """
    if not is_connected():
        raise EngineUnavailableError(NOT_CONNECTED)
    return load_ray()


def ask(handle: Any, method: str, *arguments: Any) -> Any:
    """Call a method of a shard, and return the reference of what it will answer.

    Raises:
        EngineUnavailableError: Ray is not connected.
    """
    _connected()
    return getattr(handle, method).remote(*arguments)


def actor_name(cluster: str, shard_id: str) -> str:
    """Return what Ray calls a shard."""
    return f'{PREFIX}:{cluster}:{shard_id}'


def named_shards(cluster: str) -> list[str]:
    """Return the ids of all shards that there are of a name, of all programs."""
    start = f'{PREFIX}:{cluster}:'
    found = _connected().util.list_named_actors(all_namespaces=True)
    return [
        each['name'][len(start) :]
        for each in found
        if each['namespace'] == NAMESPACE and each['name'].startswith(start)
    ]


def get_shard(cluster: str, shard_id: str) -> Any:
    """Return the handle of a shard, or None where it has ended meanwhile."""
    try:
        return _connected().get_actor(actor_name(cluster, shard_id), namespace=NAMESPACE)
    except ValueError:
        return None


def make_shard(actor_class: type, arguments: dict[str, Any], *, name: str, strategy: Any, **options: Any) -> Any:
    """Ask Ray for a shard and return its handle; it may come later, or never.

    A shard that dies is not made anew by Ray, since it would come back empty, and no call on it is repeated by Ray, since that
    would run code twice.
    """
    ray = _connected()
    chosen = {key: value for key, value in options.items() if value is not None}
    if not isinstance(strategy, str):
        scheduling = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(placement_group=strategy)
    else:
        scheduling = 'SPREAD' if strategy == 'spread' else 'DEFAULT'
    try:
        return (
            ray.remote(actor_class)
            .options(
                name=name,
                namespace=NAMESPACE,
                scheduling_strategy=scheduling,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=CONTROL_THREADS,
                **chosen,
            )
            .remote(arguments)
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f'Ray refuses the options of a shard: {error}') from None


def done(refs: Iterable[Any]) -> set[Any]:
    """Return those of some references whose values, or errors, are there."""
    waited = list(refs)
    if not waited:
        return set()
    ready, _ = _connected().wait(waited, num_returns=len(waited), timeout=0, fetch_local=True)
    return set(ready)


def get(ref: Any, timeout: float | None = None) -> Any:
    """Return the value of a reference, or raise what came in its place."""
    return _connected().get(ref, timeout=timeout)


def is_final(error: BaseException) -> bool:
    """Return whether an error of a call on a shard says that the shard will never answer."""
    errors = load_ray().exceptions
    if isinstance(error, errors.ActorUnavailableError):
        return False
    return isinstance(error, (errors.RayActorError, errors.RaySystemError, ValueError))


def is_accident(error: BaseException) -> bool:
    """Return whether an error of a shard that has not served yet says nothing of the next one: its process or node ended."""
    return isinstance(error, load_ray().exceptions.RayActorError) and not error.actor_init_failed


def end_shard(handle: Any) -> None:
    """Have Ray end a shard's process, with all that is in it; does nothing where it has ended, or Ray has."""
    with contextlib.suppress(Exception):  # Ray may have been shut down, and then its actors with it
        _connected().kill(handle, no_restart=True)


def own_address() -> tuple[str, str]:
    """Return the address of this node and its id. In an actor."""
    ray = load_ray()
    return str(ray.util.get_node_ip_address()), str(ray.get_runtime_context().get_node_id())


# What managers write down for each other ---------------------------------------------------------------------------------


def write(key: str, value: str, *, replaces: bool = True) -> bool:
    """Write something down in the head of the cluster; return whether it was.

    Args:
        replaces: Also where there is something under the key already.
    """
    existed = _head()._internal_kv_put(key, value, replaces, namespace=NAMESPACE)
    return replaces or not existed


def read(key: str) -> str | None:
    """Return what is written down under a key, or None."""
    found = _head()._internal_kv_get(key, namespace=NAMESPACE)
    return None if found is None else bytes(found).decode()


def written(prefix: str) -> list[str]:
    """Return the keys that begin so."""
    return [bytes(each).decode() for each in _head()._internal_kv_list(prefix, namespace=NAMESPACE)]


def erase(key: str) -> None:
    """Have nothing written down under a key any more."""
    _head()._internal_kv_del(key, namespace=NAMESPACE)


def _head() -> Any:
    _connected()
    return importlib.import_module('ray.experimental.internal_kv')


def make_gauge(name: str, description: str, tags: dict[str, str]) -> Any:
    """Return a gauge of Ray's metrics, whose tags stay the same."""
    metrics = importlib.import_module('ray.util.metrics')
    made = metrics.Gauge(name, description=description, tag_keys=tuple(tags))
    made.set_default_tags(tags)
    return made
