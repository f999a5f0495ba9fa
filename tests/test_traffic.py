"""Idle or busy: whom a stop ends at once, and whom it lets finish; and the account of what went over a connection."""

import fcntl
import select
import socket
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from plugsocket import AsyncConnection, Connection, Server, State, StopReport, StreamRequestHandler, own_loop
from plugsocket.core.events import ConnectionClosed, HandlerFailed
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import TIMEOUT, ask, client, receive, serving, strategy_names, until
from tests.test_matrix import STREAMS, composes, endpoint_of, over

ENDPOINT = "tcp://127.0.0.1:0"
GRACE = 60.0  # seconds; more than a test takes, so that what needs them shows
BIG = 16 * 2**20  # bytes; more than the buffers of the system take
ISSUED = 2**20


# Handlers that answer lines: with the same line, or as many bytes as it says.


def reply_to(line: bytes) -> bytes:
    return bytes(int(line)) if line.strip().isdigit() else line


def function(connection: Connection) -> None:
    line = b""
    while chunk := connection.recv(1):
        line += chunk
        if chunk == b"\n":
            connection.sendall(reply_to(line))
            line = b""


def makes_file(connection: Connection) -> None:
    with connection.makefile("rwb") as file:
        for line in file:
            if line.endswith(b"\n"):
                file.write(reply_to(line))
                file.flush()


