"""What cannot work is refused with a text that helps, before a socket opens; what the system refuses leaves nothing."""

import errno
import functools
import os
import socket
import socketserver
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from zope.interface import implementer

import plugsocket
from plugsocket import (
    TCP,
    UDP,
    BaseRequestHandler,
    BlockingStrategy,
    CompositionError,
    Connection,
    Fork,
    LifecycleError,
    OptionError,
    PluginError,
    Server,
    State,
    Sync,
    Thread,
    Trio,
    UnixDatagram,
    UnixStream,
)
from plugsocket.core.interfaces import IStreamTransport
from tests.kit import ask, async_function, client, function, serving

ENDPOINT = "tcp://127.0.0.1:0"


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test fail that opens a socket, or asks for a name."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened, or a name asked for")

    for name in ("socket", "socketpair", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def error_of(call: Callable[[], object]) -> tuple[type[Exception], str]:
    with pytest.raises((OptionError, PluginError, CompositionError)) as caught:
        call()
    return caught.type, str(caught.value)


# Endpoint strings

HOST_PORT = "is no HOST:PORT; examples: 127.0.0.1:9999, localhost:0, [::1]:9999, :9999"
NO_ENDPOINT = "is no endpoint; one looks like 'tcp://127.0.0.1:9999' or 'unix:///run/app.sock'"
NO_PORT = "must be a whole number from 0 to 65535, not"
NO_MODE = "mode must be permission bits from 0 to 0o777, or None, not"
NUL_IN_PATH = "path must be a path without NUL (an abstract name begins with '@'), not"
PAIRS = "options look like 'name=value&name=value', not"


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("127.0.0.1:9999", f"'127.0.0.1:9999' {NO_ENDPOINT}"),
        ("://127.0.0.1:9999", f"'://127.0.0.1:9999' {NO_ENDPOINT}"),
        ("", f"'' {NO_ENDPOINT}"),
        ("tcp://127.0.0.1", f"'127.0.0.1' {HOST_PORT}"),
        ("tcp://", f"'' {HOST_PORT}"),
        ("tcp://::1", f"'::1' {HOST_PORT}"),
        ("tcp://::1:9999", f"'::1:9999' {HOST_PORT}"),
        ("tcp://[::1]", f"'[::1]' {HOST_PORT}"),
        ("udp://[::1]9999", f"'[::1]9999' {HOST_PORT}"),
        ("tcp://127.0.0.1:", f"the port of '127.0.0.1:' {NO_PORT} ''"),
        ("tcp://127.0.0.1:http", f"the port of '127.0.0.1:http' {NO_PORT} 'http'"),
        ("tcp://127.0.0.1:80/", f"the port of '127.0.0.1:80/' {NO_PORT} '80/'"),
        ("tcp://127.0.0.1:8_0", f"the port of '127.0.0.1:8_0' {NO_PORT} '8_0'"),
        ("tcp://127.0.0.1:\u0661", f"the port of '127.0.0.1:\u0661' {NO_PORT} '\u0661'"),
        ("tcp://127.0.0.1:1.0", f"the port of '127.0.0.1:1.0' {NO_PORT} '1.0'"),
        ("tcp://127.0.0.1:65536", f"TCP: port {NO_PORT} 65536"),
        ("udp://127.0.0.1:-1", f"UDP: port {NO_PORT} -1"),
        ("tcp://a%00b:80", "TCP: host must be a name or an address without NUL, not 'a\\x00b'"),
        ("tcp://127.0.0.1:80?port=90", "TCP: port is given twice: before the '?', and as an option behind it"),
        ("tcp://127.0.0.1:80?backlgo=5", "TCP has no option 'backlgo'; did you mean 'backlog'?"),
        (
            "tcp://127.0.0.1:80?max_datagram=5",
            (
                "TCP has no option 'max_datagram'; known: backlog, dual_stack, host, "
                "keepalive, keepalive_idle, nodelay, port, reuse_port"
            ),
        ),
        ("tcp://127.0.0.1:80?backlog=lots", "TCP: backlog must be a whole number, not 'lots'"),
        ("tcp://127.0.0.1:80?backlog=0", "TCP: backlog must be a whole number from 1 to 65535, not 0"),
        (
            "tcp://127.0.0.1:80?keepalive_idle=0",
            "TCP: keepalive_idle must be a whole number from 1 to 32767 or None, not 0",
        ),
        (
            "tcp://127.0.0.1:80?nodelay=maybe",
            "TCP: nodelay must be one of 1, true, yes, on, 0, false, no, off, not 'maybe'",
        ),
        (
            "tcp://127.0.0.1:80?backlog=5&backlog=6",
            "'tcp://127.0.0.1:80?backlog=5&backlog=6': option 'backlog' is given twice",
        ),
        ("tcp://127.0.0.1:80?backlog", f"'tcp://127.0.0.1:80?backlog': {PAIRS} 'backlog'"),
        (
            "tcp://127.0.0.1:80?dual_stack=1",
            "TCP: dual_stack needs an address of IPv6, which '127.0.0.1' is not; '::' and '' take both families",
        ),
        (
            "udp://127.0.0.1:80?max_datagram=65536",
            "UDP: max_datagram must be a whole number from 1 to 65535, not 65536",
        ),
        ("unix://", "UnixStream: path must be a path, or '@' and a name, not ''"),
        ("unixgram://@", "UnixDatagram: path must be a path, or '@' and a name, not '@'"),
        ("unix:///a%00b", f"UnixStream: {NUL_IN_PATH} '/a\\x00b'"),
        ("unix:///a?mode=888", "UnixStream: mode must be an octal file mode such as 660, not '888'"),
        ("unix:///a?mode=rw", "UnixStream: mode must be an octal file mode such as 660, not 'rw'"),
        ("unix:///a?mode=1000", f"UnixStream: {NO_MODE} 512 (0o1000)"),
        ("unix://@a?mode=600", "UnixStream: mode 0o600 needs a file, and the abstract name '@a' has none"),
    ],
)
def test_bad_endpoint_strings(spec: str, text: str) -> None:
    for make in (lambda: plugsocket.transport(spec), lambda: Server(spec, function)):
        kind, message = error_of(make)
        assert issubclass(kind, OptionError)
        assert message == text


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("tpc://127.0.0.1:80", "unknown transport scheme 'tpc'; did you mean 'tcp'?"),
        ("unixs:///a", "unknown transport scheme 'unixs'; did you mean 'unix'?"),
        ("http://127.0.0.1:80", "unknown transport scheme 'http'; known: tcp, udp, unix, unixgram"),
    ],
)
def test_unknown_schemes(spec: str, text: str) -> None:
    kind, message = error_of(lambda: Server(spec, function))
    assert kind is PluginError
    assert message.startswith(text)  # other transports may be installed, and be listed after these


