"""What the options of bubblewrap's kinds reach on the host (layer 4, bubblewrap); see `enclave.rulings`."""

from __future__ import annotations

from typing import Any

from enclave.rulings import NOTEBOOK, SHARED, Gate, Ruling, Rulings, at_most, inside, network, only_if, size_at_most


def _check_rootfs(gate: Gate, option: str, value: Any, config: Any) -> Any:
    if value is None:
        return value
    if value.startswith('/'):
        return gate.host_path(option, value, 'ro', is_steady=True)
    gate.image(option, value)
    return value


def _check_python(gate: Gate, option: str, value: Any, config: Any) -> Any:
    """An interpreter shows what lies beside it, and beside what it links to. Whether it is there is reported to who may have
    it."""
    if value is None:
        return value
    gate.host_path(option, value, 'ro', is_steady=True)
    from enclave.sandboxes.bubblewrap.rootfs import find_interpreter_trees

    for source, _ in find_interpreter_trees(value):
        gate.host_path(option, source, 'ro', is_steady=True)
    return value


RULINGS: Rulings = {
    **SHARED,
    'network_enabled': network('a bubblewrap sandbox', is_hosts_own=True),
    'rootfs': Ruling(_check_rootfs, names_host_paths=True),
    'python': Ruling(_check_python, names_host_paths=True),
    'disk_limit': size_at_most('max_memory'),
    'file_size_limit': inside(),
    'shm_size': size_at_most('max_memory'),
    'open_files_limit': at_most('max_open_files'),
    'seccomp': only_if('privileged', 'sandboxes without a system call filter may not be made', harmless=(True,)),
    'host_uid': only_if('privileged', 'host_uid may not be chosen', harmless=(None,)),
}

NOTEBOOK_RULINGS: Rulings = {**RULINGS, **NOTEBOOK}
