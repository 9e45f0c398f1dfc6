from __future__ import annotations

from enclave.mcp.http import Sessions


class Caller:
    """Somebody with a key."""


def test_a_session_is_its_callers_alone() -> None:
    sessions, alice, bob = Sessions(), Caller(), Caller()

    assert sessions.add(alice, 'a') is None
    assert (sessions.use(alice, 'a'), sessions.use(bob, 'a'), sessions.use(alice, 'b')) == (True, False, False)
    sessions.forget(bob, 'a')
    assert sessions.use(alice, 'a')
    sessions.forget(alice, 'a')
    assert not sessions.use(alice, 'a')


def test_one_session_too_many_ends_the_one_that_was_not_used_for_the_longest_time() -> None:
    sessions, alice, bob = Sessions(most=2), Caller(), Caller()

    assert [sessions.add(alice, each) for each in 'ab'] == [None, None]
    assert sessions.use(alice, 'a')
    assert sessions.add(bob, 'z') is None
    assert sessions.add(alice, 'c') == 'b'
    assert [sessions.use(alice, each) for each in 'abc'] == [True, False, True]
