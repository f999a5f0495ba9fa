"""`plugsocket.compat.socketserver` has the names of the standard library's module, and they mean what they meant.

Whatever is checked is checked on both, the standard library's as the control.
"""

import inspect
import io
import os
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from plugsocket.compat import socketserver as ours
from tests.compat_hooks import on_both, running
from tests.compat_kit import LOOPBACK, connected, echo, handler
from tests.kit import TIMEOUT, ask

SERVERS = [
    f"{mix_in}{base}"
    for mix_in in ("", "Threading", "Forking")
    for base in ("TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer")
]
CLASSES = [*SERVERS, "BaseServer", "ThreadingMixIn", "ForkingMixIn"]
HANDLERS = ["BaseRequestHandler", "StreamRequestHandler", "DatagramRequestHandler"]
SINCE_3_12 = {"ForkingUnixStreamServer", "ForkingUnixDatagramServer"}
OF_THE_ORIGINAL = [name for name in (*CLASSES, *HANDLERS) if hasattr(socketserver, name)]
ACCOUNTS = {"_threads", "active_children"}  # of what is under way, kept in another form
OPTIONS = {"strategy", "grace", "max_threads"}

TCP_INFO_BACKLOG = 28  # where `struct tcp_info` of a listening socket has the length of its queue


# Names


def test_every_documented_name_is_there() -> None:
    assert {name for name in CLASSES + HANDLERS if not inspect.isclass(getattr(ours, name, None))} == set()
    assert set(ours.__all__) == {*CLASSES, *HANDLERS}
    assert len(ours.__all__) == len(CLASSES + HANDLERS)


def test_all_is_that_of_the_original() -> None:
    missing = SINCE_3_12 if sys.version_info < (3, 12) else set()
    assert set(ours.__all__) - set(socketserver.__all__) == missing
    assert set(socketserver.__all__) <= set(ours.__all__)


@pytest.mark.parametrize("name", ["socket", "selectors", "os", "sys", "threading", "__version__", "_ServerSelector"])
def test_names_of_the_module_that_programs_reach_through_it(name: str) -> None:
    assert getattr(ours, name) is getattr(socketserver, name) or name == "__version__"


def test_classes_derive_from_each_other_as_they_did() -> None:
    for module in (socketserver, ours):
        for name in set(SERVERS) & set(dir(module)):
            bases = [cls.__name__ for cls in getattr(module, name).__mro__]
            of_the_kind = {"": [], "Threading": ["ThreadingMixIn"], "Forking": ["ForkingMixIn"]}
            mix_in = next(kind for kind in ("Threading", "Forking", "") if name.startswith(kind))
            family = name.removeprefix(mix_in)
            wanted = [family, *(["UDPServer"] if "Datagram" in family else []), "TCPServer", "BaseServer", "object"]
            wanted = [name, *of_the_kind[mix_in], *wanted] if mix_in else wanted
            assert bases == list(dict.fromkeys(wanted)), name
        for name in HANDLERS:
            assert issubclass(getattr(module, name), module.BaseRequestHandler)


def members() -> Iterator[tuple[str, str]]:
    """What the classes of the original define themselves, as names of class and member."""
    for name in OF_THE_ORIGINAL:
        for member in vars(getattr(socketserver, name)):
            if not member.startswith("__") or member in ("__init__", "__enter__", "__exit__"):
                yield name, member


METHODS = [
    (name, each) for name, each in members() if isinstance(vars(getattr(socketserver, name))[each], FunctionType)
]
ATTRIBUTES = [each for each in members() if each not in METHODS and each[1] not in ACCOUNTS]


