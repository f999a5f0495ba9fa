"""Every hook of `plugsocket.compat.socketserver` can be overridden, with or without the original one being called.

Whatever is checked is checked on both modules, the standard library's as the control.
"""

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import pytest

from tests.compat_hooks import Calls, on_both, running, telling
from tests.compat_kit import LOOPBACK, ask_in_tls, connected, echo, handler
from tests.kit import TIMEOUT, until
from tests.trio_kit import tls


@on_both
def test_binding_with_something_before_and_after(module: ModuleType) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def server_bind(self) -> None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.asked = self.server_address
            super().server_bind()
            self.server_name, self.server_port = self.server_address

    with Server(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert server.asked == LOOPBACK
        assert server.server_port == server.socket.getsockname()[1] != 0
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert loop.ask() == b"hello"


@on_both
def test_binding_to_what_is_found_in_another_way(module: ModuleType) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def server_bind(self) -> None:
            self.socket.bind(LOOPBACK)
            self.server_address = self.socket.getsockname()

        def server_activate(self) -> None:
            self.socket.listen(1)

    with Server("anywhere", echo(module)) as server, running(server) as loop:
        assert loop.ask() == b"hello"


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "UDPServer"])
def test_processing_in_a_pool_of_the_program_s_own(module: ModuleType, name: str) -> None:
    waiting: SimpleQueue[Any] = SimpleQueue()
    names: list[str] = []

    class Server(getattr(module, name)):  # type: ignore[misc]
        def process_request(self, *request: Any) -> None:
            waiting.put(request)

        def work(self) -> None:
            while (request := waiting.get()) is not None:
                names.append(threading.current_thread().name)
                self.finish_request(*request)
                self.shutdown_request(request[0])

        def server_close(self) -> None:
            super().server_close()
            for _ in pool:
                waiting.put(None)

    with Server(LOOPBACK, echo(module)) as server:
        pool = [threading.Thread(target=server.work, name="mine") for _ in range(2)]
        for thread in pool:
            thread.start()
        with running(server) as loop:
            assert [loop.ask(b"%d" % number) for number in range(4)] == [b"0", b"1", b"2", b"3"]
    for thread in pool:
        thread.join(TIMEOUT)
    assert names == ["mine"] * 4


@on_both
@pytest.mark.parametrize("name", ["ThreadingTCPServer", "ForkingTCPServer"])
def test_processing_with_something_before_and_after(module: ModuleType, name: str, tmp_path: Path) -> None:
    calls = Calls(tmp_path)

    class Server(getattr(module, name)):  # type: ignore[misc]
        def process_request(self, request: Any, client_address: Any) -> None:
            calls.note("before")
            super().process_request(request, client_address)
            calls.note("after")

    with Server(LOOPBACK, telling(echo(module), calls, "handle")) as server, running(server) as loop:
        assert loop.ask() == b"hello"
    called = calls.by_place(loop=loop.native_id or 0)
    assert called == {"loop": ["before", "after"], "beside": ["handle"]}


