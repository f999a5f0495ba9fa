"""Cancellation at any moment of a server's life in a trio program: it ends, soon, and leaves nothing behind.

The same short life is lived again and again: the server binds, starts, accepts, serves clients in several states,
drains and closes. Each time a scope is cancelled one moment later, until that would be after the scope was left.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import plugsocket
from plugsocket import (
    TCP,
    UDP,
    AsyncConnection,
    AsyncDatagram,
    Connection,
    Conversation,
    Datagram,
    Server,
    State,
    Trio,
    UnixDatagram,
    UnixStream,
    per_peer,
)
from plugsocket.core.endings import is_disconnection
from plugsocket.core.events import (
    ConnectionClosed,
    ConnectionOpened,
    DrainBegan,
    DrainEnded,
    ListenerClosed,
    ListenerOpened,
)
from plugsocket.core.readiness import wait_readable
from plugsocket.testing import EventRecorder
from tests.kit import BEGUN, PROBLEMS, TIMEOUT, client
from tests.leftovers import leaving_nothing
from tests.trio_kit import Held

SMALL = 4096  # bytes; with a send buffer of so many, no kernel takes in a large reply that is not read
LARGE = bytes(2**22)
GRACE = TIMEOUT / 2  # by a clock that jumps when nothing else happens
BYE = b"bye"


class Cancellation(trio.abc.Instrument):
    """Cancels a scope at the n-th moment of a program: before, or after, a step of one of its tasks.

    Before a step its task has been woken already, so that the others are cancelled where they wait; after it, the
    task itself is.
    """

    def __init__(self, number: int) -> None:
        self.where = ""
        self._scope = trio.CancelScope()
        self._over = False
        self._left = number

    def __enter__(self) -> trio.CancelScope:
        return self._scope.__enter__()

    def __exit__(self, *exception: Any) -> bool | None:
        self._over = True  # there are no such moments any more
        return self._scope.__exit__(*exception)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count("before", task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count("after", task)

    def _count(self, when: str, task: trio.lowlevel.Task) -> None:
        if self._over:
            return
        self._left -= 1
        if self._left == 0:
            self.where = f"{when} a step of {task.name}"
            self._scope.cancel()


# Handlers, whose clients say with the first byte in which state they want to be.


async def task(stream: AsyncConnection) -> None:
    match await stream.receive_some(1):
        case b"b":  # busy
            await stream.send_all(BEGUN)
            await trio.sleep_forever()
        case b"l":  # the reply is large, and not read
            getattr(stream, "stream", stream).socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            await stream.send_all(LARGE)
        case b"s":  # shields its cleanup
            try:
                await stream.send_all(BEGUN)
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    await stream.send_all(BYE)
        case b"c":  # sees the end coming
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.closing.wait)
                await stream.send_all(BEGUN)
            await stream.send_all(BYE)


def thread(connection: Connection) -> None:
    match connection.recv(1):
        case b"b":
            connection.sendall(BEGUN)
            connection.recv(1)
            connection.recv(1)
        case b"l":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            connection.sendall(LARGE)
        case b"s":
            connection.sendall(BEGUN)
            trio.from_thread.run(trio.sleep_forever)
        case b"c":
            connection.sendall(BEGUN)
            connection.closing.wait()
            connection.sendall(BYE)


async def task_of_datagram(datagram: AsyncDatagram) -> None:
    await datagram.reply(BEGUN)
    if datagram.data == b"c":
        await datagram.closing.wait()
        await datagram.reply(BYE)
    else:
        await trio.sleep_forever()


async def task_of_peer(conversation: Conversation) -> None:
    async for datagram in conversation:
        await conversation.send(BEGUN)
        if datagram.data == b"b":
            await trio.sleep_forever()
    await conversation.send(BYE)


def thread_of_datagram(datagram: Datagram) -> None:
    datagram.reply(BEGUN)
    datagram.closing.wait()


TASKS = {task, task_of_datagram, task_of_peer}


# One life


@attrs.define(eq=False)
class Life:
    """A server, its clients, and the scope that is cancelled at some moment.

    Attributes:
        states: the first bytes of the clients; a client of the state `i` sends none.
        jumps: whether the clock jumps during the stop; it cannot while threads are at work.
    """

    server: Server
    cancellation: Cancellation
    clock: trio.testing.MockClock
    states: bytes
    jumps: bool
    clients: list[tuple[str, socket.socket]] = attrs.field(factory=list)

    async def use(self) -> None:
        """Have the clients come, one after the other, each once the one before is in its state."""
        with suppress(OSError):  # the server is gone
            for state in self.states.decode():
                sock = client(self.server)
                self.clients.append((state, sock))
                if state != "i":
                    over = self._over()
                    sock.sendall(state.encode())
                    await self._answered(sock, over)
        await trio.testing.wait_all_tasks_blocked()

    def _over(self) -> int:
        return self.server.stats.completed + self.server.stats.dropped

    async def _answered(self, sock: socket.socket, over: int) -> None:
        """Wait for an answer, or for the end, of which nothing tells who sent datagrams."""
        if sock.type == socket.SOCK_STREAM:
            await trio.lowlevel.wait_readable(sock)
            return
        while not wait_readable(sock.fileno(), 0):
            if self.server.state is not State.SERVING or self._over() > over:
                return
            await trio.testing.wait_all_tasks_blocked(0.001)

    async def stop(self) -> None:
        """Drain: with a grace where that takes no real time."""
        if self.jumps:
            self.clock.autojump_threshold = 0
        await self.server.stop_async(GRACE if self.jumps else 0)


async def around_the_nursery(life: Life) -> None:
    with life.cancellation:
        async with trio.open_nursery() as nursery:
            await nursery.start(life.server.serve)
            await life.use()
            await life.stop()


async def around_start(life: Life) -> None:
    async with trio.open_nursery() as nursery:
        with life.cancellation as scope:
            await nursery.start(life.server.serve)
        if scope.cancelled_caught:
            assert life.server.state in {State.NEW, State.CLOSED}
            return
        assert life.server.state is State.SERVING
        await life.use()
        await life.stop()


async def around_stop(life: Life) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(life.server.serve)
        await life.use()
        with life.cancellation:
            await life.stop()
        await life.stop()  # which it may not have come to


async def around_serve(life: Life) -> None:
    known = trio.Event()  # whether it serves, or never will

    class Status(trio.TaskStatus[Server]):
        """In place of a nursery's, for a task of which a part is cancelled."""

        def started(self, value: Any = None) -> None:
            assert value.state is State.SERVING
            known.set()

    async def serve() -> None:
        with life.cancellation:
            await life.server.serve(task_status=Status())
        known.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await known.wait()
        if life.server.state is not State.NEW:
            await life.use()
        await life.stop()


