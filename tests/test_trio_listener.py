"""as_trio_listener(): transports where trio's own way of serving is used."""

import errno
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import plugsocket
from plugsocket import CompositionError, Inet6Address, InetAddress, OptionError, UnixAddress, as_trio_listener
from plugsocket.core.interfaces import IStreamTransport
from plugsocket.testing import FaultyTransport, low_descriptor_limit
from tests.kit import example_ids, example_name
from tests.trio_kit import echo, exchange, run, tls

ENDPOINT = "tcp://127.0.0.1:0"
STREAMS = [example for example in example_ids() if IStreamTransport.implementedBy(example[0])]


FAMILIES = {InetAddress: socket.AF_INET, Inet6Address: socket.AF_INET6, UnixAddress: socket.AF_UNIX}


async def connect(listener: plugsocket.TransportListener) -> trio.SocketStream:
    sock = trio.socket.socket(FAMILIES[type(listener.address)])
    try:
        await sock.connect(listener.address)
    except OSError:
        sock.close()
        raise
    return trio.SocketStream(sock)


@pytest.mark.parametrize("example", STREAMS, ids=example_name)
def test_trio_serves_every_transport_of_connections(example: tuple[Any, int], tmp_path: Path) -> None:
    cls, number = example

    async def client(listener: plugsocket.TransportListener, number: int) -> None:
        async with await connect(listener) as stream:
            assert await exchange(stream, b"%d" % number) == b"%d" % number
            await stream.send_eof()
            assert await stream.receive_some() == b""

    async def main() -> None:
        listener = await as_trio_listener(cls.examples(str(tmp_path))[number])
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, echo, [listener])
            async with trio.open_nursery() as clients:
                for each in range(20):
                    clients.start_soon(client, listener, each)
            nursery.cancel_scope.cancel()  # upon which trio closes it

    run(main)
    assert not list(tmp_path.iterdir())


def test_its_connections_are_those_of_servers() -> None:
    async def main() -> None:
        async with await as_trio_listener(ENDPOINT) as listener:
            assert listener.url == f"tcp://{listener.address}"
            for number in (1, 2):
                async with await connect(listener) as stream, await listener.accept() as connection:
                    assert isinstance(connection, plugsocket.AsyncConnection)
                    assert connection.id == number
                    assert connection.peer == stream.socket.getsockname()
                    assert not connection.closing.is_set()

    run(main)


def test_tls_over_it() -> None:
    of_server, of_client = tls()

    async def main() -> None:
        listener = await as_trio_listener(ENDPOINT)
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, echo, [trio.SSLListener(listener, of_server)])
            async with trio.SSLStream(await connect(listener), of_client, server_hostname="localhost") as stream:
                assert await exchange(stream, b"secret") == b"secret"
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.ClosedResourceError):  # trio closed it
            await listener.accept()

    run(main)


def test_closing_it_is_told_to_its_connections_and_to_who_accepts() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listener = await as_trio_listener(ENDPOINT)
            async with await connect(listener) as stream, await listener.accept() as connection:
                waiting = [trio.Event(), trio.Event()]

                async def wait_for_the_end(told: trio.Event) -> None:
                    await connection.closing.wait()
                    told.set()

                async def accept() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await listener.accept()

                for told in waiting:
                    nursery.start_soon(wait_for_the_end, told)
                nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await listener.accept()
                await listener.aclose()
                for told in waiting:
                    await told.wait()
                assert connection.closing.is_set()
                await stream.send_all(b"still open")
                assert await connection.receive_some() == b"still open"
                await listener.aclose()
                with pytest.raises(ConnectionRefusedError):
                    await connect(listener)

    run(main)


def test_it_closes_when_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        listener = await as_trio_listener(f"unix://{tmp_path}/socket")
        with trio.CancelScope() as scope:
            scope.cancel()
            await listener.aclose()
        assert scope.cancelled_caught

    run(main)
    assert not list(tmp_path.iterdir())


def test_a_cancelled_accept_takes_nobody() -> None:
    async def main() -> None:
        async with await as_trio_listener(ENDPOINT) as listener, await connect(listener):
            with trio.CancelScope() as scope:
                scope.cancel()
                await listener.accept()
            assert scope.cancelled_caught
            async with await listener.accept() as connection:
                assert connection.id == 1

    run(main)


def test_closing_it_ends_no_connection() -> None:
    """Such as that of a program which wants one connection."""

    async def main() -> None:
        listener = await as_trio_listener(ENDPOINT)
        async with await connect(listener) as stream, await listener.accept() as connection:
            await listener.aclose()
            assert connection.closing.is_set()
            with trio.move_on_after(1) as scope:
                await connection.receive_some()
            assert scope.cancelled_caught
            await stream.send_all(b"hello")
            assert await connection.receive_some() == b"hello"

    run(main, clock=MockClock(autojump_threshold=0))


def test_every_call_is_a_checkpoint() -> None:
    async def main() -> None:
        async with await as_trio_listener(ENDPOINT) as listener, await connect(listener):
            with trio.testing.assert_checkpoints():
                connection = await listener.accept()
            await connection.aclose()
            for _ in range(2):
                with trio.testing.assert_checkpoints():
                    await listener.aclose()

    run(main)


def test_dead_connections_are_passed_over_and_want_is_told() -> None:
    async def main() -> None:
        transport = FaultyTransport(ENDPOINT, [errno.ECONNABORTED, errno.EMFILE, errno.EPERM])
        async with await as_trio_listener(transport) as listener, await connect(listener):
            with pytest.raises(OSError, match="Too many open files"):
                await listener.accept()
            async with await listener.accept():
                assert len(transport.attempts) == 4

    run(main)


def test_what_is_no_transport_of_connections_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(CompositionError, match=r"^UDP\(.*\) gives datagrams, and .* give streams"):
            await as_trio_listener("udp://127.0.0.1:0")
        with pytest.raises(CompositionError, match=r"^a transport must be a string such as .* not 42$"):
            await as_trio_listener(42)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="'tcp:/x' is no endpoint"):
            await as_trio_listener("tcp:/x")
        with pytest.raises(FileNotFoundError, match="cannot listen on"):
            await as_trio_listener(f"unix://{tmp_path}/none/socket")

    run(main)


def test_without_descriptors_nothing_is_left_open() -> None:
    """It needs one for the endpoint, and two more: however many there are, it is all or nothing."""

    async def main() -> None:
        for spare in range(3):
            with low_descriptor_limit(spare), pytest.raises(OSError, match="Too many open files"):
                await as_trio_listener(ENDPOINT)

    run(main)