def test_a_port_of_more_digits_than_python_reads() -> None:
    _, message = error_of(lambda: Server("tcp://127.0.0.1:" + "9" * 5000, function))
    assert message.startswith("the port of '127.0.0.1:999")


# Endpoint objects


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TCP("127.0.0.1", 65_536), f"TCP: port {NO_PORT} 65536"),
        (lambda: UDP("127.0.0.1", -1), f"UDP: port {NO_PORT} -1"),
        (lambda: TCP("127.0.0.1", "80"), f"TCP: port {NO_PORT} '80'"),
        (lambda: TCP("127.0.0.1", 80.0), f"TCP: port {NO_PORT} 80.0"),
        (lambda: TCP("127.0.0.1", True), f"TCP: port {NO_PORT} True"),
        (lambda: TCP("127.0.0.1", None), f"TCP: port {NO_PORT} None"),
        (lambda: TCP(None, 80), "TCP: host must be a string, not None"),
        (lambda: TCP(b"127.0.0.1", 80), "TCP: host must be a string, not b'127.0.0.1'"),
        (lambda: TCP("a\0b", 80), "TCP: host must be a name or an address without NUL, not 'a\\x00b'"),
        (lambda: TCP("127.0.0.1", 80, backlog=0), "TCP: backlog must be a whole number from 1 to 65535, not 0"),
        (lambda: TCP("127.0.0.1", 80, nodelay=1), "TCP: nodelay must be True or False, not 1"),
        (lambda: TCP("", 80, dual_stack="yes"), "TCP: dual_stack must be True or False, not 'yes'"),
        (lambda: TCP("127.0.0.1", 80, backlgo=5), "TCP has no option 'backlgo'; did you mean 'backlog'?"),
        (
            lambda: UDP("127.0.0.1", 80, max_datagrams=5),
            "UDP has no option 'max_datagrams'; did you mean 'max_datagram'?",
        ),
        (
            lambda: UDP("127.0.0.1", 80, max_datagram=0),
            "UDP: max_datagram must be a whole number from 1 to 65535, not 0",
        ),
        (lambda: UnixStream(""), "UnixStream: path must be a path, or '@' and a name, not ''"),
        (lambda: UnixStream("@"), "UnixStream: path must be a path, or '@' and a name, not '@'"),
        (lambda: UnixStream(b"/a"), "UnixStream: path must be a string, not b'/a'"),
        (lambda: UnixStream("/a\0"), f"UnixStream: {NUL_IN_PATH} '/a\\x00'"),
        (lambda: UnixStream("/\ud800"), "UnixStream: path must be a path that can be encoded, not '/\\ud800'"),
        (lambda: UnixStream("/a", backlog=0), "UnixStream: backlog must be a whole number from 1 to 65535, not 0"),
        (lambda: UnixStream("/a", mode=-1), f"UnixStream: {NO_MODE} -1 (-0o1)"),
        (lambda: UnixStream("/a", mode=660), f"UnixStream: {NO_MODE} 660 (0o1224)"),
        (lambda: UnixStream("/a", mode="600"), f"UnixStream: {NO_MODE} '600'"),
        (
            lambda: UnixDatagram("@a", mode=0o600),
            "UnixDatagram: mode 0o600 needs a file, and the abstract name '@a' has none",
        ),
        (
            lambda: UnixDatagram("/a", backlog=5),
            "UnixDatagram has no option 'backlog'; known: max_datagram, mode, path",
        ),
    ],
)
def test_bad_endpoint_options(make: Callable[[], Any], text: str) -> None:
    kind, message = error_of(make)
    assert issubclass(kind, OptionError)
    assert message == text


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(
    ("fits", "longest"),
    [("/" + "x" * 106, 107), ("x" * 107, 107), ("@" + "x" * 107, 108), ("/x" + "\u20ac" * 35, 107)],
    ids=["path", "relative", "abstract", "bytes"],
)
def test_paths_are_as_long_as_the_system_has_room_for(fits: str, longest: int) -> None:
    """In bytes; an abstract name has one more, since no NUL ends it."""
    assert UnixStream(fits).path == fits
    text = f"path must be at most {longest} bytes long (unix(7)), not {longest + 1} as {fits + 'x'!r} is"
    assert error_of(lambda: UnixStream(fits + "x")) == (OptionError, f"UnixStream: {text}")
    assert error_of(lambda: Server(f"unixgram://{fits}x", function)) == (OptionError, f"UnixDatagram: {text}")


