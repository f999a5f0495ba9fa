"""Nothing but a stop ends a server; and a stop always does."""

import errno
import logging
import math
import os
import signal
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from plugsocket import (
    UDP,
    AsyncConnection,
    BaseRequestHandler,
    CompositionError,
    Connection,
    Datagram,
    DatagramRequestHandler,
    LifecycleError,
    OptionError,
    Server,
    State,
    Sync,
    Thread,
    Trio,
    log_events,
)
from plugsocket.core.events import CloseFailed, HandlerFailed, RequestRefused
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.testing import FaultyTransport
from plugsocket.transports import TCP, StreamListener, StreamTransport
from tests.kit import TIMEOUT, ask, async_function, busy, client, function, keep_busy, serving

ENDPOINT = "tcp://127.0.0.1:0"


def closes_its_descriptor(connection: Connection) -> None:
    os.close(connection.fileno())


async def async_closes_its_descriptor(connection: AsyncConnection) -> None:
    os.close(connection.socket.fileno())


@pytest.mark.parametrize(
    ("handler", "strategy"),
    [
        (closes_its_descriptor, Sync()),
        (closes_its_descriptor, Thread(2)),
        (closes_its_descriptor, Trio()),
        (async_closes_its_descriptor, Trio()),
    ],
)
def test_a_handler_that_closes_its_descriptor_harms_nobody_else(
    handler: Any, strategy: Any, recorder: Recorder
) -> None:
    with serving(Server(ENDPOINT, handler, strategy), recorder) as server:
        for count in range(1, 5):
            with client(server) as sock:
                assert sock.recv(1) == b""
                recorder.wait_for(HandlerFailed, count)
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.state is State.SERVING
    assert {event.error.errno for event in recorder.of(HandlerFailed)} == {errno.EBADF}


def test_a_child_that_a_signal_without_a_name_kills(recorder: Recorder) -> None:
    number = signal.SIGRTMIN + 6

    def handle(connection: Connection) -> None:
        if connection.recv(1) == b"x":
            os.kill(os.getpid(), number)
        connection.sendall(b"ok")

    with serving(Server(ENDPOINT, handle, "fork"), recorder) as server:
        with client(server) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b""
        (failure,) = recorder.wait_for(HandlerFailed)
        assert f"was killed by signal {number}" in str(failure.error)
        with client(server) as sock:
            assert ask(sock, b"ok") == b"ok"


