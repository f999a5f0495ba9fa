"""Trio(): servers inside trio programs, their ends, and their threads."""

import contextvars
import os
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import plugsocket
from plugsocket import (
    TCP,
    AsyncConnection,
    AsyncDatagram,
    CompositionError,
    Connection,
    Fork,
    LifecycleError,
    Server,
    State,
    StopReport,
    Sync,
    Thread,
    Trio,
)
from plugsocket.core.events import HandlerFailed
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import BEGUN, TIMEOUT, async_busy, async_function, busy, client, function, keep_busy, serving
from tests.trio_kit import exchange, quiet, run

ENDPOINT = "tcp://127.0.0.1:0"


async def connect(server: Server, which: int = 0) -> trio.SocketStream:
    return await trio.open_tcp_stream(*server.addresses[which])


async def keep_it_busy(stream: trio.abc.Stream) -> None:
    """As `keep_busy`, in trio."""
    await stream.send_all(b"?")
    assert await stream.receive_some() == BEGUN


async def until_closed(stream: trio.abc.Stream) -> None:
    """Wait for the server's end of file, although the test itself is cancelled."""
    with trio.CancelScope(shield=True):
        assert await stream.receive_some() == b""


async def idle(server: Server) -> None:
    """Wait until no request is under way."""
    assert await trio.to_thread.run_sync(partial(server.wait, connections=0, timeout=TIMEOUT))


# Starting


@pytest.mark.parametrize("handler", [async_function, function])
def test_start_gives_the_server_with_its_addresses(handler: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            made = Server(ENDPOINT, handler, Trio())
            server = await nursery.start(made.serve)
            assert server is made
            assert server.state is State.SERVING
            assert server.addresses[0].port > 0
            async with await connect(server) as stream:
                assert await exchange(stream, b"hello") == b"hello"
            report = await server.stop_async()
            assert report is server.report
            assert report.finished
        assert server.state is State.CLOSED

    run(main)


@pytest.mark.parametrize("handler", [async_function, function])
def test_the_module_level_serve(handler: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, handler)
            assert isinstance(server.strategy, Trio)
            async with await connect(server) as stream:
                assert await exchange(stream, b"hello") == b"hello"
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("strategy", [Sync(), Thread(), Fork()], ids=repr)
def test_a_blocking_strategy_is_refused(strategy: Any) -> None:
    async def main() -> None:
        expected = f"serve() runs trio tasks, which {strategy!r} does not; use Trio(), or start()"
        with pytest.raises(CompositionError) as caught:
            await plugsocket.serve(ENDPOINT, function, strategy)
        assert str(caught.value) == expected

    run(main)


def test_serving_twice_is_refused_and_harms_nothing() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, async_function)
            with pytest.raises(LifecycleError, match="cannot serve a server that is SERVING"):
                await server.serve()
            async with await connect(server) as stream:
                assert await exchange(stream, b"hello") == b"hello"
            await server.stop_async(grace=0)

    run(main)


def test_an_address_in_use_is_raised_as_itself_and_the_server_is_new() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            first = await nursery.start(plugsocket.serve, ENDPOINT, async_function)
            second = Server(TCP(*first.addresses[0]), async_function)
            with pytest.raises(OSError, match=r"cannot listen on tcp://127\.0\.0\.1:"):
                await second.serve()
            assert second.state is State.NEW
            nursery.cancel_scope.cancel()

    run(main)


def test_several_servers_in_one_nursery(tmp_path: Path) -> None:
    async def says(name: bytes, stream: AsyncConnection) -> None:
        await stream.send_all(name)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            servers = [await nursery.start(plugsocket.serve, ENDPOINT, partial(says, b"%d" % n)) for n in range(3)]
            for number, server in enumerate(servers):
                async with await connect(server) as stream:
                    assert await stream.receive_some() == b"%d" % number
            assert (await servers[0].stop_async()).finished
            async with await connect(servers[1]) as stream:
                assert await stream.receive_some() == b"1"
            nursery.cancel_scope.cancel()
        assert {server.state for server in servers} == {State.CLOSED}

    run(main)


def test_context_variables_of_the_caller_reach_handlers() -> None:
    variable = contextvars.ContextVar("variable", default=b"default")

    async def task(stream: AsyncConnection) -> None:
        await stream.send_all(variable.get())

    def thread(connection: Connection) -> None:
        connection.sendall(variable.get())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            variable.set(b"of the caller")
            for handler in (task, thread):
                server = await nursery.start(plugsocket.serve, ENDPOINT, handler)
                async with await connect(server) as stream:
                    assert await stream.receive_some() == b"of the caller"
            nursery.cancel_scope.cancel()

    run(main)


