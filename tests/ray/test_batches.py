"""Batches of programs over two shards, which all but one of the tests share."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave import aio
from enclave.cancellation import Cancellation
from enclave.errors import (
    CallCancelledError,
    InvalidArgumentError,
    NotRegisteredError,
    PoolExhaustedError,
    SandboxGoneError,
)
from enclave.languages.values import CodeRequest
from enclave.managers.http import HttpSandboxManager
from enclave.ray import batches
from enclave.ray.transport import ShardClient
from enclave.server.serve import SandboxServer
from tests.ray.test_failure import counting, runs, shard_of
from tests.support.host import wait_until
from tests.support.ray import on_ray

pytestmark = [pytest.mark.ray, pytest.mark.bubblewrap]
PATIENCE = 180.0
MEMBERS = 4
MIB = 1 << 20


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('count')


@pytest.fixture(scope='module')
def manager(folder: Path) -> Iterator[Any]:
    with on_ray(
        sandbox_type='bubblewrap',
        min_shards=2,
        shard_size=4,
        sandbox_config={**counting(folder), 'memory_limit': '512m'},
    ) as made:
        made.initialize_pool(MEMBERS, name='programs')
        yield made


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many programs each part had. How large they are does not depend on how fast this machine is."""
    monkeypatch.setattr(batches, 'PART_SECONDS', PATIENCE)
    found: list[int] = []
    real = ShardClient.run_part

    def noted(client: ShardClient, exchange: Any, **options: Any) -> Any:
        found.append(len(exchange.waiting))
        return real(client, exchange, **options)

    monkeypatch.setattr(ShardClient, 'run_part', noted)
    return found


def is_idle(manager: Any) -> bool:
    pool = manager.get_stats()['pools']['programs']
    return bool(pool['idle'] == MEMBERS)


def test_short_programs_share_their_requests_and_each_runs_once(manager: Any, folder: Path, parts: list[int]) -> None:
    program = 'import sys; n = sys.stdin.read(); print(1, file=open("/count/short" + n, "a")); print(n)'

    with manager.map(program, [str(n) for n in range(300)]) as outcomes:
        found = [(each.index, each.unwrap().stdout) for each in outcomes]

    assert found == [(n, f'{n}\n') for n in range(300)]
    assert {count for name, count in runs(folder).items() if name.startswith('short')} == {1}
    assert sum(parts) >= 300  # what a shard gave back was sent again
    assert max(parts) > MEMBERS


def test_a_long_program_holds_up_no_other(manager: Any, folder: Path) -> None:
    waits = 'import os, time\nwhile not os.path.exists("/count/may-end"): time.sleep(0.05)'

    with manager.run_many([waits, *[f'print({n})' for n in range(100)]], concurrency=4) as outcomes:
        seen = [next(outcomes).index for _ in range(100)]
        (folder / 'may-end').touch()
        last = next(outcomes)

    assert sorted(seen) == list(range(1, 101))
    assert last.unwrap().exit_code == 0


def test_bad_programs_fail_alone(manager: Any) -> None:
    programs: list[Any] = [
        'print(0)',
        {'code': 'x', 'language': 'klingon'},
        {'code': 'x', 'nonsense': 1},
        {'code': 'print(1)', 'files': {'../outside': b'x'}},
        CodeRequest(code='print(4)', timeout=1e-9),
        'print("\udcff")',
        'print(6)',
        *[f'print({n})' for n in range(7, 30)],
    ]

    found = {each.index: each for each in manager.run_many(programs)}

    assert sorted(found) == list(range(30))
    assert isinstance(found[1].error, NotRegisteredError)
    assert isinstance(found[2].error, InvalidArgumentError)
    assert found[3].failed
    assert [found[n].unwrap().stdout for n in (0, 6, *range(7, 30))] == [f'{n}\n' for n in (0, 6, *range(7, 30))]
    assert wait_until(lambda: is_idle(manager), PATIENCE)


def test_a_batch_that_is_cancelled_ends_with_all_that_runs_for_it(manager: Any, folder: Path) -> None:
    program = 'import sys, time; print(1, file=open("/count/long" + sys.stdin.read(), "a")); time.sleep(100000)'
    cancellation = Cancellation()
    ended: list[Any] = []

    def use() -> None:
        with cancellation.applied():
            try:
                ended.append(list(manager.map(program, [str(n) for n in range(64)])))
            except CallCancelledError as error:
                ended.append(error)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    assert wait_until(lambda: sum(name.startswith('long') for name in runs(folder)) >= MEMBERS, PATIENCE)
    cancellation.cancel()
    thread.join(PATIENCE)

    assert [type(each) for each in ended] == [CallCancelledError]
    assert wait_until(lambda: is_idle(manager), PATIENCE)
    assert manager.run_code_in_pool('print(1)', wait_timeout=PATIENCE).stdout == '1\n'


