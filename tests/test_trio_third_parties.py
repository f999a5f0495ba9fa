"""Clients and servers that others wrote, unchanged, over our listeners and inside our handlers."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
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

from plugsocket import Answer, AsyncConnection, Deadlines, Limits, Server, Trio, as_trio_listener
from plugsocket.core.events import DrainBegan
from plugsocket.testing import EventRecorder, MemoryTransport
from tests.http_server import LONGER, serve_http
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
    """An endpoint, with TLS over it, in the handler or in the listener, or without."""

    def __init__(self, name: str, folder: Path, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        self.name = name
        self.endpoint = f"unix://{folder}/socket" if name == "unix" else "tcp://127.0.0.1:0"
        self.path = f"{folder}/socket" if name == "unix" else None
        self.of_server, self.of_client = contexts if name.startswith("tls") else (None, None)
        self.scheme = "http" if self.of_server is None else "https"

    async def transport(self) -> Any:
        """What a `Server` serves."""
        return self.listener(await as_trio_listener(self.endpoint)) if self.name == "tls_listener" else self.endpoint

    def stream(self, connection: trio.abc.Stream) -> Any:
        """What a handler of a `Server` talks to."""
        if self.name != "tls":
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


@pytest.fixture(params=["tcp", "tls", "tls_listener", "unix"])
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
        server = quiet(Server(await place.transport(), with_tls, Trio(), **options), recorder)
        await nursery.start(server.serve)
        yield server
        await server.stop_async()


async def stopping(nursery: trio.Nursery, server: Server) -> None:
    """Begin to stop a server; return when the handlers have been told."""
    began = trio.Event()
    server.subscribe(lambda _event: began.set(), DrainBegan)
    nursery.start_soon(server.stop_async)
    await began.wait()


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


@pytest.mark.parametrize("place", ["tcp", "tls"], indirect=True)  # it knows no Unix sockets
def test_the_whole_client(place: Place, recorder: EventRecorder) -> None:
    """As people use it, which opens its connections itself."""

    async def main() -> None:
        async with (
            our_server(place, recorder) as address,
            open_websocket(HOST, address.port, "/", use_ssl=place.of_client or False) as client,
        ):
            await client.send_message("hello")
            assert await client.get_message() == "hello"

    run(main)
    assert recorder.events == []


def test_a_websocket_can_be_told_that_the_server_stops(tcp: Place, recorder: EventRecorder) -> None:
    async def handle(connection: AsyncConnection) -> None:
        async with trio.open_nursery() as nursery:
            socket = await (await wrap_server_stream(nursery, connection)).accept()
            await connection.closing.wait()
            await socket.aclose(1001, "going away")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(tcp.endpoint, handle, Trio()), recorder)
            await nursery.start(server.serve)
            async with websocket_client(tcp, server.addresses[0]) as client:
                nursery.start_soon(server.stop_async)
                with pytest.raises(ConnectionClosed) as caught:
                    await client.get_message()
            assert (caught.value.reason.code, caught.value.reason.reason) == (1001, "going away")
        assert server.report is not None
        assert server.report.cut == ()

    run(main)
    assert recorder.events == []


# Hypercorn


class App:
    """An ASGI application: it says who asks, and sends every part of the body back as it comes."""

    def __init__(self) -> None:
        self.clients: list[Any] = []
        self.going_on = trio.Event()
        self.going_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.clients.append(scope["client"])
        headers = [(b"x-request", f"{scope['method']} {scope['scheme']} HTTP/{scope['http_version']}".encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await self.going_on.wait()
        await send({"type": "http.response.body", "body": b".", "more_body": False})


class Hypercorn:
    """What hypercorn's own `worker_serve` gives to `trio.serve_listeners`: the handler of streams, and how it ends."""

    def __init__(self, app: App) -> None:
        self._context = WorkerContext(None)
        self.handle = partial(TCPServer, ASGIWrapper(app), Config(), self._context, ConnectionState({}))

    async def end(self) -> None:
        """Have connections close that wait for the next request; each would do so only after five seconds."""
        await self._context.terminated.set()


