"""Deadlines: a peer that takes too long ends its own connection, whatever the handler uses to wait for it."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import plugsocket
from plugsocket import (
    AsyncConnection,
    Connection,
    DeadlineError,
    Deadlines,
    OptionError,
    Server,
    StreamRequestHandler,
    Trio,
    own_loop,
)
from plugsocket.core.events import ConnectionClosed, HandlerFailed
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import TIMEOUT, client, function, receive, serving, strategy_names
from tests.test_matrix import STREAMS, composes, endpoint_of, over

ENDPOINT = "tcp://127.0.0.1:0"
SHORT = 0.05  # seconds; a deadline that is to be reached
BIG = 16 * 2**20  # bytes; more than the buffers of the system take
CHUNK = bytes(2**20)

every_strategy = pytest.mark.parametrize("strategy_name", strategy_names())


# Handlers of every kind that read the head of a request, up to an empty line, and reply.


def reply_to(head: bytes) -> int:
    """How many bytes to reply with."""
    return BIG if b"big" in head else 4


def reads_head(connection: Connection) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = connection.recv(100)
        if not chunk:
            return
        head += chunk
    connection.sendall(bytes(reply_to(head)))


def makes_file(connection: Connection) -> None:
    with connection.makefile("rwb") as file:
        head = b"".join(iter(file.readline, b"\r\n"))
        file.write(bytes(reply_to(head)))


class HandlerClass(StreamRequestHandler):
    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        self.wfile.write(bytes(reply_to(head)))


class HttpHandler(BaseHTTPRequestHandler):
    """It takes a deadline for what it takes a time-out for: it logs it, and gives the connection up."""

    def do_GET(self) -> None:
        self.wfile.write(bytes(reply_to(self.path.encode())))

    def log_message(self, *_: Any) -> None:
        pass


async def async_function(stream: AsyncConnection) -> None:
    head = b""
    async for chunk in stream:
        head += chunk
        if b"\r\n\r\n" in head:
            await stream.send_all(bytes(reply_to(head)))
            return


HANDLERS: dict[str, Any] = {
    "function": reads_head,
    "makefile": makes_file,
    "class": HandlerClass,
    "http": HttpHandler,
    "async": async_function,
    "own_loop": own_loop(async_function),
}
PAIRS = [(s, h) for s in strategy_names() for h in HANDLERS if composes(s, h)]
V4 = [example for example in STREAMS if example[1] == 0]  # IPv6 waits as IPv4 does
ONE = V4[:1]
FUNCTIONS = [pair for pair in PAIRS if pair[1] in {"function", "async", "own_loop"}]


@contextmanager
def timed_server(handler: Any, strategy_name: str, endpoint: Any = ENDPOINT, **options: Any) -> Iterator[Server]:
    """Serve under deadlines; to be told of everything from the start, a subscriber goes with `recorder=`."""
    recorder = options.pop("recorder", None)
    server = Server(endpoint, handler, strategy_name, deadlines=Deadlines(**options))
    if recorder is not None:
        server.subscribe(recorder)
    with serving(server):
        yield server


def check_late(server: Server, recorder: Recorder, handler_name: str, deadline: str, message: str) -> None:
    """Check that one handler ran into a deadline, and into this one."""
    assert server.wait(connections=0, timeout=TIMEOUT)
    stats = server.stats
    assert (stats.failed, stats.disconnected, stats.completed) == (0, 0, 1)
    if handler_name == "http":
        assert stats.timed_out == 0
        return
    assert stats.timed_out == 1
    (failure,) = recorder.of(HandlerFailed)
    assert isinstance(failure.error, DeadlineError)
    assert isinstance(failure.error, TimeoutError)
    assert message in str(failure.error)
    if not isinstance(failure.error, plugsocket.ChildError):
        assert failure.error.deadline == deadline


# Each deadline, and each way to wait


@over(V4, PAIRS)
def test_first_byte(example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder) -> None:
    endpoint = endpoint_of(example, tmp_path)
    with timed_server(
        HANDLERS[handler_name], strategy_name, endpoint, first_byte=SHORT, request=TIMEOUT, recorder=recorder
    ) as server:
        began = time.monotonic()
        with client(server) as sock:
            assert sock.recv(1) == b""
        assert SHORT <= time.monotonic() - began < TIMEOUT / 2
        check_late(server, recorder, handler_name, "first_byte", "no byte came within 0.05 s")


@over(ONE, PAIRS)
def test_idle(example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder) -> None:
    endpoint = endpoint_of(example, tmp_path)
    with timed_server(
        HANDLERS[handler_name], strategy_name, endpoint, idle=SHORT, first_byte=TIMEOUT, recorder=recorder
    ) as server:
        began = time.monotonic()
        with client(server) as sock:
            sock.sendall(b"GET /half-a-line")
            assert sock.recv(1) == b""
        assert SHORT <= time.monotonic() - began < TIMEOUT / 2
        check_late(server, recorder, handler_name, "idle", "no byte went either way for 0.05 s")


@over(ONE, PAIRS)
def test_a_byte_now_and_then_does_not_push_the_request_away(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> None:
    endpoint = endpoint_of(example, tmp_path)
    deadlines = {"request": 2 * SHORT, "idle": TIMEOUT, "first_byte": TIMEOUT}
    with timed_server(HANDLERS[handler_name], strategy_name, endpoint, **deadlines, recorder=recorder) as server:
        began = time.monotonic()
        with client(server) as sock:
            sock.settimeout(0.02)  # between two bytes
            sock.sendall(b"GET /")
            ended = False
            while not ended and time.monotonic() - began < TIMEOUT / 2:
                sock.sendall(b"x")
                with suppress(TimeoutError):
                    ended = sock.recv(1) == b""
        assert ended
        assert time.monotonic() - began >= 2 * SHORT
        check_late(server, recorder, handler_name, "request", "the request took longer than 0.1 s")


@pytest.mark.parametrize("which", ["request", "idle"])
@over(ONE, PAIRS)
def test_a_client_that_does_not_read_is_ended_too(
    example: Any, strategy_name: str, handler_name: str, which: str, tmp_path: Path, recorder: Recorder
) -> None:
    endpoint = endpoint_of(example, tmp_path)
    handler = HANDLERS[handler_name]
    for seconds in (5 * SHORT, 20 * SHORT, TIMEOUT / 4):  # the longer ones for machines that take as long to begin
        recorder.events.clear()
        with (
            timed_server(handler, strategy_name, endpoint, **{which: seconds}, recorder=recorder) as server,
            client(server) as sock,
        ):
            sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
            if sock.recv(1, socket.MSG_PEEK):  # it has begun
                check_late(server, recorder, handler_name, which, f"{seconds:g} s")
                return
    pytest.fail("no reply has begun")


@over(ONE, PAIRS)
def test_who_is_in_time_notices_nothing(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> None:
    endpoint = endpoint_of(example, tmp_path)
    deadlines = {"first_byte": TIMEOUT, "idle": TIMEOUT, "request": TIMEOUT}
    with timed_server(HANDLERS[handler_name], strategy_name, endpoint, **deadlines, recorder=recorder) as server:
        with client(server) as sock:
            sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
            assert len(receive(sock, BIG)) == BIG
            sock.shutdown(socket.SHUT_WR)
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert recorder.of(HandlerFailed) == []
    assert server.stats.timed_out == 0


# What the handler can do about it


def answers_late(connection: Connection) -> None:
    try:
        while connection.recv(100):
            pass
    except DeadlineError as error:
        connection.sendall(error.deadline.encode())


async def async_answers_late(stream: AsyncConnection) -> None:
    try:
        async for _ in stream:
            pass
    except DeadlineError as error:
        await stream.send_all(error.deadline.encode())


ANSWERING: dict[str, Any] = {
    "function": answers_late,
    "async": async_answers_late,
    "own_loop": own_loop(async_answers_late),
}


@pytest.mark.parametrize("which", ["first_byte", "idle", "request"])
@pytest.mark.parametrize(("strategy_name", "handler_name"), FUNCTIONS)
def test_catching_it_and_answering(strategy_name: str, handler_name: str, which: str) -> None:
    """Once the request is over, nothing can be said any more."""
    with timed_server(ANSWERING[handler_name], strategy_name, **{which: SHORT}) as server, client(server) as sock:
        if which != "first_byte":
            sock.sendall(b"x")
        assert receive(sock, 100) == (b"" if which == "request" else which.encode())
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.timed_out == (which == "request")


@every_strategy
def test_expire_in_begins_anew(strategy_name: str, recorder: Recorder) -> None:
    """With each request: together they take longer than one of them may, as does what is between them."""
    patience = 20 * SHORT

    def handle(connection: Connection) -> None:
        connection.expire_in(TIMEOUT)
        while connection.recv(1):
            connection.expire_in(patience)
            connection.sendall(b"y")

    with timed_server(handle, strategy_name, request=SHORT, recorder=recorder) as server, client(server) as sock:
        began = time.monotonic()
        while time.monotonic() - began < 1.2 * patience:
            sock.sendall(b"x")
            assert sock.recv(1) == b"y"
            time.sleep(SHORT)  # the client takes its time, of which each request has much
        assert sock.recv(1) == b""
        check_late(server, recorder, "function", "request", f"the request took longer than {patience:g} s")


def expires_without(connection: Connection) -> None:
    connection.expire_in(SHORT)
    connection.recv(1)


async def async_expires_without(stream: AsyncConnection) -> None:
    stream.expire_in(SHORT)
    await stream.receive_some()


EXPIRING: dict[str, Any] = {
    "function": expires_without,
    "async": async_expires_without,
    "own_loop": own_loop(async_expires_without),
}


@pytest.mark.parametrize(("strategy_name", "handler_name"), FUNCTIONS)
def test_expire_in_without_other_deadlines(strategy_name: str, handler_name: str, recorder: Recorder) -> None:
    with timed_server(EXPIRING[handler_name], strategy_name, recorder=recorder) as server, client(server) as sock:
        assert sock.recv(1) == b""
        check_late(server, recorder, handler_name, "request", "the request took longer than 0.05 s")


@every_strategy
def test_expire_in_none_is_never(strategy_name: str) -> None:
    def handle(connection: Connection) -> None:
        connection.expire_in(None)
        while chunk := connection.recv(1):
            connection.sendall(chunk)

    with timed_server(handle, strategy_name, request=SHORT) as server, client(server) as sock:
        assert server.wait(connections=1, timeout=TIMEOUT)
        assert not server.wait(connections=0, timeout=2 * SHORT)  # in which nothing happens
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


# Beside the time-outs of sockets


@every_strategy
def test_a_time_out_of_the_handlers_own_still_works(strategy_name: str, recorder: Recorder) -> None:
    def handle(connection: Connection) -> None:
        connection.settimeout(0.02)
        for _ in range(2):
            try:
                connection.recv(1)
            except TimeoutError as error:
                connection.sendall(b"deadline" if isinstance(error, DeadlineError) else b"own ")

    with (
        timed_server(handle, strategy_name, request=TIMEOUT, first_byte=TIMEOUT, recorder=recorder) as server,
        client(server) as sock,
    ):
        assert receive(sock, 100) == b"own own "
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert server.stats.timed_out == 0


@every_strategy
def test_a_long_time_out_of_the_handlers_own_gives_the_client_no_more(strategy_name: str) -> None:
    def handle(connection: Connection) -> None:
        connection.settimeout(TIMEOUT)
        try:
            connection.recv(1)
        except DeadlineError:
            connection.sendall(b"deadline")

    with timed_server(handle, strategy_name, idle=SHORT) as server, client(server) as sock:
        assert receive(sock, 100) == b"deadline"


@every_strategy
def test_a_time_out_of_the_handlers_own_when_sending(strategy_name: str, recorder: Recorder) -> None:
    def handle(connection: Connection) -> None:
        connection.settimeout(0.02)
        with pytest.raises(TimeoutError) as caught:
            connection.sendall(bytes(BIG))
        assert not isinstance(caught.value, DeadlineError)

    with timed_server(handle, strategy_name, request=TIMEOUT, recorder=recorder) as server, client(server):
        recorder.wait_for(ConnectionClosed)
    assert (server.stats.timed_out, server.stats.failed) == (0, 0)


@every_strategy
def test_non_blocking_mode_is_left_alone(strategy_name: str) -> None:
    def handle(connection: Connection) -> None:
        connection.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        with pytest.raises(BlockingIOError):
            sends_for_ever(lambda sock: sock.send(CHUNK))(connection.socket)

    with timed_server(handle, strategy_name, first_byte=TIMEOUT, idle=TIMEOUT) as server, client(server) as sock:
        while sock.recv(65_536):
            pass
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert server.stats.failed == 0


@every_strategy
def test_a_single_call_that_is_not_to_wait_does_not(strategy_name: str) -> None:
    def handle(connection: Connection) -> None:
        try:
            connection.socket.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            connection.sendall(b"nothing")

    with timed_server(handle, strategy_name, request=TIMEOUT / 4) as server, client(server) as sock:
        assert receive(sock, 100) == b"nothing"


# Every call of sockets


def peeks(sock: socket.socket) -> bytes:
    assert sock.recv(4, socket.MSG_PEEK) == sock.recv(4, socket.MSG_PEEK)
    return sock.recv(4)


def recv_into(sock: socket.socket) -> bytes:
    buffer = bytearray(4)
    assert sock.recv_into(buffer) == 4
    return bytes(buffer)


def recv_into_some(sock: socket.socket) -> bytes:
    buffer = bytearray(10)
    assert sock.recv_into(buffer, 4) == 4
    return bytes(buffer[:4])


def recvfrom_into(sock: socket.socket) -> bytes:
    buffer = bytearray(4)
    assert sock.recvfrom_into(buffer)[0] == 4
    return bytes(buffer)


def recvmsg_into(sock: socket.socket) -> bytes:
    buffer = bytearray(4)
    sock.recvmsg_into([buffer])
    return bytes(buffer)


RECEIVING: dict[str, Callable[[socket.socket], bytes]] = {
    "recv": lambda sock: sock.recv(4),
    "recvfrom": lambda sock: sock.recvfrom(4)[0],
    "recvmsg": lambda sock: sock.recvmsg(4)[0],
    "recv_into": recv_into,
    "recv_into_some": recv_into_some,
    "recvfrom_into": recvfrom_into,
    "recvmsg_into": recvmsg_into,
    "peek": peeks,
    "all": lambda sock: sock.recv(4, socket.MSG_WAITALL),
}


@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize("how", RECEIVING)
def test_every_way_to_receive(how: str, silent: bool, recorder: Recorder) -> None:

    def handle(connection: Connection) -> None:
        connection.sendall(RECEIVING[how](connection.socket))

    first_byte = SHORT if silent else TIMEOUT
    with timed_server(handle, "thread", first_byte=first_byte, recorder=recorder) as server, client(server) as sock:
        if silent:
            assert sock.recv(10) == b""
            check_late(server, recorder, "function", "first_byte", "no byte came")
            return
        sock.sendall(b"1234")
        assert sock.recv(10) == b"1234"
        (closed,) = recorder.wait_for(ConnectionClosed)
        assert (closed.received, closed.sent) == (4, 4)


def test_waiting_for_all_of_the_bytes(recorder: Recorder) -> None:
    def handle(connection: Connection) -> None:
        connection.socket.recv(10, socket.MSG_WAITALL)

    with timed_server(handle, "thread", request=SHORT, recorder=recorder) as server, client(server) as sock:
        sock.sendall(b"12")
        assert sock.recv(10) == b""
        check_late(server, recorder, "function", "request", "0.05 s")


def sends_file(sock: socket.socket) -> None:
    with open("/dev/zero", "rb") as file:
        sock.sendfile(file, 0, BIG)


def sends_regular_file(sock: socket.socket, path: Path) -> None:
    with path.open("rb") as file:
        sock.sendfile(file)


def sends_for_ever(call: Callable[[socket.socket], object]) -> Callable[[socket.socket], None]:
    def send(sock: socket.socket) -> None:
        while True:
            call(sock)

    return send


SENDING: dict[str, Callable[[socket.socket], object]] = {
    "sendall": lambda sock: sock.sendall(bytes(BIG)),
    "send": sends_for_ever(lambda sock: sock.send(CHUNK)),
    "sendmsg": sends_for_ever(lambda sock: sock.sendmsg([CHUNK, CHUNK])),
    "sendfile": sends_file,
    "sendto": sends_for_ever(lambda sock: sock.sendto(CHUNK, sock.getpeername())),
}


@pytest.mark.parametrize("how", [*(h for h in SENDING if h != "sendto"), pytest.param("sendto")])
def test_every_way_to_send(how: str, recorder: Recorder) -> None:
    def handle(connection: Connection) -> None:
        SENDING[how](connection.socket)

    with timed_server(handle, "thread", request=SHORT, recorder=recorder) as server, client(server):
        recorder.wait_for(HandlerFailed)
        check_late(server, recorder, "function", "request", "0.05 s")


@pytest.mark.parametrize("limited", [True, False])
@every_strategy
def test_files_arrive_whole(strategy_name: str, limited: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)

    def handle(connection: Connection) -> None:
        with path.open("rb") as file:
            assert connection.socket.sendfile(file) == 2**20
            assert file.tell() == 2**20
            assert connection.socket.sendfile(file, 256, 512) == 512
            assert file.tell() == 768

    with timed_server(handle, strategy_name, request=TIMEOUT if limited else None) as server, client(server) as sock:
        assert receive(sock, 2**20) + receive(sock, 512) == path.read_bytes() + bytes(range(256)) * 2


def test_waiting_until_sending_might_not_block(recorder: Recorder) -> None:
    async def handle(stream: AsyncConnection) -> None:
        while True:
            with suppress(BlockingIOError):
                while True:
                    stream.socket._sock.send(CHUNK)  # type: ignore[attr-defined]
            await stream.wait_send_all_might_not_block()

    with timed_server(handle, "trio", request=SHORT, recorder=recorder) as server, client(server):
        recorder.wait_for(HandlerFailed)
        check_late(server, recorder, "async", "request", "0.05 s")


# What is told


def test_one_record_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(ENDPOINT, reads_head, "thread", deadlines=Deadlines(first_byte=SHORT))
    with caplog.at_level(logging.INFO, logger="plugsocket"), server:
        server.start()
        with client(server) as sock:
            assert sock.recv(1) == b""
        assert server.wait(connections=0, timeout=TIMEOUT)
        records = list(caplog.records)
    (record,) = [record for record in records if "handler failed" in record.getMessage()]
    assert record.levelno == logging.INFO
    assert record.exc_info is None
    assert "no byte came within 0.05 s" in record.getMessage()


@pytest.mark.parametrize("strategy_name", ["fork"])
def test_one_record_of_a_child(strategy_name: str, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(ENDPOINT, reads_head, strategy_name, deadlines=Deadlines(idle=SHORT))
    with caplog.at_level(logging.INFO, logger="plugsocket"), server:
        server.start()
        with client(server) as sock:
            assert sock.recv(1) == b""
        assert server.wait(connections=0, timeout=TIMEOUT)
        records = list(caplog.records)
    (record,) = [record for record in records if "handler failed" in record.getMessage()]
    assert (record.levelno, record.exc_info) == (logging.INFO, None)


def test_a_child_tells_which_deadline_it_was(recorder: Recorder) -> None:
    with timed_server(reads_head, "fork", first_byte=SHORT, recorder=recorder) as server, client(server):
        (failure,) = recorder.wait_for(HandlerFailed)
    assert failure.error.deadline == "first_byte"  # type: ignore[attr-defined]


async def with_nursery(stream: AsyncConnection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)


@pytest.mark.parametrize(("strategy_name", "handler"), [("trio", with_nursery), ("thread", own_loop(with_nursery))])
def test_the_group_that_a_nursery_makes_of_it(strategy_name: str, handler: Any, recorder: Recorder) -> None:
    with timed_server(handler, strategy_name, first_byte=SHORT) as server, client(server) as sock:
        assert sock.recv(1) == b""
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert (server.stats.timed_out, server.stats.failed) == (1, 0)


# In virtual time


async def in_virtual_time(deadlines: Deadlines, behave: Callable[[trio.SocketStream], Any]) -> tuple[float, Server]:
    """Serve one client; return how long it took by the clock of trio, which goes as fast as it likes."""
    server = Server(ENDPOINT, async_function, Trio(), deadlines=deadlines)
    server.unsubscribe(plugsocket.log_events)
    server.bind()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        began = trio.current_time()
        async with await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port) as stream:
            await behave(stream)
        seconds = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return seconds, server


async def silent(stream: trio.SocketStream) -> None:
    assert await stream.receive_some() == b""


async def half_a_line(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET /")
    assert await stream.receive_some() == b""


async def now_and_then(stream: trio.SocketStream) -> None:
    while True:
        with trio.move_on_after(10):
            assert await stream.receive_some() == b""
            return
        await stream.send_all(b"x")


async def never_reads(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET /big\r\n\r\n")
    await trio.sleep(1000)


@pytest.mark.parametrize(
    ("deadlines", "behave", "seconds"),
    [
        (Deadlines(first_byte=30, idle=60, request=600), silent, 30),
        (Deadlines(first_byte=30, idle=60, request=600), half_a_line, 60),
        (Deadlines(first_byte=30, idle=60, request=600), now_and_then, 600),
        (Deadlines(idle=60), never_reads, 1000),
        (Deadlines(request=60), never_reads, 1000),
    ],
)
def test_in_virtual_time(deadlines: Deadlines, behave: Any, seconds: float) -> None:
    took, server = trio.run(in_virtual_time, deadlines, behave, clock=MockClock(autojump_threshold=0.01))
    assert took == pytest.approx(seconds, abs=1)
    assert server.stats.timed_out == 1


# What cannot work


@pytest.mark.parametrize("endpoint", ["udp://127.0.0.1:0", "unixgram://@plugsocket-deadlines"])
@pytest.mark.parametrize("deadlines", [Deadlines(first_byte=1), Deadlines(linger=1)])
def test_datagrams_have_none(endpoint: str, deadlines: Deadlines) -> None:
    with pytest.raises(OptionError, match=r"deadlines are for connections, which .* does not have"):
        Server(endpoint, function, deadlines=deadlines)


def test_datagrams_beside_connections_may_be_there() -> None:
    server = Server(["udp://127.0.0.1:0", ENDPOINT], function, deadlines=Deadlines(first_byte=SHORT))
    with serving(server), client(server, 1) as sock:
        assert sock.recv(1) == b""
        with client(server, 0) as datagrams:
            datagrams.send(b"hello")
            assert datagrams.recv(10) == b"hello"


@pytest.mark.parametrize("name", ["first_byte", "idle", "request", "linger"])
@pytest.mark.parametrize("value", [-1, "1", float("nan"), True, [1]])
def test_what_is_no_duration_is_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} must be a number of seconds, zero or more"):
        Deadlines(**{name: value})


@pytest.mark.parametrize("value", [-1, float("nan")])
def test_expire_in_refuses_what_is_no_duration(value: float) -> None:
    caught = threading.Event()

    def handle(connection: Connection) -> None:
        with suppress(ValueError):
            connection.expire_in(value)
            return
        caught.set()

    with timed_server(handle, "thread") as server, client(server) as sock:
        assert sock.recv(1) == b""
        if not caught.is_set():
            pytest.fail("it was taken")


@pytest.mark.parametrize("strategy_name", strategy_names())
def test_a_handler_class_begins_anew(strategy_name: str) -> None:
    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.request.expire_in(TIMEOUT)
            line = self.rfile.readline()
            self.request.expire_in(SHORT)
            try:
                self.rfile.readline()
            except DeadlineError as error:
                self.request.expire_in(None)
                self.wfile.write(line + str(error).encode())

    server = Server(ENDPOINT, Handler, strategy_name, deadlines=Deadlines(request=TIMEOUT))
    with serving(server) as server, client(server) as sock:
        sock.sendall(b"hello\n")
        assert sock.makefile("rb").read() == b"hello\nthe request took longer than %g s" % SHORT