# Ending


def test_cancelling_closes_everything_and_cancels_the_handlers(tmp_path: Path, recorder: Recorder) -> None:
    path = tmp_path / "app.sock"
    cancelled = []

    async def handle(stream: AsyncConnection) -> None:
        try:
            await async_busy(stream)
        except trio.Cancelled:
            cancelled.append(stream.peer)
            raise

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server([ENDPOINT, f"unix://{path}"], handle), recorder)
            await nursery.start(server.serve)
            assert path.is_socket()
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                peer = stream.socket.getsockname()
                nursery.cancel_scope.cancel()
                await until_closed(stream)
        assert cancelled == [peer]
        assert server.state is State.CLOSED
        assert server.report == StopReport(0, (peer,), server.report.seconds)
        assert not path.exists()
        with pytest.raises(OSError, match=r"refused|attempts to connect"):
            await connect(server)

    run(main)
    assert recorder.events == []


def test_listeners_close_at_once_when_cancelled_though_a_handler_takes_its_time(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    reached, release = trio.Event(), trio.Event()

    async def handle(stream: AsyncConnection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            reached.set()
            with trio.CancelScope(shield=True):
                await release.wait()

    async def main() -> None:
        async with trio.open_nursery() as outer:
            inner = await outer.start(in_scope)
            async with await trio.open_unix_socket(str(path)):
                await trio.testing.wait_all_tasks_blocked()
                inner.cancel()
                await reached.wait()
                there = path.exists()
                release.set()
                assert not there

    async def in_scope(task_status: Any) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(plugsocket.serve, f"unix://{path}", handle)
                task_status.started(scope)

    run(main)


def test_stop_async_drains_and_reports() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, async_busy)
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                reports = []
                nursery.start_soon(collect, server, reports)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert server.state is State.DRAINING
                assert reports == []
                assert await exchange(stream, b"still served") == b"still served"
        assert reports == [StopReport(1, (), server.report.seconds)]

    async def collect(server: Server, reports: list[StopReport]) -> None:
        reports.append(await server.stop_async(grace=TIMEOUT))

    run(main)


def test_no_grace_cancels_now(recorder: Recorder) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, async_busy), recorder)
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                report = await server.stop_async(grace=0)
                assert report.cut == (stream.socket.getsockname(),)
                assert report.completed == 0
                assert await stream.receive_some() == b""

    run(main)
    assert recorder.events == []


def test_the_grace_is_trio_s_time() -> None:
    clock = trio.testing.MockClock()

    async def handle(stream: AsyncConnection) -> None:
        await stream.send_all(b"never ends")
        await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, handle)
            async with await connect(server) as stream:
                assert await stream.receive_some() == b"never ends"
                began = trio.current_time()
                clock.autojump_threshold = 0
                report = await server.stop_async(grace=100)
                assert trio.current_time() - began == pytest.approx(100)
                assert len(report.cut) == 1

    run(main, clock=clock)


def test_cancelling_a_drain_cuts_what_is_left_and_says_so() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, async_busy)
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                nursery.start_soon(server.stop_async, TIMEOUT)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert server.state is State.DRAINING
                nursery.cancel_scope.cancel()
                await until_closed(stream)
        assert server.state is State.CLOSED
        assert server.report.completed == 0
        assert len(server.report.cut) == 1

    run(main)


@pytest.mark.parametrize("handler", [async_busy, busy])
def test_stop_from_another_thread(handler: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, handler)
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                report = await trio.to_thread.run_sync(server.stop, 0)
                assert len(report.cut) == 1

    run(main)


@pytest.mark.parametrize("strategy", [Sync(), Thread(), Fork(), Trio()], ids=repr)
def test_stop_async_of_a_server_in_a_thread(strategy: Any) -> None:
    async def main(server: Server) -> None:
        report = await server.stop_async(grace=0.05)
        assert report.finished
        assert len(report.cut) == 1

    with serving(Server(ENDPOINT, busy, strategy)) as server, client(server) as sock:
        keep_busy(sock)
        run(main, server)


# Failures


def test_an_exception_does_not_end_the_server(recorder: Recorder) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, async_function), recorder)
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                assert await exchange(stream, b"raise it") == b""
                peer = stream.socket.getsockname()
            async with await connect(server) as stream:
                assert await exchange(stream, b"next") == b"next"
            assert [(type(e), e.peer, str(e.error)) for e in recorder.events] == [(HandlerFailed, peer, "raise it")]
            nursery.cancel_scope.cancel()

    run(main)


