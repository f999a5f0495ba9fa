"""How many requests may be under way at once: never more, also when that changes; and what is told of it."""

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plugsocket import Deadlines, Limits, Queue, Server, State, Thread, Wait
from plugsocket.core import admission
from plugsocket.core.events import ConnectionClosed, ConnectionOpened, LimitCleared, LimitReached
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import HANDLERS, TIMEOUT, ask, client, function, receive, serving, strategy_names, until
from tests.limiting import ENDPOINT, LATER, ONE, PARALLEL, every_parallel_strategy, has_nothing, limited
from tests.test_matrix import endpoint_of, over

# Changed while serving


@every_parallel_strategy
def test_a_limit_that_is_raised_lets_those_in_who_wait(strategy_name: str) -> None:
    for overload in (Queue(), LATER):
        limits = Limits(max_connections=1, overload=overload)
        with limited(ENDPOINT, function, strategy_name, limits) as server, ExitStack() as stack:
            socks = [stack.enter_context(client(server)) for _ in range(4)]
            for sock in socks:
                sock.sendall(b"x")
            assert receive(socks[0], 1) == b"x"
            until(lambda expected=3 * (overload is LATER): server.stats.waiting == expected)  # type: ignore[misc]
            server.limits = Limits(max_connections=3, overload=overload)
            assert [receive(sock, 1) for sock in socks[1:3]] == [b"x", b"x"]
            assert has_nothing(socks[3])
            server.limits = Limits()
            assert receive(socks[3], 1) == b"x"


@every_parallel_strategy
def test_a_limit_that_is_lowered_ends_nothing(strategy_name: str) -> None:
    with limited(ENDPOINT, function, strategy_name, Limits(max_connections=3)) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(3)]
        for sock in socks:
            assert ask(sock, b"x") == b"x"
        server.limits = Limits(max_connections=1, overload="reject")
        assert server.limits.max_connections == 1
        for sock in socks:
            assert ask(sock, b"y") == b"y"
        for number, sock in enumerate(socks, 1):
            with client(server) as late:
                assert late.recv(1) == b""
            sock.close()
            server.wait(connections=3 - number, timeout=TIMEOUT)
        with client(server) as late:
            assert ask(late, b"z") == b"z"


def test_before_serving_and_after() -> None:
    server = Server(ENDPOINT, function, Thread(max_workers=4))
    server.limits = Limits(max_connections=1, overload="reject")
    with serving(server), client(server) as first, client(server) as second:
        assert ask(first, b"1") == b"1"
        assert second.recv(1) == b""
    server.limits = Limits()
    assert server.stats.rejected == 1


# What is told


@every_parallel_strategy
def test_reached_and_cleared_come_once_for_each_time(strategy_name: str, recorder: Recorder) -> None:
    limits = Limits(max_connections=2, overload="reject")
    with limited(ENDPOINT, function, strategy_name, limits, recorder=recorder) as server:
        for time_number in (1, 2):
            with client(server) as first, client(server) as second:
                assert ask(first, b"1") + ask(second, b"2") == b"12"
                for _ in range(3 * time_number):
                    with client(server) as late:
                        assert late.recv(1) == b""
                assert len(recorder.of(LimitReached)) == time_number
                assert len(recorder.of(LimitCleared)) == time_number - 1
            recorder.wait_for(LimitCleared, time_number)
            assert server.wait(connections=0, timeout=TIMEOUT)
        with client(server) as first, client(server) as second:  # as many as may be, and nobody more
            assert ask(first, b"1") + ask(second, b"2") == b"12"
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert [event.limit for event in recorder.of(LimitReached)] == [2, 2]
    assert [(event.rejected, event.dropped) for event in recorder.of(LimitCleared)] == [(3, 0), (6, 0)]
    assert all(0 < event.seconds < TIMEOUT for event in recorder.of(LimitCleared))