@on_both
def test_the_thread_of_a_request_with_something_before_and_after(module: ModuleType, tmp_path: Path) -> None:
    calls = Calls(tmp_path)

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def process_request_thread(self, request: Any, client_address: Any) -> None:
            calls.note("before")
            super().process_request_thread(request, client_address)
            calls.note("after")

    hooks = ("finish_request", "close_request")
    with telling(Server, calls, *hooks)(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert loop.ask() == b"hello"
    assert calls.by_place(loop=loop.native_id or 0) == {"beside": ["before", *hooks, "after"]}


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_requests_in_tls(module: ModuleType, name: str) -> None:
    of_server, of_client = tls()

    class Server(getattr(module, name)):  # type: ignore[misc]
        def get_request(self) -> tuple[Any, Any]:
            sock, address = super().get_request()
            return of_server.wrap_socket(sock, server_side=True), address

    # Whose answer is whole, although more of the protocol comes from the client afterwards.
    greet = handler(module, lambda self: self.wfile.write(self.rfile.readline().upper()))
    with Server(LOOPBACK, greet) as server, running(server):
        for _ in range(2):
            with connected(server) as plain:
                plain.settimeout(TIMEOUT)
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")  # is refused, and that is all
                with suppress(ConnectionResetError):
                    while plain.recv(100):
                        pass  # such as an alert
            assert ask_in_tls(server, of_client, b"hello\n") == b"HELLO\n"


@on_both
def test_requests_that_are_something_else(module: ModuleType) -> None:
    """As long as whoever gets them knows what to do with them."""

    class Server(module.TCPServer):  # type: ignore[misc]
        def get_request(self) -> tuple[Any, Any]:
            sock, address = super().get_request()
            return {"socket": sock}, ("named", address)

        def close_request(self, request: Any) -> None:
            super().close_request(request["socket"])

        def shutdown_request(self, request: Any) -> None:
            self.close_request(request)

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.request["socket"].recv(100)
            self.request["socket"].sendall(self.client_address[0].encode())

    with Server(LOOPBACK, Handler) as server, running(server) as loop:
        assert loop.ask() == b"named"


@on_both
@pytest.mark.parametrize("error", [ConnectionAbortedError, TimeoutError, OSError])
def test_a_request_that_cannot_be_got_is_skipped(module: ModuleType, error: type[OSError], tmp_path: Path) -> None:
    calls = Calls(tmp_path)

    class Server(module.TCPServer):  # type: ignore[misc]
        failing = True

        def get_request(self) -> tuple[Any, Any]:
            sock, address = super().get_request()
            if self.failing:
                sock.close()
                raise error("as told")
            return sock, address

    cls = telling(Server, calls, "handle_error", "verify_request", "close_request")
    with cls(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert loop.turns_away()
        server.failing = False
        assert "verify_request" not in calls
        assert loop.ask() == b"hello"
    assert "handle_error" not in calls


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "UDPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_some_clients_are_refused(module: ModuleType, name: str) -> None:
    class Server(getattr(module, name)):  # type: ignore[misc]
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return bool(client_address[0] == "127.0.0.2")

    with Server(LOOPBACK, echo(module)) as server, running(server):
        for source, answer in (("127.0.0.1", b""), ("127.0.0.2", b"hello")):
            with socket.socket(server.address_family, server.socket_type) as sock:
                sock.settimeout(TIMEOUT if name != "UDPServer" or answer else 0.05)
                sock.bind((source, 0))
                sock.connect(server.server_address)
                if answer:
                    sock.sendall(b"hello")
                    if name != "UDPServer":
                        sock.shutdown(socket.SHUT_WR)
                    assert sock.recv(100) == answer
                elif name == "UDPServer":
                    sock.sendall(b"hello")
                    with pytest.raises(TimeoutError):
                        sock.recv(100)
                else:
                    assert sock.recv(100) == b""


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_handlers_with_more_arguments(module: ModuleType, name: str) -> None:
    class Handler(module.StreamRequestHandler):  # type: ignore[misc]
        def __init__(self, *arguments: Any, greeting: bytes, ending: bytes) -> None:
            self.words = (greeting, ending)
            super().__init__(*arguments)

        def handle(self) -> None:
            self.wfile.write(self.rfile.read().join(self.words))

    class Server(getattr(module, name)):  # type: ignore[misc]
        def finish_request(self, request: Any, client_address: Any) -> None:
            self.RequestHandlerClass(request, client_address, self, ending=b"!")

    with Server(LOOPBACK, partial(Handler, greeting=b"oh ")) as server, running(server) as loop:
        assert loop.ask(b"dear") == b"oh dear!"


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer"])
def test_closing_requests_in_another_way(module: ModuleType, name: str) -> None:
    kept: list[socket.socket] = []

    class Server(getattr(module, name)):  # type: ignore[misc]
        def shutdown_request(self, request: Any) -> None:
            kept.append(request)

    with Server(LOOPBACK, echo(module)) as server, running(server) as loop, connected(server) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert loop.answer(sock) == b"hello"
        until(lambda: bool(kept))
        kept[0].sendall(b"later")
        assert sock.recv(100) == b"later"
    kept[0].close()


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_clients_are_told_of_the_end_whoever_has_their_connection(module: ModuleType, name: str) -> None:
    kept: list[socket.socket] = []

    class Server(getattr(module, name)):  # type: ignore[misc]
        def verify_request(self, request: Any, client_address: Any) -> bool:
            kept.append(request.dup())  # as a process would that somebody has started meanwhile
            return True

    with Server(LOOPBACK, echo(module)) as server, running(server) as loop:
        with connected(server) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            assert loop.answer(sock) == b"hello"
            assert loop.answer(sock) == b""
        kept[0].close()


def raising(error: BaseException) -> Callable[[Any], None]:
    def handle(self: Any) -> None:
        self.rfile.read()
        raise error

    return handle


@on_both
def test_errors_are_handled_while_they_are_current(module: ModuleType) -> None:
    seen: list[Any] = []

    class Server(module.TCPServer):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            seen.extend([sys.exc_info()[1], request.getpeername() == client_address])

    error = ValueError("as told")
    with Server(LOOPBACK, handler(module, raising(error))) as server, running(server) as loop:
        assert loop.ask() == b""
    assert seen == [error, True]


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "UDPServer"])
def test_an_error_that_is_raised_again_ends_serving(module: ModuleType, name: str) -> None:
    """And only that: the server can serve again."""

    class Server(getattr(module, name)):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            self.shutdown_request(request)
            raise  # noqa: PLE0704 - what is being handled

    with Server(LOOPBACK, echo(module)) as server:
        for serve in (partial(server.serve_forever, 0.01), server.handle_request):
            with connected(server) as sock:
                sock.sendall(b"raise this")
                with pytest.raises(RuntimeError, match="raise this"):
                    serve()
        with running(server) as loop:
            assert loop.ask() == b"hello"


