"""Handler classes, ours and the standard library's; and the kinds of callable that are handlers."""

import http.client
import http.server
import io
import socket
import socketserver
import struct
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from zope.interface import directlyProvides, providedBy

from plugsocket import (
    BaseRequestHandler,
    CompositionError,
    Connection,
    DatagramRequestHandler,
    Fork,
    Server,
    StreamRequestHandler,
    Sync,
    Thread,
    Trio,
)
from plugsocket.core.events import HandlerFailed
from plugsocket.core.interfaces import IAsyncHandler, IRequestHandlerClass, IStreamHandlerClass, ISyncHandler
from plugsocket.core.kinds import inspect_handler
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import TIMEOUT, ask, client, receive, serving, strategy_names

ENDPOINT = "tcp://127.0.0.1:0"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, of no length; closing then resets the connection (socket(7))

every_strategy = pytest.mark.parametrize("strategy", strategy_names())


# The order of setup(), handle() and finish()


class Steps(BaseRequestHandler):
    """Leaves a trace, and raises in the step that the client names; a class of each test."""

    trace: list[str]

    def setup(self) -> None:
        self.asked = self.request.recv(100).decode()
        self.step("setup")

    def handle(self) -> None:
        self.step("handle")

    def finish(self) -> None:
        self.step("finish")

    def step(self, name: str) -> None:
        self.trace.append(name)
        if self.asked == name:
            raise RuntimeError(f"in {name}")


@pytest.mark.parametrize(
    ("raising", "trace"),
    [
        ("nothing", ["setup", "handle", "finish"]),
        ("handle", ["setup", "handle", "finish"]),
        ("finish", ["setup", "handle", "finish"]),
        ("setup", ["setup"]),
    ],
)
@pytest.mark.parametrize("base", [BaseRequestHandler, socketserver.BaseRequestHandler])
def test_finish_follows_every_setup_that_returned(
    base: type, raising: str, trace: list[str], recorder: Recorder
) -> None:
    left: list[str] = []
    cls = type("Traced", (Steps,) if base is BaseRequestHandler else (StandardSteps,), {"trace": left})
    with serving(Server(ENDPOINT, cls), recorder) as server:
        with client(server) as sock:
            sock.sendall(raising.encode())
            assert sock.recv(1) == b""
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert left == trace
    assert [str(event.error) for event in recorder.events] == ([] if raising == "nothing" else [f"in {raising}"])


class StandardSteps(socketserver.BaseRequestHandler):
    trace: list[str]
    setup = Steps.setup
    handle = Steps.handle
    finish = Steps.finish
    step = Steps.step


def test_the_attributes_of_a_request_handler() -> None:
    seen: list[BaseRequestHandler] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            seen.append(self)
            self.request.sendall(repr((self.request.getpeername(), self.request.gettimeout())).encode())

    with serving(Server(ENDPOINT, Handler)) as server, client(server) as sock:
        assert receive(sock, 1000).decode() == repr((sock.getsockname(), None))
        (handler,) = seen
        assert handler.client_address == sock.getsockname()
        assert handler.client_address.host == "127.0.0.1"
        assert handler.server is server
        assert isinstance(handler.request, socket.socket)


def test_a_handler_class_with_steps_of_its_base_only(recorder: Recorder) -> None:
    with serving(Server(ENDPOINT, BaseRequestHandler), recorder) as server, client(server) as sock:
        assert sock.recv(1) == b""
    assert recorder.events == []


# StreamRequestHandler


class Lines(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())
            if line == b"raise\n":
                raise RuntimeError("as asked")


class BufferedLines(Lines):
    wbufsize = 65_536


@every_strategy
@pytest.mark.parametrize("cls", [Lines, BufferedLines])
@pytest.mark.parametrize("endpoint", [ENDPOINT, "unix://{}/app.sock"])
def test_files_of_a_connection(endpoint: str, cls: type, strategy: str, tmp_path: Path, recorder: Recorder) -> None:
    with serving(Server(endpoint.format(tmp_path), cls, strategy), recorder) as server, client(server) as sock:
        sock.sendall(b"one\ntwo\nthree")
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 1000) == b"ONE\nTWO\nTHREE"
    assert recorder.events == []


@pytest.mark.parametrize("cls", [Lines, BufferedLines])
def test_what_was_written_before_an_exception_is_sent(cls: type, recorder: Recorder) -> None:
    with serving(Server(ENDPOINT, cls), recorder) as server, client(server) as sock:
        sock.sendall(b"raise\n")
        assert receive(sock, 1000) == b"RAISE\n"
        assert [str(event.error) for event in recorder.wait_for(HandlerFailed)] == ["as asked"]