@pytest.mark.usefixtures("no_sockets")
def test_what_has_no_port() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'port'"):
        TCP("127.0.0.1")  # type: ignore[call-arg]


@pytest.mark.usefixtures("no_sockets")
def test_what_the_platform_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    text = "TCP: reuse_port needs SO_REUSEPORT, which this platform does not have"
    assert error_of(lambda: TCP("127.0.0.1", 80, reuse_port=True)) == (OptionError, text)
    assert error_of(lambda: Server("tcp://127.0.0.1:80?reuse_port=1", function)) == (OptionError, text)
    assert TCP("127.0.0.1", 80).reuse_port is False
    monkeypatch.delattr(os, "fork")
    text = "Fork() needs os.fork, which this platform does not have; use Thread()"
    assert error_of(Fork) == (CompositionError, text)
    assert error_of(lambda: Server(ENDPOINT, function, "fork")) == (CompositionError, text)
    monkeypatch.delattr(socket, "AF_UNIX")
    text = "UnixStream needs Unix sockets, which this platform does not have"
    assert error_of(lambda: Server("unix:///a", function)) == (OptionError, text)


# Handlers


class NoHandle:
    def __init__(self, request: Any, client_address: Any, server: Any) -> None: ...


class Handles(BaseRequestHandler):
    def __init__(self, request: Any) -> None: ...


class Callable3:
    def __call__(self, request: Any, client_address: Any, server: Any) -> None: ...


class CallableGenerator:
    def __call__(self, request: Any) -> Iterator[None]:
        yield


def no_arguments() -> None: ...


def two_arguments(a: Any, b: Any) -> None: ...


def only_keyword(*, request: Any) -> None: ...


def generator(request: Any) -> Iterator[None]:
    yield


async def async_generator(request: Any) -> Any:
    yield


async def async_two(a: Any, b: Any) -> None: ...