def form(function: Any) -> list[tuple[Any, ...]]:
    """What may be given to a function, in which way."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_methods_take_what_they_took(name: str, method: str) -> None:
    wanted, found = (form(getattr(getattr(module, name), method)) for module in (socketserver, ours))
    if method == "__exit__":  # whose arguments have no names that anybody could use
        assert [kind for _, kind, _ in found] == [kind for _, kind, _ in wanted]
    else:
        assert found == wanted


@pytest.mark.parametrize(("name", "attribute"), ATTRIBUTES)
def test_attributes_are_what_they_were(name: str, attribute: str) -> None:
    wanted, found = (getattr(getattr(module, name), attribute) for module in (socketserver, ours))
    assert (found, type(found)) == (wanted, type(wanted))


def test_what_is_compared_is_not_nothing() -> None:
    """So that another layout of the original would be noticed."""
    assert {("TCPServer", "server_bind"), ("BaseServer", "_handle_request_noblock")} <= set(METHODS)
    assert {("TCPServer", "request_queue_size"), ("StreamRequestHandler", "wbufsize")} <= set(ATTRIBUTES)


def test_nothing_is_added_to_a_class_under_a_name_that_a_subclass_may_use() -> None:
    for name in CLASSES:
        cls = getattr(ours, name)
        known = {attribute for base in CLASSES for attribute in dir(getattr(socketserver, base, object))} | OPTIONS
        assert {found for found in dir(cls) if not found.startswith("_")} <= known
        private = {found.split("__")[0] for found in dir(cls) if found.startswith("_")}
        own = {"_plugsocket_flags", "_plugsocket_loop", "_BaseServer", "_ThreadingMixIn", "_ForkingMixIn"}
        assert private <= own | {each.split("__")[0] for each in known if each.startswith("_")}


@on_both
def test_a_server_has_few_attributes_of_its_own(module: ModuleType) -> None:
    with module.ThreadingTCPServer(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert loop.ask() == b"hello"
        plain = {name for name in vars(server) if not name.startswith(("_BaseServer__", "_plugsocket_"))}
    assert plain - ACCOUNTS == {"server_address", "RequestHandlerClass", "socket"}


# What the attributes mean, wherever they are set


def backlog(server: Any) -> int:
    (size,) = struct.unpack_from(
        "I", server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), TCP_INFO_BACKLOG
    )
    return int(size)


def option(server: Any, name: int) -> bool:
    return bool(server.socket.getsockopt(socket.SOL_SOCKET, name))


@on_both
def test_the_queue_is_five_long_and_addresses_are_not_reused(module: ModuleType) -> None:
    with module.TCPServer(LOOPBACK, None) as server:
        assert backlog(server) == 5
        assert not option(server, socket.SO_REUSEADDR)
        assert not option(server, socket.SO_REUSEPORT)


SET = {"request_queue_size": 11, "allow_reuse_address": True, "allow_reuse_port": True}


def on_the_class(cls: Any) -> Any:
    return type("Server", (cls,), SET)(LOOPBACK, None)


def on_the_instance_before_it_is_made(cls: Any) -> Any:
    class Server(cls):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            vars(self).update(SET)
            super().__init__(*arguments)

    return Server(LOOPBACK, None)


def late(cls: Any) -> Any:
    server = cls(LOOPBACK, None, False)
    vars(server).update(SET)
    server.server_bind()
    server.server_activate()
    return server


@on_both
@pytest.mark.parametrize("place", [on_the_class, on_the_instance_before_it_is_made, late])
def test_attributes_for_the_socket_count_wherever_they_are_set(module: ModuleType, place: Any) -> None:
    with place(module.TCPServer) as server:
        assert backlog(server) == 11
        assert option(server, socket.SO_REUSEADDR)
        assert option(server, socket.SO_REUSEPORT)


@on_both
def test_the_family_of_the_address_is_an_attribute_too(module: ModuleType) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            self.address_family = socket.AF_INET6
            super().__init__(*arguments)

    with Server(("::1", 0), echo(module)) as server, running(server) as loop:
        assert len(server.server_address) == 4
        assert loop.ask() == b"hello"


@on_both
def test_longer_datagrams_are_cut(module: ModuleType) -> None:
    with module.UDPServer(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert module.UDPServer.max_packet_size == 8192
        assert loop.ask(b"12345") == b"12345"
        server.max_packet_size = 3  # late, too
        assert loop.ask(b"12345") == b"123"


@on_both
def test_the_handler_may_be_replaced(module: ModuleType) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert loop.ask() == b"hello"
        server.RequestHandlerClass = handler(module, lambda self: self.wfile.write(self.rfile.read().upper()))
        assert loop.ask() == b"HELLO"


@on_both
def test_a_constructor_that_fails_closes_what_it_opened(module: ModuleType) -> None:
    closed = []

    class Server(module.TCPServer):  # type: ignore[misc]
        def server_close(self) -> None:
            closed.append(self.socket)
            super().server_close()

    with module.TCPServer(LOOPBACK, None) as server, pytest.raises(OSError, match="in use"):
        Server(server.server_address, None)
    with pytest.raises(OverflowError):
        Server(("127.0.0.1", -1), None)
    assert [sock.fileno() for sock in closed] == [-1, -1]


@on_both
def test_a_server_without_a_socket_finishes_requests_that_are_none(module: ModuleType) -> None:
    """As wsgiref's own tests do."""

    class Server(module.TCPServer):  # type: ignore[misc]
        def __init__(self) -> None:
            module.BaseServer.__init__(self, ("host", 1), seen.append)

        def finish_request(self, request: Any, client_address: Any) -> None:
            self.RequestHandlerClass((request, client_address))

    seen: list[Any] = []
    Server().finish_request("request", "peer")
    assert seen == [("request", "peer")]