def test_a_group_with_cancellations_in_it_is_reported_once_without_them(recorder: Recorder) -> None:
    async def handle(stream: AsyncConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)
            await stream.send_all(b"ready")
            await stream.receive_some()

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("in the cleanup")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, handle), recorder)
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                assert await stream.receive_some() == b"ready"
                await server.stop_async(grace=0)
        assert server.state is State.CLOSED

    run(main)
    (failure,) = recorder.events
    assert isinstance(failure.error, ExceptionGroup)
    assert [str(error) for error in failure.error.exceptions] == ["in the cleanup"]


def test_a_group_of_a_handler_s_own_tasks(recorder: Recorder) -> None:
    async def fail(text: str) -> None:
        raise ValueError(text)

    async def handle(stream: AsyncConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "one")
            nursery.start_soon(fail, "two")

    with serving(Server(ENDPOINT, handle), recorder) as server:
        for _ in range(2):
            with client(server) as sock:
                assert sock.recv(1) == b""
    assert len(recorder.events) == 2
    assert {len(failure.error.exceptions) for failure in recorder.events} == {2}


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_handler_in_a_background_server_cannot_end_it(error: BaseException, recorder: Recorder) -> None:
    async def handle(stream: AsyncConnection) -> None:
        if await stream.receive_some() == b"raise":
            raise error
        await stream.send_all(b"bye")

    with serving(Server(ENDPOINT, handle), recorder) as server:
        for data, answer in ((b"raise", b""), (b"next", b"bye")):
            with client(server) as sock:
                sock.sendall(data)
                assert sock.recv(100) == answer
    assert [failure.error for failure in recorder.events] == [error]


def test_a_task_that_outlives_its_handler_cannot_end_the_server() -> None:
    """It finds the connection closed, though that lingers."""

    async def main() -> None:
        async with trio.open_nursery() as background, trio.open_nursery() as nursery:

            async def left_behind(stream: AsyncConnection) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some()

            async def handle(stream: AsyncConnection) -> None:
                if await stream.receive_some(1) == b"?":
                    background.start_soon(left_behind, stream)
                else:
                    await stream.send_all(b"next")

            server = await nursery.start(plugsocket.serve, ENDPOINT, handle)
            async with await connect(server) as stream:
                await stream.send_all(b"?")
                assert await stream.receive_some() == b""
                await trio.testing.wait_all_tasks_blocked(0.01)
                async with await connect(server) as other:
                    assert await exchange(other, b"!") == b"next"
            assert server.state is State.SERVING
            nursery.cancel_scope.cancel()

    run(main)


# Blocking handlers


def test_blocking_handlers_leave_trio_s_own_threads_free() -> None:
    async def main() -> None:
        limiter = trio.to_thread.current_default_thread_limiter()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, function)
            streams = [await connect(server) for _ in range(50)]  # more than trio has threads by default
            for stream in streams:
                assert await exchange(stream, b"hello") == b"hello"
            assert server.stats.active == 50
            assert limiter.borrowed_tokens == 0
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            for stream in streams:
                await stream.aclose()

    run(main)


def test_blocking_handlers_are_woken_by_cancellation(recorder: Recorder) -> None:
    received = []

    def handle(connection: Connection) -> None:
        received.append(connection.recv(1))
        os.write(connection.fileno(), BEGUN)
        received.append(connection.recv(1))
        received.append(connection.closing.is_set())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, handle, "trio"), recorder)
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                nursery.cancel_scope.cancel()
                await until_closed(stream)

    run(main)
    assert received == [b"?", b"", True]
    assert recorder.events == []


def test_blocking_handlers_can_call_back_into_trio(recorder: Recorder) -> None:
    def handle(connection: Connection) -> None:
        task = trio.from_thread.run(in_trio)
        connection.sendall(trio.from_thread.run_sync(lambda: b"from trio, ") + task)

    async def in_trio() -> bytes:
        await trio.lowlevel.checkpoint()
        return b"twice"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, handle, "trio"), recorder)
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                assert b"".join([chunk async for chunk in stream]) == b"from trio, twice"
            nursery.cancel_scope.cancel()

    run(main)
    assert recorder.events == []


def test_a_blocking_handler_that_waits_in_trio_is_cancelled_and_not_reported(recorder: Recorder) -> None:
    def handle(connection: Connection) -> None:
        connection.sendall(b"waits")
        trio.from_thread.run(trio.sleep_forever)

    with serving(Server(ENDPOINT, handle, "trio"), recorder) as server, client(server) as sock:
        assert sock.recv(100) == b"waits"
        report = server.stop(grace=0)
        assert report.cut == (sock.getsockname(),)
        assert sock.recv(1) == b""
    assert server.stats.failed == 0
    assert recorder.events == []


