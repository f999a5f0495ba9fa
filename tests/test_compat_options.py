"""What classes under the old names can be told that `socketserver` cannot: a strategy, a cap on threads, a grace."""

import http.server
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from zope.interface import implementer

from plugsocket import Fork, Sync, Thread, Trio
from plugsocket.compat import socketserver
from plugsocket.compat.workers import strategy_of
from plugsocket.core.errors import OptionError, PluginError
from plugsocket.core.interfaces import IBlockingStrategy
from plugsocket.testing import failing_threads
from tests.compat_kit import LOOPBACK, Loop, connected, echo, handler
from tests.kit import TIMEOUT, until

SOON = 5.0  # seconds; what waits for a client takes longer than TIMEOUT
SHORT = 0.05  # seconds, of a grace that is too short for clients that stay

Echo = echo(socketserver)

BASES: dict[str, tuple[type[Any], ...]] = {
    "TCP": (socketserver.TCPServer,),
    "UDP": (socketserver.UDPServer,),
    "Unix": (socketserver.UnixStreamServer,),
    "UnixDatagram": (socketserver.UnixDatagramServer,),
    "ThreadingTCP": (socketserver.ThreadingMixIn, socketserver.TCPServer),
    "ThreadingUDP": (socketserver.ThreadingMixIn, socketserver.UDPServer),
    "ForkingTCP": (socketserver.ForkingMixIn, socketserver.TCPServer),
    "ForkingUnix": (socketserver.ForkingMixIn, socketserver.UnixStreamServer),
}
STREAMS = [name for name in BASES if not name.endswith(("UDP", "Datagram"))]

SAME_THREAD, SAME_PROCESS, CHILD = "in the loop", "in a thread", "in a child"
STRATEGIES: dict[str, tuple[Any, str]] = {
    "sync": ("sync", SAME_THREAD),
    "Sync": (Sync(), SAME_THREAD),
    "thread": ("thread?max_workers=8", SAME_PROCESS),
    "Thread": (Thread(8), SAME_PROCESS),
    "fork": ("fork?max_children=8", CHILD),
    "Fork": (Fork(8), CHILD),
    "trio": ("trio", SAME_PROCESS),
    "Trio": (Trio(), SAME_PROCESS),
}
BESIDE = [name for name, (_, place) in STRATEGIES.items() if place != SAME_THREAD]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be where a Unix server can have any name; its file is left by whoever serves, and removed here."""
    monkeypatch.chdir(tmp_path)
    yield
    Path("socket").unlink(missing_ok=True)


def made(base: str, handle: Any = Echo, **attributes: Any) -> Any:
    """A server of a class with these attributes."""
    cls = type("Server", BASES[base], attributes)
    return cls("socket" if "Unix" in base else LOOPBACK, handle)


@contextmanager
def running(server: Any) -> Iterator[Loop]:
    """Serve in a background thread; leaving closes the server, which stops it."""
    with server:
        loop = Loop(server)
        yield loop
    loop.join(TIMEOUT)
    assert not loop.is_alive()
    assert loop.error is None


@contextmanager
def client(server: Any) -> Iterator[socket.socket]:
    """Be a client; afterwards the connection is over also for forked children, which have the client's socket too."""
    with connected(server) as sock:
        sock.settimeout(TIMEOUT)
        try:
            yield sock
        finally:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def staying(loop: Loop) -> Iterator[socket.socket]:
    """Be a client whose handler waits for more."""
    with client(loop.server) as sock:
        sock.sendall(b"stay")
        assert loop.answer(sock) == b"stay"
        yield sock


def leave(sock: socket.socket) -> None:
    """Have the handler end; a forked child may have the client's socket too, so that closing it would tell nobody."""
    sock.shutdown(socket.SHUT_WR)


# Strategies


class Where(socketserver.BaseRequestHandler):
    """Tells in which process and thread it runs."""

    def handle(self) -> None:
        place = f"{os.getpid()} {threading.get_native_id()}".encode()
        if isinstance(self.request, tuple):
            self.request[1].sendto(place, self.client_address)
        else:
            self.request.recv(100)
            self.request.sendall(place)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("base", BASES)
