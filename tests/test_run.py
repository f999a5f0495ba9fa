"""run() and the signals; handle_request(), pause(), wait() and the counters, under every strategy."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import pytest

import plugsocket
from plugsocket import (
    TCP,
    Connection,
    Datagram,
    Fork,
    LifecycleError,
    Server,
    State,
    Stats,
    StopReport,
    Sync,
    Thread,
    Trio,
)
from plugsocket.core.events import Event, HandlerFailed, StateChanged
from plugsocket.core.readiness import wait_readable
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.testing import FaultyTransport
from tests.kit import TIMEOUT, ask, busy, client, function, keep_busy, receive, serving, strategy_names
from tests.programs import connect, end_of, interrupt, line_of, program

ENDPOINT = "tcp://127.0.0.1:0"

every_strategy = pytest.mark.parametrize("strategy", strategy_names())


# run(): the program prints its port, and later what run() returned and whether the signal handlers are as before.

CONVERSATION = """
    import os, signal, sys
    import plugsocket

    def handle(connection):
        request = connection.recv(1)
        os.write(connection.fileno(), b"begun")  # past the connection, which would take it for the answer
        connection.closing.wait()
        os.write(connection.fileno(), b"draining")
        connection.sendall(b"bye " + request + connection.recv(100))
        assert connection.recv(100) == b""

    server = plugsocket.Server("tcp://127.0.0.1:0", handle, sys.argv[1])
    server.bind()
    print(server.addresses[0].port, flush=True)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    report = server.run(grace=float(sys.argv[2]))
    restored = before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    print(report.completed, len(report.cut), restored, server.state.name)
