"""A stop and handlers of several tasks, of which one waits to receive: only they know whether they are idle."""

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from plugsocket import Server, Trio, as_trio_listener, own_loop
from plugsocket.testing import MemoryTransport
from tests.trio_kit import echo, exchange, quiet, run

TIMES = 20  # trio takes tasks that are ready in one order or in the other


async def polite(connection: Any) -> None:
    """Take what comes, and have a task that says goodbye."""

    async def say_goodbye() -> None:
        await connection.closing.wait()
        await connection.send_all(b"goodbye")
        nursery.cancel_scope.cancel()

    await connection.send_all(b"hello")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_goodbye)
        async for _ in connection:
            pass
        nursery.cancel_scope.cancel()


async def attentive(connection: Any) -> None:
    """Send a reply that takes its time, and have a task that notices when the client leaves."""

    async def until_it_leaves() -> None:
        assert await connection.receive_some() == b""
        nursery.cancel_scope.cancel()

    assert await connection.receive_some() == b"question"
    await connection.send_all(b"an")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_it_leaves)
        await trio.sleep(5)
        await connection.send_all(b"swer")
        nursery.cancel_scope.cancel()


async def serve(kind: str, memory: MemoryTransport, handler: Any, nursery: trio.Nursery) -> Server:
    """Serve sockets, streams of somebody's listener, or sockets in a loop of the handler's own."""
    endpoint: Any = await as_trio_listener(memory) if kind == "streams" else memory
    return await nursery.start(
        quiet(Server(endpoint, own_loop(handler) if kind == "own loop" else handler, Trio())).serve
    )


@pytest.mark.parametrize("kind", ["sockets", "streams", "own loop"])
def test_a_goodbye_is_said(kind: str) -> None:
    async def main() -> None:
        memory = MemoryTransport()
        async with trio.open_nursery() as nursery:
            server = await serve(kind, memory, polite, nursery)
            async with memory.open_stream() as stream:
                assert await stream.receive_some() == b"hello"
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(server.stop_async)
                assert await stream.receive_some() == b"goodbye"
        assert server.report is not None
        assert server.report.cut == ()

    for _ in range(TIMES):
        run(main)


@pytest.mark.parametrize("kind", ["sockets", "streams"])
def test_a_reply_goes_on_beside_a_task_that_receives(kind: str) -> None:
    async def main() -> None:
        memory = MemoryTransport()
        async with trio.open_nursery() as nursery:
            server = await serve(kind, memory, attentive, nursery)
            async with memory.open_stream() as stream:
                await stream.send_all(b"question")
                assert await stream.receive_some() == b"an"
                nursery.start_soon(server.stop_async)
                assert await stream.receive_some() == b"swer"
        assert server.report is not None
        assert server.report.cut == ()

    run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("kind", ["sockets", "streams", "own loop"])
def test_a_handler_of_one_task_ends_by_end_of_file(kind: str) -> None:
    """Also if it had other ones before."""

    async def alone_again(connection: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
        async with trio.open_nursery():
            await echo(connection)

    async def main() -> None:
        memory = MemoryTransport()
        async with trio.open_nursery() as nursery:
            server = await serve(kind, memory, alone_again, nursery)
            async with memory.open_stream() as stream:
                assert await exchange(stream, b"hello") == b"hello"
                report = await server.stop_async(grace=float("inf"))
            assert report.completed == 1

    run(main)
