"""Datagrams above the limit, and those that the kernel has no room for: they are dropped and counted."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from plugsocket import UDP, Datagram, Limits
from plugsocket.core.events import DatagramDropped, LimitCleared, LimitReached
from plugsocket.core.interfaces import IDatagramTransport
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import TIMEOUT, ask, async_function, client, function, strategy_names, until
from tests.limiting import PARALLEL, limited
from tests.test_matrix import EXAMPLES, endpoint_of, over

DATAGRAMS = [example for example in EXAMPLES if IDatagramTransport.implementedBy(example[0])]


@over(DATAGRAMS, [pair for pair in PARALLEL if pair[1] in {"function", "async"}])
def test_datagrams_above_the_limit_are_dropped_and_counted(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> None:
    def blocking(datagram: Datagram) -> None:
        datagram.closing.wait(TIMEOUT)
        datagram.reply(datagram.data)

    async def task(datagram: Any) -> None:
        await datagram.closing.wait()
        await datagram.reply(datagram.data)

    handler = blocking if handler_name == "function" else task
    limits = Limits(max_connections=1, overload="reject")
    endpoint = endpoint_of(example, tmp_path)
    with limited(endpoint, handler, strategy_name, limits, recorder=recorder) as server, client(server) as sock:
        for number in range(10):
            sock.send(b"%d" % number)
        dropped = recorder.wait_for(DatagramDropped, 9)
        assert {event.reason for event in dropped} == {"max_connections"}
        assert len(recorder.wait_for(LimitReached)) == 1
        report = server.stop(grace=TIMEOUT)
        assert sock.recv(10) == b"0"
    assert (report.completed, report.cut) == (1, ())
    stats = server.stats
    assert (stats.accepted, stats.dropped, stats.rejected, stats.completed) == (10, 9, 0, 1)


@pytest.mark.parametrize("strategy_name", ["thread", "trio"])
def test_the_end_of_the_limit_tells_how_many_datagrams_were_dropped(strategy_name: str, recorder: Recorder) -> None:
    free = threading.Event()

    def handle(datagram: Datagram) -> None:
        free.wait(TIMEOUT)

    limits = Limits(max_connections=1, overload="reject")
    with (
        limited(UDP("127.0.0.1", 0), handle, strategy_name, limits, recorder=recorder) as server,
        client(server) as sock,
    ):
        for _ in range(6):
            sock.send(b"x")
        recorder.wait_for(DatagramDropped, 5)
        free.set()
        (cleared,) = recorder.wait_for(LimitCleared)
    assert (cleared.rejected, cleared.dropped) == (0, 5)


class SmallUDP(UDP):
    """UDP with room for a few datagrams in the kernel."""

    def listen(self) -> Any:
        listener = super().listen()
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return listener


@pytest.mark.parametrize("strategy_name", [*strategy_names(), "async"])
def test_the_kernels_drops_are_counted(strategy_name: str) -> None:
    handler = async_function if strategy_name == "async" else function
    name = "trio" if strategy_name == "async" else strategy_name
    with limited(SmallUDP("127.0.0.1", 0), handler, name, Limits()) as server, client(server) as sock:
        assert ask(sock, b"before") == b"before"
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.lost == 0
        server.pause()
        for _ in range(100):
            sock.send(bytes(500))
        assert 0 < server.stats.lost < 100
        server.resume()
        until(lambda: server.stats.accepted - 1 + server.stats.lost == 100)
        assert server.wait(connections=0, timeout=TIMEOUT)
        lost = server.stats.lost
    assert server.stats.lost == lost  # which closing does not forget
    assert server.stats.dropped == 0


def test_the_kernels_drops_can_be_asked_for_afterwards() -> None:
    with limited(SmallUDP("127.0.0.1", 0), function, "thread", Limits()) as server, client(server) as sock:
        server.pause()
        for _ in range(100):
            sock.send(bytes(500))
    assert 0 < server.stats.lost < 100


def test_the_kernels_drops_are_told_with_the_limit(recorder: Recorder) -> None:
    free = threading.Event()

    def handle(datagram: Datagram) -> None:
        free.wait(TIMEOUT)

    with (
        limited(SmallUDP("127.0.0.1", 0), handle, "thread", Limits(max_connections=1), recorder=recorder) as server,
        client(server) as sock,
    ):
        server.pause()  # so that several are there when the first is taken
        for _ in range(100):
            sock.send(bytes(500))
        before = server.stats.lost
        server.resume()
        recorder.wait_for(LimitReached)
        for _ in range(50):
            sock.send(bytes(500))
        lost = server.stats.lost - before
        free.set()
        (cleared, *_) = recorder.wait_for(LimitCleared)
    assert lost > 0
    assert cleared.dropped == lost