def test_a_buffered_reply_waits_for_the_end() -> None:
    with serving(Server(ENDPOINT, BufferedLines)) as server, client(server) as sock:
        sock.sendall(b"one\n")
        assert server.wait(connections=1, timeout=TIMEOUT)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        sock.settimeout(TIMEOUT)
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 100) == b"ONE\n"


def test_an_unbuffered_file_writes_all_of_it() -> None:
    class Big(StreamRequestHandler):
        def handle(self) -> None:
            assert self.wfile.write(memoryview(bytes(8_000_000)).cast("I")) == 8_000_000
            assert self.wfile.fileno() == self.request.fileno()
            assert self.wfile.writable()
            assert not self.wfile.readable()

    with serving(Server(ENDPOINT, Big)) as server, client(server) as sock:
        assert len(receive(sock, 10_000_000)) == 8_000_000
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.failed == 0


class TuningHandler(StreamRequestHandler):
    timeout = 0.01
    disable_nagle_algorithm = True

    def handle(self) -> None:
        nodelay = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        try:
            self.rfile.readline()
        except TimeoutError:
            self.wfile.write(
                b"%d %s %r" % (nodelay, str(self.connection.gettimeout()).encode(), self.connection is self.request)
            )


@every_strategy
def test_timeout_and_disable_nagle_algorithm(strategy: str) -> None:
    with serving(Server("tcp://127.0.0.1:0?nodelay=off", TuningHandler, strategy)) as server, client(server) as sock:
        assert receive(sock, 100) == b"1 0.01 True"