def test_programs_without_an_end_are_taken_as_outcomes_are(manager: Any) -> None:
    taken = itertools.count()

    with manager.run_many(f'print({next(taken)})' for _ in itertools.count()) as outcomes:
        for _ in range(60):
            next(outcomes)

    assert next(taken) <= 60 + 2 * MEMBERS * (1 + batches.MOST_PER_PLACE) + 1
    assert wait_until(lambda: is_idle(manager), PATIENCE)


def test_large_results_come_whole_and_in_order(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, 'HELD_BYTES', 4 * MIB)
    program = CodeRequest(
        code='n = int(input()); print(end=str(n) * (3 << 20)); open("f", "wb").write(bytes([n]) * 1000)',
        max_output_bytes=8 * MIB,
        fetch_files=['f'],
    )

    with manager.map(program, [str(n % 10) for n in range(24)]) as outcomes:
        for number, each in enumerate(outcomes):
            result = each.unwrap()
            assert each.index == number
            assert result.stdout == str(number % 10) * (3 << 20)
            assert result.files == {'f': bytes([number % 10]) * 1000}

    assert number == 23


def test_programs_of_other_languages_and_expected_output(manager: Any) -> None:
    programs = [
        CodeRequest(code=f'echo {n}', language='bash', expected_output=str(n % 2)) if n % 3 else f'print({n})'
        for n in range(30)
    ]

    found = {each.index: each.unwrap() for each in manager.run_many(programs)}

    assert [found[n].stdout for n in range(30)] == [f'{n}\n' for n in range(30)]
    assert (str(found[1].verdict), str(found[2].verdict)) == ('accepted', 'wrong_answer')


def test_who_waits_too_long_for_a_place_hears_it(manager: Any) -> None:
    held = [manager.acquire_sandbox(PATIENCE) for _ in range(MEMBERS)]
    try:
        found = list(manager.run_many([f'print({n})' for n in range(6)], wait_timeout=0.1))
    finally:
        for each in held:
            manager.release_sandbox(each)

    assert [type(each.error) for each in found] == [PoolExhaustedError] * 6


def test_a_server_before_the_shards_has_batches_too(manager: Any) -> None:
    server = SandboxServer(manager=manager, stop_grace=0.0)
    url = server.start(port=0)
    with HttpSandboxManager(base_url=url) as client:
        with client.map('print(int(input()) * 2)', [str(n) for n in range(40)]) as outcomes:
            assert [each.unwrap().stdout for each in outcomes] == [f'{n * 2}\n' for n in range(40)]
        with client.run_many(f'print({n})' for n in itertools.count()) as outcomes:
            assert next(outcomes).unwrap().exit_code == 0

    assert wait_until(lambda: is_idle(manager), PATIENCE)


def test_asynchronous_programs_take_outcomes_as_they_come_and_a_pool_may_give_each_a_fresh_sandbox() -> None:
    code = 'import os, sys; print("json" in sys.modules, os.path.exists("left")); open("left", "w").close()'

    async def use() -> list[str]:
        async with aio.RaySandboxManager(
            sandbox_type='bubblewrap',
            num_cpus=0.5,
            max_shards=1,
            pool_policy='fresh',
            sandbox_config={'tools_config': {'python_executor': {'preload': ['json']}}},
        ) as manager:
            await manager.initialize_pool(2)
            return [each.unwrap().stdout async for each in manager.run_many([code] * 12)]

    assert asyncio.run(use()) == ['True False\n'] * 12


def test_batches_of_many_callers_over_a_shard_that_dies_have_every_outcome_and_run_nothing_twice(
    tmp_path: Path,
) -> None:
    program = 'import sys; print(1, file=open("/count/" + sys.stdin.read(), "a"))'
    with on_ray(sandbox_type='bubblewrap', min_shards=2, shard_size=4, sandbox_config=counting(tmp_path)) as manager:
        (first, *_) = manager.initialize_pool(4)
        pid = shard_of(manager, first)['pid']
        outcomes: dict[str, Any] = {}

        def use(caller: int) -> None:
            names = [f'{caller}.{n}' for n in range(20)]
            for each in manager.map(program, names):
                outcomes[names[each.index]] = each

        threads = [threading.Thread(target=use, args=(caller,), daemon=True) for caller in range(16)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(outcomes) > 40, PATIENCE)
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(PATIENCE)

        assert len(outcomes) == 16 * 20
        failed = {name for name, each in outcomes.items() if each.failed}
        assert {type(outcomes[name].error) for name in failed} <= {SandboxGoneError}
        count: Counter[str] = runs(tmp_path)
        assert set(count.values()) == {1}
        assert set(outcomes) - failed <= set(count)
        # What is left works.
        assert len([each.unwrap() for each in manager.run_many(['print(1)'] * 8, wait_timeout=PATIENCE)]) == 8