# Names that are not documented


@on_both
def test_the_bookkeeping_of_threads(module: ModuleType) -> None:
    hold, begun = threading.Event(), threading.Event()

    def handle(self: Any) -> None:
        begun.set()
        hold.wait(TIMEOUT)

    with module.ThreadingTCPServer(LOOPBACK, handler(module, handle)) as server:
        assert len(list(server._threads)) == 0 if module is ours else not hasattr(server._threads, "__len__")
        with running(server), connected(server) as sock:
            begun.wait(TIMEOUT)
            (thread,) = server._threads
            assert thread.is_alive()
            assert not thread.daemon
            hold.set()
            assert sock.recv(1) == b""
    assert not thread.is_alive()
    assert len(server._threads) == 0


@on_both
@pytest.mark.parametrize(
    ("name", "value", "daemon"), [("daemon_threads", True, True), ("block_on_close", False, False)]
)
def test_threads_that_are_not_waited_for(module: ModuleType, name: str, value: bool, daemon: bool) -> None:
    hold, found = threading.Event(), []

    def handle(self: Any) -> None:
        found.append(threading.current_thread())
        self.wfile.write(b"!")
        hold.wait(TIMEOUT)

    with module.ThreadingTCPServer(LOOPBACK, handler(module, handle)) as server:
        setattr(server, name, value)  # late
        with running(server), connected(server) as sock:
            assert sock.recv(1) == b"!"
    assert found[0].daemon == daemon
    assert found[0].is_alive()  # server_close() has not waited
    hold.set()
    found[0].join(TIMEOUT)


@on_both
def test_the_bookkeeping_of_children(module: ModuleType) -> None:
    def handle(self: Any) -> None:
        self.wfile.write(b"%d" % os.getpid())
        self.rfile.read()

    with module.ForkingTCPServer(LOOPBACK, handler(module, handle)) as server:
        assert not server.active_children
        with connected(server) as sock:
            server.handle_request()
            child = int(sock.recv(100))
            assert set(server.active_children) == {child}
            server.collect_children()
            assert set(server.active_children) == {child}
            sock.shutdown(socket.SHUT_WR)
            server.collect_children(blocking=True)
            assert not server.active_children
    assert not server.active_children
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)


@on_both
def test_children_that_are_not_to_be_waited_for(module: ModuleType) -> None:
    with module.ForkingTCPServer(LOOPBACK, handler(module, lambda self: self.rfile.read())) as server:
        server.block_on_close = False
        with connected(server) as sock:
            server.handle_request()
            (child,) = server.active_children
            server.server_close()
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
            sock.shutdown(socket.SHUT_WR)
            os.waitpid(child, 0)
            server.collect_children()  # which finds that somebody else has


@on_both
def test_children_that_have_ended_are_not_left(module: ModuleType) -> None:
    """Whether or not those are waited for that have not."""
    with module.ForkingTCPServer(LOOPBACK, handler(module, lambda self: self.rfile.read())) as server:
        server.block_on_close = False
        with connected(server) as sock:
            server.handle_request()
            (child,) = server.active_children
            sock.shutdown(socket.SHUT_WR)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # and leave it as it is
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)


@on_both
def test_a_cap_on_children_that_is_set_late(module: ModuleType) -> None:
    with module.ForkingTCPServer(LOOPBACK, echo(module)) as server:
        server.max_children = 1
        with running(server) as loop:
            assert [loop.ask(b"%d" % number) for number in range(3)] == [b"0", b"1", b"2"]


