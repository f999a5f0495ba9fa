"""Closing that lingers: a reply arrives although its request was not read; bounded in time, bytes and number."""

import http.client
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trio

from plugsocket import AsyncConnection, Connection, Deadlines, Limits, Server, State, own_loop
from plugsocket.core import lingering
from plugsocket.core.events import HandlerFailed
from plugsocket.handlers.classes import StreamRequestHandler
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.testing import low_descriptor_limit
from tests.kit import TIMEOUT, client, receive, serving, strategy_names, until
from tests.test_matrix import STREAMS, composes, endpoint_of, over

ENDPOINT = "tcp://127.0.0.1:0"
SOON = 10.0  # seconds; a stop that waits for those who linger takes as long as they may, which is 60
UPLOAD = bytes(8 * 2**20)
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge"

every_strategy = pytest.mark.parametrize("strategy_name", strategy_names())


# Handlers that reply without having read what is sent to them.


def function(connection: Connection) -> None:
    connection.sendall(TOO_LARGE)


class HandlerClass(StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(TOO_LARGE)


class HttpHandler(BaseHTTPRequestHandler):
    """It reads the head, and not the body."""

    def do_POST(self) -> None:
        self.send_response(413)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"large")

    def log_message(self, *_: Any) -> None:
        pass


async def async_function(stream: AsyncConnection) -> None:
    await stream.send_all(TOO_LARGE)


async def async_closing(stream: AsyncConnection) -> None:
    async with stream:
        await stream.send_all(TOO_LARGE)


HANDLERS: dict[str, Any] = {
    "function": function,
    "class": HandlerClass,
    "http": HttpHandler,
    "async": async_function,
    "own_loop": own_loop(async_function),
}

PAIRS = [(s, h) for s in strategy_names() for h in HANDLERS if composes(s, h)]
V4 = [example for example in STREAMS if example[1] == 0]  # IPv6 closes as IPv4 does