@every_parallel_strategy
def test_somebody_who_comes_later_and_is_queued_is_told_of(strategy_name: str, recorder: Recorder) -> None:
    limits = Limits(max_connections=1)
    with limited(ENDPOINT, function, strategy_name, limits, recorder=recorder) as server:
        with client(server) as first:
            assert ask(first, b"1") == b"1"
            assert not server.wait(connections=0, timeout=0.05)  # so that the loop sleeps by now
            with client(server) as second:
                recorder.wait_for(LimitReached)
                first.close()
                assert ask(second, b"2") == b"2"
        recorder.wait_for(LimitCleared)


@every_parallel_strategy
def test_a_limit_that_is_reached_again_and_again_is_told_once(
    strategy_name: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "CALM", TIMEOUT)  # so that it is not over before it is reached again
    limits = Limits(max_connections=1, overload="reject")
    with limited(ENDPOINT, function, strategy_name, limits, recorder=recorder) as server:
        for _ in range(20):
            with client(server) as first, client(server) as late:
                assert ask(first, b"1") == b"1"
                assert late.recv(1) == b""
            assert server.wait(connections=0, timeout=TIMEOUT)
        assert len(recorder.of(LimitReached)) == 1


# Always


@over(ONE, PARALLEL)
def test_never_more_than_the_limit(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> None:
    """All are served, since they wait in the room or in the kernel's queue."""
    limits = Limits(max_connections=3, overload=Wait(TIMEOUT * 3, room=5))
    endpoint = endpoint_of(example, tmp_path)
    with (
        limited(endpoint, HANDLERS[handler_name], strategy_name, limits, recorder=recorder) as server,
        ExitStack() as stack,
    ):
        socks = [stack.enter_context(client(server)) for _ in range(30)]
        recorder.wait_for(ConnectionOpened, 3)  # they wait for what is sent next, so that three are under way at once
        for sock in socks:
            sock.sendall(b"x")
            sock.shutdown(socket.SHUT_WR)
        for sock in socks:
            assert receive(sock, 100) == b"x"
        recorder.wait_for(ConnectionClosed, 30)
    under_way, most = 0, 0
    for event in recorder.events:
        under_way += isinstance(event, ConnectionOpened) - isinstance(event, ConnectionClosed)
        most = max(most, under_way)
    assert most == 3
    assert server.stats.rejected == 0


@pytest.mark.parametrize("overload", ["queue", "reject", "wait?seconds=0.01", "answer?reply=full"])
@pytest.mark.parametrize("strategy_name", strategy_names())
def test_a_crowd_leaves_nothing_behind(strategy_name: str, overload: str) -> None:
    """Descriptors, threads and children are counted after each test; here it is the counters that must agree."""
    limits = Limits(max_connections=2, max_per_peer=2, overload=overload)
    with limited(ENDPOINT, function, strategy_name, limits) as server:
        with ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(client(server)).sendall(b"x")
        until(lambda: server.stats.accepted == 40 and not server.stats.active + server.stats.waiting)
        stats = server.stats
        assert stats.completed + stats.rejected == 40
        peers = server._ledger.peers
        assert peers is not None
        until(lambda: not peers._counts and not peers._origins)  # each is struck out right after its slot is free


def test_deadlines_of_limits_do_not_mix() -> None:
    """A request that waits for room is not under way yet: its time begins with its handler."""
    limits = Limits(max_connections=1, overload=LATER)
    deadlines = Deadlines(first_byte=1)
    with (
        limited(ENDPOINT, function, "thread", limits, deadlines=deadlines) as server,
        client(server) as first,
        client(server) as second,
    ):
        assert ask(first, b"1") == b"1"
        until(lambda: server.stats.waiting == 1)
        assert not server.wait(state=State.CLOSED, timeout=1.2)  # in which nothing happens
        first.close()
        assert server.wait(connections=1, timeout=TIMEOUT)
        assert ask(second, b"2") == b"2"