class HandlerClass(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            if line.endswith(b"\n"):
                self.wfile.write(reply_to(line))


async def async_function(stream: AsyncConnection) -> None:
    line = b""
    while chunk := await stream.receive_some(1):
        line += chunk
        if chunk == b"\n":
            await stream.send_all(reply_to(line))
            line = b""


HANDLERS: dict[str, Any] = {
    "function": function,
    "makefile": makes_file,
    "class": HandlerClass,
    "async": async_function,
    "own_loop": own_loop(async_function),
}
PAIRS = [(s, h) for s in strategy_names() for h in HANDLERS if composes(s, h)]
V4 = [example for example in STREAMS if example[1] == 0]  # IPv6 stops as IPv4 does
ONE = V4[:1]

every_strategy = pytest.mark.parametrize("strategy_name", strategy_names())


@pytest.fixture
def server(
    example: tuple[Any, int], strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> Iterator[Server]:
    made = Server(endpoint_of(example, tmp_path), HANDLERS[handler_name], strategy_name)
    made.subscribe(recorder)
    with serving(made):
        yield made


@contextmanager
def stopping(server: Server) -> Iterator[list[StopReport]]:
    """Stop with much grace meanwhile; the list has the report after the block."""
    reports: list[StopReport] = []
    thread = threading.Thread(target=lambda: reports.append(server.stop(grace=GRACE)))
    thread.start()
    try:
        until(lambda: server.state is not State.SERVING)
        yield reports
    finally:
        thread.join(TIMEOUT)
        if thread.is_alive():
            server.stop(grace=0)


def wait_taken(server: Server) -> None:
    """Wait until the handler took what was sent: until the system has no more of it, in whatever process."""
    until(lambda: len(server._ledger.active) == 1)
    (job,) = server._ledger.active
    unread = bytearray(4)

    def nothing_left() -> bool:
        fcntl.ioctl(job.request.payload.fileno(), termios.FIONREAD, unread)
        return struct.unpack("i", unread) == (0,)

    until(nothing_left)
    if server.strategy.name != "fork":  # where the account is the child's
        until(lambda: job.traffic is not None and job.traffic.unanswered)


def check_completed(reports: list[StopReport], requests: int = 1) -> None:
    (report,) = reports
    assert (report.completed, report.cut, report.finished) == (requests, (), True)
    assert report.seconds < GRACE / 2


# The idle


@over(V4, PAIRS)
def test_a_silent_client_does_not_hold_it_up(server: Server, recorder: Recorder) -> None:
    with client(server) as sock:
        assert server.wait(connections=1, timeout=TIMEOUT)
        report = server.stop(grace=GRACE)
        check_completed([report])
        assert sock.recv(1) == b""
    assert recorder.of(HandlerFailed) == []


@over(ONE, PAIRS)
def test_nor_does_one_between_two_requests(server: Server, recorder: Recorder) -> None:
    with client(server) as sock:
        assert ask(sock, b"one\n") == b"one\n"
        assert ask(sock, b"two\n") == b"two\n"
        report = server.stop(grace=GRACE)
        check_completed([report])
        assert sock.recv(1) == b""
    assert recorder.of(HandlerFailed) == []


@pytest.mark.parametrize(("strategy_name", "handler_name"), [pair for pair in PAIRS if pair[0] != "sync"])
def test_thirty_of_them_at_once(strategy_name: str, handler_name: str) -> None:
    with serving(Server(ENDPOINT, HANDLERS[handler_name], strategy_name)) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(30)]
        for sock in socks[::2]:
            assert ask(sock, b"hello\n") == b"hello\n"
        assert server.wait(connections=30, timeout=TIMEOUT)
        check_completed([server.stop(grace=GRACE)], 30)


# The busy


@over(V4, PAIRS)
def test_half_a_request_gets_the_grace(server: Server, recorder: Recorder) -> None:
    with client(server) as sock:
        sock.sendall(b"hel")
        wait_taken(server)
        with stopping(server) as reports:
            assert not server.wait(state=State.CLOSED, timeout=0.05)  # it gives it time, as it should
            sock.sendall(b"lo\n")
            assert receive(sock, 100) == b"hello\n"  # up to end of file
        check_completed(reports)
    assert recorder.of(HandlerFailed) == []


@over(ONE, PAIRS)
def test_half_a_request_after_a_whole_one_gets_the_grace(server: Server) -> None:
    with client(server) as sock:
        assert ask(sock, b"one\n") == b"one\n"
        sock.sendall(b"tw")
        wait_taken(server)
        with stopping(server) as reports:
            sock.sendall(b"o\n")
            assert receive(sock, 100) == b"two\n"
        check_completed(reports)


@over(ONE, PAIRS)
def test_half_a_request_that_stays_one_is_cut(server: Server) -> None:
    with client(server) as sock:
        sock.sendall(b"hel")
        wait_taken(server)
        report = server.stop(grace=0.1)
        assert (report.completed, len(report.cut), report.finished) == (0, 1, True)
        assert report.seconds >= 0.1
        assert sock.recv(1) == b""


@pytest.mark.parametrize("size", [ISSUED, BIG])
@over(ONE, PAIRS)
def test_a_reply_under_way_arrives_whole(server: Server, size: int, recorder: Recorder) -> None:
    with client(server) as sock:
        sock.sendall(b"%d\n" % size)
        assert sock.recv(1) == b"\0"  # it has begun
        with stopping(server) as reports:
            assert len(receive(sock, size)) == size - 1
        check_completed(reports)
        assert sock.recv(1) == b""
    assert recorder.of(HandlerFailed) == []


def unacknowledged(sock: socket.socket) -> int:
    """How many bytes that were sent over TCP have not arrived yet (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)


@over(V4, PAIRS)
def test_requests_that_had_come_are_answered(server: Server) -> None:
    lines = [b"request %d\n" % number for number in range(200)]
    with client(server) as sock:
        assert ask(sock, b"ready\n") == b"ready\n"
        sock.sendall(b"".join(lines))
        until(lambda: unacknowledged(sock) == 0)  # so that they had come, also where the network takes its time
        report = server.stop(grace=GRACE)
        assert receive(sock, 100_000) == b"".join(lines)
        check_completed([report])


# The signal


def asks(connection: Connection) -> None:
    connection.sendall(b"ready")
    while not connection.closing.is_set():
        pass
    connection.sendall(b"bye")


def waits(connection: Connection) -> None:
    assert not connection.closing.is_set()
    assert not connection.closing.wait(0.001)
    connection.sendall(b"ready")
    assert connection.closing.wait(TIMEOUT)
    assert connection.closing.is_set()
    connection.sendall(b"bye")


def selects(connection: Connection) -> None:
    connection.sendall(b"ready")
    readable, _, _ = select.select([connection, connection.closing], [], [], TIMEOUT)
    assert readable == [connection.closing]
    connection.sendall(b"bye")


async def async_asks(stream: AsyncConnection) -> None:
    await stream.send_all(b"ready")
    while not stream.closing.is_set():
        await trio.lowlevel.checkpoint()
    await stream.send_all(b"bye")


async def async_waits(stream: AsyncConnection) -> None:
    """Several tasks may."""
    await stream.send_all(b"ready")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(stream.closing.wait)
    await stream.send_all(b"bye")


async def async_waits_while_receiving(stream: AsyncConnection) -> None:
    async def say_bye() -> None:
        await stream.closing.wait()
        await stream.send_all(b"bye")
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_bye)
        await stream.send_all(b"ready")
        await stream.receive_some()


SEEING: dict[str, Callable[..., Any]] = {
    "asks": asks,
    "waits": waits,
    "selects": selects,
    "async_asks": async_asks,
    "async_waits": async_waits,
    "async_waits_while_receiving": async_waits_while_receiving,
    "own_loop_asks": own_loop(async_asks),
    "own_loop_waits": own_loop(async_waits),
    "own_loop_waits_while_receiving": own_loop(async_waits_while_receiving),
}


def can_see(strategy_name: str, how: str) -> bool:
    return strategy_name == "trio" or not how.startswith("async")


@pytest.mark.parametrize(("strategy_name", "how"), [(s, h) for s in strategy_names() for h in SEEING if can_see(s, h)])
def test_a_handler_sees_it_coming(strategy_name: str, how: str, recorder: Recorder) -> None:
    with serving(Server(ENDPOINT, SEEING[how], strategy_name), recorder) as server, client(server) as sock:
        assert receive(sock, 5) == b"ready"
        with stopping(server) as reports:
            assert receive(sock, 100) == b"bye"
        check_completed(reports)
    assert recorder.events == []


# The account


@over(V4, PAIRS)
def test_the_bytes_of_a_connection_are_counted(server: Server, recorder: Recorder) -> None:
    with client(server) as sock:
        assert ask(sock, b"hello\n") == b"hello\n"
        sock.sendall(b"%d\n" % ISSUED)
        assert len(receive(sock, ISSUED)) == ISSUED
        sock.sendall(b"half")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        (closed,) = recorder.wait_for(ConnectionClosed)
    assert (closed.received, closed.sent) == (6 + 8 + 4, 6 + ISSUED)
    assert 0 < closed.seconds < TIMEOUT
    assert closed.id == 1


@every_strategy
def test_the_bytes_of_handlers_that_fail_are_counted(strategy_name: str, recorder: Recorder) -> None:
    def handle(connection: Connection) -> None:
        connection.sendall(connection.recv_exactly(3))
        raise RuntimeError("afterwards")

    server = Server(ENDPOINT, handle, strategy_name)
    server.subscribe(recorder)
    with serving(server), client(server) as sock:
        assert ask(sock, b"abc") == b"abc"
        (closed,) = recorder.wait_for(ConnectionClosed)
    assert (closed.received, closed.sent) == (3, 3)
    assert len(recorder.of(HandlerFailed)) == 1


@every_strategy
def test_the_bytes_of_those_that_are_cut_are_counted(strategy_name: str, recorder: Recorder) -> None:
    server = Server(ENDPOINT, function, strategy_name)
    server.subscribe(recorder)
    with serving(server), client(server) as sock:
        sock.sendall(b"hel")
        wait_taken(server)
        server.stop(grace=0)
        (closed,) = recorder.wait_for(ConnectionClosed)
    assert (closed.received, closed.sent) == (3, 0)


@every_strategy
def test_the_bytes_of_files_and_messages_are_counted(strategy_name: str, recorder: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))

    def handle(connection: Connection) -> None:
        sock = connection.socket
        sock.recv(10, socket.MSG_PEEK)
        sock.recvmsg(1)
        sock.recv_into(bytearray(2))
        sock.recvfrom(3)
        with path.open("rb") as file:
            sock.sendfile(file)
            sock.sendfile(file, 0, 100)
        sock.sendmsg([b"12", b"345"])
        sock.send(b"6")
        sock.sendall(memoryview(bytes(8)).cast("I"))

    server = Server(ENDPOINT, handle, strategy_name)
    server.subscribe(recorder)
    with serving(server), client(server) as sock:
        sock.sendall(b"123456")
        assert len(receive(sock, 10_000)) == 1114
        (closed,) = recorder.wait_for(ConnectionClosed)
    assert (closed.received, closed.sent) == (6, 1114)


@pytest.mark.parametrize("how", ["recvmsg_into", "sendto"])
def test_other_calls_are_counted(how: str, recorder: Recorder) -> None:
    def handle(connection: Connection) -> None:
        sock = connection.socket
        if how == "recvmsg_into":
            sock.recvmsg_into([bytearray(6)])
        else:
            sock.sendto(b"123456", sock.getpeername())

    server = Server(ENDPOINT, handle, "thread")
    server.subscribe(recorder)
    with serving(server), client(server) as sock:
        sock.sendall(b"123456")
        (closed,) = recorder.wait_for(ConnectionClosed)
    assert closed.received + closed.sent == 6


def test_receiving_into_a_structure(recorder: Recorder) -> None:
    import ctypes  # noqa: PLC0415 - for this test alone

    class Head(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint32),)

    def handle(connection: Connection) -> None:
        head = Head()
        connection.socket.recv_into(head)
        connection.sendall(b"%d" % socket.ntohl(head.length))

    with serving(Server(ENDPOINT, handle, "thread")) as server, client(server) as sock:
        sock.sendall(b"\0\0\0\7")
        assert receive(sock, 1) == b"7"


@pytest.mark.parametrize("strategy_name", [name for name in strategy_names() if name != "fork"])
def test_a_handler_that_stopped_waiting_is_not_idle(strategy_name: str) -> None:
    """It looked whether something came, and went on with a reply that the client does not read."""
    began = threading.Event()

    def handle(connection: Connection) -> None:
        connection.settimeout(0.01)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(None)
        began.set()
        connection.sendall(bytes(2**24))

    with serving(Server(ENDPOINT, handle, strategy_name)) as server, client(server) as sock:
        assert began.wait(TIMEOUT)
        report = server.stop(grace=0.05)
        assert report.cut == (sock.getsockname(),)
        assert report.completed == 0