def test_a_peer_that_is_gone_before_the_flush(recorder: Recorder) -> None:
    handlers: list[StreamRequestHandler] = []

    class Late(StreamRequestHandler):
        wbufsize = 65_536

        def handle(self) -> None:
            handlers.append(self)
            self.wfile.write(b"too late")
            with pytest.raises(ConnectionResetError):
                self.request.recv(1)

    with serving(Server(ENDPOINT, Late), recorder) as server:
        sock = client(server)
        assert server.wait(connections=1, timeout=TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        assert server.wait(connections=0, timeout=TIMEOUT)
        (handler,) = handlers
        assert handler.rfile.closed
        assert handler.wfile.closed
        assert handler.request.fileno() == -1
    assert recorder.events == []


def test_the_handler_may_close_the_file_itself(recorder: Recorder) -> None:
    class Closing(BufferedLines):
        def handle(self) -> None:
            self.wfile.write(b"bye")
            self.wfile.close()

    with serving(Server(ENDPOINT, Closing), recorder) as server, client(server) as sock:
        assert receive(sock, 100) == b"bye"
    assert recorder.events == []


# DatagramRequestHandler


class Answering(DatagramRequestHandler):
    def handle(self) -> None:
        assert self.request == (self.packet, self.socket)
        word = self.rfile.read()
        assert word == self.packet
        if word != b"silence":
            self.wfile.write(word.upper())
        if word == b"raise":
            raise RuntimeError("as asked")
        if word == b"twice":
            self.socket.sendto(b"first", self.client_address)


@every_strategy
@pytest.mark.parametrize("endpoint", ["udp://127.0.0.1:0", "udp://[::1]:0", "unixgram://{}/app.sock"])
def test_replies_of_a_datagram_handler(endpoint: str, strategy: str, tmp_path: Path, recorder: Recorder) -> None:
    with serving(Server(endpoint.format(tmp_path), Answering, strategy), recorder) as server, client(server) as sock:
        for word in (b"silence", b"raise", b"twice"):  # of which the first two send nothing
            sock.send(word)
            if word == b"raise":
                recorder.wait_for(HandlerFailed)
        assert [sock.recv(100), sock.recv(100)] == [b"first", b"TWICE"]
    assert [type(event) for event in recorder.events] == [HandlerFailed]


def test_the_attributes_of_a_datagram_handler() -> None:
    seen: list[Answering] = []

    class Remembering(Answering):
        def finish(self) -> None:
            seen.append(self)
            super().finish()

    with serving(Server("udp://127.0.0.1:0", Remembering)) as server, client(server) as sock:
        assert ask(sock, b"hello") == b"HELLO"
        (handler,) = seen
        assert handler.client_address == sock.getsockname()
        assert handler.packet == b"hello"
        assert isinstance(handler.rfile, io.BytesIO)
        assert handler.wfile.getvalue() == b"HELLO"
        assert handler.server is server


# The standard library's classes


class StandardLines(socketserver.StreamRequestHandler):
    handle = Lines.handle


class StandardAnswering(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


@every_strategy
def test_a_standard_stream_handler(strategy: str) -> None:
    with serving(Server(ENDPOINT, StandardLines, strategy)) as server, client(server) as sock:
        sock.sendall(b"one\n")
        assert receive(sock, 4) == b"ONE\n"


@every_strategy
@pytest.mark.parametrize("endpoint", ["udp://127.0.0.1:0", "unixgram://{}/app.sock"])
def test_a_standard_datagram_handler(endpoint: str, strategy: str, tmp_path: Path) -> None:
    with serving(Server(endpoint.format(tmp_path), StandardAnswering, strategy)) as server, client(server) as sock:
        assert ask(sock, b"hello") == b"HELLO"


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        pass


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    connection.request("GET", path)
    with connection.getresponse() as response:
        return response.status, response.read()


@every_strategy
def test_files_over_http(strategy: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(b"content" * 100_000)
    with serving(Server(ENDPOINT, partial(QuietFiles, directory=str(tmp_path)), strategy)) as server:
        for path, expected in (("/file.txt", (200, b"content" * 100_000)), ("/missing", (404, None))):
            connection = http.client.HTTPConnection(*server.addresses[0], timeout=TIMEOUT)
            status, body = get(connection, path)
            connection.close()
            assert status == expected[0]
            assert expected[1] in (None, body)
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.failed == 0


def test_files_over_http_over_a_unix_socket(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With the handler's own log, which takes the first item of the client's address for its host."""
    (tmp_path / "file.txt").write_bytes(b"content")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with serving(Server(f"unix://{tmp_path}/http.sock", handler, "thread")) as server:
        connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT)
        connection.sock = client(server)
        assert get(connection, "/file.txt") == (200, b"content")
        connection.close()
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.failed == 0
    assert '"GET /file.txt HTTP/1.1" 200 -' in capfd.readouterr().err


# Kinds


def sync(request: Any) -> None: ...
async def asynchronous(request: Any) -> None: ...
def sync_of_two(prefix: bytes, request: Any, suffix: bytes = b"") -> None: ...
async def async_of_two(prefix: bytes, request: Any, suffix: bytes = b"") -> None: ...


class Callables:
    def method(self, request: Any) -> None: ...
    async def async_method(self, request: Any) -> None: ...
    @classmethod
    async def async_class_method(cls, request: Any) -> None: ...
    @staticmethod
    def static_method(request: Any) -> None: ...


class SyncCallable:
    def __call__(self, request: Any) -> None: ...


class AsyncCallable:
    async def __call__(self, request: Any) -> None: ...


class WithOptions(BaseRequestHandler):
    def __init__(self, request: Any, client_address: Any, server: Any, *, option: int) -> None:
        super().__init__(request, client_address, server)


@pytest.mark.parametrize(
    ("handler", "kind", "name"),
    [
        (sync, ISyncHandler, "sync"),
        (asynchronous, IAsyncHandler, "asynchronous"),
        (lambda request: None, ISyncHandler, "<lambda>"),
        (print, ISyncHandler, "print"),
        (Callables().method, ISyncHandler, "Callables.method"),
        (Callables().async_method, IAsyncHandler, "Callables.async_method"),
        (Callables.async_class_method, IAsyncHandler, "Callables.async_class_method"),
        (Callables.static_method, ISyncHandler, "Callables.static_method"),
        (partial(sync_of_two, b""), ISyncHandler, "sync_of_two"),
        (partial(async_of_two, b""), IAsyncHandler, "async_of_two"),
        (partial(partial(async_of_two, b""), suffix=b"!"), IAsyncHandler, "async_of_two"),
        (partial(Callables().async_method), IAsyncHandler, "Callables.async_method"),
        (SyncCallable(), ISyncHandler, None),
        (AsyncCallable(), IAsyncHandler, None),
        (partial(AsyncCallable()), IAsyncHandler, None),
        (BaseRequestHandler, IRequestHandlerClass, "BaseRequestHandler"),
        (socketserver.StreamRequestHandler, IStreamHandlerClass, "StreamRequestHandler"),
        (partial(WithOptions, option=1), IRequestHandlerClass, "WithOptions"),
        (partial(partial(WithOptions, option=1)), IRequestHandlerClass, "WithOptions"),
    ],
)
def test_kinds(handler: Any, kind: Any, name: str | None) -> None:
    spec = inspect_handler(handler)
    assert list(providedBy(spec)) == [kind]
    assert name in (None, spec.name)
    with Server(ENDPOINT, handler) as server:
        assert isinstance(server.strategy, Trio if kind is IAsyncHandler else Thread)


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (5, "the handler must be callable, not 5: a function, an async function, or a class derived from"),
        (WithOptions, "must take .request, client_address, server.: missing a required .*argument: 'option'"),
        (SyncCallable, r"the class SyncCallable has no handle\(\) method.*pass one: SyncCallable\(\)"),
        (lambda: None, "must take one argument, a connection or a datagram: too many positional arguments"),
        (sync_of_two, "must take one argument, a connection or a datagram: missing a required argument: 'request'"),
    ],
)
def test_what_is_no_handler(handler: Any, message: str) -> None:
    with pytest.raises(CompositionError, match=message):
        Server(ENDPOINT, handler)


def test_a_generator_function_is_refused() -> None:
    def generator(request: Any) -> Any:
        yield

    async def async_generator(request: Any) -> Any:
        yield

    for handler in (generator, async_generator):
        with pytest.raises(CompositionError, match="is a generator function: calling it would run nothing"):
            Server(ENDPOINT, handler)


def says(text: bytes, connection: Connection) -> None:
    connection.sendall(text)


async def says_async(text: bytes, stream: trio.abc.Stream) -> None:
    await stream.send_all(text)


class Says:
    def __init__(self, text: bytes) -> None:
        self.text = text

    def method(self, connection: Connection) -> None:
        connection.sendall(self.text)

    async def async_method(self, stream: trio.abc.Stream) -> None:
        await stream.send_all(self.text)


class SaysWhenCalled(Says):
    __call__ = Says.method


class SaysAsyncWhenCalled(Says):
    __call__ = Says.async_method


class SaysAsClass(BaseRequestHandler):
    def __init__(self, *args: Any, text: bytes) -> None:
        self.text = text
        super().__init__(*args)

    def handle(self) -> None:
        self.request.sendall(self.text)


@pytest.mark.parametrize(
    "handler",
    [
        partial(says, b"hello"),
        partial(says_async, b"hello"),
        partial(partial(SaysAsClass), text=b"hello"),
        Says(b"hello").method,
        Says(b"hello").async_method,
        SaysWhenCalled(b"hello"),
        SaysAsyncWhenCalled(b"hello"),
        lambda connection: connection.sendall(b"hello"),
    ],
)
def test_every_kind_is_called(handler: Any) -> None:
    with serving(Server(ENDPOINT, handler, "trio")) as server, client(server) as sock:
        assert receive(sock, 100) == b"hello"


def disguised(stream: Any) -> Awaitable[None]:
    return says_async(b"hello", stream)


@every_strategy
def test_a_coroutine_in_disguise_is_reported_with_the_cure(strategy: str, recorder: Recorder) -> None:
    """A coroutine that nobody awaits would also be a warning, and so an error."""
    with serving(Server(ENDPOINT, disguised, strategy), recorder) as server, client(server) as sock:
        assert sock.recv(1) == b""
        recorder.wait_for(HandlerFailed)
    (failure,) = recorder.events
    assert "disguised returned a coroutine: it is an async handler that does not look like one" in str(failure.error)
    assert "directlyProvides(handler, plugsocket.core.interfaces.IAsyncHandler)" in str(failure.error)
    if strategy != "fork":  # whose errors crossed a process
        assert isinstance(failure.error, TypeError)


def test_the_cure_cures() -> None:
    def handler(stream: Any) -> Awaitable[None]:
        return disguised(stream)

    directlyProvides(handler, IAsyncHandler)
    with serving(Server(ENDPOINT, handler)) as server, client(server) as sock:
        assert isinstance(server.strategy, Trio)
        assert receive(sock, 100) == b"hello"
    for strategy in (Sync(), Thread(), Fork()):
        with pytest.raises(CompositionError, match="is an async handler"):
            Server(ENDPOINT, handler, strategy)


def test_declared_kinds_go_before_looks() -> None:
    seen: list[Any] = []

    class Handler:
        def __init__(self, *args: Any) -> None:
            seen.append(args)

    async def looks_async(connection: Connection) -> None: ...

    declared: Callable[..., Any] = partial(Handler)
    directlyProvides(declared, IRequestHandlerClass)
    directlyProvides(looks_async, ISyncHandler)
    assert ISyncHandler.providedBy(inspect_handler(looks_async))
    with serving(Server(ENDPOINT, declared)) as server, client(server) as sock:
        assert sock.recv(1) == b""
        ((request, client_address, given_server),) = seen
        assert isinstance(request, socket.socket)
        assert client_address == sock.getsockname()
        assert given_server is server


def test_every_request_has_a_handler_of_its_own() -> None:
    instances: set[int] = set()
    together = threading.Barrier(3)

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            instances.add(id(self))
            together.wait(TIMEOUT)

    with serving(Server(ENDPOINT, Handler)) as server, client(server), client(server), client(server) as sock:
        assert sock.recv(1) == b""
    assert len(instances) == 3