ONE = "must take one argument, a connection or a datagram:"
NOT_CALLABLE = "a function, an async function, or a class derived from BaseRequestHandler"


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (None, f"the handler must be callable, not None: {NOT_CALLABLE}"),
        ("echo", f"the handler must be callable, not 'echo': {NOT_CALLABLE}"),
        (
            NoHandle,
            (
                "the class NoHandle has no handle() method, as a request handler class has; "
                "to have its instances called, pass one: NoHandle()"
            ),
        ),
        (
            functools.partial(NoHandle, server=None),
            (
                "the class NoHandle has no handle() method, as a request handler "
                "class has; to have its instances called, pass one: NoHandle()"
            ),
        ),
        (
            Handles,
            (
                "handler Handles(request: Any) -> None must take (request, client_address, server): "
                "too many positional arguments"
            ),
        ),
        (no_arguments, f"handler no_arguments() -> None {ONE} too many positional arguments"),
        (two_arguments, f"handler two_arguments(a: Any, b: Any) -> None {ONE} missing a required argument: 'b'"),
        (async_two, f"handler async_two(a: Any, b: Any) -> None {ONE} missing a required argument: 'b'"),
        (only_keyword, f"handler only_keyword(*, request: Any) -> None {ONE} too many positional arguments"),
        (generator, "generator is a generator function: calling it would run nothing"),
        (async_generator, "async_generator is a generator function: calling it would run nothing"),
        (functools.partial(generator), "generator is a generator function: calling it would run nothing"),
    ],
)
def test_bad_handlers(handler: Any, text: str) -> None:
    assert error_of(lambda: Server(ENDPOINT, handler)) == (CompositionError, text)


@pytest.mark.usefixtures("no_sockets")
def test_bad_handlers_that_are_instances() -> None:
    handler = Callable3()
    kind, message = error_of(lambda: Server(ENDPOINT, handler))
    assert kind is CompositionError
    assert message.startswith(f"handler {handler!r}(request: Any, client_address: Any, server: Any) -> None {ONE}")
    other = CallableGenerator()
    assert error_of(lambda: Server(ENDPOINT, other)) == (
        CompositionError,
        f"{other!r} is a generator function: calling it would run nothing",
    )


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("handler", [two_arguments, async_two, Callable3()])
def test_handlers_whose_other_arguments_are_given(handler: Any) -> None:
    given: Any = (
        functools.partial(handler, None)
        if handler in (two_arguments, async_two)
        else functools.partial(handler, None, None)
    )
    assert Server(ENDPOINT, given).state is State.NEW


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("strategy", [Fork(), "fork", Sync(), "thread?max_workers=2"])
def test_async_handlers_need_a_loop(strategy: Any) -> None:
    kind, message = error_of(lambda: Server(ENDPOINT, async_function, strategy))
    assert kind is CompositionError
    assert message == (
        f"async_function is an async handler, and {plugsocket.strategy(strategy)!r} runs blocking ones: use Trio(), or "
        "wrap it to give each request a trio.run of its own: own_loop(async_function)"
    )


@pytest.mark.usefixtures("no_sockets")
def test_own_loop_is_for_async_handlers() -> None:
    assert error_of(lambda: plugsocket.own_loop(function)) == (  # type: ignore[arg-type]
        CompositionError,
        "own_loop() wraps async handlers; function is none and needs no loop",
    )


# The parts of a server


def shown(part: Any) -> str:
    """As a message shows what is no part."""
    return f"the class {part.__name__}: pass {part.__name__}(...)" if isinstance(part, type) else repr(part)


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("strategy", [5, Thread, object()], ids=["number", "class", "object"])
def test_what_is_no_strategy(strategy: Any) -> None:
    assert error_of(lambda: Server(ENDPOINT, function, strategy)) == (
        CompositionError,
        f"the strategy must be a string or provide IBlockingStrategy or ITrioStrategy, not {shown(strategy)}",
    )


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize(("endpoints", "wrong"), [(5, 5), (None, None), (TCP, TCP), ([ENDPOINT, 5], 5)])
def test_what_is_no_transport(endpoints: Any, wrong: Any) -> None:
    assert error_of(lambda: Server(endpoints, function)) == (
        CompositionError,
        f"a transport must be a string such as 'tcp://127.0.0.1:9999' or provide ITransport, not {shown(wrong)}",
    )


@pytest.mark.usefixtures("no_sockets")
def test_no_transport_at_all() -> None:
    assert error_of(lambda: Server([], function)) == (CompositionError, "a server needs at least one transport")