@asynccontextmanager
async def hypercorn_listener(place: Place, app: App, recorder: EventRecorder) -> AsyncIterator[Any]:
    hypercorn = Hypercorn(app)
    async with trio.open_nursery() as nursery:
        listener = await as_trio_listener(place.endpoint)
        await nursery.start(trio.serve_listeners, hypercorn.handle, [place.listener(listener)])
        yield listener.address
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def hypercorn_server(place: Place, app: App, recorder: EventRecorder) -> AsyncIterator[Any]:
    hypercorn = Hypercorn(app)
    async with served(place, hypercorn.handle, recorder) as server:
        yield server.addresses[0]
        await hypercorn.end()
    assert server.stats.completed == server.stats.accepted > 0


async def parts_of(text: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(text), size):
        await trio.lowlevel.checkpoint()
        yield text[start : start + size]


@pytest.mark.parametrize("serving", [hypercorn_listener, hypercorn_server])
@pytest.mark.parametrize(
    ("place", "version"),
    [("tcp", "1.1"), ("tls", "1.1"), ("tls", "2"), ("unix", "1.1")],  # TLS is where the two agree on HTTP/2
    indirect=["place"],
)
def test_hypercorn(serving: Any, version: str, place: Place, recorder: EventRecorder) -> None:
    async def main() -> None:
        app = App()
        async with serving(place, app, recorder) as address, place.browse(address, http2=version == "2") as client:
            reply = await client.get("/")
            assert (reply.status_code, reply.content) == (200, b".")
            assert reply.headers["x-request"] == f"GET {place.scheme} HTTP/{version}"
            reply = await client.post("/", content=parts_of(LONG, 10_000))
            assert reply.content == LONG + b"."
            assert len(set(app.clients)) == 1  # who came by one connection
            assert (app.clients[0] is None) == (place.path is not None)

            async def ask(number: int) -> None:
                reply = await client.post("/", content=b"%d" % number)
                assert reply.content == b"%d." % number

            async with trio.open_nursery() as clients:
                for number in range(8):
                    clients.start_soon(ask, number)

    run(main)
    assert recorder.events == []


def test_hypercorn_ends_a_reply_that_a_stop_comes_upon(tcp: Place, recorder: EventRecorder) -> None:
    async def main() -> None:
        app = App()
        app.going_on = trio.Event()
        async with (
            served(tcp, Hypercorn(app).handle, recorder) as server,
            tcp.browse(server.addresses[0]) as client,
            client.stream("POST", "/", content=b"begun", headers={"Connection": "close"}) as reply,
            trio.open_nursery() as nursery,
        ):
            parts = reply.aiter_bytes()
            assert await anext(parts) == b"begun"
            await stopping(nursery, server)
            app.going_on.set()
            assert [part async for part in parts] == [b"."]
        assert server.report is not None
        assert server.report.cut == ()

    run(main)
    assert recorder.events == []


# A server of h11


def test_http(place: Place, recorder: EventRecorder) -> None:
    async def main() -> None:
        async with served(place, serve_http, recorder) as server:
            async with place.browse(server.addresses[0]) as client:
                for _ in range(2):
                    reply = await client.get("/hello")
                    assert (reply.status_code, reply.content) == (200, b"hello")
                    reply = await client.post("/echo", content=parts_of(LONG, 10_000))
                    assert (reply.status_code, reply.content) == (200, LONG)
                    assert reply.headers["transfer-encoding"] == "chunked"
                    assert (await client.get("/none")).status_code == 404
                    assert (await client.put("/echo", content=LONG)).status_code == 405
            assert server.stats.accepted == 1
            async with place.browse(server.addresses[0]) as client:
                reply = await client.get("/hello", headers={"Connection": "close"})
                assert reply.headers["connection"] == "close"

    run(main)
    assert recorder.events == []


GET = b"GET /hello HTTP/1.1\r\nHost: here\r\n\r\n"
LAST = GET.replace(b"Host", b"Connection: close\r\nHost")
HELLO = b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello"


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([part async for part in stream])


async def receive_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end) and (part := await stream.receive_some()):
        received += part
    return received


