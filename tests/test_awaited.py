"""Listeners of trio as transports: trio's own, TLS, and some in memory, with all that a server adds."""

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, memory_stream_pair

import plugsocket
from plugsocket import (
    Answer,
    CompositionError,
    Deadlines,
    Limits,
    Server,
    State,
    StreamConnection,
    Wait,
    as_trio_listener,
)
from plugsocket.core.control import Control
from plugsocket.core.events import AcceptFailed, AcceptRecovered, CloseFailed, ConnectionClosed, HandlerFailed
from plugsocket.core.trio_closing import AsyncCloseSignal
from plugsocket.core.trio_requests import StreamOfTrio
from plugsocket.handlers.trio_stream import HalfCloseableStreamConnection, stream_connection
from plugsocket.testing import EventRecorder
from tests.kit import HANDLERS, TIMEOUT
from tests.trio_kit import echo, exchange, quiet, run, tls

Stream = trio.abc.Stream
OF_SERVER, OF_CLIENT = tls()


class InMemory(trio.abc.Listener[Any]):
    """A listener for streams in memory. Accepting first raises what it is told to."""

    def __init__(self, errors: Iterable[Exception] = ()) -> None:
        self._send, self._receive = trio.open_memory_channel[Any](100)
        self._errors = list(errors)
        self.closed = 0
        self.close_error: Exception | None = None

    async def connect(self) -> Stream:
        ours, theirs = memory_stream_pair()
        self.add(theirs)
        return ours

    def add(self, stream: Stream) -> None:
        self._send.send_nowait(stream)

    def stop_failing(self) -> None:
        self._errors.clear()

    async def accept(self) -> Any:
        stream = await self._receive.receive()
        if self._errors:
            self._send.send_nowait(stream)
            raise self._errors.pop(0)
        return stream

    async def aclose(self) -> None:
        self.closed += 1
        self._receive.close()
        if self.close_error is not None:
            raise self.close_error
        await trio.lowlevel.checkpoint()


@attrs.frozen
class Kind:
    """A kind of listener: how to open one, and how to connect to its server."""

    open: Callable[[], Awaitable[Any]]
    connect: Callable[[Server, Any], Awaitable[Stream]]


async def open_tcp() -> trio.SocketListener:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener


async def connect_tcp(server: Server, _listener: object) -> Stream:
    return await trio.open_tcp_stream(*server.addresses[0])


async def connect_tls(server: Server, listener: object) -> Stream:
    return trio.SSLStream(await connect_tcp(server, listener), OF_CLIENT, server_hostname="localhost")


async def open_tls() -> trio.SSLListener[trio.SocketStream]:
    return trio.SSLListener(await open_tcp(), OF_SERVER)


async def open_ours() -> plugsocket.TransportListener:
    return await as_trio_listener("tcp://127.0.0.1:0")


async def open_in_memory() -> InMemory:
    return InMemory()


async def connect_in_memory(_server: Server, listener: InMemory) -> Stream:
    return await listener.connect()


KINDS = {
    "trio": Kind(open_tcp, connect_tcp),
    "tls": Kind(open_tls, connect_tls),
    "ours": Kind(open_ours, connect_tcp),
    "memory": Kind(open_in_memory, connect_in_memory),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)

Connect = Callable[[], Awaitable[Stream]]


@asynccontextmanager
async def served(kind: Kind, handler: Any, *subscribers: Any, **options: Any) -> AsyncIterator[tuple[Server, Connect]]:
    """A server over a listener of a kind, and how to connect to it."""
    async with trio.open_nursery() as nursery:
        listener = await kind.open()
        server = quiet(Server(listener, handler, **options), *subscribers)
        await nursery.start(server.serve)
        yield server, partial(kind.connect, server, listener)
        await server.stop_async(grace=0)


@every_kind
def test_clients_are_served(kind: Kind, recorder: EventRecorder) -> None:
    async def client(connect: Connect, number: int) -> None:
        async with await connect() as stream:
            for _ in range(3):
                assert await exchange(stream, b"%d" % number) == b"%d" % number

    async def main() -> None:
        async with served(kind, echo, recorder) as (server, connect):
            async with trio.open_nursery() as clients:
                for number in range(20):
                    clients.start_soon(client, connect, number)
            assert await trio.to_thread.run_sync(partial(server.wait, connections=0, timeout=10))
            assert (server.stats.accepted, server.stats.failed) == (20, 0)
        assert server.state is State.CLOSED

    run(main)
    assert recorder.events == []


