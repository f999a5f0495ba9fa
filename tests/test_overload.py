"""What becomes of those above the limit: they queue, are rejected, wait, or get an answer."""

import itertools
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from plugsocket import Answer, Connection, Limits, State, Wait
from plugsocket.core.events import ConnectionRejected, HandlerFailed, HookFailed, LimitCleared, LimitReached
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import HANDLERS, TIMEOUT, ask, client, function, receive, until
from tests.limiting import ENDPOINT, FAREWELL, LATER, ONE, PARALLEL, V4, every_parallel_strategy, has_nothing, limited
from tests.test_matrix import endpoint_of, over


@over(V4, PARALLEL)
def test_queue(example: Any, strategy_name: str, handler_name: str, tmp_path: Path) -> None:
    limits = Limits(max_connections=2)
    with (
        limited(endpoint_of(example, tmp_path), HANDLERS[handler_name], strategy_name, limits) as server,
        client(server) as first,
        client(server) as second,
        client(server) as third,
    ):
        assert ask(first, b"1") == b"1"
        assert ask(second, b"2") == b"2"
        third.sendall(b"3")
        assert ask(second, b"which gives it time") == b"which gives it time"
        assert has_nothing(third)
        assert (server.stats.accepted, server.stats.active, server.stats.waiting) == (2, 2, 0)
        first.close()
        assert receive(third, 1) == b"3"
    assert server.stats.rejected == 0


@over(V4, PARALLEL)
def test_reject(example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder) -> None:
    limits = Limits(max_connections=2, overload="reject")
    with (
        limited(
            endpoint_of(example, tmp_path), HANDLERS[handler_name], strategy_name, limits, recorder=recorder
        ) as server,
        client(server) as first,
        client(server) as second,
    ):
        assert ask(first, b"1") == b"1"
        assert ask(second, b"2") == b"2"
        for _ in range(3):
            with client(server) as third:
                assert third.recv(1) == b""
        (*_, rejected) = recorder.wait_for(ConnectionRejected, 3)
        assert (rejected.id, rejected.reason, rejected.endpoint) == (5, "max_connections", server.urls[0])
        first.close()
        recorder.wait_for(LimitCleared)
        with client(server) as fourth:
            assert ask(fourth, b"4") == b"4"
    assert server.stats.rejected == 3
    assert server.stats.completed == 3
    assert recorder.of(HandlerFailed) == []


@over(V4, PARALLEL)
def test_wait_serves_who_gets_a_slot_in_time(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path
) -> None:
    limits = Limits(max_connections=1, overload=LATER)
    with (
        limited(endpoint_of(example, tmp_path), HANDLERS[handler_name], strategy_name, limits) as server,
        client(server) as first,
        client(server) as second,
    ):
        assert ask(first, b"1") == b"1"
        second.sendall(b"2")
        until(lambda: server.stats.waiting == 1)
        assert has_nothing(second)
        first.close()
        assert receive(second, 1) == b"2"
        assert server.stats.waiting == 0
    assert server.stats.rejected == 0


@over(ONE, PARALLEL)
def test_wait_rejects_who_gets_none(
    example: Any,
    strategy_name: str,
    handler_name: str,
    tmp_path: Path,
    recorder: Recorder,
) -> None:
    limits = Limits(max_connections=1, overload=Wait(0.05))
    with (
        limited(
            endpoint_of(example, tmp_path), HANDLERS[handler_name], strategy_name, limits, recorder=recorder
        ) as server,
        client(server) as first,
    ):
        assert ask(first, b"1") == b"1"
        began = time.monotonic()
        with client(server) as second:
            assert second.recv(1) == b""
        assert time.monotonic() - began >= 0.05
        assert ask(first, b"still there") == b"still there"
        (rejected,) = recorder.wait_for(ConnectionRejected)
    assert rejected.reason == "max_connections"
    assert server.stats.rejected == 1


@every_parallel_strategy
def test_wait_can_end_in_an_answer(strategy_name: str, request: pytest.FixtureRequest) -> None:
    limits = Limits(max_connections=1, overload=Wait(0.05, then=Answer(FAREWELL)))
    with (
        limited(ENDPOINT, function, strategy_name, limits) as server,
        client(server) as first,
        client(server) as second,
    ):
        assert ask(first, b"1") == b"1"
        second.sendall(b"a request that nobody reads")
        assert receive(second, 1_000) == FAREWELL


class NotesItsOrder:
    """Answers one byte, and notes in which order it was asked."""

    def __init__(self) -> None:
        self.order: list[bytes] = []

    def __call__(self, connection: Connection) -> None:
        data = connection.recv(1)
        self.order.append(data)
        connection.sendall(data)


@pytest.mark.parametrize("strategy_name", ["thread", "trio"])
def test_those_who_wait_keep_their_order(strategy_name: str) -> None:
    handler = NotesItsOrder()
    with (
        limited(ENDPOINT, handler, strategy_name, Limits(max_connections=1, overload=LATER)) as server,
        ExitStack() as stack,
    ):
        first = stack.enter_context(client(server))
        server.wait(connections=1, timeout=TIMEOUT)
        others = []
        for number in range(20):
            others.append(stack.enter_context(client(server)))
            others[-1].sendall(bytes([65 + number]))
            until(lambda number=number: server.stats.waiting == number + 1)  # type: ignore[misc]
        first.sendall(b"0")
        for sock in others:
            assert len(receive(sock, 1)) == 1
    assert b"".join(handler.order) == b"0ABCDEFGHIJKLMNOPQRST"