def test_requests_run_where_the_strategy_has_them(base: str, name: str) -> None:
    strategy, expected = STRATEGIES[name]
    with running(made(base, Where, strategy=strategy)) as loop:
        for _ in range(3):
            process, thread = map(int, loop.ask().split())
            here = SAME_THREAD if thread == loop.native_id else SAME_PROCESS
            assert (here if process == os.getpid() else CHILD) == expected


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("base", STREAMS)
def test_requests_run_beside_each_other(base: str, name: str) -> None:
    with running(made(base, strategy=STRATEGIES[name][0])) as loop, staying(loop) as first, staying(loop) as second:
        assert loop.ask() == b"hello"
        first.sendall(b"again")
        assert loop.answer(first) == b"again"
        leave(second)
        leave(first)


@pytest.mark.parametrize("strategy", ["sync", "thread?max_workers=1", "fork?max_children=1", "trio?max_threads=1"])
@pytest.mark.parametrize("base", ["TCP", "ThreadingTCP", "ForkingTCP"])
def test_beyond_the_cap_of_the_strategy_clients_wait(base: str, strategy: str) -> None:
    with running(made(base, strategy=strategy)) as loop, staying(loop) as first, client(loop.server) as second:
        second.sendall(b"wait")
        assert not is_answered(second)
        leave(first)
        assert loop.answer(second) == b"wait"
        leave(second)


@pytest.mark.parametrize("strategy", ["thread?max_workers=1", "fork?max_children=1"])
@pytest.mark.parametrize("base", ["TCP", "ThreadingTCP", "ForkingTCP"])
def test_shutdown_does_not_wait_for_requests_beside_the_loop(base: str, strategy: str) -> None:
    with running(made(base, strategy=strategy)) as loop, staying(loop) as sock:
        loop.server.shutdown()
        loop.join(TIMEOUT)
        assert not loop.is_alive()
        sock.sendall(b"goes on")
        assert sock.recv(100) == b"goes on"
        leave(sock)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("base", ["TCP", "ThreadingTCP", "ForkingTCP"])
def test_shutdown_from_a_handler(base: str, name: str) -> None:
    stop = handler(socketserver, lambda self: self.server.shutdown())
    with made(base, stop, strategy=STRATEGIES[name][0]) as server, client(server) as sock:
        server.serve_forever()
        assert sock.recv(1) == b""


def test_a_strategy_is_taken_from_the_instance_too() -> None:
    server = made("TCP", Where)
    server.strategy = "fork"
    with running(server) as loop:
        assert int(loop.ask().split()[0]) != os.getpid()


def test_servers_of_one_class_have_a_strategy_each() -> None:
    class Server(socketserver.TCPServer):
        strategy = Thread(max_workers=1)

    with ExitStack() as stack:
        loops = [stack.enter_context(running(Server(LOOPBACK, Echo))) for _ in range(2)]
        for sock in [stack.enter_context(staying(loop)) for loop in loops]:
            leave(sock)


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_a_server_serves_again(strategy: str | None) -> None:
    with made("TCP", strategy=STRATEGIES[strategy][0] if strategy else None) as server:
        for _ in range(3):
            loop = Loop(server)
            assert loop.ask() == b"hello"
            server.shutdown()
            loop.join(TIMEOUT)


@pytest.mark.parametrize("name", STRATEGIES)
def test_single_requests(name: str) -> None:
    with made("TCP", strategy=STRATEGIES[name][0]) as server:
        for _ in range(3):
            with client(server) as sock:
                sock.sendall(b"hello")
                leave(sock)
                server.handle_request()
                assert sock.recv(100) == b"hello"


@pytest.mark.parametrize("name", [name for name, (_, place) in STRATEGIES.items() if place != CHILD])
def test_the_hooks_are_called_in_their_order(name: str) -> None:
    class Server(socketserver.ThreadingTCPServer):
        strategy = STRATEGIES[name][0]

    called = [
        "get_request",
        "verify_request",
        "process_request",
        "finish_request",
        "handle_error",
        "shutdown_request",
        "close_request",
    ]
    seen: list[str] = []
    for hook in called:
        setattr(Server, hook, _noting(seen, hook, getattr(Server, hook)))
    Server.handle_error = lambda *_: seen.append(f"handle_error {sys.exception()}")  # type: ignore[method-assign]
    with running(Server(LOOPBACK, Echo)) as loop:
        assert loop.ask(b"raise") == b""
        until(lambda: "close_request" in seen)
    called[called.index("handle_error")] = "handle_error raise"
    # A server that takes all clients that are there looks for one more.
    assert [hook for hook in seen if hook != "get_request"] == called[1:]
    assert seen[0] == "get_request"