@pytest.mark.parametrize(
    ("handler", "strategy"),
    [(async_function, Trio(max_tasks=2, max_threads=1)), (function, Trio(max_tasks=1, max_threads=2))],
    ids=["tasks", "threads"],
)
def test_the_limits_hold(handler: Any, strategy: Trio) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(Server(ENDPOINT, handler, strategy).serve)
            streams = [await connect(server) for _ in range(3)]
            for stream in streams[:2]:
                assert await exchange(stream, b"hello") == b"hello"
            await streams[2].send_all(b"waits")
            assert await exchange(streams[0], b"still") == b"still"
            assert (server.stats.active, server.stats.accepted) == (2, 2)
            await streams[0].aclose()
            assert await streams[2].receive_some() == b"waits"
            for stream in streams:
                await stream.aclose()
            await idle(server)
            assert server.stats.accepted == 3
            nursery.cancel_scope.cancel()

    run(main)


# Seeing the end come, and datagrams


def test_any_number_of_tasks_wait_for_the_close_signal() -> None:
    async def handle(stream: AsyncConnection) -> None:
        await stream.send_all(b"ready")
        await stream.closing.wait()
        assert stream.closing.is_set()
        await stream.send_all(b"bye")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, handle)
            streams = [await connect(server) for _ in range(5)]
            for stream in streams:
                assert await stream.receive_some() == b"ready"
            report = await server.stop_async(grace=TIMEOUT)
            assert (report.completed, report.cut) == (5, ())
            for stream in streams:
                assert await stream.receive_some() == b"bye"
                await stream.aclose()

    run(main)


def test_a_datagram_is_answered_by_tasks() -> None:
    async def handle(datagram: AsyncDatagram) -> None:
        async with trio.open_nursery() as nursery:
            for part in (b"1", b"2"):
                nursery.start_soon(datagram.reply, datagram.data + part)

    with serving(Server("udp://127.0.0.1:0", handle)) as server, client(server) as sock:
        sock.send(b"part ")
        assert {sock.recv(100), sock.recv(100)} == {b"part 1", b"part 2"}


def test_a_datagram_s_reply_waits_for_room(tmp_path: Path) -> None:
    """A Unix datagram socket whose receiver's queue is full takes no more; see unix(7)."""
    replies = 500
    sent = threading.Event()

    async def handle(datagram: AsyncDatagram) -> None:
        for number in range(replies):
            if number == replies - 1:
                sent.set()
            await datagram.reply(b"%d" % number)

    with serving(Server(f"unixgram://{tmp_path}/app.sock", handle)) as server, client(server) as sock:
        sock.send(b"many, please")
        assert server.wait(connections=1, timeout=TIMEOUT)
        assert not sent.is_set()
        assert [int(sock.recv(100)) for _ in range(replies)] == list(range(replies))
        assert server.wait(connections=0, timeout=TIMEOUT)


def test_every_reply_can_be_cancelled_and_those_after_the_first_are_checkpoints() -> None:
    checked = threading.Event()

    async def handle(datagram: AsyncDatagram) -> None:
        for word in (b"1", b"2"):
            with trio.CancelScope() as scope:
                scope.cancel()
                await datagram.reply(b"is not sent")
            assert scope.cancelled_caught
            await datagram.reply(word)
        with trio.testing.assert_checkpoints():
            await datagram.reply(b"3")
        checked.set()

    with serving(Server("udp://127.0.0.1:0", handle)) as server, client(server) as sock:
        sock.send(b"hello")
        assert [sock.recv(100) for _ in range(3)] == [b"1", b"2", b"3"]
        assert checked.wait(TIMEOUT)


# A trio.run of its own


def test_serve_forever_is_refused_inside_trio() -> None:
    async def main() -> None:
        with pytest.raises(LifecycleError, match=r"use `await server\.serve\(\)`"):
            server.serve_forever()

    server = Server(ENDPOINT, async_function)
    run(main)
    assert server.state is State.NEW
    assert socket.socket  # nothing was opened: the fixture counts descriptors


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"])
def test_a_handler_that_is_cancelled_by_a_scope_that_it_left_open(endpoint: str, recorder: Recorder) -> None:
    """As one does that leaves the loop over an async generator which yields in a scope: it is a failure of its own."""

    async def handle(request: Any) -> None:
        scope = trio.CancelScope()
        scope.__enter__()
        scope.cancel()
        await trio.lowlevel.checkpoint()

    with serving(Server(endpoint, handle), recorder) as server, client(server) as sock:
        sock.send(b"hello")
        (failure,) = recorder.wait_for(HandlerFailed)
        assert isinstance(failure.error, trio.Cancelled)
        assert server.state is State.SERVING
        assert server.stop(grace=0).finished