@contextmanager
def lingering_server(
    handler: Any, strategy_name: str, endpoint: Any = ENDPOINT, *, linger: float = 60.0, **options: Any
) -> Iterator[Server]:
    server = Server(endpoint, handler, strategy_name, deadlines=Deadlines(linger=linger), **options)
    with serving(server):
        yield server


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def upload(port: int) -> int:
    """Have http.client post 8 MiB, which it does to the end before it reads; return the status of the reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("POST", "/", UPLOAD)
        response = connection.getresponse()
        assert response.read() == b"large"
        return response.status
    finally:
        connection.close()


def statuses_of(server: Server, count: int) -> list[int]:
    statuses: list[int] = []
    port = server.addresses[0].port
    todo = list(range(count))

    def work() -> None:
        while todo:
            with suppress(IndexError):
                todo.pop()
                with suppress(OSError, http.client.HTTPException):  # it shows in the number of those that came
                    statuses.append(upload(port))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT * 2)
    return statuses


@pytest.mark.parametrize(("strategy_name", "handler_name"), PAIRS)
def test_everyone_reads_the_reply_to_an_upload_that_nobody_read(
    strategy_name: str, handler_name: str, recorder: Recorder
) -> None:
    with lingering_server(HANDLERS[handler_name], strategy_name) as server:
        server.subscribe(recorder)
        count = 40 if handler_name in {"function", "async"} else 10
        assert statuses_of(server, count) == [413] * count
    assert recorder.of(HandlerFailed) == []


# The same of one connection, step by step: what the client sent waits unread when the handler is done.


def replies_unread(connection: Connection) -> None:
    select.select([connection], [], [])
    connection.sendall(b"bye")


class RepliesUnread(StreamRequestHandler):
    def handle(self) -> None:
        select.select([self.request], [], [])
        self.wfile.write(b"bye")


async def async_replies_unread(stream: AsyncConnection) -> None:
    await trio.lowlevel.wait_readable(stream.socket)
    await stream.send_all(b"bye")


UNREAD: dict[str, Any] = {
    "function": replies_unread,
    "class": RepliesUnread,
    "async": async_replies_unread,
    "own_loop": own_loop(async_replies_unread),
}
UNREAD_PAIRS = [(s, h) for s in strategy_names() for h in UNREAD if composes(s, h)]


def say_more(sock: socket.socket) -> None:
    """Send on: a connection that is closed answers the first bytes with a reset, so that later ones fail."""
    for _ in range(100):
        sock.sendall(b"more, which nobody minds")


@over(V4, UNREAD_PAIRS)
def test_no_reset(example: Any, strategy_name: str, handler_name: str, tmp_path: Path) -> None:
    with (
        lingering_server(UNREAD[handler_name], strategy_name, endpoint_of(example, tmp_path)) as server,
        client(server) as sock,
    ):
        sock.sendall(b"something")
        assert receive(sock, 3) == b"bye"
        assert server.wait(connections=0, timeout=TIMEOUT)
        say_more(sock)
        assert sock.recv(1) == b""


@over(V4, UNREAD_PAIRS)
def test_none_is_the_old_way(example: Any, strategy_name: str, handler_name: str, tmp_path: Path) -> None:
    with (
        lingering_server(UNREAD[handler_name], strategy_name, endpoint_of(example, tmp_path), linger=0) as server,
        client(server) as sock,
    ):
        sock.sendall(b"something")
        assert receive(sock, 3) == b"bye"
        assert server.wait(connections=0, timeout=TIMEOUT)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            say_more(sock)


class ClosesItself(HandlerClass):
    def handle(self) -> None:
        super().handle()
        self.request.close()


def closes_itself(connection: Connection) -> None:
    function(connection)
    connection.close()


@pytest.mark.parametrize(
    ("strategy_name", "handler"),
    [("thread", closes_itself), ("thread", ClosesItself), ("trio", closes_itself), ("trio", async_closing)],
)
def test_a_handler_that_closes_by_itself_loses_nothing_either(strategy_name: str, handler: Any) -> None:
    with lingering_server(handler, strategy_name) as server:
        assert statuses_of(server, 4) == [413] * 4


# Bounds


@over(V4, [pair for pair in UNREAD_PAIRS if pair[1] in {"function", "async"}])
def test_a_client_that_never_closes(example: Any, strategy_name: str, handler_name: str, tmp_path: Path) -> None:
    endpoint = endpoint_of(example, tmp_path)
    with (
        lingering_server(UNREAD[handler_name], strategy_name, endpoint, linger=0.2) as server,
        client(server) as sock,
    ):
        began = time.monotonic()
        sock.sendall(b"something")
        assert receive(sock, 100) == b"bye"

        def is_closed() -> bool:
            try:
                sock.send(b"more")
            except OSError:
                return True
            return False

        until(is_closed)
        assert time.monotonic() - began >= 0.2


@over(V4, [pair for pair in UNREAD_PAIRS if pair[1] in {"function", "async"}])
def test_a_client_that_sends_for_ever(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "MOST_BYTES", 2**20)
    endpoint = endpoint_of(example, tmp_path)
    with lingering_server(UNREAD[handler_name], strategy_name, endpoint) as server, client(server) as sock:
        sent = 0
        with suppress(ConnectionResetError, BrokenPipeError):
            while sent < 64 * 2**20:
                sent += sock.send(bytes(65_536))
        assert 2**20 <= sent < 64 * 2**20


@pytest.mark.parametrize(("strategy_name", "handler_name"), UNREAD_PAIRS)
def test_beyond_the_number_they_are_closed_as_they_come(
    strategy_name: str, handler_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "MOST", 3)
    with lingering_server(UNREAD[handler_name], strategy_name) as server, ExitStack() as stack:
        before = descriptors()
        for _ in range(6):
            sock = stack.enter_context(client(server))
            sock.sendall(b"something")
            with suppress(ConnectionResetError, BrokenPipeError):
                assert receive(sock, 3) == b"bye"
            assert server.wait(connections=0, timeout=TIMEOUT)
        threads = sum(thread.name.startswith("Trio thread") for thread in threading.enumerate())
        if handler_name != "own_loop":
            until(lambda: len(server._engine.lingering._late) == 3)  # type: ignore[union-attr]
        assert descriptors() - before <= 6 + 3 + threads


@pytest.mark.parametrize(("strategy_name", "handler_name"), UNREAD_PAIRS)
def test_the_slot_is_free_at_once(strategy_name: str, handler_name: str) -> None:
    with (
        lingering_server(
            UNREAD[handler_name], strategy_name, limits=Limits(max_connections=1, max_per_peer=1)
        ) as server,
        ExitStack() as stack,
    ):
        for _ in range(3):
            sock = stack.enter_context(client(server))
            sock.sendall(b"something")
            assert sock.recv(100) == b"bye"
            assert server.wait(connections=0, timeout=TIMEOUT)
    assert server.stats.rejected == 0


@pytest.mark.parametrize(("strategy_name", "handler_name"), UNREAD_PAIRS)
def test_stopping_does_not_wait_for_them(strategy_name: str, handler_name: str) -> None:
    with lingering_server(UNREAD[handler_name], strategy_name) as server, ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(client(server))
            sock.sendall(b"something")
            assert sock.recv(100) == b"bye"
        assert server.wait(connections=0, timeout=TIMEOUT)
        report = server.stop()
        assert (report.completed, report.cut, report.finished) == (0, (), True)
        assert report.seconds < SOON


@pytest.mark.parametrize(("strategy_name", "handler_name"), UNREAD_PAIRS)
def test_one_request_at_a_time(strategy_name: str, handler_name: str) -> None:
    """Between the calls no loop looks after them; the next one does, and the end closes those that are left."""
    server = Server(ENDPOINT, UNREAD[handler_name], strategy_name, deadlines=Deadlines(linger=60))
    server.bind()
    with ExitStack() as stack, server:
        for _ in range(3):
            sock = stack.enter_context(client(server))
            sock.sendall(b"something")
            assert server.handle_request(timeout=TIMEOUT)
            assert sock.recv(100) == b"bye"
        assert server.stop().seconds < SOON
    # and the descriptors are counted after each test


@every_strategy
def test_a_peer_that_has_ended_is_not_waited_for(strategy_name: str) -> None:
    """Which is how nearly all connections end: nothing is to be looked after then."""

    def handle(connection: Connection) -> None:
        while connection.recv(100):
            pass
        connection.sendall(b"bye")

    with lingering_server(handle, strategy_name) as server:
        before = descriptors()
        with client(server) as sock:
            sock.sendall(b"something")
            sock.shutdown(socket.SHUT_WR)
            assert receive(sock, 100) == b"bye"
            assert server.wait(connections=0, timeout=TIMEOUT)
            threads = sum(thread.name.startswith("Trio thread") for thread in threading.enumerate())
            assert descriptors() - before <= 1 + threads


@every_strategy
def test_a_handler_that_fails_lingers_too(strategy_name: str) -> None:
    def handle(connection: Connection) -> None:
        replies_unread(connection)
        raise RuntimeError("after its reply")

    with lingering_server(handle, strategy_name) as server, client(server) as sock:
        sock.sendall(b"something")
        assert receive(sock, 100) == b"bye"


@every_strategy
def test_many_come_and_go_while_others_linger(strategy_name: str) -> None:
    """Descriptors are used again as soon as they are free, while the loop still has their numbers."""
    with lingering_server(replies_unread, strategy_name, linger=0.02) as server, ExitStack() as stack:
        for number in range(60):
            sock = client(server)
            sock.sendall(b"something")
            assert receive(sock, 100) == b"bye"
            if number % 3:
                sock.close()
            else:
                stack.callback(sock.close)
        until(lambda: not server._engine.lingering._late)  # type: ignore[union-attr]
        until(lambda: not server.stats.active)
    assert server.stats.completed == 60


def test_out_of_descriptors_those_that_linger_give_theirs() -> None:
    """Also when input for them comes in the same turn of the loop."""
    with lingering_server(UNREAD["function"], "sync") as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(3)]
        for sock in socks:
            sock.sendall(b"something")
            assert receive(sock, 3) == b"bye"
        late = stack.enter_context(socket.socket())
        late.settimeout(TIMEOUT)
        until(lambda: len(server._engine.lingering._late) == 3)  # type: ignore[union-attr]
        server.pause()
        late.connect(server.addresses[0])
        late.sendall(b"something")
        with low_descriptor_limit(0):
            for sock in socks:
                with suppress(ConnectionError):
                    sock.sendall(b"more")
            server.resume()
            assert receive(late, 3) == b"bye"
        assert server.state is State.SERVING


@pytest.mark.parametrize("strategy_name", strategy_names())
def test_the_time_between_single_requests_counts(strategy_name: str) -> None:
    server = Server(ENDPOINT, discard_nothing(strategy_name), strategy_name, deadlines=Deadlines(linger=0.05))
    server.bind()
    with server, client(server) as first:
        assert server.handle_request(TIMEOUT)
        assert first.recv(1) == b""

        def is_reset() -> bool:
            with client(server):
                assert server.handle_request(TIMEOUT)
            try:
                first.send(b"x")
            except OSError:
                return True
            return False

        until(is_reset)


def discard_nothing(strategy_name: str) -> Any:
    """A handler that returns at once."""

    async def ends(stream: AsyncConnection) -> None:
        return

    return ends if strategy_name == "trio" else lambda connection: None