@on_both
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_is_no_exception_ends_serving(module: ModuleType, error: BaseException, tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    cls = telling(module.TCPServer, calls, "handle_error", "shutdown_request")
    with cls(LOOPBACK, handler(module, raising(error))) as server:
        for serve in (partial(server.serve_forever, 0.01), server.handle_request):
            with connected(server) as sock:
                sock.settimeout(TIMEOUT)
                sock.shutdown(socket.SHUT_WR)
                with pytest.raises(type(error)):
                    serve()
                assert sock.recv(1) == b""
    assert calls.by_place(loop=0) == {"caller": ["shutdown_request"] * 2}


@on_both
@pytest.mark.parametrize("error", [SystemExit(3), ValueError("as told")], ids=repr)
def test_what_is_raised_in_a_thread(
    module: ModuleType, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exceptions are for `handle_error()`; what that raises, and what is no exception, ends the thread."""
    calls = Calls(tmp_path)
    unhandled: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            calls.note("handle_error")
            raise LookupError("while handling")

    cls = telling(Server, calls, "shutdown_request")
    with cls(LOOPBACK, handler(module, raising(error))) as server, running(server) as loop:
        for _ in range(2):
            assert loop.ask() == b""
    handled = ["handle_error"] if isinstance(error, ValueError) else []
    assert sorted(calls.by_place(loop=0)["beside"]) == sorted([*handled, "shutdown_request"] * 2)
    assert [each.exc_type for each in unhandled] == [LookupError if handled else SystemExit] * 2


# Hooks that are called while nothing comes


@on_both
def test_service_actions_while_nobody_comes_and_once_for_each_request(module: ModuleType, tmp_path: Path) -> None:
    turns: list[int] = []

    class Server(module.TCPServer):  # type: ignore[misc]
        def service_actions(self) -> None:
            turns.append(len(handled))

    handled: list[int] = []

    def handle(self: Any) -> None:
        self.rfile.read()
        handled.append(1)

    with Server(LOOPBACK, handler(module, handle)) as server, running(server) as loop:
        until(lambda: len(turns) > 3)  # although nothing happens but time passing
        for _ in range(3):
            assert loop.ask() == b""
    assert {0, 1, 2, 3} <= set(turns)  # after the first, after the second, and so on


@on_both
def test_service_actions_that_fail_end_serving(module: ModuleType) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def service_actions(self) -> None:
            raise LookupError("as told")

    with Server(LOOPBACK, echo(module)) as server:
        with pytest.raises(LookupError, match="as told"):
            server.serve_forever(0.01)
        with pytest.raises(LookupError, match="as told"):
            server.serve_forever(0.01)


@on_both
def test_service_actions_of_a_server_that_forks_are_its_own_as_well(module: ModuleType) -> None:
    turns: list[int] = []

    class Server(module.ForkingTCPServer):  # type: ignore[misc]
        def service_actions(self) -> None:
            super().service_actions()
            turns.append(len(self.active_children or ()))

    with Server(LOOPBACK, echo(module)) as server, running(server) as loop:
        assert loop.ask() == b"hello"
        seen = len(turns)
        until(lambda: 0 in turns[seen:])


# The hook that is not documented


@on_both
def test_requests_one_at_a_time_by_a_loop_of_the_program_s_own(module: ModuleType) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        for number in (1, 2, 3):
            with connected(server) as sock:
                sock.sendall(b"%d" % number)
                sock.shutdown(socket.SHUT_WR)
                server._handle_request_noblock()
                assert sock.recv(100) == b"%d" % number


@on_both
def test_a_cap_on_threads_as_programs_have_made_themselves_one(module: ModuleType) -> None:
    """Whoever cannot have a slot returns, and is called again, since the connection waits still."""
    slots = threading.Semaphore(1)
    most, present = [], threading.Lock()

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def _handle_request_noblock(self) -> None:
            if slots.acquire(timeout=0.01):
                super()._handle_request_noblock()

        def shutdown_request(self, request: Any) -> None:
            super().shutdown_request(request)
            slots.release()

    def handle(self: Any) -> None:
        assert present.acquire(blocking=False)
        most.append(1)
        self.wfile.write(self.rfile.read())
        present.release()

    with (
        Server(LOOPBACK, handler(module, handle)) as server,
        running(server) as loop,
        connected(server) as first,
        connected(server) as second,
    ):
        for sock, name in ((second, b"second"), (first, b"first")):
            sock.sendall(name)
            sock.shutdown(socket.SHUT_WR)
        assert loop.answer(first) == b"first"
        assert loop.answer(second) == b"second"
    assert len(most) == 2