async def around_a_handler(life: Life) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(life.server.serve)
        await life.use()
        assert life.server.state is State.SERVING
        await life.stop()
    assert life.server.stats.accepted == len(life.states)


# Many lives


def live(
    transport: Any,
    handler: Any,
    strategy: Trio,
    variant: Callable[[Life], Awaitable[None]],
    states: bytes,
    number: int,
) -> bool:
    """Live once; return whether it was interrupted."""
    cancellation, clock, recorder = Cancellation(number), trio.testing.MockClock(rate=1.0), EventRecorder()

    async def handle_first_in_scope(request: Any) -> None:
        with cancellation if request.id == 1 else nullcontext():
            await handler(request)

    handle = handle_first_in_scope if variant is around_a_handler else handler
    server = Server(transport, per_peer(handle) if handler is task_of_peer else handle, strategy)
    server.unsubscribe(plugsocket.log_events)
    server.subscribe(recorder)

    async def main() -> None:
        with trio.fail_after(TIMEOUT):
            await variant(life)
        if server.state is State.NEW and isinstance(transport, trio.abc.Listener):
            await transport.aclose()  # which is not the server's before that binds

    life = Life(server, cancellation, clock, states, jumps=handler in TASKS)
    try:
        trio.run(main, clock=clock, instruments=[cancellation])
        check_accounts(server, recorder, handler)
        for state, sock in life.clients:
            if sock.type == socket.SOCK_STREAM:
                check_end(state, *everything_of(sock), life, variant)
    except BaseException as error:
        error.add_note(f"cancelled {cancellation.where or 'never'} (moment {number}): {server!r}")
        raise
    finally:
        for _, sock in life.clients:
            sock.close()
    return bool(cancellation.where)


def check_accounts(server: Server, recorder: EventRecorder, handler: Any) -> None:
    """The server is over, and says so in every way that it has."""
    failures = [event for event in recorder.events if isinstance(event, PROBLEMS)]
    if handler in {thread, thread_of_datagram}:  # which are cut while they send, as if their clients had gone
        failures = [event for event in failures if not is_disconnection(getattr(event, "error", event))]
    assert failures == []
    if server.state is State.NEW:
        assert recorder.events == []
        assert server.stop().finished
    assert server.state is State.CLOSED
    assert server.report is not None
    assert server.report.finished
    assert server.stats.active == 0
    bound = len(recorder.of(ListenerOpened))
    assert [len(recorder.of(kind)) for kind in (ListenerClosed, DrainBegan, DrainEnded)] == [bound] * 3
    opened = [event.id for event in recorder.of(ConnectionOpened)]
    assert sorted(event.id for event in recorder.of(ConnectionClosed)) == opened