@every_kind
def test_a_failure_ends_its_own_connection(kind: Kind, recorder: EventRecorder) -> None:
    async def fail(stream: Any) -> None:
        raise ValueError((await stream.receive_some()).decode())

    async def main() -> None:
        async with served(kind, fail, recorder) as (server, connect):
            for word in (b"one", b"two"):
                async with await connect() as stream:
                    await stream.send_all(word)
                    assert await stream.receive_some() == b""
            assert server.stats.failed == 2

    run(main)
    assert [str(failure.error) for failure in recorder.of(HandlerFailed)] == ["one", "two"]


@every_kind
def test_idle_connections_see_the_end_and_busy_ones_get_the_grace(kind: Kind) -> None:
    async def handle(stream: Any) -> None:
        async for chunk in stream:
            if chunk == b"busy":
                await stream.closing.wait()
            await stream.send_all(chunk)

    async def main() -> None:
        async with served(kind, handle) as (server, connect), trio.open_nursery() as nursery:
            idle, busy = await connect(), await connect()
            async with idle, busy:
                assert await exchange(idle, b"hello") == b"hello"
                await busy.send_all(b"busy")
                await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.start_soon(server.stop_async, 60)
                assert await busy.receive_some() == b"busy"
                assert await idle.receive_some() == b""
                assert await busy.receive_some() == b""
        assert server.report is not None
        assert (server.report.completed, server.report.cut) == (2, ())
        assert server.report.seconds < 30

    run(main)


@every_kind
def test_cancelling_ends_everything(kind: Kind) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listener = await kind.open()
            server = quiet(Server(listener, echo))
            await nursery.start(server.serve)
            stream = await kind.connect(server, listener)
            assert await exchange(stream, b"hello") == b"hello"
            nursery.cancel_scope.cancel()
        assert server.state is State.CLOSED
        async with stream:
            try:
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:  # TLS, without its farewell
                pass

    run(main)


@every_kind
def test_paused_it_accepts_nobody(kind: Kind) -> None:
    async def main() -> None:
        async with served(kind, echo) as (server, connect):
            server.pause()
            stream = await connect()
            async with trio.open_nursery() as nursery, stream:
                nursery.start_soon(stream.send_all, b"hello")
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert server.stats.accepted == 0
                server.resume()
                assert await stream.receive_some() == b"hello"

    run(main)


def test_a_limit_keeps_clients_waiting() -> None:
    async def main() -> None:
        async with served(KINDS["memory"], echo, limits=Limits(max_connections=1)) as (server, connect):
            first, second = await connect(), await connect()
            assert await exchange(first, b"hello") == b"hello"
            await second.send_all(b"me, too")
            await trio.testing.wait_all_tasks_blocked()
            assert server.stats.accepted == 1
            await first.aclose()
            assert await second.receive_some() == b"me, too"
            await second.aclose()

    run(main)


@every_kind
@pytest.mark.parametrize("overload", ["reject", "answer?reply=busy", "wait?seconds=0"])
def test_who_is_too_many_is_told(kind: Kind, overload: str) -> None:
    async def main() -> None:
        limits = Limits(max_connections=1, overload=overload)
        async with served(kind, echo, limits=limits) as (server, connect):
            first = await connect()
            assert await exchange(first, b"hello") == b"hello"
            second = await connect()
            words = b""
            try:
                while chunk := await second.receive_some():
                    words += chunk
            except trio.BrokenResourceError:  # TLS: rejected before the handshake
                assert isinstance(second, trio.SSLStream)
            assert words == (b"busy" if "answer" in overload else b"")
            assert server.stats.rejected == 1
            await first.aclose()
            await second.aclose()

    run(main)


def test_deadlines_hold(recorder: EventRecorder) -> None:
    async def main() -> None:
        deadlines = Deadlines(first_byte=10.0, idle=100.0, request=1000.0)
        async with served(KINDS["memory"], echo, recorder, deadlines=deadlines) as (_, connect):
            began = trio.current_time()
            async with await connect() as stream:
                assert await stream.receive_some() == b""
                assert trio.current_time() == began + 10
            async with await connect() as stream:
                assert await exchange(stream, b"hello") == b"hello"
                assert await stream.receive_some() == b""
                assert trio.current_time() == began + 110
            async with await connect() as stream:
                for _ in range(10):
                    assert await exchange(stream, b"hello") == b"hello"
                    await trio.sleep(99)
                assert await exchange(stream, b"hello") == b"hello"
                assert await stream.receive_some() == b""
                assert trio.current_time() == began + 1110

    run(main, clock=MockClock(autojump_threshold=0))
    reasons = [getattr(failure.error, "deadline", None) for failure in recorder.of(HandlerFailed)]
    assert reasons == ["first_byte", "idle", "request"]


