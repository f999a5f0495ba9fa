"""AsyncConnection: a trio stream like trio's own, by trio's own checks, for handlers written for `trio.serve_tcp`."""

import errno
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import plugsocket
from plugsocket import AsyncConnection, Deadlines, Inet6Address, InetAddress, Server
from plugsocket.core.control import Control
from plugsocket.core.events import HandlerFailed
from plugsocket.core.requests import StreamRequest
from plugsocket.core.trio_closing import AsyncCloseSignal
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import TIMEOUT, client, receive, serving
from tests.trio_kit import run, tls

ENDPOINT = "tcp://127.0.0.1:0"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, of no length; closing then resets the connection (socket(7))
MUCH = bytes(16 * 1024 * 1024)  # more than socket buffers take

Pair = tuple[AsyncConnection, trio.SocketStream]


@pytest.fixture
def closing() -> Any:
    """A close signal of a server that does not stop."""
    control = Control(on_stop=lambda: None)
    yield AsyncCloseSignal(control.closing)
    control.close()


@pytest.fixture
def make_pair(closing: AsyncCloseSignal) -> Callable[[], Pair]:
    """Makes a connection and the stream at its other end, over connected Unix sockets."""

    def make() -> Pair:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection = AsyncConnection(StreamRequest(ours, "", socket.AF_UNIX), closing)
        return connection, trio.SocketStream(trio.socket.from_stdlib_socket(theirs))

    return make


async def clog(stream: trio.abc.SendStream) -> None:
    """Send until nothing more fits."""
    with trio.move_on_after(0.05) as scope:
        await stream.send_all(MUCH)
    assert scope.cancelled_caught


# trio's own checks


@pytest.mark.parametrize("which", [0, 1], ids=["ours-first", "ours-second"])
def test_trio_s_checks_of_a_half_closeable_stream(make_pair: Callable[[], Pair], which: int) -> None:
    async def make() -> Any:
        return make_pair() if which == 0 else make_pair()[::-1]

    async def make_clogged() -> Any:
        pair = await make()
        for stream in pair:
            await clog(stream)
        return pair

    run(trio.testing.check_half_closeable_stream, make, make_clogged)


@pytest.mark.parametrize("check", [trio.testing.check_two_way_stream, trio.testing.check_half_closeable_stream])
@pytest.mark.parametrize("endpoint", [ENDPOINT, "unix://{}/app.sock"])
def test_trio_s_checks_of_connections_of_a_server(check: Any, endpoint: str, tmp_path: Path) -> None:
    async def main() -> None:
        over = trio.Event()
        send, receive_ = trio.open_memory_channel[AsyncConnection](0)

        async def handle(stream: AsyncConnection) -> None:
            await send.send(stream)
            await over.wait()

        async def make() -> Any:
            address = server.addresses[0]
            if isinstance(address, str):
                theirs = await trio.open_unix_socket(address)
            else:
                theirs = await trio.open_tcp_stream(*address)
            return await receive_.receive(), theirs

        async with trio.open_nursery() as nursery:
            # A peer that goes on sending to a closed connection is to hear of it at once, and not after a while.
            at_once = partial(plugsocket.serve, deadlines=Deadlines(linger=0))
            server = await nursery.start(at_once, endpoint.format(tmp_path), handle)
            await check(make, None)
            over.set()
            assert (await server.stop_async()).cut == ()

    run(main)


def test_every_call_is_a_checkpoint(make_pair: Callable[[], Pair]) -> None:
    async def main() -> None:
        ours, theirs = make_pair()
        async with theirs:
            calls = [
                lambda: ours.send_all(b"12"),
                lambda: ours.send_all(b""),
                ours.wait_send_all_might_not_block,
                lambda: ours.receive_some(1),
                ours.send_eof,
                ours.send_eof,
                ours.aclose,
                ours.aclose,
            ]
            for number, call in enumerate(calls):
                await theirs.send_all(b"x") if number < 4 else None
                with trio.testing.assert_checkpoints():
                    await call()
            assert await theirs.receive_some() == b"12"

    run(main)


