"""Servers of `plugsocket.compat.socketserver`: mixed with what others wrote, on sockets of others, time and again.

Whatever is checked is checked on both modules, the standard library's as the control.
"""

import http.client
import http.server
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.compat_hooks import Calls, on_both, running, telling
from tests.compat_kit import LOOPBACK, MODULES, Loop, ask_in_tls, connected, echo, handler
from tests.kit import TIMEOUT, ask, until
from tests.trio_kit import tls

# Mix-ins


@on_both
@pytest.mark.parametrize("mix_in", ["ThreadingMixIn", "ForkingMixIn"])
def test_a_mix_in_of_the_program_s_own_in_any_place(module: ModuleType, mix_in: str, tmp_path: Path) -> None:
    calls = Calls(tmp_path)

    names = ("verify_request", "process_request", "finish_request", "server_close")

    def mine(place: str) -> Any:
        def method(name: str) -> Any:
            def tell(self: Any, *arguments: Any) -> Any:
                calls.note(f"{place}.{name}")
                return getattr(super(cls, self), name)(*arguments)

            return tell

        cls: Any = type("Mine", (), {name: method(name) for name in names})
        return cls

    bases = (mine("first"), getattr(module, mix_in), mine("second"), module.TCPServer)
    with type("Server", bases, {})(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert loop.ask() == b"hello"
    called = calls.by_place(loop=loop.native_id or 0)
    assert called["loop"] == ["first.verify_request", "second.verify_request", "first.process_request"]
    assert called["beside"] == ["first.finish_request", "second.finish_request"]
    assert called["caller"] == ["first.server_close", "second.server_close"]


@on_both
def test_a_mix_in_that_comes_too_late_mixes_nothing_in(module: ModuleType) -> None:
    names: list[str] = []

    def handle(self: Any) -> None:
        self.rfile.read()
        names.append(threading.current_thread().name)

    cls = type("Server", (module.TCPServer, module.ThreadingMixIn), {})
    with cls(LOOPBACK, handler(module, handle)) as server, running(server) as loop:
        assert loop.ask() == b""
        assert names == [loop.name]


@on_both
def test_another_base_with_a_constructor_of_its_own(module: ModuleType) -> None:
    """As servers of XML-RPC have one, whose constructor runs before, and not again."""

    class Dispatcher:
        def __init__(self, answer: bytes) -> None:
            assert not hasattr(self, "answer")
            self.answer = answer

    class Server(module.TCPServer, Dispatcher):  # type: ignore[misc]
        def __init__(self, address: Any, handler: Any) -> None:
            Dispatcher.__init__(self, b"hello")
            module.TCPServer.__init__(self, address, handler)

    def handle(self: Any) -> None:
        self.rfile.read()
        self.wfile.write(self.server.answer)

    with Server(LOOPBACK, handler(module, handle)) as server, running(server) as loop:
        assert loop.ask(b"?") == b"hello"


@on_both
def test_another_base_that_is_a_server_of_another_form(module: ModuleType) -> None:
    class Other(module.BaseServer):  # type: ignore[misc]
        def __init__(self, something: Any) -> None:
            raise NotImplementedError(something)

    class Server(module.TCPServer, Other):  # type: ignore[misc]
        pass

    with Server(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert loop.ask() == b"hello"


ACROSS = [
    pytest.param(of_mix_in, of_server, id=f"{name}-on-{other}")
    for (name, of_mix_in), (other, of_server) in product(MODULES.items(), MODULES.items())
]


@pytest.mark.parametrize("name", ["ThreadingMixIn", "ForkingMixIn"])
@pytest.mark.parametrize(("of_mix_in", "of_server"), ACROSS)
def test_mix_ins_of_one_module_and_servers_of_the_other(
    of_mix_in: ModuleType, of_server: ModuleType, name: str
) -> None:
    def handle(self: Any) -> None:
        self.wfile.write(b"%d %d" % (os.getpid(), threading.get_native_id()))
        self.rfile.read()

    cls = type("Server", (getattr(of_mix_in, name), of_server.TCPServer), {})
    with cls(LOOPBACK, handler(of_server, handle)) as server, running(server) as loop:
        found = set()
        for _ in range(2):
            with connected(server) as first, connected(server) as second:  # beside each other
                for sock in (first, second):
                    process, thread = map(int, loop.answer(sock).split())
                    found.add(process if name == "ForkingMixIn" else thread)
                    assert (process == os.getpid()) == (name == "ThreadingMixIn")
                for sock in (first, second):
                    sock.shutdown(socket.SHUT_WR)
                    assert loop.answer(sock) == b""
        assert not {os.getpid(), loop.native_id} & found


@on_both
@pytest.mark.parametrize("mix_in", ["ThreadingMixIn", "ForkingMixIn", None])
def test_http_servers_of_the_standard_library(module: ModuleType, mix_in: str | None, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("hello")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments: Any) -> None:
            pass

    mixed = () if mix_in is None else (getattr(module, mix_in),)
    with type("Server", (*mixed, http.server.HTTPServer), {})(LOOPBACK, Handler) as server, running(server):
        for _ in range(2):
            browser = http.client.HTTPConnection(*server.server_address, timeout=TIMEOUT)
            browser.request("GET", "/page")
            assert browser.getresponse().read() == b"hello"
            browser.close()


# Accounts of a program's own


@on_both
def test_threads_that_a_program_starts_itself(module: ModuleType) -> None:
    """As the original does it; they are waited for."""
    hold = threading.Event()

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def process_request(self, request: Any, client_address: Any) -> None:
            if self.block_on_close:
                vars(self).setdefault("_threads", module._Threads())
            thread = threading.Thread(target=self.process_request_thread, args=(request, client_address))
            thread.daemon = self.daemon_threads
            self._threads.append(thread)
            thread.start()
            started.append(thread)

    started: list[threading.Thread] = []
    with Server(LOOPBACK, handler(module, lambda _: hold.wait(TIMEOUT))) as server:
        with running(server), connected(server):
            until(lambda: bool(started))
        hold.set()
    assert not started[0].is_alive()


@on_both
def test_children_that_a_program_forks_itself(module: ModuleType) -> None:
    """As the original does it; they are waited for."""

    class Server(module.ForkingTCPServer):  # type: ignore[misc]
        def process_request(self, request: Any, client_address: Any) -> None:
            pid = os.fork()
            if pid == 0:
                try:
                    self.finish_request(request, client_address)
                finally:
                    os._exit(0)
            if self.active_children is None:
                self.active_children = set()
            self.active_children.add(pid)
            forked.append(pid)
            self.close_request(request)

    forked: list[int] = []
    with Server(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert [loop.ask(b"%d" % number) for number in range(3)] == [b"0", b"1", b"2"]
    assert not server.active_children
    for pid in forked:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


# Sockets from elsewhere


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(LOOPBACK) as sock:
        yield sock


def adopt(server: Any, sock: socket.socket) -> None:
    server.socket = sock
    server.server_address = sock.getsockname()


@on_both
def test_a_socket_that_listens_already(module: ModuleType) -> None:
    """As the ones are that a service manager hands over, by number."""
    with listening() as sock, module.TCPServer(LOOPBACK, echo(module), bind_and_activate=False) as server:
        server.socket.close()
        adopt(server, socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM))
        with running(server) as loop:
            assert loop.ask() == b"hello"


@on_both
def test_a_socket_for_datagrams_that_is_bound_already(module: ModuleType) -> None:
    with module.UDPServer(LOOPBACK, echo(module), bind_and_activate=False) as server:
        server.socket.close()
        adopt(server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.socket.bind(LOOPBACK)
        server.server_address = server.socket.getsockname()
        with running(server) as loop:
            assert loop.ask() == b"hello"


@on_both
def test_a_name_without_a_file(module: ModuleType) -> None:
    with module.UnixStreamServer("\0", echo(module)) as server, running(server) as loop:
        assert loop.ask() == b"hello"


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_a_socket_that_is_wrapped_after_all(module: ModuleType, name: str) -> None:
    of_server, of_client = tls()
    greet = handler(module, lambda self: self.wfile.write(self.rfile.readline().upper()))
    with getattr(module, name)(LOOPBACK, greet) as server:
        server.socket = of_server.wrap_socket(server.socket, server_side=True)
        with running(server):
            with connected(server) as plain, suppress(ConnectionResetError):
                plain.settimeout(TIMEOUT)
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")  # is refused, and that is all
                while plain.recv(100):
                    pass  # such as an alert
            for _ in range(2):
                assert ask_in_tls(server, of_client, b"hello\n") == b"HELLO\n"


@on_both
def test_a_socket_with_a_time_out_of_its_own(module: ModuleType) -> None:
    """Which connections do not inherit."""
    seen: list[float | None] = []

    def handle(self: Any) -> None:
        seen.append(self.request.gettimeout())
        self.wfile.write(self.rfile.read())

    with module.TCPServer(LOOPBACK, handler(module, handle)) as server:
        for time_out in (TIMEOUT, 0.0):
            server.socket.settimeout(time_out)
            with running(server) as loop:
                assert loop.ask() == b"hello"
            assert server.socket.gettimeout() == time_out
    assert seen == [None, None]


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "UDPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_another_socket_after_closing(module: ModuleType, name: str) -> None:
    server = getattr(module, name)(LOOPBACK, echo(module))
    with running(server) as loop:
        assert loop.ask() == b"hello"
    server.server_close()
    assert server.fileno() == -1
    server.socket = socket.socket(server.address_family, server.socket_type)
    server.server_address = LOOPBACK
    server.server_bind()
    server.server_activate()
    with running(server) as loop:
        assert loop.ask() == b"hello"
    server.server_close()
    server.server_close()  # is closed, and stays closed
    assert server.fileno() == -1


def serve_one(server: Any) -> None:
    """Have a server that echoes handle a single request, of a client that gets its answer."""
    with connected(server) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        server.handle_request()
        assert sock.recv(100) == b"hello"


@on_both
def test_another_socket_between_two_requests(module: ModuleType) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        timeout = 5.0

        def handle_timeout(self) -> None:
            pytest.fail("it does not see who connects to the other socket")

    with Server(LOOPBACK, echo(module)) as server:
        for _ in range(3):
            serve_one(server)
            server.socket.close()  # whose number the next one has
            adopt(server, socket.create_server(LOOPBACK))


@on_both
def test_a_server_that_connects(module: ModuleType) -> None:
    """And serves whoever it has connected to, as IDLE's does."""

    class Server(module.TCPServer):  # type: ignore[misc]
        def server_bind(self) -> None:
            pass

        def server_activate(self) -> None:
            self.socket.connect(self.server_address)

        def get_request(self) -> tuple[Any, Any]:
            return self.socket, self.server_address

    with listening() as sock, Server(sock.getsockname(), echo(module)) as server:
        other, _ = sock.accept()
        with other:
            other.sendall(b"hello")
            other.shutdown(socket.SHUT_WR)
            server.handle_request()
            assert other.recv(100) == b"hello"


# Time and again


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "UDPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_serving_again(module: ModuleType, name: str) -> None:
    with getattr(module, name)(LOOPBACK, echo(module)) as server:
        for _ in range(3):
            with running(server) as loop:
                assert loop.ask() == b"hello"


@on_both
def test_serving_by_turns(module: ModuleType) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        for _ in range(2):
            serve_one(server)
            with running(server) as loop:
                assert loop.ask(b"some") == b"some"


@on_both
def test_a_stop_that_may_come_before_the_loop(module: ModuleType) -> None:
    for _ in range(20):
        with module.TCPServer(LOOPBACK, echo(module)) as server:
            loop = Loop(server)
            server.shutdown()
            loop.join(TIMEOUT)
            assert not loop.is_alive()


@on_both
def test_several_who_stop_it(module: ModuleType) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        with running(server) as loop:
            assert loop.ask() == b"hello"
            others = [threading.Thread(target=server.shutdown) for _ in range(3)]
            for thread in others:
                thread.start()
        for thread in others:
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
def test_one_request_each_in_several_threads(module: ModuleType, name: str) -> None:
    with getattr(module, name)(LOOPBACK, echo(module)) as server:
        threads = [threading.Thread(target=server.handle_request) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(4):
            with connected(server) as sock:
                sock.settimeout(TIMEOUT)
                sock.sendall(b"%d" % number)
                if name != "UDPServer":
                    sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) == b"%d" % number
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@on_both
def test_a_loop_of_the_program_s_own(module: ModuleType, tmp_path: Path) -> None:
    """Nothing is accepted but in the calls for it."""
    calls = Calls(tmp_path)
    with telling(module.TCPServer, calls, "get_request")(LOOPBACK, echo(module)) as server:
        assert select.select([server], [], [], 0) == ([], [], [])
        with connected(server) as first, connected(server) as second:
            for number, sock in enumerate((first, second), 1):
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                assert select.select([server], [], [], TIMEOUT)[0] == [server]
                server.handle_request()
                assert sock.recv(100) == b"hello"
                assert calls.by_place(loop=0)["caller"] == ["get_request"] * number
        assert select.select([server], [], [], 0) == ([], [], [])


@on_both
def test_a_connection_that_outlives_the_loop(module: ModuleType) -> None:
    """Stopping the loop of a server with threads ends no request; closing it waits for them."""
    with module.ThreadingTCPServer(LOOPBACK, echo(module)) as server:
        with running(server), connected(server) as sock:
            kept = sock.dup()
            assert ask(kept, b"hello") == b"hello"
        with kept:
            assert ask(kept, b"hello again") == b"hello again"