"""


@every_strategy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_drains_a_request_under_way(strategy: str, number: signal.Signals) -> None:
    with program(CONVERSATION, strategy, "30") as process:
        port = line_of(process)
        with connect(port) as sock:
            keep_busy(sock)
            interrupt(process.pid, number)
            assert receive(sock, 8) == b"draining"
            with pytest.raises(ConnectionRefusedError):
                connect(port)
            sock.sendall(b"at last")
            assert receive(sock, 100) == b"bye ?at last"
        assert end_of(process) == (0, "1 0 True CLOSED\n", "")


@every_strategy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_second_signal_stops_at_once(strategy: str, number: signal.Signals) -> None:
    with program(CONVERSATION, strategy, "3600") as process:
        port = line_of(process)
        with connect(port) as sock:
            keep_busy(sock)
            interrupt(process.pid, number)
            assert receive(sock, 8) == b"draining"
            interrupt(process.pid, number)
            while sock.recv(100):
                pass  # a handler that is cut may still say its last word
        assert end_of(process) == (0, "0 1 True CLOSED\n", "")


@every_strategy
def test_an_idle_server_ends_at_the_first_signal(strategy: str) -> None:
    source = """
        import os, signal, sys, threading
        import plugsocket

        def kill():
            server.wait(state=plugsocket.State.SERVING)
            os.kill(os.getpid(), signal.SIGTERM)

        server = plugsocket.Server("tcp://127.0.0.1:0", plugsocket.echo, sys.argv[1])
        threading.Thread(target=kill).start()
        report = server.run(grace=3600)
        print(report.completed, report.cut, report.finished, server.state.name)
    """
    with program(source, strategy) as process:
        assert end_of(process) == (0, "0 () True CLOSED\n", "")


@every_strategy
def test_the_module_level_run(strategy: str) -> None:
    # Too little is known from outside about when it serves: the request comes from the program's own thread.
    source = """
        import os, signal, sys, threading
        import plugsocket

        def handle(connection):
            connection.sendall(str(plugsocket.__name__).encode())

        def ask():
            import socket
            while True:
                try:
                    with socket.socket(socket.AF_UNIX) as sock:
                        sock.connect("\\0" + name)
                        received = sock.recv(100)
                    break
                except ConnectionRefusedError:
                    pass
            print(received.decode(), flush=True)
            os.kill(os.getpid(), signal.SIGTERM)

        name = f"plugsocket-test-{os.getpid()}"
        threading.Thread(target=ask).start()
        print(plugsocket.run(f"unix://@{name}", handle, sys.argv[1]).cut)
    """
    with program(source, strategy) as process:
        assert end_of(process) == (0, "plugsocket\n()\n", "")


def test_not_in_the_main_thread() -> None:
    errors: list[Exception] = []

    def run() -> None:
        try:
            server.run()
        except LifecycleError as error:
            errors.append(error)

    server = Server(ENDPOINT, function)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(TIMEOUT)
    assert list(map(str, errors)) == [
        "run() handles signals, which only the main thread can; use serve_forever() or start()"
    ]
    assert server.state is State.NEW


def test_signal_handlers_are_as_before_when_binding_fails(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(FileNotFoundError):
        plugsocket.run(f"unix://{tmp_path}/missing/app.sock", function)
    assert signal.getsignal(signal.SIGTERM) is before


@every_strategy
def test_ctrl_c_ends_serve_forever_with_a_keyboard_interrupt(strategy: str) -> None:
    source = """
        import os, sys
        import plugsocket

        def handle(connection):
            connection.recv(1)
            os.write(connection.fileno(), b"begun")
            connection.recv(100)

        server = plugsocket.Server("tcp://127.0.0.1:0", handle, sys.argv[1])
        server.bind()
        print(server.addresses[0].port, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(server.state.name, len(server.report.cut))
    """
    with program(source, strategy) as process:
        port = line_of(process)
        with connect(port) as sock:
            keep_busy(sock)
            interrupt(process.pid, signal.SIGINT)
            assert sock.recv(100) == b""
        code, output, errors = end_of(process)
    assert (code, errors) == (0, "")
    # Under Sync() the interrupt comes out of the handler, whose request is over before the server is stopped.
    assert output == f"CLOSED {0 if strategy == 'sync' else 1}\n"


# handle_request()


def says_hello(request: Connection | Datagram) -> None:
    if isinstance(request, Datagram):
        request.reply(b"hello")
    else:
        request.sendall(b"hello")


@pytest.fixture
def bound(strategy: str) -> Iterator[Server]:
    server = Server(ENDPOINT, says_hello, strategy)
    with server:
        server.bind()
        yield server
        server.stop(grace=0)


@every_strategy
def test_one_request_each_and_the_listeners_stay_open(bound: Server) -> None:
    with client(bound) as first, client(bound) as second:
        for sock in (first, second):
            assert bound.handle_request(timeout=TIMEOUT)
            assert bound.state is State.BOUND
            assert receive(sock, 100) == b"hello"
        assert bound.stats.accepted == 2
    assert not bound.handle_request(timeout=0.01)
    assert bound.state is State.BOUND
    client(bound).close()  # is not refused


@every_strategy
def test_no_request_and_no_time(bound: Server) -> None:
    assert not bound.handle_request(timeout=0)


@every_strategy
def test_a_request_that_waits_already_needs_no_time(bound: Server) -> None:
    with client(bound) as sock:
        assert wait_readable(bound._engine.endpoints[0].listener.fileno(), TIMEOUT)  # type: ignore[union-attr]
        assert bound.handle_request(timeout=0)
        assert receive(sock, 100) == b"hello"


@every_strategy
def test_handle_request_binds_and_then_the_server_can_serve(strategy: str, tmp_path: Path) -> None:
    with Server(f"unix://{tmp_path}/app.sock", says_hello, strategy) as server:
        assert not server.handle_request(timeout=0.01)
        server.start()
        with client(server) as sock:
            assert receive(sock, 100) == b"hello"
        server.stop(grace=0)


@every_strategy
def test_handle_request_is_stopped_while_it_waits(bound: Server) -> None:
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(bound.handle_request()))
    thread.start()
    assert bound.wait(state=State.SERVING, timeout=TIMEOUT)
    assert bound.stop().finished
    thread.join(TIMEOUT)
    assert got == [False]
    assert bound.state is State.CLOSED


@every_strategy
def test_handle_request_is_stopped_while_its_handler_waits(strategy: str) -> None:
    with Server(ENDPOINT, busy, strategy) as server:
        server.bind()
        with client(server) as sock:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            keep_busy(sock)
            report = server.stop(grace=0)
            assert report.cut == (sock.getsockname(),)
            assert report.finished
            assert sock.recv(1) == b""
            thread.join(TIMEOUT)
            assert server.state is State.CLOSED


@every_strategy
def test_one_datagram(strategy: str, tmp_path: Path) -> None:
    with Server("udp://127.0.0.1:0", says_hello, strategy) as server:
        server.bind()
        with client(server) as sock:
            sock.send(b"1")
            sock.send(b"2")
            for _ in range(2):
                assert server.handle_request(timeout=TIMEOUT)
                assert sock.recv(100) == b"hello"
        assert not server.handle_request(timeout=0.01)


def counted(**counts: int) -> Stats:
    """Counters that are 0 but for some."""
    stats = Stats(**{field.name: 0 for field in attrs.fields(Stats)} | counts)
    not_over = stats.active + stats.waiting + stats.refused + stats.rejected + stats.dropped
    return attrs.evolve(stats, completed=stats.accepted - not_over)


# pause(), resume(), wait(), several transports, counters


@every_strategy
def test_paused_connections_wait_and_are_served_after_resume(strategy: str) -> None:
    with serving(Server(ENDPOINT, function, strategy)) as server:
        server.pause()
        assert server.state is State.PAUSED
        with client(server) as sock:
            sock.sendall(b"meanwhile")
            assert not server.wait(connections=1, timeout=0.05)
            assert server.stats.accepted == 0
            server.resume()
            assert receive(sock, 9) == b"meanwhile"
        with pytest.raises(LifecycleError, match="cannot resume a server that is SERVING"):
            server.resume()


@every_strategy
def test_what_is_being_accepted_has_been_when_pause_returns(strategy: str) -> None:
    transport = FaultyTransport(ENDPOINT)
    with serving(Server(transport, function, strategy)) as server:
        listener, accepting, accepted = transport.listeners[0], threading.Event(), threading.Event()
        take = listener.accept

        def take_when_paused() -> Any:
            accepting.set()
            assert server.wait(state=State.PAUSED, timeout=TIMEOUT)
            request = take()
            accepted.set()
            return request

        with patch.object(listener, "accept", take_when_paused), client(server):
            assert accepting.wait(TIMEOUT)
            server.pause()
            assert accepted.is_set()


@pytest.mark.parametrize("strategy", [name for name in strategy_names() if name != "sync"])
def test_requests_under_way_go_on_while_paused(strategy: str) -> None:
    with serving(Server(ENDPOINT, function, strategy)) as server:
        with client(server) as sock:
            ask(sock, b"before")
            server.pause()
            assert ask(sock, b"still served") == b"still served"
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.state is State.PAUSED


@every_strategy
def test_a_paused_server_stops(strategy: str) -> None:
    with serving(Server(ENDPOINT, function, strategy)) as server:
        server.pause()
        assert server.stop().finished


@pytest.mark.parametrize("strategy", [name for name in strategy_names() if name != "sync"])
def test_wait_for_a_number_of_connections(strategy: str) -> None:
    with serving(Server(ENDPOINT, function, strategy)) as server, ExitStack() as stack:
        assert server.wait(connections=0, timeout=0)
        socks = []
        for count in (1, 2, 3):
            socks.append(stack.enter_context(client(server)))
            assert server.wait(connections=count, timeout=TIMEOUT)
        assert not server.wait(connections=2, timeout=0.01)
        socks.pop().close()
        assert server.wait(connections=2, timeout=TIMEOUT)


def test_wait_takes_one_condition() -> None:
    server = Server(ENDPOINT, function)
    with pytest.raises(TypeError, match="one of state= and connections="):
        server.wait()
    server.stop()
    assert not server.wait(state=State.SERVING)  # never, so at once


@every_strategy
def test_several_transports_in_one_server(strategy: str, tmp_path: Path) -> None:
    endpoints = [ENDPOINT, "tcp://[::1]:0", "udp://127.0.0.1:0", f"unix://{tmp_path}/app.sock"]
    with serving(Server(endpoints, function, strategy)) as server:
        assert len(server.addresses) == len(server.urls) == 4
        for which in range(4):
            with client(server, which) as sock:
                assert ask(sock, b"hello") == b"hello"
            assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats == counted(accepted=4)


@every_strategy
def test_the_limit_is_one_for_all_transports(strategy: str) -> None:
    limited = {"sync": Sync(), "thread": Thread(1), "fork": Fork(1), "trio": Trio(1, max_threads=1)}[strategy]
    with serving(Server([ENDPOINT, TCP("::1", 0)], function, limited)) as server, client(server, 0) as first:
        ask(first, b"first")
        with client(server, 1) as second:
            second.sendall(b"second")
            assert server.stats.active == server.stats.accepted == 1
            first.close()
            assert receive(second, 6) == b"second"


@every_strategy
def test_counters(strategy: str, recorder: Recorder) -> None:
    with serving(Server(ENDPOINT, function, strategy), recorder) as server:
        with client(server) as good:
            ask(good, b"good")
            assert server.stats == counted(accepted=1, active=1)
            assert server.stats.completed == 0
        assert server.wait(connections=0, timeout=TIMEOUT)
        with client(server) as bad:
            bad.sendall(b"raise")
            recorder.wait_for(HandlerFailed)
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats == counted(accepted=2, failed=1)
        assert server.stats.completed == 2
    assert server.stop() == StopReport(0, (), server.stop().seconds)


def test_ctrl_c_right_after_a_single_request() -> None:
    """It is Ctrl-C that comes out, and the server is over."""

    def interrupt_when_bound(event: Event) -> None:
        if isinstance(event, StateChanged) and event.state is State.BOUND and event.before is State.SERVING:
            raise KeyboardInterrupt

    server = Server("tcp://127.0.0.1:0", function, "sync")
    server.bind()
    server.subscribe(interrupt_when_bound)
    with client(server) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(KeyboardInterrupt):
            server.handle_request()
    assert server.state is State.CLOSED
