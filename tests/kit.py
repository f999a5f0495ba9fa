"""What the tests share: example endpoints and handlers of every kind, and clients."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import plugsocket
from plugsocket import (
    AsyncDatagram,
    BaseRequestHandler,
    Datagram,
    Inet6Address,
    InetAddress,
    Server,
    UnixAddress,
    own_loop,
)
from plugsocket.core.events import (
    AcceptFailed,
    AcceptRecovered,
    CloseFailed,
    DatagramTruncated,
    HandlerFailed,
    HookFailed,
    RequestRefused,
    ServerFailed,
)
from plugsocket.core.interfaces import IDatagramTransport
from plugsocket.core.plugins import STRATEGIES, TRANSPORTS, plugins

TIMEOUT = 20.0  # seconds after which something that should have happened did not


def child_pids() -> set[str]:
    """The process ids of this process's children, of all its threads."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that is ending
            found.update((task / "children").read_text().split())
    return found


PROBLEMS = (
    AcceptFailed,
    AcceptRecovered,
    CloseFailed,
    DatagramTruncated,
    HandlerFailed,
    HookFailed,
    RequestRefused,
    ServerFailed,
)
"""The kinds of event that tell of something out of the ordinary."""


# Endpoints and strategies: whatever is installed.


@cache
def transport_classes() -> tuple[Any, ...]:
    return tuple(plugin.load() for plugin in plugins(TRANSPORTS))


@cache
def strategy_names() -> tuple[str, ...]:
    return tuple(plugin.name for plugin in plugins(STRATEGIES))


def example_ids() -> Iterator[tuple[Any, int]]:
    """Every example endpoint of every installed transport, as its class and number."""
    for cls in transport_classes():
        if hasattr(cls, "examples"):
            yield from ((cls, number) for number in range(len(cls.examples("/"))))


def example_name(example: tuple[Any, int]) -> str:
    cls, number = example
    return f"{cls.scheme}{number or ''}"


# Handlers: every kind, of the same behaviour.


def answer(data: bytes) -> bytes:
    if data.startswith(b"raise"):
        raise RuntimeError(data.decode())
    return data


def function(request: Any) -> None:
    if isinstance(request, Datagram):
        request.reply(answer(request.data))
        return
    while chunk := request.recv(65_536):
        request.sendall(answer(chunk))


class HandlerClass(BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(answer(data), self.client_address)
            return
        while chunk := self.request.recv(65_536):
            self.request.sendall(answer(chunk))


async def async_function(request: Any) -> None:
    if isinstance(request, AsyncDatagram):
        await request.reply(answer(request.data))
        return
    async for chunk in request:
        await request.send_all(answer(chunk))


HANDLERS: dict[str, Callable[..., Any]] = {
    "function": function,
    "class": HandlerClass,
    "async": async_function,
    "own_loop": own_loop(async_function),
}


# Handlers that owe an answer: a connection that merely waits for a request ends by itself when its server stops.

BEGUN = b"begun"


def busy(connection: Any) -> None:
    """Be busy from the first byte on, and say so, but not through the connection, which would take it for the answer.

    What comes afterwards is echoed.
    """
    if connection.recv(1):
        os.write(connection.fileno(), BEGUN)
        function(connection)


async def async_busy(connection: Any) -> None:
    """The same for trio."""
    if await connection.receive_some(1):
        os.write(connection.socket.fileno(), BEGUN)
        await async_function(connection)


def keep_busy(sock: socket.socket) -> None:
    """Have a server whose handler is `busy` or `async_busy` owe this client an answer."""
    sock.sendall(b"?")
    assert receive(sock, len(BEGUN)) == BEGUN


# Clients


def client(server: Server, which: int = 0) -> socket.socket:
    """A socket that is connected to the server; the caller closes it."""
    address = server.addresses[which]
    family = {InetAddress: socket.AF_INET, Inet6Address: socket.AF_INET6, UnixAddress: socket.AF_UNIX}[type(address)]
    datagrams = IDatagramTransport.providedBy(server.transports[which])
    sock = socket.socket(family, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    try:
        sock.settimeout(TIMEOUT)
        if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_DGRAM:
            sock.bind("")  # an abstract name of the kernel's choice, so that replies can reach it
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def ask(sock: socket.socket, data: bytes) -> bytes:
    """Send, and read as many bytes back."""
    sock.sendall(data)
    return receive(sock, len(data))


def receive(sock: socket.socket, size: int) -> bytes:
    if sock.type == socket.SOCK_DGRAM:
        return sock.recv(65_535)
    received = bytearray()
    while len(received) < size and (chunk := sock.recv(65_536)):
        received += chunk
    return bytes(received)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.001)  # so that the server's threads get the processor


@contextmanager
def serving(server: Server, *subscribers: Any) -> Iterator[Server]:
    """Serve in a background thread, and stop without waiting for clients that the test left open."""
    for subscriber in subscribers:
        server.subscribe(subscriber, *PROBLEMS)
    server.unsubscribe(plugsocket.log_events)
    with server:
        server.start()
        yield server
        server.stop(grace=0)
