"""The close signal: asked, waited for and selected on, in threads, children and tasks alike."""

import select
import socket
from typing import Any

import pytest
import trio
import trio.testing

from plugsocket import AsyncConnection, Connection, Server, Trio, own_loop
from plugsocket.core.closing import CloseSignal
from plugsocket.core.trio_closing import AsyncCloseSignal
from tests.kit import TIMEOUT, client, serving, strategy_names

ENDPOINT = "tcp://127.0.0.1:0"


def selects(connection: Connection) -> None:
    assert not connection.closing.is_set()
    assert not connection.closing.wait(0)
    connection.sendall(b"ready")
    readable, _, _ = select.select([connection, connection.closing], [], [], TIMEOUT)
    assert readable == [connection.closing]
    assert connection.closing.is_set()
    connection.sendall(b"bye")


async def waits(connection: AsyncConnection) -> None:
    assert not connection.closing.is_set()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(connection.closing.wait)
        await connection.send_all(b"ready")
    assert connection.closing.is_set()
    await connection.send_all(b"bye")


BLOCKING = [name for name in strategy_names() if name != "trio"]


@pytest.mark.parametrize(
    ("strategy", "handler"),
    [*((name, selects) for name in strategy_names()), *((name, own_loop(waits)) for name in BLOCKING), ("trio", waits)],
)
def test_handlers_see_a_stop_coming(strategy: str, handler: Any) -> None:
    with serving(Server(ENDPOINT, handler, strategy)) as server, client(server) as sock:
        assert sock.recv(100) == b"ready"
        report = server.stop(grace=TIMEOUT)
        assert sock.recv(100) == b"bye"
    assert (report.completed, report.cut) == (1, ())
    assert server.stats.failed == 0


def test_all_connections_of_a_server_can_wait_at_once() -> None:
    with serving(Server(ENDPOINT, waits, Trio())) as server:
        socks = [client(server) for _ in range(20)]
        for sock in socks:
            assert sock.recv(100) == b"ready"
        report = server.stop(grace=TIMEOUT)
        for sock in socks:
            assert sock.recv(100) == b"bye"
            sock.close()
    assert report.completed == 20


def test_a_cancelled_waiter_hands_over_to_another() -> None:
    async def main() -> None:
        inner, outer = socket.socketpair()
        with inner, outer:
            signal = AsyncCloseSignal(CloseSignal(outer))
            told: list[str] = []

            async def wait(name: str) -> None:
                await signal.wait()
                told.append(name)

            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as first:
                    first.start_soon(wait, "first")
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(wait, "second")
                    nursery.start_soon(wait, "third")
                    await trio.testing.wait_all_tasks_blocked()
                    first.cancel_scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                assert told == []
                inner.shutdown(socket.SHUT_WR)
            assert sorted(told) == ["second", "third"]

    trio.run(main)


def test_the_signal_stays_set_when_the_server_is_closed() -> None:
    seen: list[Any] = []

    def handle(connection: Connection) -> None:
        seen.append(connection.closing)

    with serving(Server(ENDPOINT, handle)) as server, client(server) as sock:
        assert sock.recv(1) == b""
        server.stop()
    (signal,) = seen
    assert signal.is_set()
    assert signal.wait()
    assert signal.fileno() == -1
