"""stop(): from anywhere, in every state, at once when nothing is under way, and within its grace when something is."""

import os
import signal
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from plugsocket import Connection, Fork, LifecycleError, Server, State, StopReport, Sync, Thread, Trio
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import TIMEOUT, ask, async_function, busy, client, function, keep_busy, serving, strategy_names, until
from tests.programs import interrupt

ENDPOINT = "tcp://127.0.0.1:0"
GRACE = 5.0

every_strategy = pytest.mark.parametrize("strategy", strategy_names())


@every_strategy
def test_an_idle_server_does_not_wake_up(strategy: str) -> None:
    others = threads()
    with serving(Server(ENDPOINT, function, strategy)) as server:
        with client(server) as sock:
            ask(sock, b"so that it has worked before")
        server.wait(connections=0, timeout=TIMEOUT)
        # At first its threads may still be on their way to sleep; one that polls wakes up in each of the ten seconds.
        assert any(sleeps_for_a_second(server, threads() - others) for _ in range(10))


def sleeps_for_a_second(server: Server, threads: set[Path]) -> bool:
    before = voluntary_switches(threads)
    assert not server.wait(state=State.CLOSED, timeout=1.0)  # in which nothing happens
    return voluntary_switches(threads) == before


def threads() -> set[Path]:
    return set(Path("/proc/self/task").iterdir())


def voluntary_switches(of: set[Path]) -> int:
    """How often threads of this process gave up the processor: how often they had been woken."""
    total = 0
    for task in of:
        with suppress(FileNotFoundError):  # it has ended, as those do that trio has no work for
            line = next(line for line in (task / "status").read_text().splitlines() if line.startswith("voluntary"))
            total += int(line.split()[1])
    return total


@every_strategy
def test_before_serving(strategy: str) -> None:
    new = Server(ENDPOINT, function, strategy)
    assert new.stop() == StopReport(0, (), 0.0)
    assert new.state is State.CLOSED
    bound = Server(ENDPOINT, function, strategy)
    bound.bind()
    assert bound.stop().finished
    assert bound.state is State.CLOSED
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.addresses[0])