def everything_of(sock: socket.socket) -> tuple[bytes, bool]:
    """Read to the end; return what came, and whether the end was no reset."""
    received = bytearray()
    try:
        while chunk := sock.recv(2**20):
            received += chunk
    except ConnectionError:
        return bytes(received), False
    return bytes(received), True


def check_end(state: str, received: bytes, clean: bool, life: Life, variant: Callable[[Life], Awaitable[None]]) -> None:
    """A client got what it is owed in any case, and the end."""
    interrupted = bool(life.cancellation.where)
    farewell = b""
    if life.jumps:
        drained = not interrupted or variant in {around_stop, around_a_handler}
        farewell = {"s": BYE, "c": BYE if drained else b""}.get(state, b"")
    if state in "bsc" and received:
        assert received.startswith(BEGUN + farewell)
        assert clean
    elif state == "l":
        assert len(received) < len(LARGE)
    elif state == "i":
        assert received == b""


VARIANTS = {
    around_the_nursery: 60,
    around_start: 15,
    around_stop: 60,
    around_serve: 60,
    around_a_handler: 50,
}
"""Where the scope is, and how many moments there are at least until it is left."""


def trio_listener() -> trio.SocketListener:
    """A listener of trio's own, made where trio does not run."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(socket.create_server(("127.0.0.1", 0))))


ENDPOINTS: dict[str, Callable[[Path], Any]] = {
    "tcp": lambda _: TCP("127.0.0.1", 0),
    "unix": lambda folder: UnixStream(str(folder / "app.sock")),
    "udp": lambda _: UDP("127.0.0.1", 0),
    "unixgram": lambda folder: UnixDatagram(str(folder / "app.sock")),
    "listener": lambda _: trio_listener(),
}

LIVES = [
    pytest.param(endpoint, handler, states, variant, id=f"{endpoint}-{handler.__name__}-{variant.__name__}")
    for endpoint, handlers, states, variants in (
        ("tcp", (task, thread), b"iblsc", (around_the_nursery, around_start, around_stop)),
        ("unix", (task, thread), b"iblsc", (around_the_nursery, around_start, around_serve)),
        ("udp", (task_of_datagram, thread_of_datagram), b"bcb", (around_the_nursery, around_start, around_stop)),
        ("unixgram", (task_of_datagram, thread_of_datagram), b"bcb", (around_the_nursery, around_start, around_serve)),
        ("listener", (task,), b"iblsc", (around_the_nursery, around_start, around_stop, around_a_handler)),
        ("unix", (task,), b"iblsc", (around_a_handler,)),  # threads have no scopes
        ("udp", (task_of_datagram,), b"bcb", (around_a_handler,)),
        ("udp", (task_of_peer,), b"bcb", (around_the_nursery, around_stop, around_a_handler)),
    )
    for handler in handlers
    for variant in variants
]


@pytest.mark.parametrize(("endpoint", "handler", "states", "variant"), LIVES)
def test_cancelled_at_any_moment(endpoint: str, handler: Any, states: bytes, variant: Any, tmp_path: Path) -> None:
    strategy = Trio()  # it serves one server after the other, so it must be free again
    number = 0
    interrupted = True
    while interrupted:
        number += 1
        with leaving_nothing(tmp_path):
            interrupted = live(ENDPOINTS[endpoint](tmp_path), handler, strategy, variant, states, number)
    assert number > VARIANTS[variant]


# Binding


@pytest.mark.parametrize("who", ["start", "nursery"])
def test_cancelled_while_it_binds(who: str, tmp_path: Path) -> None:
    """It cannot be interrupted there, so it ends afterwards; whether who starts it is cancelled, or where it goes."""
    transport = Held(UnixStream(str(tmp_path / "app.sock")))
    server = Server(transport, task)
    started = []

    async def start(nursery: trio.Nursery, scope: trio.CancelScope) -> None:
        with scope:
            started.append(await nursery.start(server.serve))

    async def main() -> None:
        scope = trio.CancelScope()
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
                outer.start_soon(start, nursery, scope)
                await trio.to_thread.run_sync(transport.reached.wait, TIMEOUT)
                (scope if who == "start" else nursery.cancel_scope).cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    assert server.state is State.NEW
                    transport.released.set()

    trio.run(main)
    assert server.state is State.CLOSED
    assert started == ([] if who == "start" else [server])


def test_cancelled_while_it_fails_to_bind(tmp_path: Path) -> None:
    error = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    transport = Held(UnixStream(str(tmp_path / "app.sock")), error)
    server = Server(transport, task)

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel, scope)
                with pytest.raises(OSError, match="in use"):
                    await server.serve()

    async def cancel(scope: trio.CancelScope) -> None:
        await trio.to_thread.run_sync(transport.reached.wait, TIMEOUT)
        scope.cancel()
        transport.released.set()

    trio.run(main)
    assert server.state is State.NEW