@pytest.mark.usefixtures("no_sockets")
def test_an_address_as_socketserver_takes_it() -> None:
    assert error_of(lambda: Server(("127.0.0.1", 9999), function)) == (  # type: ignore[arg-type]
        CompositionError,
        "('127.0.0.1', 9999) is no transport; for a host and a port write TCP('127.0.0.1', 9999)",
    )


@pytest.mark.parametrize("make", [Sync, Thread, Fork, Trio])
def test_a_strategy_serves_one_server_at_a_time(make: Callable[[], Any]) -> None:
    strategy = make()
    with Server(ENDPOINT, function, strategy) as first:
        text = f"{strategy!r} is in use by {first!r}; an instance serves one server at a time, so give each its own"
        assert error_of(lambda: Server(ENDPOINT, function, strategy)) == (CompositionError, text)
        first.start()
        assert error_of(lambda: Server(ENDPOINT, function, strategy))[0] is CompositionError
    for _ in range(2):
        with serving(Server(ENDPOINT, function, strategy)) as server, client(server) as sock:
            assert ask(sock, b"again") == b"again"


def test_a_server_that_was_refused_does_not_keep_the_strategy() -> None:
    strategy = Thread()
    error_of(lambda: Server("tcp://nonsense", function, strategy))
    error_of(lambda: Server(ENDPOINT, None, strategy))  # type: ignore[arg-type]
    error_of(lambda: Server(ENDPOINT, async_function, strategy))
    with pytest.raises(OptionError):
        Server(ENDPOINT, function, strategy, grace=-1)
    assert Server(ENDPOINT, function, strategy).stop().finished


def test_strategies_that_are_equal_are_still_two() -> None:
    @attrs.frozen
    class Inline(BlockingStrategy):
        name = "inline"
        capacity = 1

        def spawn(self, job: Any) -> None:
            job()

    assert Inline() == Inline()
    with Server(ENDPOINT, function, Inline()), Server(ENDPOINT, function, Inline()):
        pass


# What the system refuses