def test_a_cancelled_call_does_nothing(make_pair: Callable[[], Pair]) -> None:
    async def main() -> None:
        ours, theirs = make_pair()
        async with ours, theirs:
            await theirs.send_all(b"to us")
            for call in (lambda: ours.send_all(b"lost"), ours.receive_some, ours.send_eof):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await call()
                assert scope.cancelled_caught
            assert await ours.receive_some() == b"to us"
            await ours.send_all(b"to them")
            assert await theirs.receive_some() == b"to them"

    run(main)


def test_a_cancelled_aclose_closes(make_pair: Callable[[], Pair]) -> None:
    async def main() -> None:
        ours, theirs = make_pair()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ours.aclose()
        assert scope.cancelled_caught
        async with theirs:
            assert await theirs.receive_some() == b""

    run(main)


# Errors


@pytest.mark.parametrize("call", ["receive_some", "send_all", "wait_send_all_might_not_block"])
def test_closing_from_another_task(make_pair: Callable[[], Pair], call: str) -> None:
    raised: list[str] = []

    async def wait(ours: AsyncConnection) -> None:
        arguments = (MUCH,) if call == "send_all" else ()
        try:
            await getattr(ours, call)(*arguments)
        except trio.ClosedResourceError:
            raised.append(call)

    async def main() -> None:
        ours, theirs = make_pair()
        async with theirs, trio.open_nursery() as nursery:
            if call == "wait_send_all_might_not_block":
                await clog(ours)
            nursery.start_soon(wait, ours)
            await trio.testing.wait_all_tasks_blocked()
            await ours.aclose()
        assert raised == [call]

    run(main)


def test_after_closing(make_pair: Callable[[], Pair]) -> None:
    async def main() -> None:
        ours, theirs = make_pair()
        async with theirs:
            await ours.aclose()
            for call in (
                ours.receive_some,
                lambda: ours.send_all(b"x"),
                lambda: ours.send_all(b""),
                ours.wait_send_all_might_not_block,
                ours.send_eof,
            ):
                with pytest.raises(trio.ClosedResourceError):
                    await call()

    run(main)


def test_sending_after_end_of_file(make_pair: Callable[[], Pair]) -> None:
    async def main() -> None:
        ours, theirs = make_pair()
        async with ours, theirs:
            await ours.send_eof()
            with pytest.raises(trio.ClosedResourceError, match="end of file was sent already"):
                await ours.send_all(b"x")
            await theirs.send_all(b"still received")
            assert await ours.receive_some() == b"still received"

    run(main)


def test_two_tasks_at_once(make_pair: Callable[[], Pair]) -> None:
    async def main() -> None:
        ours, theirs = make_pair()
        async with ours, theirs, trio.open_nursery() as nursery:
            nursery.start_soon(ours.receive_some)
            nursery.start_soon(ours.send_all, MUCH)
            await trio.testing.wait_all_tasks_blocked()
            for call in (
                ours.receive_some,
                lambda: ours.send_all(b"x"),
                ours.wait_send_all_might_not_block,
                ours.send_eof,
            ):
                with pytest.raises(trio.BusyResourceError):
                    await call()
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_makes_no_sense(make_pair: Callable[[], Pair], size: int) -> None:
    async def main() -> None:
        ours, theirs = make_pair()
        async with ours, theirs:
            with pytest.raises(ValueError, match=f"max_bytes must be at least 1, not {size}"):
                await ours.receive_some(size)

    run(main)


def test_a_reset(recorder: Recorder) -> None:
    async def handle(stream: AsyncConnection) -> None:
        await stream.send_all(b"ready")
        with pytest.raises(trio.BrokenResourceError, match=r"connection with 127\.0\.0\.1:\d+ is broken: .*reset"):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.send_all(b"x")
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.EPIPE

    with serving(Server(ENDPOINT, handle), recorder) as server:
        with client(server) as sock:
            assert receive(sock, 5) == b"ready"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert recorder.events == []


def test_what_is_sent_may_be_of_any_kind_of_buffer(make_pair: Callable[[], Pair]) -> None:
    async def main() -> None:
        ours, theirs = make_pair()
        async with theirs:
            async with ours:
                growing = bytearray(b"two")
                for data in (b"one", growing, memoryview(b"three"), memoryview(b"fourfour").cast("I")):
                    await ours.send_all(data)
                growing += b"is not held any more"
            assert b"".join([chunk async for chunk in theirs]) == b"onetwothreefourfour"

    run(main)


# As handlers have it


