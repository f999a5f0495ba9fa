"""What goes wrong under the old names: each of these ends or harms a server of `socketserver`, and not one of ours."""

import io
import logging
import logging.handlers
import os
import queue
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from types import FrameType, ModuleType
from typing import Any

from plugsocket.testing import failing_threads, low_descriptor_limit
from tests.compat_kit import (
    LOOPBACK,
    Pain,
    Pains,
    connected,
    echo,
    handler,
    serving,
    try_out,
    wait_until_idle,
)
from tests.kit import TIMEOUT, until

WHILE = 0.3  # seconds, for what is seen only as time passes

pains = Pains()


# Out of descriptors


class Counted:
    """A mix-in that counts how often a request is asked for."""

    asked = 0

    def get_request(self) -> Any:
        self.asked += 1
        return super().get_request()  # type: ignore[misc]


@contextmanager
def out_of_descriptors(module: Any) -> Iterator[Any]:
    """A server that has a client and no descriptor left to accept it with; afterwards there are some, and it must."""

    class Server(Counted, module.TCPServer):  # type: ignore[misc]
        pass

    with Server(LOOPBACK, echo(module)) as server, serving(server) as loop, socket.socket() as sock:
        assert loop.ask() == b"hello"
        with low_descriptor_limit(0):
            server.asked = 0
            sock.connect(server.server_address)
            yield server
        sock.sendall(b"after all")
        sock.shutdown(socket.SHUT_WR)
        assert loop.answer(sock) == b"after all"


@pains.symptom(r"\AAssertionError: it asked \d{3,} times for a request")
def spins_without_descriptors(module: Any) -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    with out_of_descriptors(module) as server:
        time.sleep(WHILE)
        assert server.asked <= 20, f"it asked {server.asked} times for a request"


@pains.symptom(r"\AAssertionError: it was logged 0 times")
def says_nothing_of_descriptors(module: Any) -> None:
    logged: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logging.getLogger().addHandler(logging.handlers.QueueHandler(logged))
    with out_of_descriptors(module) as server:
        until(lambda: server.asked > 2)
        assert logged.qsize() == 1, f"it was logged {logged.qsize()} times"


# Hooks that raise


class Reported:
    """A mix-in that keeps the exceptions which it is told of."""

    def __init__(self, *arguments: Any) -> None:
        self.reported: list[BaseException | None] = []
        super().__init__(*arguments)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.reported.append(sys.exception())


