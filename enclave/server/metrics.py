"""Numbers for Prometheus (layer 6), in its text format, version 0.0.4.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counts requests by route, method and status, and how long they took. Lives as long as the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the three below
        self._requests: dict[tuple[str, str, int], int] = {}
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that has ended; ``route`` is the pattern, never the address itself."""
        with self._lock:
            key = (route, method, status)
            self._requests[key] = self._requests.get(key, 0) + 1
            buckets = self._buckets.setdefault(route, [0] * (len(_BUCKETS) + 1))
            buckets[bisect_left(_BUCKETS, seconds)] += 1
            self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def text(self, stats: Iterable[Mapping[str, Any]], lanes: Mapping[str, int], refused: int, version: str) -> str:
        """Return everything.

        Args:
            stats: What `get_stats` says, of each manager.
            lanes: Requests running in each lane.
            refused: Requests refused because a lane was full.
        """
        lines = ['# HELP enclave_info The version of the server.', '# TYPE enclave_info gauge']
        lines.append(_sample('enclave_info', {'version': version}, 1))
        with self._lock:
            requests, buckets, seconds = dict(self._requests), dict(self._buckets), dict(self._seconds)
            buckets = {route: list(counts) for route, counts in buckets.items()}
        lines += ['# HELP enclave_requests_total Requests answered.', '# TYPE enclave_requests_total counter']
        for (route, method, status), count in sorted(requests.items()):
            labels = {'route': route, 'method': method, 'status': str(status)}
            lines.append(_sample('enclave_requests_total', labels, count))
        name = 'enclave_request_duration_seconds'
        lines += [f'# HELP {name} How long requests took.', f'# TYPE {name} histogram']
        for route, counts in sorted(buckets.items()):
            total = 0
            for bound, count in zip((*_BUCKETS, float('inf')), counts, strict=True):
                total += count
                edge = '+Inf' if bound == float('inf') else f'{bound:g}'
                lines.append(_sample(f'{name}_bucket', {'route': route, 'le': edge}, total))
            lines.append(_sample(f'{name}_sum', {'route': route}, round(seconds[route], 6)))
            lines.append(_sample(f'{name}_count', {'route': route}, total))
        lines += ['# HELP enclave_requests_in_progress Requests running.', '# TYPE enclave_requests_in_progress gauge']
        lines += [
            _sample('enclave_requests_in_progress', {'lane': lane}, count) for lane, count in sorted(lanes.items())
        ]
        lines += ['# HELP enclave_requests_refused_total Requests refused for want of room.']
        lines += [
            '# TYPE enclave_requests_refused_total counter',
            _sample('enclave_requests_refused_total', {}, refused),
        ]
        lines += _managers(list(stats))
        return '\n'.join(lines) + '\n'


def _managers(stats: list[Mapping[str, Any]]) -> list[str]:
    statuses: dict[str, int] = {}
    pools = {'size': 0, 'idle': 0, 'leased': 0, 'waiting': 0}
    leases = replaced = calls = 0
    for each in stats:
        calls += each.get('active_calls', 0)
        for status, count in each.get('status_counts', {}).items():
            statuses[status] = statuses.get(status, 0) + count
        for numbers in each.get('pools', {}).values():
            leases += numbers.get('leases', 0)
            replaced += numbers.get('replaced', 0)
            for word in pools:
                pools[word] += numbers.get(word, 0)
    lines = ['# HELP enclave_sandboxes Sandboxes by status.', '# TYPE enclave_sandboxes gauge']
    lines += [_sample('enclave_sandboxes', {'status': status}, count) for status, count in sorted(statuses.items())]
    lines += ['# HELP enclave_active_calls Calls and leases running.', '# TYPE enclave_active_calls gauge']
    lines.append(_sample('enclave_active_calls', {}, calls))
    lines += ['# HELP enclave_pool_sandboxes Sandboxes of pools, and requests waiting for one.']
    lines += ['# TYPE enclave_pool_sandboxes gauge']
    lines += [_sample('enclave_pool_sandboxes', {'state': word}, count) for word, count in pools.items()]
    lines += ['# HELP enclave_pool_leases_total Leases.', '# TYPE enclave_pool_leases_total counter']
    lines.append(_sample('enclave_pool_leases_total', {}, leases))
    lines += ['# HELP enclave_pool_replaced_total Sandboxes of pools that were replaced.']
    lines += ['# TYPE enclave_pool_replaced_total counter', _sample('enclave_pool_replaced_total', {}, replaced)]
    return lines


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    if not labels:
        return f'{name} {value}'
    inside = ','.join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f'{name}{{{inside}}} {value}'


def _escaped(text: str) -> str:
    return text.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n')