@every_strategy
def test_twice_and_by_several_at_once(strategy: str) -> None:
    server = Server(ENDPOINT, function, strategy).start()
    reports: list[StopReport] = []
    threads = [threading.Thread(target=lambda: reports.append(server.stop())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert reports == [server.report] * 4
    assert server.stop() is server.report


class StopsItsServer:
    """A handler that stops its server, and replies that it did."""

    server: Server

    def __call__(self, connection: Connection) -> None:
        report = self.server.stop()
        connection.sendall(b"asked" if not report.finished else b"waited")


@every_strategy
def test_from_a_handler(strategy: str) -> None:
    handler = StopsItsServer()
    server = handler.server = Server(ENDPOINT, handler, strategy)
    with serving(server), client(server) as sock:
        assert sock.recv(100) == b"asked"
        assert server.wait(state=State.CLOSED, timeout=TIMEOUT)
        assert server.report is not None
        assert server.report.cut == ()


def test_from_an_async_handler() -> None:
    async def handle(stream: trio.abc.Stream) -> None:
        report = await server.stop_async()
        await stream.send_all(b"asked" if not report.finished else b"waited")

    server = Server(ENDPOINT, handle, Trio())
    with serving(server), client(server) as sock:
        assert sock.recv(100) == b"asked"
        assert server.wait(state=State.CLOSED, timeout=TIMEOUT)


@every_strategy
def test_from_a_signal_handler(strategy: str) -> None:
    server = Server(ENDPOINT, function, strategy)
    stopped: list[StopReport] = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: stopped.append(server.stop()))
    try:
        killer = threading.Thread(
            target=lambda: server.wait(state=State.SERVING) and os.kill(os.getpid(), signal.SIGUSR1)
        )
        killer.start()
        server.serve_forever()
        killer.join(TIMEOUT)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert [report.finished for report in stopped] == [False]
    assert server.state is State.CLOSED


@pytest.mark.parametrize("strategy", ["sync", "thread", "trio"])
def test_a_signal_handler_ends_a_handler_that_waits(strategy: str) -> None:
    """With Sync() the handler runs in the very thread that the signal interrupts."""
    server = Server(ENDPOINT, busy, strategy)
    previous = signal.signal(signal.SIGUSR1, lambda *_: server.stop(grace=0.05))

    def silent_client() -> None:
        server.wait(state=State.SERVING)
        with client(server) as sock:
            keep_busy(sock)
            interrupt(os.getpid(), signal.SIGUSR1)
            sock.recv(1)

    thread = threading.Thread(target=silent_client)
    try:
        thread.start()
        server.serve_forever()
        thread.join(TIMEOUT)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert server.report is not None
    assert len(server.report.cut) == 1


@pytest.mark.parametrize("strategy", ["thread", "trio"])
def test_a_signal_that_the_system_delivers_to_another_thread(strategy: str) -> None:
    """Which of its threads a process's signal goes to, the system decides; it does not interrupt the others."""

    def handle(connection: Connection) -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        connection.closing.wait(TIMEOUT)
        connection.sendall(b"bye")

    server = Server(ENDPOINT, handle, strategy)
    received: list[bytes] = []

    def ask_once() -> None:
        server.wait(state=State.SERVING)
        with client(server) as sock:
            received.append(sock.recv(100))

    thread = threading.Thread(target=ask_once)
    thread.start()
    report = server.run(grace=TIMEOUT)
    thread.join(TIMEOUT)
    assert received == [b"bye"]
    assert report.seconds < GRACE


@every_strategy
def test_new_connections_are_refused_while_requests_end_by_themselves(strategy: str) -> None:
    with serving(Server(ENDPOINT, busy, strategy)) as server, client(server) as sock:
        keep_busy(sock)
        reports: list[StopReport] = []
        stopper = threading.Thread(target=lambda: reports.append(server.stop(grace=GRACE)))
        stopper.start()
        assert server.wait(state=State.DRAINING, timeout=TIMEOUT)
        while refused(server) is False:
            pass  # the listener closes right after the state has changed
        assert ask(sock, b"still served") == b"still served"
        assert sock.recv(1) == b""  # it was answered, and sent nothing more
        stopper.join(TIMEOUT)
    assert [(report.completed, report.cut) for report in reports] == [(1, ())]
    assert reports[0].seconds < GRACE


def refused(server: Server) -> bool:
    try:
        client(server).close()
    except OSError:
        return True
    return False


@every_strategy
def test_requests_that_take_longer_than_the_grace_are_cut(strategy: str, recorder: Recorder) -> None:
    with serving(Server(ENDPOINT, busy, strategy), recorder) as server, client(server) as sock:
        keep_busy(sock)
        report = server.stop(grace=0.05)
        assert report.cut == (sock.getsockname(),)
        assert report.completed == 0
        assert 0.05 <= report.seconds < GRACE
        assert report.finished
        assert sock.recv(1) == b""
    assert recorder.events == []


@every_strategy
def test_a_second_stop_shortens_the_grace(strategy: str) -> None:
    with serving(Server(ENDPOINT, busy, strategy)) as server, client(server) as sock:
        keep_busy(sock)
        patient = threading.Thread(target=server.stop, kwargs={"grace": 60})
        patient.start()
        assert server.wait(state=State.DRAINING, timeout=TIMEOUT)
        report = server.stop(grace=0)
        patient.join(TIMEOUT)
    assert report.finished
    assert len(report.cut) == 1
    assert report.seconds < GRACE


@every_strategy
@pytest.mark.parametrize("said", [b"", b"hello"], ids=["silent", "answered"])
def test_idle_connections_end_at_once_and_by_themselves(said: bytes, strategy: str, recorder: Recorder) -> None:
    with serving(Server(ENDPOINT, function, strategy), recorder) as server, client(server) as sock:
        ask(sock, said)
        assert server.wait(connections=1, timeout=TIMEOUT)
        report = server.stop(grace=60)
        assert (report.completed, report.cut, report.finished) == (1, (), True)
        assert report.seconds < GRACE
        assert sock.recv(1) == b""
    assert recorder.events == []


@every_strategy
def test_a_handler_can_see_it_coming(strategy: str) -> None:
    def handle(connection: Connection) -> None:
        connection.sendall(b"ready")
        assert connection.closing.wait(TIMEOUT)
        connection.sendall(b"bye")

    with serving(Server(ENDPOINT, handle, strategy)) as server, client(server) as sock:
        assert sock.recv(100) == b"ready"
        report = server.stop(grace=GRACE)
        assert sock.recv(100) == b"bye"
    assert (report.completed, report.cut) == (1, ())
    assert report.seconds < GRACE


@pytest.mark.parametrize("strategy", [Sync(), Thread(), Fork(), Trio()], ids=repr)
def test_leaving_the_context_stops_a_server_in_the_background(strategy: Any) -> None:
    with Server(ENDPOINT, function, strategy) as server:
        server.start()
    assert server.state is State.CLOSED
    with pytest.raises(LifecycleError, match="cannot serve a server that is CLOSED; possible: a new server"):
        server.start()


def test_500_silent_clients_get_32_threads_and_the_server_stops() -> None:
    seen: list[int] = []

    def handle(connection: Connection) -> None:
        seen.append(sum(thread.name.startswith("plugsocket-") for thread in threading.enumerate()))
        busy(connection)

    with serving(Server(ENDPOINT, handle, Thread(max_workers=32))) as server, ExitStack() as stack:
        clients = [stack.enter_context(client(server)) for _ in range(500)]
        for sock in clients[:16]:
            keep_busy(sock)
        until(lambda: len(seen) == 32)
        report = server.stop(grace=0.1)
    assert max(seen) == 32
    assert server.stats.accepted == 32
    assert (report.completed, len(report.cut)) == (16, 16)  # those that had said something are busy
    assert report.finished
    assert report.seconds < GRACE


def test_bad_grace() -> None:
    with pytest.raises(ValueError, match="grace must be a number of seconds, zero or more, not -1"):
        Server(ENDPOINT, function, grace=-1)
    server = Server(ENDPOINT, async_function)
    with pytest.raises(ValueError, match="not 'soon'"):
        server.stop(grace="soon")  # type: ignore[arg-type]


@every_strategy
def test_without_waiting(strategy: str) -> None:
    """What a stop would wait for goes on, and ends by itself."""
    with serving(Server(ENDPOINT, busy, strategy)) as server:
        with client(server) as sock:
            keep_busy(sock)
            assert not server.stop(TIMEOUT, wait=False).finished
            assert server.state is not State.CLOSED
            assert ask(sock, b"hello") == b"hello"
        assert server.wait(state=State.CLOSED, timeout=TIMEOUT) or server.state is State.CLOSED
    assert server.report is not None
    assert (server.report.finished, server.report.cut) == (True, ())