@on_both
def test_the_flag_of_a_stop(module: ModuleType) -> None:
    """Which programs set, in a handler, that know that `shutdown()` blocks there."""

    def handle(self: Any) -> None:
        self.server._BaseServer__shutdown_request = True

    with module.TCPServer(LOOPBACK, handler(module, handle)) as server, connected(server):
        assert server._BaseServer__shutdown_request is False
        server.serve_forever(0.01)
        assert server._BaseServer__is_shut_down.wait(TIMEOUT)
        assert server._BaseServer__shutdown_request is False


# Handlers


@on_both
def test_buffers_and_options_of_a_handler_of_connections(module: ModuleType) -> None:
    seen = []

    class Handler(module.StreamRequestHandler):  # type: ignore[misc]
        rbufsize, wbufsize, timeout, disable_nagle_algorithm = 0, 512, 7.5, True

        def handle(self) -> None:
            nagle = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            seen.extend([type(self.rfile), type(self.wfile), self.connection.gettimeout(), bool(nagle)])
            seen.append(self.connection is self.request)
            self.rfile.readall()
            self.wfile.write(b"kept until the end")

    with module.TCPServer(LOOPBACK, Handler) as server, running(server) as loop:
        assert loop.ask() == b"kept until the end"
    assert seen == [socket.SocketIO, io.BufferedWriter, 7.5, True, True]


@on_both
def test_the_writer_that_holds_nothing_back(module: ModuleType) -> None:
    seen = []

    def handle(self: Any) -> None:
        seen.extend([type(self.wfile) is module._SocketWriter, isinstance(self.wfile, io.BufferedIOBase)])
        seen.extend([self.wfile.fileno() == self.request.fileno(), self.wfile.writable(), self.wfile.closed])
        seen.append(self.wfile.write(memoryview(self.rfile.read())))

    with module.TCPServer(LOOPBACK, handler(module, handle)) as server, running(server) as loop:
        assert loop.ask() == b"hello"
    assert seen == [True, True, True, True, False, 5]


@on_both
def test_a_client_that_says_nothing_for_too_long(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    Handler = handler(module, lambda self: self.rfile.read())  # noqa: N806 - a class
    Handler.timeout = 0.01
    with module.TCPServer(LOOPBACK, Handler) as server, connected(server) as sock:
        server.handle_request()
        assert sock.recv(1) == b""
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == printed[-1] == "-" * 40
    assert printed[1].startswith("Exception occurred during processing of request from ('127.0.0.1', ")
    assert printed[2] == "Traceback (most recent call last):"
    assert printed[-2] == "TimeoutError: timed out"


@on_both
def test_a_handler_of_datagrams(module: ModuleType, tmp_path: Path) -> None:
    seen = []

    class Handler(module.DatagramRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            seen.extend([self.packet, self.socket is self.server.socket, self.request == (self.packet, self.socket)])
            self.wfile.write(self.rfile.read().upper())

    class Nothing(module.DatagramRequestHandler):  # type: ignore[misc]
        pass

    with module.UDPServer(LOOPBACK, Handler) as server, running(server) as loop:
        assert loop.ask() == b"HELLO"
        server.RequestHandlerClass = Nothing
        assert loop.ask() == b""  # a reply, with nothing in it
    assert seen == [b"hello", True, True]


@on_both
def test_a_handler_is_set_up_and_finished(module: ModuleType) -> None:
    steps: list[str] = []

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def setup(self) -> None:
            steps.append("setup")
            if self.request == "unready":
                raise ValueError(self.request)

        def handle(self) -> None:
            steps.append("handle")
            raise LookupError(self.client_address)

        def finish(self) -> None:
            steps.append("finish")

    for request, error in (("ready", LookupError), ("unready", ValueError)):
        with pytest.raises(error):
            Handler(request, "peer", None)
    assert steps == ["setup", "handle", "finish", "setup"]


@on_both
def test_the_socket_that_the_user_sees_blocks(module: ModuleType) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server, running(server) as loop:
        with connected(server) as sock:
            assert ask(sock, b"hello") == b"hello"
            assert server.socket.gettimeout() is None
            assert server.socket.getblocking()
        assert server.fileno() == server.socket.fileno()
        assert loop.is_alive()
