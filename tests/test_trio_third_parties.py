"""Clients and servers that others wrote, unchanged, over our listeners and inside our handlers."""

import itertools
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from trio.testing import MockClock
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    open_websocket,
    wrap_client_stream,
    wrap_server_stream,
)

from plugsocket import AsyncConnection, Deadlines, Limits, Server, State, Trio, as_trio_listener
from plugsocket.core.events import ConnectionRejected
from plugsocket.testing import EventRecorder, MemoryTransport
from tests.http_server import serve_http
from tests.trio_kit import quiet, run, tls

LONG = bytes(range(256)) * 1200  # more than what fits into a socket's buffers at once, or into one part of a message
HOST = "localhost"  # the name in the server's certificate


# Where they meet


class TLSListener(trio.abc.Listener[Any]):
    """As `trio.SSLListener`, which trio-websocket takes only around a `trio.SocketListener`: it asserts that."""

    def __init__(self, listener: trio.abc.Listener[Any], context: ssl.SSLContext) -> None:
        self._listener = listener
        self._context = context

    async def accept(self) -> Any:
        return trio.SSLStream(await self._listener.accept(), self._context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        await self._listener.aclose()


class Place:
    """An endpoint, with TLS over it or not."""

    def __init__(self, name: str, folder: Path, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        self.endpoint = f"unix://{folder}/socket" if name == "unix" else "tcp://127.0.0.1:0"
        self.of_server, self.of_client = contexts if name == "tls" else (None, None)
        self.scheme = "https" if name == "tls" else "http"
        self.path = f"{folder}/socket" if name == "unix" else None

    def stream(self, connection: trio.abc.Stream) -> Any:
        """What a server talks to."""
        if self.of_server is None:
            return connection
        return trio.SSLStream(connection, self.of_server, server_side=True, https_compatible=True)

    def listener(self, listener: trio.abc.Listener[Any]) -> trio.abc.Listener[Any]:
        return listener if self.of_server is None else trio.SSLListener(listener, self.of_server, https_compatible=True)

    async def connect(self, address: Any) -> Any:
        if self.path is not None:
            return await trio.open_unix_socket(self.path)
        stream = await trio.open_tcp_stream(*address)
        if self.of_client is None:
            return stream
        return trio.SSLStream(stream, self.of_client, server_hostname=HOST, https_compatible=True)

    def browse(self, address: Any, *, http2: bool = False) -> httpx.AsyncClient:
        """A client for HTTP, with a pool of connections that stay open between requests."""
        where = HOST if self.path is not None else f"{HOST}:{address.port}"
        transport = httpx.AsyncHTTPTransport(uds=self.path, verify=self.of_client or False, http2=http2)
        return httpx.AsyncClient(transport=transport, base_url=f"{self.scheme}://{where}", timeout=None)


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    of_server, of_client = tls()
    of_server.set_alpn_protocols(["h2", "http/1.1"])
    return of_server, of_client


@pytest.fixture(params=["tcp", "tls", "unix"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> Iterator[Place]:
    yield Place(request.param, tmp_path, contexts)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tcp(tmp_path: Path, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Place:
    return Place("tcp", tmp_path, contexts)


@asynccontextmanager
async def served(place: Place, handle: Any, recorder: EventRecorder, **options: Any) -> AsyncIterator[Server]:
    """Serve a handler of streams under a `Server`."""

    async def with_tls(connection: AsyncConnection) -> None:
        await handle(place.stream(connection))

    async with trio.open_nursery() as nursery:
        server = quiet(Server(place.endpoint, with_tls, Trio(), **options), recorder)
        await nursery.start(server.serve)
        yield server
        await server.stop_async()


# trio-websocket


async def echo_messages(request: WebSocketRequest) -> None:
    """Send messages back, until the client closes, or asks to be closed."""
    socket = await request.accept()
    with suppress(ConnectionClosed):
        while (message := await socket.get_message()) != "close":
            await socket.send_message(message)
        await socket.aclose(4000, "as you like")


async def websocket(stream: trio.abc.Stream) -> None:
    async with trio.open_nursery() as nursery:
        await echo_messages(await wrap_server_stream(nursery, stream))


@asynccontextmanager
async def their_server(place: Place, recorder: EventRecorder) -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        listener = await as_trio_listener(place.endpoint)
        theirs = listener if place.of_server is None else TLSListener(listener, place.of_server)
        await nursery.start(WebSocketServer(echo_messages, [theirs]).run)
        yield listener.address
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def our_listener(place: Place, recorder: EventRecorder) -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        listener = await as_trio_listener(place.endpoint)
        await nursery.start(trio.serve_listeners, websocket, [place.listener(listener)])
        yield listener.address
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def our_server(place: Place, recorder: EventRecorder) -> AsyncIterator[Any]:
    async with served(place, websocket, recorder) as server:
        yield server.addresses[0]
    assert server.stats.completed == server.stats.accepted > 0


@asynccontextmanager
async def websocket_client(place: Place, address: Any) -> AsyncIterator[WebSocketConnection]:
    # It leaves its stream open where the server closes first.
    async with await place.connect(address) as stream, trio.open_nursery() as nursery:
        yield await wrap_client_stream(nursery, stream, HOST, "/")


async def talk(place: Place, address: Any, number: int) -> None:
    async with websocket_client(place, address) as client:
        for message in (f"client {number}: café", b"\x00\xff", "", LONG, "last"):
            await client.send_message(message)
            assert await client.get_message() == message
        await client.ping(b"there?")  # returns when the answer is there
        await client.aclose(1000, "done")
        assert client.closed is not None
        assert client.closed.code == 1000
    async with websocket_client(place, address) as client:
        await client.send_message("close")
        with pytest.raises(ConnectionClosed) as caught:
            await client.get_message()
        assert (caught.value.reason.code, caught.value.reason.reason) == (4000, "as you like")


@pytest.mark.parametrize("serving", [their_server, our_listener, our_server])
def test_websockets(serving: Any, place: Place, recorder: EventRecorder) -> None:
    async def main() -> None:
        async with serving(place, recorder) as address, trio.open_nursery() as clients:
            for number in range(4):
                clients.start_soon(talk, place, address, number)

    run(main)
    assert recorder.events == []
