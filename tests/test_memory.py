"""MemoryTransport: every strategy serves it as it does a network."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from zope.interface.verify import verifyObject

from plugsocket import Deadlines, Limits, Server, State
from plugsocket.core.events import HandlerFailed
from plugsocket.core.interfaces import IListener, IStreamTransport
from plugsocket.testing import EventRecorder, MemoryTransport
from tests.kit import HANDLERS, TIMEOUT, ask, receive, serving, strategy_names
from tests.test_matrix import COMPOSING
from tests.trio_kit import echo, exchange, quiet, run

MANY = 400  # more than a socket buffer has room for messages of one byte

everywhere = pytest.mark.parametrize(("strategy", "handler"), COMPOSING)


@pytest.fixture
def transport() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
def server(transport: MemoryTransport, strategy: str, handler: str, recorder: EventRecorder) -> Iterator[Server]:
    with serving(Server(transport, HANDLERS[handler], strategy), recorder) as running:
        yield running


def test_it_keeps_the_contracts(transport: MemoryTransport) -> None:
    verifyObject(IStreamTransport, transport)
    listener = transport.listen()
    verifyObject(IListener, listener)
    listener.close()


@everywhere
def test_clients_are_served(server: Server, transport: MemoryTransport) -> None:
    for number in range(3):
        with transport.connect() as sock:
            sock.settimeout(TIMEOUT)
            assert ask(sock, b"%d" % number) == b"%d" % number
    assert server.wait(connections=0, timeout=TIMEOUT)
    assert server.stats.accepted == 3


@everywhere
def test_a_failure_is_one_connections(server: Server, transport: MemoryTransport, recorder: EventRecorder) -> None:
    with transport.connect() as sock:
        sock.settimeout(TIMEOUT)
        sock.sendall(b"raise")
        assert receive(sock, 1) == b""
    recorder.wait_for(HandlerFailed)
    with transport.connect() as sock:
        assert ask(sock, b"next") == b"next"


@pytest.mark.parametrize("strategy", strategy_names())
def test_connections_wait_for_their_turn(transport: MemoryTransport, strategy: str) -> None:
    with serving(Server(transport, HANDLERS["function"], strategy, limits=Limits(max_connections=2))) as server:
        server.pause()
        socks = [transport.connect() for _ in range(8)]
        server.resume()
        for sock in socks:
            with sock:
                sock.settimeout(TIMEOUT)
                assert ask(sock, b"hello") == b"hello"
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.accepted == 8


def test_any_number_of_connections_waits(transport: MemoryTransport) -> None:
    listener = transport.listen()
    socks = [transport.connect() for _ in range(MANY)]
    listener.accept().close()
    listener.close()
    for sock in socks:
        with sock:
            sock.settimeout(TIMEOUT)
            assert sock.recv(1) == b""


def test_nobody_listens(transport: MemoryTransport) -> None:
    with pytest.raises(ConnectionRefusedError):
        transport.connect()
    with Server(transport, echo).start() as server:
        assert server.addresses == ("memory",)
        assert server.urls == ("memory://memory",)
        with pytest.raises(OSError, match=r"cannot listen on MemoryTransport\('memory'\): Address already in use"):
            transport.listen()
    with pytest.raises(ConnectionRefusedError):
        transport.connect()
    with Server(transport, echo).start(), transport.connect() as sock:  # again, since nobody does any more
        assert ask(sock, b"again") == b"again"


def test_who_connects_while_it_closes_is_refused_or_sees_the_end(transport: MemoryTransport) -> None:
    for _ in range(50):
        listener = transport.listen()
        closer = threading.Thread(target=listener.close)
        closer.start()
        try:
            sock = transport.connect()
        except ConnectionRefusedError:
            pass
        else:
            with sock:
                sock.settimeout(TIMEOUT)
                assert sock.recv(1) == b""
        closer.join()


def test_a_mock_clock_jumps_over_deadlines(transport: MemoryTransport, recorder: EventRecorder) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(transport, echo, deadlines=Deadlines(idle=3600.0)), recorder)
            await nursery.start(server.serve)
            async with transport.open_stream() as stream:
                began = trio.current_time()
                assert await exchange(stream, b"hello") == b"hello"
                assert trio.current_time() == began
                assert await stream.receive_some() == b""
                assert trio.current_time() == pytest.approx(began + 3600.0)
            await server.stop_async()
            assert server.state is State.CLOSED

    run(main, clock=MockClock(autojump_threshold=0))
    (failure,) = recorder.of(HandlerFailed)
    assert "no byte went either way for 3600 s" in str(failure.error)


def test_handlers_see_peers_without_names(transport: MemoryTransport) -> None:
    seen: list[Any] = []

    def look(connection: Any) -> None:
        seen.extend([connection.peer, connection.local])

    with Server(transport, look).start(), transport.connect() as sock:
        assert sock.recv(1) == b""
    assert seen == ["", ""]
