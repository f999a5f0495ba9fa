"""Who is let in: limits on requests under way, what becomes of the others, the hook that refuses, and what is told."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from plugsocket import (
    UDP,
    Answer,
    Connection,
    Datagram,
    Deadlines,
    Limits,
    OptionError,
    Queue,
    Reject,
    Server,
    State,
    Thread,
    UnixDatagram,
    UnixStream,
    Wait,
    strategy,
)
from plugsocket.core.errors import UnknownOptionError
from plugsocket.core.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRejected,
    DatagramDropped,
    HandlerFailed,
    HookFailed,
    LimitCleared,
    LimitReached,
)
from plugsocket.core.interfaces import IDatagramTransport, IInlineStrategy
from plugsocket.core.readiness import wait_readable
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import HANDLERS, TIMEOUT, ask, async_function, client, function, receive, serving, strategy_names, until
from tests.programs import line_of, program
from tests.test_matrix import COMPOSING, EXAMPLES, STREAMS, endpoint_of, over

ENDPOINT = "tcp://127.0.0.1:0"
PEERS = "127.0.0.1", "127.0.0.2"  # all of 127/8 is the loopback interface's (RFC 1122, section 3.2.1.3)
FAREWELL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
DATAGRAMS = [example for example in EXAMPLES if IDatagramTransport.implementedBy(example[0])]
LATER = Wait(TIMEOUT * 3)  # for tests in which nobody waits in vain

# Under an inline strategy the loop accepts nobody while a handler runs, so that there is never one too many.
PARALLEL = [pair for pair in COMPOSING if not IInlineStrategy.providedBy(strategy(pair[0]))]
V4 = [example for example in STREAMS if example[1] == 0]  # IPv6 has the same limits as IPv4
ONE = V4[:1]
PARALLEL_NAMES = [name for name in strategy_names() if not IInlineStrategy.providedBy(strategy(name))]

every_strategy = pytest.mark.parametrize("strategy_name", strategy_names())
every_parallel_strategy = pytest.mark.parametrize("strategy_name", PARALLEL_NAMES)


@contextmanager
def limited(endpoint: Any, handler: Any, strategy_name: Any, limits: Limits, **options: Any) -> Iterator[Server]:
    """Serve under limits; to be told of everything, a subscriber goes with `recorder=`."""
    recorder = options.pop("recorder", None)
    server = Server(endpoint, handler, strategy_name, limits=limits, **options)
    if recorder is not None:
        server.subscribe(recorder)
    with serving(server):
        yield server


def has_nothing(sock: socket.socket) -> bool:
    """Whether neither bytes nor the end have come."""
    return not wait_readable(sock.fileno(), 0)


def from_host(server: Server, host: str) -> socket.socket:
    """A client with an address of one's choice."""
    return socket.create_connection(server.addresses[0], TIMEOUT, source_address=(host, 0))


# What becomes of those above the limit


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
            second.settimeout(1)
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
        second.settimeout(1)
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
            socks = [stack.enter_context(client(server)) for _ in range(100)]
            for sock in socks:
                sock.sendall(request)
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
                second.settimeout(1)
                assert second.recv(100) == b""
        assert ask(first, b"still there") == b"still there"
        assert server.stats.rejected == 2
        survived = server.state is State.SERVING
    assert survived
    failures = [failure for failure in recorder.of(HookFailed) if failure.hook == "farewell"]
    assert reply is not raises or len(failures) == 2


# Each peer