@pytest.mark.parametrize("what", ["room", "end"])
def test_deadlines_hold_for_whatever_waits(what: str, recorder: EventRecorder) -> None:
    """A client that does not begin its handshake holds up everything that would come after it."""

    async def handle(stream: StreamConnection) -> None:
        if what == "room":
            await stream.wait_send_all_might_not_block()
        await stream.aclose()

    async def main() -> None:
        async with served(KINDS["tls"], handle, recorder, deadlines=Deadlines(request=3.0, linger=2.0)) as (server, _):
            began = trio.current_time()
            async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
                assert await stream.receive_some() == b""
                assert trio.current_time() <= began + 5.0

    run(main, clock=MockClock(autojump_threshold=0.01))


def test_a_bind_that_fails_leaves_the_listener_to_its_owner() -> None:
    async def main() -> None:
        listener = await open_tcp()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            server = Server([listener, f"tcp://127.0.0.1:{taken.getsockname()[1]}"], echo)
            with pytest.raises(OSError, match="cannot listen on"):
                server.bind()  # in a trio program, too
            assert server.state is State.NEW
        async with trio.open_nursery() as nursery:
            await nursery.start(quiet(server).serve)
            async with await connect_tcp(server, listener) as stream:
                assert await exchange(stream, b"hello") == b"hello"
            await server.stop_async()

    run(main)


def test_what_went_over_it_is_counted() -> None:
    closed: list[ConnectionClosed] = []

    async def handle(stream: Any) -> None:
        assert await stream.receive_some() == b"hello"
        await stream.send_all(memoryview(b"good bye"))
        stream.expire_in(None)

    async def main() -> None:
        async with served(KINDS["memory"], handle) as (server, connect):
            server.subscribe(closed.append, ConnectionClosed)
            async with await connect() as stream:
                assert len(await exchange(stream, b"hello")) == 8
                assert await stream.receive_some() == b""

    run(main)
    assert [(event.received, event.sent) for event in closed] == [(5, 8)]


def test_want_of_descriptors_passes(recorder: EventRecorder) -> None:
    errors = [OSError(errno.EMFILE, "too many")] * 5 + [OSError(errno.ECONNABORTED, "gone")]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listener = InMemory(errors)
            server = quiet(Server(listener, echo), recorder)
            await nursery.start(server.serve)
            async with await listener.connect() as stream:
                assert await exchange(stream, b"hello") == b"hello"
            assert server.stats.accept_errors == 6
            await server.stop_async()

    run(main, clock=MockClock(autojump_threshold=0))
    assert [type(event) for event in recorder.events] == [AcceptFailed, AcceptRecovered]


@pytest.mark.parametrize("error", [trio.ClosedResourceError(), OSError(errno.EBADF, "bad"), RuntimeError("broken")])
def test_a_listener_that_can_give_nothing_more_fails_the_server(error: Exception, recorder: EventRecorder) -> None:
    async def main() -> None:
        listener = InMemory([error])
        server = quiet(Server(listener, echo), recorder)
        with pytest.RaisesGroup(type(error)):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve)
                await listener.connect()
        assert server.state is State.FAILED
        assert server.cause is error
        assert listener.closed == 1

    run(main)


def test_errors_that_should_pass_and_do_not_keep_nobody_busy(recorder: EventRecorder) -> None:
    async def main() -> None:
        listener = InMemory(ConnectionAbortedError(errno.ECONNABORTED, "gone") for _ in range(2_000))
        server = quiet(Server(listener, echo), recorder)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with await listener.connect() as stream:
                await trio.to_thread.run_sync(recorder.wait_for, AcceptFailed)
                assert server.stats.accept_errors < 100
                listener.stop_failing()
                assert await exchange(stream, b"hello") == b"hello"
                recorder.wait_for(AcceptRecovered)
            await server.stop_async(grace=0)

    run(main)


@pytest.mark.parametrize("overload", [Answer(b"busy"), Wait(100, then=Answer(b"busy"))], ids=["answer", "wait"])
def test_who_is_being_told_when_it_stops_is_closed(overload: Any) -> None:
    """A TLS peer that does not shake hands: nothing can be told to it."""

    async def main() -> None:
        kind = Kind(open_tls, connect_tcp)
        async with served(kind, echo, limits=Limits(max_connections=1, overload=overload)) as (_, connect):
            one, two = await connect(), await connect()
            await trio.testing.wait_all_tasks_blocked(0.01)
        async with one, two:
            with trio.fail_after(TIMEOUT):
                for each in (one, two):
                    assert await each.receive_some() == b""

    run(main)


