"""A test of a handler of one's own, without a network and without waiting; run it as `pytest test_my_handler.py`."""

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from plugsocket import AsyncConnection, DeadlineError, Deadlines, Server, Trio
from plugsocket.testing import MemoryTransport

HOUR = 3600.0  # seconds


async def my_handler(connection: AsyncConnection) -> None:
    """Greet whoever says a name; this is what the tests are about."""
    try:
        reply = b"Hello, " + await connection.receive_some(100)
    except DeadlineError:
        reply = b"Are you still there?"
    await connection.send_all(reply)


def in_trio(test: Callable[[MemoryTransport], Awaitable[None]]) -> None:
    """Run a test beside the server; the clock jumps ahead whenever both merely wait for time to pass."""

    async def main() -> None:
        transport = MemoryTransport()
        server = Server(transport, my_handler, Trio(), deadlines=Deadlines(idle=HOUR))
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            await test(transport)
            await server.stop_async()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_greeting() -> None:
    """Whoever says a name is greeted by it."""

    async def test(transport: MemoryTransport) -> None:
        async with transport.open_stream() as client:
            await client.send_all(b"Ada")
            assert await client.receive_some() == b"Hello, Ada"

    in_trio(test)


def test_an_hour_of_silence() -> None:
    """Whoever says nothing is asked after an hour, and the test takes milliseconds."""

    async def test(transport: MemoryTransport) -> None:
        async with transport.open_stream() as client:
            began = trio.current_time()
            assert await client.receive_some() == b"Are you still there?"
            assert trio.current_time() - began >= HOUR

    in_trio(test)