def test_http_pipelined(place: Place, recorder: EventRecorder) -> None:
    echo = b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\none"

    async def main() -> None:
        async with served(place, serve_http, recorder) as server, await place.connect(server.addresses[0]) as stream:
            await stream.send_all(GET + echo + GET + LAST)
            first, between, last = (await everything(stream)).split(HELLO)
            assert first == b""
            assert between.endswith(b"\r\n\r\n3\r\none\r\n0\r\n\r\n")
            assert last.startswith(b"HTTP/1.1 200")

    run(main)
    assert recorder.events == []


def test_http_expect_continue(place: Place, recorder: EventRecorder) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"

    async def main() -> None:
        async with served(place, serve_http, recorder) as server, await place.connect(server.addresses[0]) as stream:
            await stream.send_all(head)
            assert await receive_until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
            await stream.send_all(b"one")
            assert (await receive_until(stream, b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")

    run(main)
    assert recorder.events == []


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET /hello HTTP/1.1\r\nHost: here\r\nContent-Length: few\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nHost: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n", 400),  # and then the end
    ],
    ids=["no HTTP", "no host", "bad length", "long", "bad chunk", "cut short"],
)
def test_http_errors(request_text: bytes, status: int, tcp: Place, recorder: EventRecorder) -> None:
    async def main() -> None:
        async with served(tcp, serve_http, recorder) as server, await tcp.connect(server.addresses[0]) as stream:
            await stream.send_all(request_text)
            await stream.send_eof()
            assert (await everything(stream)).startswith(b"HTTP/1.1 %d " % status)

    run(main)
    assert recorder.events == []


def test_http_beyond_the_limit(tcp: Place, recorder: EventRecorder) -> None:
    busy = "HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    limits = Limits(max_connections=1, overload=Answer(busy.encode()))

    async def main() -> None:
        async with served(tcp, serve_http, recorder, limits=limits) as server:
            address = server.addresses[0]
            async with tcp.browse(address) as first, tcp.browse(address) as second:
                assert (await first.get("/hello")).status_code == 200
                assert (await second.get("/hello")).status_code == 503
                assert (await first.get("/hello")).status_code == 200
        assert server.stats.rejected == 1

    run(main)
    assert recorder.events == []


@pytest.mark.parametrize(
    ("begin", "seconds"),
    [(b"", 10.0), (b"GET /he", 60.0), (b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n", 60.0)],
    ids=["silent", "in the head", "before the body"],
)
def test_http_deadlines(begin: bytes, seconds: float, recorder: EventRecorder) -> None:
    transport = MemoryTransport()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            deadlines = Deadlines(first_byte=10.0, idle=60.0)
            server = quiet(Server(transport, serve_http, Trio(), deadlines=deadlines), recorder)
            await nursery.start(server.serve)
            async with transport.open_stream() as stream:
                began = trio.current_time()
                if begin:
                    await stream.send_all(begin)
                assert (await everything(stream)).startswith(b"HTTP/1.1 408 ")
                assert trio.current_time() == pytest.approx(began + seconds)
            await server.stop_async()

    run(main, clock=MockClock(autojump_threshold=0))
    assert recorder.events == []  # the handler has dealt with it


def test_http_stop_between_requests_and_in_mid_reply(place: Place, recorder: EventRecorder) -> None:
    """A connection that waits for a request ends at once, and one that has a reply to send sends all of it."""

    async def main() -> None:
        async with served(place, serve_http, recorder, grace=inf) as server:
            address = server.addresses[0]
            async with await place.connect(address) as idle, await place.connect(address) as busy:
                await idle.send_all(GET)
                assert await receive_until(idle, b"hello") == HELLO
                await busy.send_all(b"GET /long HTTP/1.1\r\nHost: here\r\n\r\n")
                reply = await busy.receive_some()
                async with trio.open_nursery() as nursery:
                    await stopping(nursery, server)
                    assert await everything(idle) == b""
                    _head, _, text = (reply + await everything(busy)).partition(b"\r\n\r\n")
                    assert len(text) == LONGER
        assert server.report is not None
        assert server.report.completed == 2
        assert server.report.cut == ()

    run(main)
    assert recorder.events == []