def test_addresses_and_options() -> None:
    seen: list[Any] = []

    async def handle(stream: AsyncConnection) -> None:
        seen.extend((stream.peer, stream.local, repr(stream)))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, False)
        assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, buffersize=8) == bytes(8)
        assert stream.socket is stream.socket
        assert stream.socket.getpeername() == stream.peer
        assert stream.socket.getsockname() == stream.local
        assert stream.socket.family == socket.AF_INET6
        assert not stream.closing.is_set()
        await stream.send_all(b"fine")

    with serving(Server("tcp://[::1]:0", handle)) as server, client(server) as sock:
        assert receive(sock, 100) == b"fine"
        mine = Inet6Address(*sock.getsockname())
        assert seen == [mine, server.addresses[0], f"<AsyncConnection from [::1]:{mine.port}>"]


async def for_serve_tcp(stream: trio.SocketStream) -> None:
    """A handler that knows nothing of plugsocket."""
    async with stream:
        host, port = stream.socket.getpeername()
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        await stream.send_all(f"{host}:{port}\n".encode())
        first = await stream.receive_some(4)
        await stream.wait_send_all_might_not_block()
        await stream.send_all(first)
        async for chunk in stream:
            await stream.send_all(chunk.upper())
        await stream.send_eof()


def test_a_handler_written_for_serve_tcp_works_unchanged(recorder: Recorder) -> None:
    def converse(address: Any) -> bytes:
        with socket.create_connection(address, timeout=TIMEOUT) as sock:
            assert sock.makefile("rb", 0).readline().decode() == f"{InetAddress(*sock.getsockname())}\n"
            sock.sendall(b"fourmore")
            sock.shutdown(socket.SHUT_WR)
            return receive(sock, 1000)

    async def under_trio() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, for_serve_tcp, 0)
            address = ("127.0.0.1", listeners[0].socket.getsockname()[1])
            assert await trio.to_thread.run_sync(converse, address) == b"fourMORE"
            nursery.cancel_scope.cancel()

    run(under_trio)
    with serving(Server(ENDPOINT, for_serve_tcp), recorder) as server:
        assert converse(server.addresses[0]) == b"fourMORE"
    assert recorder.events == []


def test_what_is_closed_by_the_handler_or_by_its_end() -> None:
    kept: list[AsyncConnection] = []

    async def handle(stream: AsyncConnection) -> None:
        kept.append(stream)
        if await stream.receive_some() == b"close":
            await stream.aclose()

    with serving(Server(ENDPOINT, handle)) as server:
        for word in (b"close", b"leave it"):
            with client(server) as sock:
                sock.sendall(word)
                assert sock.recv(1) == b""
            assert server.wait(connections=0, timeout=TIMEOUT)
        assert kept[0]._request.payload.fileno() == -1
        assert server.stats.failed == 0
    assert kept[1]._request.payload.fileno() == -1  # at the latest now: it may have lingered


def test_a_task_that_outlives_the_handler_s_stream_sees_it_closed(recorder: Recorder) -> None:
    async def main() -> None:
        async with trio.open_nursery() as background:

            async def handle(stream: AsyncConnection) -> None:
                background.start_soon(read, stream)
                await trio.testing.wait_all_tasks_blocked()

            async def read(stream: AsyncConnection) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some()
                closed.set()

            closed = trio.Event()
            server = Server(ENDPOINT, handle)
            server.subscribe(recorder)
            await background.start(server.serve)
            async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
                assert await stream.receive_some() == b""
                await closed.wait()
            background.cancel_scope.cancel()

    run(main)
    assert recorder.of(HandlerFailed) == []


def test_tls_over_it() -> None:
    """trio.SSLStream over an AsyncConnection."""
    of_server, of_client = tls()

    async def handle(stream: AsyncConnection) -> None:
        encrypted = trio.SSLStream(stream, of_server, server_side=True)
        async with encrypted:
            async for chunk in encrypted:
                await encrypted.send_all(chunk.upper())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, handle)
            transport = await trio.open_tcp_stream(*server.addresses[0])
            async with trio.SSLStream(transport, of_client, server_hostname="localhost") as stream:
                await stream.send_all(b"secret")
                assert await stream.receive_some() == b"SECRET"
            assert (await server.stop_async()).cut == ()
            assert server.stats.failed == 0

    run(main)