def test_what_a_handler_raised_is_reported_and_not_that_closing_failed(recorder: EventRecorder) -> None:
    async def fail(stream: Any) -> None:
        await stream.receive_some()
        raise ValueError("a bug")

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        theirs.send_stream.close_hook = break_off
        listener = InMemory()
        listener.add(theirs)
        server = quiet(Server(listener, fail), recorder)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            await ours.send_all(b"x")
            await trio.to_thread.run_sync(recorder.wait_for, HandlerFailed)
            await server.stop_async(grace=0)

    def break_off() -> None:
        raise trio.BrokenResourceError("the peer is gone")

    run(main)
    assert [repr(event.error) for event in recorder.of(HandlerFailed)] == ["ValueError('a bug')"]


def test_an_error_of_closing_is_reported(recorder: EventRecorder) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listener = InMemory()
            listener.close_error = RuntimeError("it sticks")
            server = quiet(Server(listener, echo), recorder)
            await nursery.start(server.serve)
            await server.stop_async()
        assert server.state is State.CLOSED

    run(main)
    assert [str(event.error) for event in recorder.of(CloseFailed)] == ["it sticks"]


@every_kind
def test_nobody_ever_served(kind: Kind) -> None:
    async def main() -> None:
        listener = await kind.open()
        server = Server(listener, echo)
        server.bind()
        await trio.to_thread.run_sync(server.stop)
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    run(main)


def test_who_was_accepted_and_not_yet_let_in_sees_the_end() -> None:
    async def main() -> None:
        async with served(KINDS["memory"], echo) as (server, connect):
            await trio.testing.wait_all_tasks_blocked()  # so that somebody waits in accept() when it is paused
            server.pause()
            stream = await connect()
            await trio.testing.wait_all_tasks_blocked()
            await server.stop_async()
            assert await stream.receive_some() == b""
            assert server.stats.accepted == 0

    run(main)


def test_one_request_at_a_time() -> None:
    """Each in a trio.run of its own; trio's sockets belong to none."""

    async def one(stream: Any) -> None:
        await stream.send_all(await stream.receive_some())

    async def main() -> None:
        listener = await open_tcp()
        server = Server(listener, one)
        server.bind()
        assert not await trio.to_thread.run_sync(server.handle_request, 0)
        for word in (b"one", b"two"):
            async with trio.open_nursery() as nursery, await connect_tcp(server, listener) as stream:
                nursery.start_soon(trio.to_thread.run_sync, server.handle_request)
                assert await exchange(stream, word) == word
        await trio.to_thread.run_sync(server.stop)

    run(main)


def test_blocking_code_is_refused() -> None:
    listener = InMemory()
    for strategy in ("sync", "thread", "fork"):
        with pytest.raises(CompositionError, match=r"gives streams of a trio program, and .* use Trio\(\)"):
            Server(listener, echo, strategy)
    for handler in ("function", "class", "own_loop"):
        for chosen in (None, "thread", "trio"):
            with pytest.raises(CompositionError, match=r"blocks, and .* which only async functions can use"):
                Server(listener, HANDLERS[handler], chosen)
    with pytest.raises(CompositionError, match="is a listener of trio already"):
        trio.run(as_trio_listener, listener)


def test_it_goes_beside_other_transports() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listener = InMemory()
            server = await nursery.start(plugsocket.serve, [listener, "tcp://127.0.0.1:0"], echo)
            assert server.urls[0] == "trio://(unnamed)"
            for stream in (await listener.connect(), await trio.open_tcp_stream(*server.addresses[1])):
                async with stream:
                    assert await exchange(stream, b"hello") == b"hello"
            await server.stop_async()

    run(main)


# The connection, by trio's own checks


@pytest.fixture
def closing() -> Any:
    """A close signal of a server that does not stop."""
    control = Control(on_stop=lambda: None)
    yield AsyncCloseSignal(control.closing)
    control.close()


def test_it_is_a_stream_as_trio_has_them(closing: AsyncCloseSignal) -> None:
    async def make() -> tuple[StreamConnection, Stream]:
        ours, theirs = memory_stream_pair()
        return stream_connection(StreamOfTrio(ours, lambda stream, _: None), closing), theirs

    async def main() -> None:
        await trio.testing.check_half_closeable_stream(make, None)

    run(main)


def test_it_is_half_closeable_if_the_stream_is(closing: AsyncCloseSignal) -> None:
    ours, _ = memory_stream_pair()
    connection = stream_connection(StreamOfTrio(ours, lambda stream, _: None), closing)
    assert isinstance(connection, HalfCloseableStreamConnection)
    sealed: Any = trio.SSLStream(ours, OF_SERVER, server_side=True)
    connection = stream_connection(StreamOfTrio(sealed, lambda stream, _: None), closing)
    assert not isinstance(connection, trio.abc.HalfCloseableStream)
    assert connection.stream is sealed