def resolver(number: int, text: str) -> Callable[..., Any]:
    def getaddrinfo(*arguments: Any) -> Any:
        raise socket.gaierror(number, text)

    return getaddrinfo


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize("number", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_host_that_does_not_resolve(scheme: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(f"{scheme}://no-such-host.example:80", function)
    monkeypatch.setattr(socket, "getaddrinfo", resolver(number, "the resolver's words"))
    with pytest.raises(socket.gaierror) as caught:
        server.bind()
    assert caught.value.errno == number
    assert caught.value.strerror == (
        f"cannot resolve host 'no-such-host.example' of {scheme}://no-such-host.example:80: the resolver's words"
    )
    assert (server.state, server.addresses) == (State.NEW, ())


@pytest.mark.parametrize("host", ["a" * 64, "a..b", ".", "\udcff", "-\ud800"])
def test_a_host_that_no_resolver_can_be_asked_for(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(name: str, *arguments: Any) -> Any:
        name.encode("idna")  # as the real one does, before it sends anything
        raise socket.gaierror(socket.EAI_NONAME, "the resolver's words")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror) as caught:
        TCP(host, 80).listen()
    assert caught.value.errno == socket.EAI_NONAME
    assert f"cannot resolve host {host!r} of " in str(caught.value)


def taken_port() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize("strategy", [Sync(), Thread(), Fork(), Trio()], ids=repr)
def test_an_address_in_use(strategy: Any) -> None:
    with taken_port() as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        server = Server(url, function, strategy)
        for call in (server.bind, server.start, server.serve_forever, server.handle_request):
            with pytest.raises(OSError, match=f"cannot listen on {url}: {os.strerror(errno.EADDRINUSE)}") as caught:
                call()
            assert caught.value.errno == errno.EADDRINUSE
            assert server.state is State.NEW
            assert server.addresses == server.urls == ()
    with serving(server), client(server) as sock:  # now that the port is free
        assert ask(sock, b"at last") == b"at last"


@pytest.mark.parametrize("which", [1, 2])
def test_of_several_transports_the_others_are_closed_again(which: int, tmp_path: Path) -> None:
    path = str(tmp_path / "first.sock")
    with taken_port() as taken, taken_port() as probe:
        free = probe.getsockname()[1]
        probe.close()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        endpoints: list[Any] = [UnixStream(path), f"tcp://127.0.0.1:{free}"]
        endpoints.insert(which, url)
        server = Server(endpoints, function)
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=f"cannot listen on {url}: ") as caught:
            server.bind()
        assert caught.value.errno == errno.EADDRINUSE
        assert set(os.listdir("/proc/self/fd")) == before
        assert not os.path.exists(path)
        assert (server.state, server.addresses) == (State.NEW, ())
        socket.create_server(("127.0.0.1", free)).close()  # it is free still
    with serving(server):
        for number in range(3):
            with client(server, number) as sock:
                assert ask(sock, b"all of them") == b"all of them"


def test_a_transport_of_ones_own_that_fails(tmp_path: Path) -> None:
    @implementer(IStreamTransport)
    class Broken:
        scheme = "broken"

        def listen(self) -> Any:
            raise RuntimeError("a bug in the transport")

    path = tmp_path / "first.sock"
    server = Server([UnixStream(path), Broken()], function)  # type: ignore[list-item]
    with pytest.raises(RuntimeError, match="a bug in the transport"):
        server.bind()
    assert not path.exists()
    assert server.state is State.NEW
    assert server.stop().finished


@pytest.mark.parametrize(
    ("endpoint", "number"),
    [
        ("tcp://192.0.2.1:0", errno.EADDRNOTAVAIL),  # RFC 5737: nobody's; nothing is sent to bind
        ("udp://192.0.2.1:0", errno.EADDRNOTAVAIL),
        ("unix://{folder}/missing/a.sock", errno.ENOENT),
        ("unix://{folder}/file/a.sock", errno.ENOTDIR),
        ("unixgram://{folder}/missing/a.sock", errno.ENOENT),
    ],
)
def test_addresses_that_are_not_there(endpoint: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = endpoint.format(folder=tmp_path)
    with pytest.raises(OSError, match=f"cannot listen on {url}: {os.strerror(number)}") as caught:
        plugsocket.transport(url).listen()
    assert caught.value.errno == number


@pytest.mark.parametrize("module", [plugsocket, socketserver])
def test_handler_classes_for_the_other_kind_of_transport(module: Any) -> None:
    class Streams(module.StreamRequestHandler):  # type: ignore[misc,name-defined]
        pass

    class Datagrams(module.DatagramRequestHandler):  # type: ignore[misc,name-defined]
        pass

    with pytest.raises(CompositionError, match=r"Streams is a class for connections, and UDP\(.*derive from Dat"):
        Server("udp://127.0.0.1:0", Streams)
    with pytest.raises(CompositionError, match=r"Datagrams is a class for datagrams, and TCP\(.*derive from Str"):
        Server(ENDPOINT, Datagrams)


@pytest.mark.parametrize("name", ["StreamRequestHandler", "DatagramRequestHandler"])
@pytest.mark.parametrize("endpoint", [ENDPOINT, "udp://127.0.0.1:0"])
def test_a_handler_class_that_shares_no_more_than_a_name(endpoint: str, name: str) -> None:
    """It says nothing about what the class makes of a request."""
    cls = type(name, (BaseRequestHandler,), {})
    assert plugsocket.explain(endpoint, cls).problem is None


@pytest.mark.parametrize("subscriber", [5, None, async_function])
def test_what_is_no_subscriber(subscriber: Any) -> None:
    with pytest.raises(TypeError, match=r"^a subscriber must be a plain function of an event, not "):
        Server(ENDPOINT, function).subscribe(subscriber)


def test_what_failed_to_bind_says_so_when_asked_for_more() -> None:
    with taken_port() as taken:
        server = Server(f"tcp://127.0.0.1:{taken.getsockname()[1]}", function)
        with pytest.raises(OSError, match="cannot listen"):
            server.start()
        with pytest.raises(LifecycleError, match=r"^cannot pause a server that is NEW; possible: bind, stop$"):
            server.pause()
        server.stop()


def test_a_handler_that_turns_out_to_be_async(recorder: Any) -> None:
    def looks_blocking(connection: Connection) -> Any:
        return async_function(connection)

    with serving(Server(ENDPOINT, looks_blocking), recorder) as server, client(server) as sock:
        assert sock.recv(1) == b""
    (failure,) = recorder.events
    assert str(failure.error).endswith(
        "looks_blocking returned a coroutine: it is an async handler that does not look like one; "
        "write it as an async function, or declare it with zope.interface.directlyProvides(handler, "
        "plugsocket.core.interfaces.IAsyncHandler)"
    )