def fails_once(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that raises when it is called first."""
    failures = [ValueError("the first time")]

    def wrapper(self: Any, *arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return method(self, *arguments)

    return wrapper


def fails_in(module: Any, base: str, hook: str) -> Any:
    """A server whose hook raises when it is called first."""
    cls = getattr(module, base)
    return type("Server", (Reported, cls), {hook: fails_once(getattr(cls, hook))})


LOOP_ENDED = r"\AAssertionError: the loop has ended, with ValueError\('the first time'\)"


@pains.symptom(LOOP_ENDED)
def verify_request_that_raises(module: Any) -> None:
    with fails_in(module, "TCPServer", "verify_request")(LOOPBACK, echo(module)) as server, serving(server) as loop:
        assert loop.turns_away()
        assert loop.ask() == b"hello"
        assert [str(error) for error in server.reported] == ["the first time"]


@pains.symptom(LOOP_ENDED)
def verify_request_that_raises_for_a_datagram(module: Any) -> None:
    with fails_in(module, "UDPServer", "verify_request")(LOOPBACK, echo(module)) as server, serving(server) as loop:
        with connected(server) as sock:
            sock.send(b"refused")
            assert loop.ask() == b"hello"
        assert [str(error) for error in server.reported] == ["the first time"]


@pains.symptom(LOOP_ENDED)
def get_request_that_raises(module: Any) -> None:
    with fails_in(module, "TCPServer", "get_request")(LOOPBACK, echo(module)) as server, serving(server) as loop:
        assert loop.ask() == b"hello"
        assert [str(error) for error in server.reported] == ["the first time"]


@pains.symptom(LOOP_ENDED)
def get_request_that_raises_for_a_datagram(module: Any) -> None:
    with fails_in(module, "UDPServer", "get_request")(LOOPBACK, echo(module)) as server, serving(server) as loop:
        assert loop.ask() == b"hello"
        assert [str(error) for error in server.reported] == ["the first time"]


# Reports


@pains.symptom(r"\AAssertionError: the loop has ended, with BrokenPipeError")
def standard_error_without_a_reader(module: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True) as gone,
        redirect_stderr(gone),
        module.TCPServer(LOOPBACK, echo(module)) as server,
        serving(server) as loop,
    ):
        assert loop.ask(b"raise") == b""
        assert loop.ask() == b"hello"


@pains.symptom(r"\AAssertionError: the loop has ended, with ValueError\('I/O operation on closed file")
def standard_error_that_is_closed(module: Any) -> None:
    closed = io.StringIO()
    closed.close()
    with redirect_stderr(closed), module.TCPServer(LOOPBACK, echo(module)) as server, serving(server) as loop:
        assert loop.ask(b"raise") == b""
        assert loop.ask() == b"hello"


class Slow(io.StringIO):
    """A text file with time for other threads in each write, as a slow terminal has it."""

    def write(self, text: str) -> int:
        time.sleep(0.0005)
        return super().write(text)


@pains.symptom(r"\AAssertionError: [0-4] of 5 reports came out whole")
def reports_of_several_threads(module: Any) -> None:
    together = threading.Barrier(5)

    def fail(self: Any) -> None:
        number = self.request.recv(1).decode()
        together.wait(TIMEOUT)
        raise RuntimeError(f"number {number}")

    with (
        redirect_stderr(Slow()) as printed,
        module.ThreadingTCPServer(LOOPBACK, handler(module, fail)) as server,
        serving(server) as loop,
        ExitStack() as clients,
    ):
        socks = [clients.enter_context(connected(server)) for _ in range(5)]
        for number, sock in enumerate(socks):
            sock.sendall(str(number).encode())
        for sock in socks:
            assert loop.answer(sock) == b""
    whole = {
        number
        for number in range(5)
        for report in printed.getvalue().split("-" * 40 + "\n")
        if re.fullmatch(
            r"Exception occurred during processing of request from \('127.0.0.1', \d+\)\n"
            r"Traceback \(most recent call last\):\n(  .*\n)+"
            rf"RuntimeError: number {number}\n",
            report,
        )
    }
    assert len(whole) == 5, f"{len(whole)} of 5 reports came out whole:\n{printed.getvalue()}"


# Threads


@pains.symptom(r"\ARuntimeError: cannot join thread before it is started")
def a_thread_that_cannot_start(module: Any) -> None:
    class Server(Reported, module.ThreadingTCPServer):  # type: ignore[misc]
        pass

    with Server(LOOPBACK, echo(module)) as server, serving(server) as loop:
        assert loop.ask() == b"hello"
        with failing_threads(1, prefix=""):
            assert loop.turns_away()
        assert [str(error) for error in server.reported] == ["can't start new thread"]


@pains.symptom(r"\AAssertionError: with 40 more threads it takes \d{3,} more calls to start one")
def starting_a_thread_beside_many(module: Any) -> None:
    calls: list[int] = []

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def process_request(self, request: Any, client_address: Any) -> None:
            def count(_frame: FrameType, _event: str, _arg: object) -> None:
                calls[-1] += 1

            calls.append(0)
            sys.setprofile(count)
            try:
                super().process_request(request, client_address)
            finally:
                sys.setprofile(None)

    with Server(LOOPBACK, echo(module)) as server, serving(server) as loop, ExitStack() as clients:
        for _ in range(43):
            sock = clients.enter_context(connected(server))
            sock.sendall(b"stay")
            assert loop.answer(sock) == b"stay"
    more = calls[-1] - calls[2]
    assert more < 40, f"with 40 more threads it takes {more} more calls to start one"


# Sockets


def _reuse_port_is_harmless() -> str:
    """Say why a Unix server of this Python can have `allow_reuse_port`; empty if it cannot."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError:
            version = sys.version_info
            fixed = version >= (3, 13, 2) or (3, 12, 9) <= version < (3, 13)
            return "it is set for IPv4 and IPv6 only, since cpython#128916" if fixed else ""
    return "the kernel allows it, as Linux did before 6.12.9"


@pains.symptom(r"\AOSError: \[Errno 95\]", gone=_reuse_port_is_harmless())
def allow_reuse_port_of_a_unix_server(module: Any) -> None:
    class Server(module.UnixStreamServer):  # type: ignore[misc]
        allow_reuse_port = True

    with Server("socket", echo(module)) as server, serving(server) as loop:
        assert loop.ask() == b"hello"
    os.unlink("socket")


@pains.symptom(r"\AAssertionError: it was told of \[TypeError")
def a_sender_of_datagrams_without_an_address(module: Any) -> None:
    class Server(Reported, module.UnixDatagramServer):  # type: ignore[misc]
        pass

    class Upper(module.DatagramRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.wfile.write(self.rfile.read().upper())

    with Server("socket", Upper) as server, serving(server) as loop:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"do not answer", "socket")
        assert loop.ask() == b"HELLO"
        assert not server.reported, f"it was told of {server.reported}"
    os.unlink("socket")


@pains.symptom(r"\AAssertionError: it was told of \[BrokenPipeError")
def a_client_that_is_gone_before_the_flush(module: Any) -> None:
    class Server(Reported, module.TCPServer):  # type: ignore[misc]
        pass

    class Late(module.StreamRequestHandler):  # type: ignore[misc]
        wbufsize = -1

        def handle(self) -> None:
            with suppress(ConnectionError):
                self.rfile.read()
            self.wfile.write(b"late")

    with Server(LOOPBACK, Late) as server, serving(server) as loop:
        with connected(server) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # to reset (socket(7))
        assert loop.ask() == b"late"
        assert not server.reported, f"it was told of {server.reported}"


class Robbed(socket.socket):
    """A server's socket, whose first request is taken by another process that has it too."""

    robbed = False

    def accept(self) -> Any:
        self.let(lambda other: other.accept()[0].close())
        return super().accept()

    def recvfrom(self, *arguments: Any) -> Any:
        self.let(lambda other: other.recv(100))
        return super().recvfrom(*arguments)

    def let(self, rob: Callable[[socket.socket], object]) -> None:
        if not self.robbed:
            self.robbed = True
            with socket.socket(fileno=os.dup(self.fileno())) as other:
                rob(other)


def rob(server: Any) -> None:
    """Have the first request of a server taken by another process."""
    server.socket = Robbed(fileno=server.socket.detach())
    with serving(server) as loop, connected(server) as sock:
        if server.socket_type == socket.SOCK_DGRAM:
            sock.send(b"taken")
        until(lambda: server.socket.robbed)
        wait_until_idle(loop)
        assert loop.ask() == b"hello"


@pains.hangs_in("accept")
def another_process_accepts_the_connection(module: Any) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        rob(server)


@pains.hangs_in("recvfrom")
def another_process_receives_the_datagram(module: Any) -> None:
    with module.UDPServer(LOOPBACK, echo(module)) as server:
        rob(server)


@pains.on_both()
def test_pain(pain: Pain, module: ModuleType) -> None:
    try_out(pain, module)