@over(ONE, PARALLEL)
def test_each_host_has_its_own_number(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> None:
    """Under Queue(), too: who it is shows only when it was accepted."""
    with limited(
        endpoint_of(example, tmp_path),
        HANDLERS[handler_name],
        strategy_name,
        Limits(max_per_peer=2),
        recorder=recorder,
    ) as server:
        with ExitStack() as stack:
            socks = [stack.enter_context(from_host(server, host)) for host in PEERS for _ in range(2)]
            for sock in socks:
                assert ask(sock, b"hello") == b"hello"
            for host in PEERS:
                with from_host(server, host) as one_more:
                    assert one_more.recv(1) == b""
            assert ask(socks[0], b"still there") == b"still there"
            (rejected, other) = recorder.wait_for(ConnectionRejected, 2)
            assert (rejected.peer.host, rejected.reason) == (PEERS[0], "max_per_peer")
            assert (other.peer.host, other.reason) == (PEERS[1], "max_per_peer")
        assert server.wait(connections=0, timeout=TIMEOUT)
        with from_host(server, PEERS[0]) as again:
            assert ask(again, b"again") == b"again"
    assert server.stats.rejected == 2
    assert recorder.of(LimitReached) == []  # which is about all of them


@every_parallel_strategy
def test_one_peer_that_waits_keeps_nobody_else_waiting(strategy_name: str) -> None:
    limits = Limits(max_per_peer=1, overload=LATER)
    with (
        limited(ENDPOINT, function, strategy_name, limits) as server,
        from_host(server, PEERS[0]) as first,
        from_host(server, PEERS[0]) as second,
    ):
        assert ask(first, b"1") == b"1"
        second.sendall(b"2")
        until(lambda: server.stats.waiting == 1)
        with from_host(server, PEERS[1]) as third:
            assert ask(third, b"3") == b"3"
        assert has_nothing(second)
        first.close()
        assert receive(second, 1) == b"2"


CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b"hello")
print(sock.recv(100))
"""


@every_parallel_strategy
def test_unix_peers_are_counted_by_process(strategy_name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    limits = Limits(max_per_peer=1, overload=Answer(b"full"))
    with limited(UnixStream(path), function, strategy_name, limits) as server, client(server) as first:
        assert ask(first, b"1") == b"1"
        with client(server) as second:
            assert receive(second, 100) == b"full"
        with program(CLIENT, path) as process:
            assert line_of(process) == "b'hello'"


@every_parallel_strategy
def test_a_name_of_its_own_gives_a_process_no_more(strategy_name: str, tmp_path: Path) -> None:
    limits = Limits(max_per_peer=1, overload=Answer(b"full"))
    with (
        limited(UnixStream(tmp_path / "socket"), function, strategy_name, limits) as server,
        client(server) as first,
        socket.socket(socket.AF_UNIX) as second,
    ):
        assert ask(first, b"1") == b"1"
        second.settimeout(TIMEOUT)
        second.bind("")  # an abstract name of the kernel's choice
        second.connect(server.addresses[0])
        second.sendall(b"2")
        assert second.recv(100) == b"full"


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


@over(V4, PARALLEL)
def test_max_per_peer_switched_on_counts_those_that_are_open(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path
) -> None:
    endpoint = endpoint_of(example, tmp_path)
    with limited(endpoint, HANDLERS[handler_name], strategy_name, Limits()) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(2)]
        for sock in socks:
            assert ask(sock, b"x") == b"x"
        server.limits = Limits(max_per_peer=2)
        with client(server) as late:
            assert late.recv(1) == b""
        socks[0].close()
        assert server.wait(connections=1, timeout=TIMEOUT)
        with client(server) as late:
            assert ask(late, b"y") == b"y"
        server.limits = Limits()
        assert ask(stack.enter_context(client(server)), b"1") == b"1"
        assert ask(stack.enter_context(client(server)), b"2") == b"2"
        assert server.wait(connections=3, timeout=TIMEOUT)
        server.limits = Limits(max_per_peer=3)  # those before are not counted twice, nor forgotten
        with client(server) as late:
            assert late.recv(1) == b""


@pytest.mark.parametrize("strategy_name", ["thread", "trio"])
def test_max_per_peer_switched_on_when_a_handler_has_closed_its_connection(strategy_name: str, tmp_path: Path) -> None:
    closed, over_now = threading.Event(), threading.Event()

    def handle(connection: Connection) -> None:
        connection.close()
        closed.set()
        over_now.wait(TIMEOUT)

    with limited(UnixStream(tmp_path / "socket"), handle, strategy_name, Limits()) as server, client(server):
        try:
            assert closed.wait(TIMEOUT)
            server.limits = Limits(max_per_peer=1)
        finally:
            over_now.set()


# The hook


def refuses(request: Any) -> bool:
    return False


def fails(request: Any) -> bool:
    raise RuntimeError("no idea")


def exits(request: Any) -> bool:
    raise SystemExit(3)


@pytest.mark.parametrize("verify", [refuses, fails, exits])
@over(EXAMPLES, [pair for pair in COMPOSING if pair[1] in {"function", "async"}])
def test_verify(
    example: Any, strategy_name: str, handler_name: str, verify: Any, tmp_path: Path, recorder: Recorder
) -> None:
    """The first request meets the hook; those that come later do not."""
    numbers = itertools.count()

    def hook(request: Any) -> bool:
        return bool(next(numbers)) or verify(request)

    endpoint = endpoint_of(example, tmp_path)
    with limited(endpoint, HANDLERS[handler_name], strategy_name, Limits(), verify=hook, recorder=recorder) as server:
        with client(server) as first:
            if first.type == socket.SOCK_STREAM:
                assert first.recv(1) == b""
                (turned_away,) = recorder.wait_for(ConnectionRejected)
            else:
                first.send(b"nobody hears it")
                (turned_away,) = recorder.wait_for(DatagramDropped)
            assert (turned_away.id, turned_away.reason) == (1, "verify")
        with client(server) as second:
            assert ask(second, b"hello") == b"hello"
    assert server.stats.rejected + server.stats.dropped == 1
    failures = recorder.of(HookFailed)
    assert [failure.hook for failure in failures] == ["verify"] * (verify is not refuses)
    assert len(recorder.of(LimitReached)) == 0


def test_verify_sees_the_peer() -> None:
    with (
        limited(ENDPOINT, function, "thread", Limits(), verify=lambda request: request.peer.host == PEERS[1]) as server,
        from_host(server, PEERS[0]) as stranger,
        from_host(server, PEERS[1]) as friend,
    ):
        assert stranger.recv(1) == b""
        assert ask(friend, b"hello") == b"hello"


def test_an_async_hook_lets_nobody_in_by_accident() -> None:
    async def verify(request: Any) -> bool:
        return False

    with pytest.raises(OptionError, match="verify"):
        Server(ENDPOINT, function, verify=verify)


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
                recorder.wait_for(LimitReached, timeout=0.5)
                first.close()
                assert ask(second, b"2") == b"2"
        recorder.wait_for(LimitCleared, timeout=0.5)


# Datagrams


@over(DATAGRAMS, [pair for pair in PARALLEL if pair[1] in {"function", "async"}])
def test_datagrams_above_the_limit_are_dropped_and_counted(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> None:
    def blocking(datagram: Datagram) -> None:
        datagram.closing.wait(TIMEOUT)
        datagram.reply(datagram.data)

    async def task(datagram: Any) -> None:
        await datagram.closing.wait()
        await datagram.reply(datagram.data)

    handler = blocking if handler_name == "function" else task
    limits = Limits(max_connections=1, overload="reject")
    endpoint = endpoint_of(example, tmp_path)
    with limited(endpoint, handler, strategy_name, limits, recorder=recorder) as server, client(server) as sock:
        for number in range(10):
            sock.send(b"%d" % number)
        dropped = recorder.wait_for(DatagramDropped, 9)
        assert {event.reason for event in dropped} == {"max_connections"}
        assert len(recorder.wait_for(LimitReached)) == 1
        report = server.stop(grace=TIMEOUT)
        assert sock.recv(10) == b"0"
    assert (report.completed, report.cut) == (1, ())
    stats = server.stats
    assert (stats.accepted, stats.dropped, stats.rejected, stats.completed) == (10, 9, 0, 1)


@pytest.mark.parametrize("strategy_name", ["thread", "trio"])
def test_the_end_of_the_limit_tells_how_many_datagrams_were_dropped(strategy_name: str, recorder: Recorder) -> None:
    free = threading.Event()

    def handle(datagram: Datagram) -> None:
        free.wait(TIMEOUT)

    limits = Limits(max_connections=1, overload="reject")
    with (
        limited(UDP("127.0.0.1", 0), handle, strategy_name, limits, recorder=recorder) as server,
        client(server) as sock,
    ):
        for _ in range(6):
            sock.send(b"x")
        recorder.wait_for(DatagramDropped, 5)
        free.set()
        (cleared,) = recorder.wait_for(LimitCleared)
    assert (cleared.rejected, cleared.dropped) == (0, 5)


class SmallUDP(UDP):
    """UDP with room for a few datagrams in the kernel."""

    def listen(self) -> Any:
        listener = super().listen()
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return listener


@pytest.mark.parametrize("strategy_name", [*strategy_names(), "async"])
def test_the_kernels_drops_are_counted(strategy_name: str) -> None:
    handler = async_function if strategy_name == "async" else function
    name = "trio" if strategy_name == "async" else strategy_name
    with limited(SmallUDP("127.0.0.1", 0), handler, name, Limits()) as server, client(server) as sock:
        assert ask(sock, b"before") == b"before"
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.lost == 0
        server.pause()
        for _ in range(100):
            sock.send(bytes(500))
        assert 0 < server.stats.lost < 100
        server.resume()
        until(lambda: server.stats.accepted - 1 + server.stats.lost == 100)
        assert server.wait(connections=0, timeout=TIMEOUT)
        lost = server.stats.lost
    assert server.stats.lost == lost  # which closing does not forget
    assert server.stats.dropped == 0


def test_the_kernels_drops_can_be_asked_for_afterwards() -> None:
    with limited(SmallUDP("127.0.0.1", 0), function, "thread", Limits()) as server, client(server) as sock:
        server.pause()
        for _ in range(100):
            sock.send(bytes(500))
    assert 0 < server.stats.lost < 100


def test_the_kernels_drops_are_told_with_the_limit(recorder: Recorder) -> None:
    free = threading.Event()

    def handle(datagram: Datagram) -> None:
        free.wait(TIMEOUT)

    with (
        limited(SmallUDP("127.0.0.1", 0), handle, "thread", Limits(max_connections=1), recorder=recorder) as server,
        client(server) as sock,
    ):
        server.pause()  # so that several are there when the first is taken
        for _ in range(100):
            sock.send(bytes(500))
        before = server.stats.lost
        server.resume()
        recorder.wait_for(LimitReached)
        for _ in range(50):
            sock.send(bytes(500))
        lost = server.stats.lost - before
        free.set()
        (cleared, *_) = recorder.wait_for(LimitCleared)
    assert lost > 0
    assert cleared.dropped == lost


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
@every_strategy
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
        assert server._ledger.peers is not None
        assert not server._ledger.peers._counts
        assert not server._ledger.peers._origins


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


# What cannot work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_connections": 0}, "max_connections must be a whole number of at least 1 or None, not 0"),
        ({"max_connections": 1.5}, "not 1.5"),
        ({"max_connections": True}, "not True"),
        ({"max_connections": "5"}, "not '5'"),
        ({"max_per_peer": -1}, "max_per_peer must be a whole number of at least 1 or None, not -1"),
        ({"overload": "rejekt"}, "there is no overload policy 'rejekt'; did you mean 'reject'"),
        ({"overload": "drop"}, "known: answer, queue, reject, wait"),
        ({"overload": 5}, "overload must be an overload policy or its string, such as 'reject', not 5"),
        ({"overload": None}, "not None"),
        ({"overload": Reject}, "overload must be an overload policy"),
        ({"overload": "wait"}, "Wait needs the option 'seconds', which the string does not give"),
        ({"overload": "wait?seconds=soon"}, "seconds must be a number, not 'soon'"),
        ({"overload": "wait?seconds=-1"}, "seconds must be a number of seconds, zero or more, not -1"),
        ({"overload": "wait?seconds=nan"}, "seconds must be a number of seconds, zero or more, not nan"),
        ({"overload": "wait?seconds=1&rooms=3"}, "Wait has no option 'rooms'; did you mean 'room'"),
        ({"overload": "wait?seconds=1&room=0"}, "room must be a whole number of at least 1, not 0"),
        ({"overload": "wait?seconds=1&then=nothing"}, "'nothing'"),
        ({"overload": "answer"}, "Answer needs the option 'reply'"),
        ({"overload": "reject?seconds=1"}, "Reject has no option 'seconds'"),
        ({"max_connection": 5}, "Limits has no option 'max_connection'; did you mean 'max_connections'"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, UnknownOptionError)) as caught:
        Limits(**options)
    assert message in str(caught.value)


async def is_async(peer: Any) -> bytes:
    return FAREWELL


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: Answer("text"),
            "reply must be bytes, or a plain function from the peer's address to bytes, not 'text'",
        ),  # type: ignore[arg-type]
        (lambda: Answer(is_async), "a plain function from the peer's address to bytes, not <function is_async"),  # type: ignore[arg-type]
        (lambda: Wait("1"), "seconds must be a number of seconds, zero or more, not '1'"),  # type: ignore[arg-type]
        (lambda: Server(ENDPOINT, function, limits=5), "limits must be Limits(...), not 5"),  # type: ignore[arg-type]
        (lambda: Server(ENDPOINT, function, verify="no"), "verify must be a plain function that takes a request"),  # type: ignore[arg-type]
        (lambda: Server(ENDPOINT, function, deadlines=3), "deadlines must be Deadlines(...), not 3"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused_elsewhere(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        wrong()
    assert message in str(caught.value)


def test_limits_that_are_none_leave_the_server_as_it_was() -> None:
    with limited(ENDPOINT, function, "thread", Limits(max_connections=5)) as server, client(server) as sock:
        with pytest.raises(OptionError, match=r"limits must be Limits"):
            server.limits = 7  # type: ignore[assignment]
        assert server.limits == Limits(max_connections=5)
        assert ask(sock, b"hello") == b"hello"


def test_policies_and_their_strings_are_the_same() -> None:
    assert Limits(overload="queue") == Limits()
    assert Limits(overload="reject").overload == Reject()
    assert Limits(overload="wait?seconds=2&room=7&then=reject").overload == Wait(2.0, room=7)
    assert Limits(overload="answer?reply=b%C3%BCsy").overload == Answer("büsy".encode())


def test_before_serving_and_after() -> None:
    server = Server(ENDPOINT, function, Thread(max_workers=4))
    server.limits = Limits(max_connections=1, overload="reject")
    with serving(server), client(server) as first, client(server) as second:
        assert ask(first, b"1") == b"1"
        assert second.recv(1) == b""
    server.limits = Limits()
    assert server.stats.rejected == 1


@pytest.mark.parametrize("endpoint", [UDP("127.0.0.1", 0), UnixDatagram(f"@plugsocket-limits-{os.getpid()}")])
def test_datagrams_of_one_peer(endpoint: Any, recorder: Recorder) -> None:
    free = threading.Event()

    def handle(datagram: Datagram) -> None:
        free.wait(TIMEOUT)
        datagram.reply(datagram.data)

    with (
        limited(endpoint, handle, "thread", Limits(max_per_peer=1), recorder=recorder) as server,
        client(server) as sock,
    ):
        sock.send(b"1")
        assert server.wait(connections=1, timeout=TIMEOUT)
        sock.send(b"2")
        (dropped,) = recorder.wait_for(DatagramDropped)
        free.set()
        assert sock.recv(10) == b"1"
    assert dropped.reason == "max_per_peer"


def test_deadlines_of_limits_do_not_mix() -> None:
    """A request that waits for room is not under way yet: its time begins with its handler."""
    limits = Limits(max_connections=1, overload=LATER)
    deadlines = Deadlines(first_byte=0.2)
    with (
        limited(ENDPOINT, function, "thread", limits, deadlines=deadlines) as server,
        client(server) as first,
        client(server) as second,
    ):
        assert ask(first, b"1") == b"1"
        until(lambda: server.stats.waiting == 1)
        assert not server.wait(state=State.CLOSED, timeout=0.3)  # in which nothing happens
        first.close()
        assert server.wait(connections=1, timeout=TIMEOUT)
        assert ask(second, b"2") == b"2"


@every_parallel_strategy
def test_a_limit_that_is_reached_again_and_again_is_told_once(strategy_name: str, recorder: Recorder) -> None:
    limits = Limits(max_connections=1, overload="reject")
    with limited(ENDPOINT, function, strategy_name, limits, recorder=recorder) as server:
        for _ in range(20):
            with client(server) as first, client(server) as late:
                assert ask(first, b"1") == b"1"
                assert late.recv(1) == b""
            assert server.wait(connections=0, timeout=TIMEOUT)
        assert len(recorder.of(LimitReached)) < 10