@pytest.mark.parametrize("strategy_name", ["thread", "trio"])
def test_a_newcomer_does_not_overtake_those_who_wait(strategy_name: str) -> None:
    handler = NotesItsOrder()
    numbers = itertools.count(1)

    def verify(request: Any) -> bool:
        if next(numbers) == 3:  # the newcomer: the slot comes free at this very moment
            first.sendall(b"1")
            until(lambda: not server.stats.active)
        return True

    limits = Limits(max_connections=1, overload=LATER)
    with limited(ENDPOINT, handler, strategy_name, limits, verify=verify) as server, client(server) as first:
        server.wait(connections=1, timeout=TIMEOUT)
        with client(server) as second:
            second.sendall(b"2")
            until(lambda: server.stats.waiting == 1)
            with client(server) as third:
                third.sendall(b"3")
                assert receive(second, 1) + receive(third, 1) == b"23"
    assert handler.order == [b"1", b"2", b"3"]


@every_parallel_strategy
def test_beyond_the_room_the_kernel_keeps_them(strategy_name: str) -> None:
    limits = Limits(max_connections=1, overload=Wait(TIMEOUT * 3, room=2))
    with limited(ENDPOINT, function, strategy_name, limits) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(5)]
        assert ask(socks[0], b"0") == b"0"
        until(lambda: server.stats.waiting == 2)
        assert ask(socks[0], b"which gives it time") == b"which gives it time"
        assert (server.stats.accepted, server.stats.waiting) == (3, 2)
        for number, sock in enumerate(socks[1:]):
            sock.sendall(b"%d" % number)
            sock.shutdown(socket.SHUT_WR)
        socks[0].close()
        for number, sock in enumerate(socks[1:]):
            assert receive(sock, 100) == b"%d" % number
    assert server.stats.rejected == 0


def by_address(peer: Any) -> bytes:
    return FAREWELL + str(peer).encode()


@pytest.mark.parametrize("reply", [FAREWELL, by_address], ids=["bytes", "function"])
@pytest.mark.parametrize("example", V4, ids=lambda example: f"{example[0].scheme}{example[1]}")
@every_parallel_strategy
def test_the_answer_reaches_clients_that_had_sent_a_request(
    example: Any, strategy_name: str, reply: Any, tmp_path: Path, recorder: Recorder
) -> None:
    """Of whom nobody reads it: closing at once would reset them, and a reset takes the answer with it."""
    limits = Limits(max_connections=1, overload=Answer(reply))
    request = b"GET / HTTP/1.1\r\n\r\n" * 500
    with (
        limited(endpoint_of(example, tmp_path), function, strategy_name, limits, recorder=recorder) as server,
        client(server) as first,
    ):
        assert ask(first, b"1") == b"1"
        with ExitStack() as stack:
            socks = []
            for _ in range(100):
                socks.append(stack.enter_context(client(server)))
                socks[-1].sendall(request)  # which is read and thrown away for two seconds
            for sock in socks:
                assert receive(sock, 100_000) == (FAREWELL if reply is FAREWELL else by_address(peer_of(sock)))
        recorder.wait_for(ConnectionRejected, 100)
    assert server.stats.rejected == 100
    assert len(recorder.of(LimitReached)) == 1


def peer_of(sock: socket.socket) -> Any:
    name = sock.getsockname()
    return ":".join(map(str, name)) if sock.family == socket.AF_INET else f"[{name[0]}]:{name[1]}" if name else ""


def raises(peer: Any) -> bytes:
    raise RuntimeError("no last words")


def leaves(peer: Any) -> bytes:
    raise SystemExit(3)


@pytest.mark.parametrize(
    "reply",
    [
        raises,
        leaves,
        pytest.param(lambda peer: "text", id="text"),
        pytest.param(lambda peer: 3, id="number"),
        pytest.param(lambda peer: None, id="nothing"),
    ],
)
@every_parallel_strategy
def test_a_farewell_that_fails_costs_its_own_client_alone(strategy_name: str, reply: Any, recorder: Recorder) -> None:
    limits = Limits(max_connections=1, overload=Answer(reply))
    survived = False
    with (
        limited(ENDPOINT, function, strategy_name, limits, recorder=recorder) as server,
        client(server) as first,
        suppress(OSError),
    ):
        assert ask(first, b"1") == b"1"
        for _ in range(2):
            with client(server) as second:
                assert second.recv(100) == b""
        assert ask(first, b"still there") == b"still there"
        assert server.stats.rejected == 2
        survived = server.state is State.SERVING
    assert survived
    failures = [failure for failure in recorder.of(HookFailed) if failure.hook == "farewell"]
    assert reply is not raises or len(failures) == 2


@over(ONE, PARALLEL)
def test_stopping_turns_those_away_who_wait(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path
) -> None:
    limits = Limits(max_connections=1, overload=LATER)
    endpoint = endpoint_of(example, tmp_path)
    with (
        limited(endpoint, HANDLERS[handler_name], strategy_name, limits) as server,
        client(server) as first,
        client(server) as second,
        client(server) as third,
    ):
        assert ask(first, b"1") == b"1"
        until(lambda: server.stats.waiting == 2)
        report = server.stop(grace=TIMEOUT)
        assert report.seconds < TIMEOUT / 2
        assert [sock.recv(1) for sock in (first, second, third)] == [b"", b"", b""]
    assert (report.completed, report.cut) == (1, ())
    assert (server.stats.rejected, server.stats.waiting) == (2, 0)