def _noting(seen: list[str], hook: str, method: Any) -> Any:
    def noting(self: Any, *arguments: Any) -> Any:
        seen.append(hook)
        return method(self, *arguments)

    return noting


@pytest.mark.parametrize(
    ("strategy", "error", "saying"),
    [
        ("threads", PluginError, "did you mean 'thread'"),
        ("thread?max_worker=8", OptionError, "max_workers"),
        (Thread, OptionError, "Thread"),
        (8, OptionError, "8"),
    ],
    ids=["name", "option", "class", "number"],
)
@pytest.mark.parametrize("base", ["TCP", "ThreadingTCP"])
def test_a_strategy_that_is_none(base: str, strategy: Any, error: type[Exception], saying: str) -> None:
    with pytest.raises(error, match=saying), made(base, strategy=strategy):
        pass  # it is told before a socket opens
    with made(base) as server:
        server.strategy = strategy
        with pytest.raises(error, match=saying):
            server.serve_forever()
        with pytest.raises(error, match=saying):
            server.handle_request()


def test_what_has_the_loop_of_the_standard_library_has_no_trio(capsys: pytest.CaptureFixture[str]) -> None:
    """Its hooks could not be called in threads of trio's, and would hold the loop up."""
    with (
        type("Mixed", (socketserver.ThreadingMixIn, http.server.HTTPServer), {"strategy": Trio()})(
            LOOPBACK, http.server.BaseHTTPRequestHandler
        ) as server,
        connected(server) as sock,
    ):
        server.handle_request()
        assert sock.recv(1) == b""
    assert "or run `python -m plugsocket.compat`" in capsys.readouterr().err


@pytest.mark.parametrize("base", ["TCP", "ThreadingTCP"])
def test_actions_go_on_while_trio_serves(base: str) -> None:
    acted = threading.Semaphore(0)
    with made(base, strategy=Trio(), service_actions=lambda _: acted.release()) as server:
        loop = Loop(server, 0.01)
        with connected(server), connected(server) as second:  # the first says nothing
            second.sendall(b"hello")
            assert second.recv(100) == b"hello"
            while acted.acquire(blocking=False):
                pass
            assert acted.acquire(timeout=TIMEOUT)
        server.shutdown()
        loop.join()


# A cap on threads


def is_answered(sock: socket.socket) -> bool:
    """Whether an answer comes within a time in which a server that is free to answer does many times over."""
    return bool(select.select([sock], [], [], 0.1)[0])


@pytest.mark.parametrize(
    "base", [socketserver.ThreadingTCPServer, socketserver.ThreadingUnixStreamServer], ids=["TCP", "Unix"]
)
def test_beyond_max_threads_connections_wait(base: Any) -> None:
    class Server(base):  # type: ignore[misc]
        max_threads = 2

    server = Server("socket" if base.address_family == socket.AF_UNIX else LOOPBACK, Echo)
    with running(server) as loop, staying(loop) as first, staying(loop) as second, client(server) as third:
        third.sendall(b"wait")
        assert not is_answered(third)
        leave(second)
        assert loop.answer(third) == b"wait"
        first.sendall(b"meanwhile")
        assert loop.answer(first) == b"meanwhile"
        leave(first)
        leave(third)