def test_a_worker_thread_of_trio_that_cannot_start(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trio.to_thread.run_sync
    refusals = [RuntimeError("can't start new thread")]

    async def run_sync(*args: Any, **kwargs: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await real(*args, **kwargs)

    with serving(Server(ENDPOINT, function, Trio()), recorder) as server:
        monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
        with client(server) as sock:
            assert sock.recv(1) == b""
        with client(server) as sock:
            assert ask(sock, b"next") == b"next"
    assert [type(event) for event in recorder.events] == [RequestRefused]


def test_stopping_from_a_handler_that_outlives_handle_request() -> None:
    reports = []

    def handle(connection: Connection) -> None:
        connection.recv(1)
        reports.append(server.stop())
        connection.sendall(b"asked")

    server = Server(ENDPOINT, handle, Thread())
    server.bind()
    with client(server) as sock:
        assert server.handle_request(timeout=TIMEOUT)
        assert server.state is State.BOUND
        sock.sendall(b"x")
        assert sock.recv(100) == b"asked"
        assert server.wait(state=State.CLOSED, timeout=TIMEOUT)
    assert [report.finished for report in reports] == [False]
    assert server.stop().finished


class Stubborn(StreamListener):
    def close(self) -> None:
        super().close()
        raise ValueError("no")


@attrs.frozen
class StubbornTCP(StreamTransport):
    scheme = "stubborn"

    def listen(self) -> StreamListener:
        return Stubborn(socket.create_server(("127.0.0.1", 0)))  # which blocks, until the listener has it


def test_a_listener_that_does_not_close_well(recorder: Recorder) -> None:
    with serving(Server(StubbornTCP(), function), recorder) as server:
        with client(server) as sock:
            assert ask(sock, b"hello") == b"hello"
        assert server.stop().finished
    assert server.state is State.CLOSED
    assert {type(event) for event in recorder.events} == {CloseFailed}


def test_a_pause_of_one_trio_run_means_nothing_to_the_next() -> None:
    transport = FaultyTransport(TCP("127.0.0.1", 0), [errno.EMFILE])
    with Server(transport, async_function, Trio()) as server:
        server.bind()
        with client(server) as sock:
            assert not server.handle_request(timeout=0)  # it fails, and the endpoint is left alone for a moment
            sock.shutdown(socket.SHUT_WR)
            assert server.handle_request(timeout=TIMEOUT)


@pytest.mark.parametrize("grace", [3e6, math.inf])
@pytest.mark.parametrize("strategy", ["sync", "thread", "trio"])
def test_a_very_long_grace(grace: float, strategy: str) -> None:
    with serving(Server(ENDPOINT, busy, strategy)) as server, client(server) as sock:
        keep_busy(sock)
        stopper = threading.Thread(target=server.stop, args=(grace,))
        stopper.start()
        assert server.wait(state=State.DRAINING, timeout=TIMEOUT)
        sock.close()
        stopper.join(TIMEOUT)
        assert server.state is State.CLOSED
        assert server.report is not None
        assert server.report.completed == 1


@pytest.mark.parametrize("timeout", [-1, "1", math.nan, 1e30])
def test_a_wrong_timeout_does_not_harm_the_server(timeout: Any) -> None:
    with Server(ENDPOINT, function) as server:
        server.bind()
        with pytest.raises(OptionError, match="timeout must be a number of seconds, zero or more, or None, not"):
            server.handle_request(timeout)
        assert server.state is State.BOUND
    with pytest.raises(OptionError, match="idle_timeout must be"):
        Thread(idle_timeout=timeout)


def test_a_stop_during_a_bind_that_fails_is_not_lost() -> None:
    @attrs.frozen
    class Failing(StreamTransport):
        scheme = "failing"

        def listen(self) -> StreamListener:
            server.stop()  # as a signal handler would that interrupts this thread here
            raise OSError(errno.EADDRINUSE, "in use")

    server = Server(Failing(), function)
    with pytest.raises(OSError, match="in use"):
        server.bind()
    assert server.state is State.CLOSED


def test_a_reply_that_waits_for_room_is_cut(tmp_path: Path) -> None:
    stuck = threading.Event()

    def handle(datagram: Datagram) -> None:
        stuck.set()
        while True:
            datagram.reply(b"x" * 1000)

    with serving(Server(f"unixgram://{tmp_path}/a.sock", handle)) as server, client(server) as sock:
        sock.send(b"hello")
        assert stuck.wait(TIMEOUT)
        report = server.stop(grace=0.05)
    assert report.finished
    assert len(report.cut) == 1
    assert report.seconds < TIMEOUT / 2


def test_starting_a_server_that_is_over() -> None:
    server = Server(ENDPOINT, function)
    server.stop()
    with pytest.raises(LifecycleError, match="cannot serve a server that is CLOSED; possible: a new server"):
        server.start()


class Asked(DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read())


def test_handler_classes_reply_from_the_address_that_was_asked() -> None:
    with serving(Server(UDP("", 0), Asked)) as server, socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(("127.0.0.2", server.addresses[0].port))
        assert ask(sock, b"hello") == b"hello"


@pytest.mark.parametrize("strategy", ["sync", "thread"])
def test_several_stops_report_each_peer_once(strategy: str) -> None:
    with serving(Server(ENDPOINT, busy, strategy)) as server, client(server) as sock:
        keep_busy(sock)
        threads = [threading.Thread(target=server.stop, args=(0.05,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert server.report is not None
        assert server.report.cut == (sock.getsockname(),)
        assert server.report.completed == 0


def test_a_handler_that_cannot_be_ended_is_left_behind_and_said() -> None:
    release = threading.Event()
    strategy = Thread(1)

    def handle(connection: Connection) -> None:
        connection.sendall(b"deaf")
        release.wait(TIMEOUT)

    server = Server(ENDPOINT, handle, strategy).start()
    with client(server) as sock:
        assert sock.recv(100) == b"deaf"
        report = server.stop(grace=0)
    assert server.state is State.CLOSED
    assert not report.finished
    assert len(report.cut) == 1
    with serving(Server(ENDPOINT, function, strategy)) as again, client(again) as sock:
        assert ask(sock, b"served by a thread of its own") == b"served by a thread of its own"
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("plugsocket-"):
            thread.join(TIMEOUT)


@pytest.mark.parametrize("handler", [function, async_function], ids=["blocking", "async"])
def test_a_reset_by_the_peer_is_no_error(handler: Any, caplog: pytest.LogCaptureFixture, recorder: Recorder) -> None:
    caplog.set_level(logging.DEBUG, "plugsocket")
    with serving(Server(ENDPOINT, handler), recorder) as server:
        server.subscribe(log_events)
        with client(server) as sock:
            ask(sock, b"hello")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        recorder.wait_for(HandlerFailed)
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert (server.stats.disconnected, server.stats.failed) == (1, 0)
    failures = [record for record in caplog.records if isinstance(record.__dict__["event"], HandlerFailed)]
    assert [(record.levelname, record.exc_info) for record in failures] == [("DEBUG", None)]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_an_async_handle_in_a_class_is_refused() -> None:
    class Confused(BaseRequestHandler):
        async def handle(self) -> None:  # type: ignore[override]
            pass

    with pytest.raises(CompositionError, match=r"handle\(\) of the class .*Confused is async"):
        Server(TCP("127.0.0.1", 0), Confused)


def test_waiting_sees_states_that_pass_quickly() -> None:
    for _ in range(20):
        server = Server(ENDPOINT, function).start()
        seen: list[bool] = []
        waiting = threading.Event()

        def wait(server: Server = server, seen: list[bool] = seen, waiting: threading.Event = waiting) -> None:
            waiting.set()
            seen.append(server.wait(state=State.DRAINING, timeout=TIMEOUT))

        thread = threading.Thread(target=wait)
        with server._lifecycle.held():  # so that the waiter begins before the stop does
            thread.start()
            assert waiting.wait(TIMEOUT)
        while not server._lifecycle._changed._waiters and thread.is_alive():  # type: ignore[attr-defined]
            pass
        server.stop()
        thread.join(TIMEOUT)
        assert seen == [True]
