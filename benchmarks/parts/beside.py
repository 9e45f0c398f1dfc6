"""This library, the floors and the peers side by side: creation, calls, throughput and memory.

All take turns, round by round, so that what else the machine does meets them all alike.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.measure import REST_SECONDS, container_pids, descendants, proportional_bytes
from benchmarks.participant import Participant, ParticipantError

UNTIL_SECONDS = {'creation': 160.0, 'calls': 300.0, 'throughput': 390.0}
"""When, from the beginning of this part on, the last round of each of its own parts begins; two rounds there are always."""
SLOW_STOP_SECONDS = 5.0
"""While a way that took longer to stop stops again, others have their turn."""
POOL = 4


def first_operation(participant: Participant) -> str:
    """Return the operation that ends a creation: the first result."""
    for name in ('true', 'cell', 'print_one'):
        if name in participant.operations:
            return name
    raise ParticipantError('it has nothing to call')


class Beside:
    """What is measured side by side, as it comes in. Times in seconds; one value a round."""

    def __init__(self, participants: Sequence[Participant], *, scale: float) -> None:
        self.taking_part = list(participants)
        self.scale = scale
        self._began = time.monotonic()
        self.creation: dict[str, dict[str, list[float]]] = {}
        self.calls: dict[str, dict[str, list[float]]] = {}
        self.cpu: dict[str, dict[str, list[float]]] = {}
        self.rates: dict[str, dict[str, list[float]]] = {'print_one': {}, 'true': {}}
        self.memory: dict[str, int] = {}

    def rounds(self, what: str, count: int) -> Iterator[int]:
        """Count rounds, fewer where the machine is slow."""
        for number in range(count):
            if number >= 2 and time.monotonic() - self._began > UNTIL_SECONDS[what]:
                return
            yield number

    def present(self) -> list[Participant]:
        return [each for each in self.taking_part if not each.reason]

    def create(self, rounds: int) -> None:
        """Create to the first result, and stop; the first round is not counted.

        Some ways wait ten seconds for a container that does not heed the signal. From the second round on, the others have
        their turn meanwhile: waiting takes no processor.
        """
        slow: set[str] = set()
        for number in self.rounds('creation', rounds + 1):
            stopping = []
            for each in self.present():
                if each.name in EACH_ANEW:
                    continue
                firsts = [first_operation(each)]
                if firsts == ['true'] and (each.entry.is_ours or each.name == 'bwrap'):
                    firsts.append('print_one')
                try:
                    for first in firsts:
                        came = each.ask('create', first=first)['seconds']
                        if number:
                            kept = self.creation.setdefault(each.name, {'first': [], 'print': [], 'stop': []})
                            kept['print' if first == 'print_one' and len(firsts) > 1 else 'first'].append(came)
                        each.send('stop')
                        if each.name in slow:
                            stopping.append(each)
                        else:
                            self._stopped(each, slow, counts=number > 0)
                except ParticipantError as error:
                    each.drop(str(error))
            for each in stopping:
                try:
                    self._stopped(each, slow, counts=number > 0)
                except ParticipantError as error:
                    each.drop(str(error))

    def _stopped(self, each: Participant, slow: set[str], *, counts: bool) -> None:
        went = each.receive()['seconds']
        if went > SLOW_STOP_SECONDS:
            slow.add(each.name)
        if counts:
            self.creation[each.name]['stop'].append(went)

    def start(self) -> None:
        """Create what is called, and warm it up."""
        for each in self.present():
            try:
                each.ask('create', first=first_operation(each))
            except ParticipantError as error:
                each.drop(str(error))
                continue
            for operation in each.operations:
                try:
                    each.ask('calls', operation=operation, seconds=0, least=2)
                except ParticipantError as error:
                    each.give_up(operation, error)

    def idle(self) -> None:
        """Memory of a sandbox that has been used and has done nothing for a few seconds."""
        time.sleep(REST_SECONDS)
        for each in self.present():
            try:
                place = each.ask('place')
                pids = container_pids(place['container']) if place['container'] else descendants(place['pids'])
            except (ParticipantError, subprocess.CalledProcessError):
                continue
            if pids:
                self.memory[each.name] = proportional_bytes(pids)

    def call(self, rounds: int) -> None:
        """Warm calls."""
        for _ in self.rounds('calls', rounds):
            for operation in ('true', 'print_one', 'write', 'read', 'output', 'cell'):
                for each in self.present():
                    if operation not in each.operations or each.name == CREATED_ONLY:
                        continue
                    slice_seconds = 0.12 * self.scale
                    try:
                        answer = each.ask('calls', operation=operation, seconds=slice_seconds, least=1, most=60)
                    except ParticipantError as error:
                        each.give_up(operation, error)
                        continue
                    took = statistics.median(answer['seconds'])
                    self.calls.setdefault(operation, {}).setdefault(each.name, []).append(took)
                    self.cpu.setdefault(operation, {}).setdefault(each.name, []).append(answer['cpu'])

    def stop(self) -> None:
        """Remove what was called."""
        self._have_all('stop', self.present())

    @staticmethod
    def _have_all(what: str, participants: Sequence[Participant]) -> None:
        """Have participants do something at the same time, and wait for all; what fails takes part no more."""
        left = [each for each in participants if not each.reason]
        for request in (lambda each: each.send(what), lambda each: each.receive()):
            for each in left:
                try:
                    if not each.reason:
                        request(each)
                except ParticipantError as error:
                    each.drop(str(error))

    def fill(self, rounds: int, names: Sequence[str]) -> None:
        """Programs a second of four sandboxes, each with a caller."""
        chosen = [each for each in self.present() if each.name in names]
        for number in self.rounds('throughput', rounds + 1):
            for each in chosen:
                if each.reason or 'print_one' not in each.operations:
                    continue
                try:
                    rate = each.ask('pool', sandboxes=POOL, seconds=0.6 * self.scale)['rate']
                except ParticipantError as error:
                    each.give_up('print_one', error)
                    continue
                if number:
                    self.rates['print_one'].setdefault(each.name, []).append(rate)
        self._have_all('end_pool', chosen)

    def result(self) -> dict[str, Any]:
        return {
            'creation': self.creation,
            'calls': self.calls,
            'cpu': self.cpu,
            'rates': self.rates,
            'memory': self.memory,
        }


def measure(participants: Sequence[Participant], results: dict[str, Any], *, scale: float) -> None:
    """Measure all (see `Beside`) and put it into ``results`` as it comes."""
    part = Beside(participants, scale=scale)
    results.update(part.result())
    began = time.monotonic()

    def say(what: str) -> None:
        print(f'    {time.monotonic() - began:5.0f} s  {what}', flush=True)

    say('creation')
    part.create(max(2, round(5 * scale)))
    say('calls')
    part.start()
    part.call(max(2, round(6 * scale)))
    say('memory')
    part.idle()
    part.stop()
    say('throughput')
    part.fill(max(1, round(3 * scale)), [each.name for each in participants if each.name not in ALONE])
    say('done')


CREATED_ONLY = 'engine, container alone'
"""It is the floor of creation, and nothing is called in it."""
EACH_ANEW = ('native', 'native, numpy')
"""Ways that create nothing."""
ALONE = ('engine, container alone', 'docker run', 'native, numpy', 'enclave, bubblewrap, numpy preloaded')
"""Ways for which four at once say nothing new."""