def test_beyond_max_threads_datagrams_wait() -> None:
    begun, over = threading.Semaphore(0), threading.Event()

    class Held(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            begun.release()
            over.wait(TIMEOUT)
            self.wfile.write(self.rfile.read())

    class Server(socketserver.ThreadingUDPServer):
        max_threads = 2

    with running(Server(LOOPBACK, Held)) as loop, client(loop.server) as sock:
        for number in (b"1", b"2", b"3"):
            sock.send(number)
        assert begun.acquire(timeout=TIMEOUT)
        assert begun.acquire(timeout=TIMEOUT)
        assert not begun.acquire(timeout=0.1)
        over.set()
        assert {loop.answer(sock) for _ in range(3)} == {b"1", b"2", b"3"}


def test_shutdown_does_not_wait_for_max_threads() -> None:
    with running(made("ThreadingTCP", max_threads=1)) as loop, staying(loop) as sock, client(loop.server):
        loop.server.shutdown()
        loop.join(TIMEOUT)
        assert not loop.is_alive()
        leave(sock)


@pytest.mark.parametrize(("base", "cap"), [("ThreadingTCP", "max_threads"), ("ForkingTCP", "max_children")])
def test_single_requests_wait_at_the_cap(base: str, cap: str) -> None:
    with made(base, **{cap: 1}) as server, client(server) as first, client(server) as second:
        first.sendall(b"stay")
        server.handle_request()
        assert first.recv(100) == b"stay"
        waiting = threading.Thread(target=server.handle_request, daemon=True)
        waiting.start()
        second.sendall(b"wait")
        assert not is_answered(second)
        assert waiting.is_alive()
        leave(first)
        assert second.recv(100) == b"wait"
        leave(second)
        waiting.join(TIMEOUT)


def test_a_thread_that_cannot_start_does_not_count() -> None:
    class Server(socketserver.ThreadingTCPServer):
        max_threads = 1

        def handle_error(self, request: Any, client_address: Any) -> None:
            assert "can't start new thread" in str(sys.exception())

    with running(Server(LOOPBACK, Echo)) as loop:
        with failing_threads(1, prefix=""):
            assert loop.turns_away()
        assert loop.ask() == b"hello"


def test_there_is_no_cap_by_default() -> None:
    with running(made("ThreadingTCP")) as loop, ExitStack() as stack:
        for sock in [stack.enter_context(staying(loop)) for _ in range(70)]:  # more than Thread() has
            leave(sock)


# A grace for closing


@contextmanager
def closing(server: Any) -> Iterator[threading.Thread]:
    """Close a server beside the block, which has to make it end."""
    thread = threading.Thread(target=server.server_close)
    thread.start()
    yield thread
    thread.join(TIMEOUT)
    assert not thread.is_alive()


@pytest.mark.parametrize("base", ["ThreadingTCP", "ForkingTCP"])
@pytest.mark.parametrize("grace", [None, TIMEOUT])
def test_requests_may_end_within_the_grace(base: str, grace: float | None) -> None:
    with running(made(base, grace=grace)) as loop, staying(loop) as sock, closing(loop.server) as thread:
        thread.join(0.1)
        assert thread.is_alive()
        sock.sendall(b"in time")
        assert sock.recv(100) == b"in time"
        leave(sock)


@pytest.mark.parametrize("strategy", [None, *BESIDE])
@pytest.mark.parametrize("base", ["ThreadingTCP", "ForkingTCP"])
def test_after_the_grace_connections_are_cut(base: str, strategy: str | None) -> None:
    given = STRATEGIES[strategy][0] if strategy else None
    with running(made(base, grace=SHORT, strategy=given)) as loop, staying(loop) as sock:
        began = time.monotonic()
        loop.server.server_close()
        assert SHORT <= time.monotonic() - began < SOON
        assert sock.recv(100) == b""


@pytest.mark.parametrize("strategy", BESIDE)
def test_after_the_grace_connections_of_a_strategy_are_cut(strategy: str) -> None:
    """Of a class that has none of its own."""
    with running(made("TCP", grace=SHORT, strategy=STRATEGIES[strategy][0])) as loop, staying(loop) as sock:
        loop.server.server_close()
        assert sock.recv(100) == b""


@pytest.mark.parametrize("stop", ["shutdown", "server_close"])
def test_under_trio_shutdown_has_the_grace_too(stop: str) -> None:
    """Its loop does not end before the tasks."""
    with running(made("TCP", grace=SHORT, strategy="trio")) as loop, staying(loop) as sock:
        getattr(loop.server, stop)()
        loop.join(TIMEOUT)
        assert not loop.is_alive()
        assert sock.recv(100) == b""


@pytest.mark.parametrize("strategy", [None, "thread"])
def test_a_handler_may_close_its_server_and_answer(strategy: str | None) -> None:
    def close(self: Any) -> None:
        self.server.server_close()
        self.request.sendall(b"closed")

    server = made("ThreadingTCP", handler(socketserver, close), strategy=strategy)
    with running(server), client(server) as sock:
        assert sock.recv(100) == b"closed"


@pytest.mark.parametrize("strategy", [None, "thread", "fork"])
def test_block_on_close_false(strategy: str | None) -> None:
    with made("ForkingTCP", strategy=strategy, block_on_close=False) as server:
        loop = Loop(server)
        with staying(loop) as sock:
            server.server_close()
            sock.sendall(b"goes on")
            assert sock.recv(100) == b"goes on"
            leave(sock)
            assert sock.recv(100) == b""
        loop.join(TIMEOUT)
        server.collect_children(blocking=True)


def test_without_grace_connections_are_cut_at_once() -> None:
    with running(made("ThreadingTCP", grace=0)) as loop, staying(loop) as sock:
        loop.server.server_close()
        assert sock.recv(100) == b""


def test_a_thread_that_is_deaf_is_left_behind() -> None:
    began, over = threading.Event(), threading.Event()

    def deaf(_self: Any) -> None:
        began.set()
        over.wait(TIMEOUT)

    before = {*threading.enumerate()}
    with running(made("ThreadingTCP", handler(socketserver, deaf), grace=SHORT)) as loop, client(loop.server):
        assert began.wait(TIMEOUT)
        loop.server.server_close()
        (left,) = {*threading.enumerate()} - before - {loop}
    over.set()
    left.join(TIMEOUT)


def test_a_child_that_is_deaf_is_killed() -> None:
    def deaf(self: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.request.sendall(b"deaf")
        while True:
            signal.pause()

    with running(made("ForkingTCP", handler(socketserver, deaf), grace=SHORT)) as loop, client(loop.server) as sock:
        assert loop.answer(sock) == b"deaf"
        (pid,) = loop.server.active_children
        loop.server.server_close()
        assert sock.recv(100) == b""
        assert not Path(f"/proc/{pid}").exists()


def test_daemon_threads_are_not_waited_for_nor_cut() -> None:
    before = {*threading.enumerate()}
    with running(made("ThreadingTCP", grace=0, daemon_threads=True)) as loop, staying(loop) as sock:
        loop.server.server_close()
        sock.sendall(b"goes on")
        assert sock.recv(100) == b"goes on"
        (left,) = {*threading.enumerate()} - before - {loop}
        leave(sock)
        left.join(TIMEOUT)


@implementer(IBlockingStrategy)
class OnlySpawn:
    """The smallest strategy: `capacity` and `spawn()`, and nothing that the server could wait for."""

    name = "only-spawn"
    capacity = 2

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def spawn(self, job: Any) -> None:
        self.threads.append(threading.Thread(target=job))
        self.threads[-1].start()


def test_the_smallest_strategy_that_there_can_be() -> None:
    smallest = OnlySpawn()
    with socketserver.TCPServer(LOOPBACK, Echo) as server:
        server.strategy = smallest
        loop = Loop(server)
        assert [loop.ask() for _ in range(5)] == [b"hello"] * 5
        server.shutdown()
        loop.join()
    for thread in smallest.threads:
        thread.join()
    assert len(smallest.threads) == 5


def test_a_process_that_was_forked_has_workers_of_its_own() -> None:
    """Those of its parent it could neither be told about nor wait for."""
    with made("ForkingTCP") as server, connected(server) as sock:
        sock.sendall(b"hello")
        server.handle_request()
        assert sock.recv(100) == b"hello"
        sock.shutdown(socket.SHUT_WR)  # closing it is not enough, since the child has a copy
        assert strategy_of(server) is not None
        pid = os.fork()
        if pid == 0:
            os._exit(0 if strategy_of(server) is None else 1)
        assert os.waitpid(pid, 0)[1] == 0
