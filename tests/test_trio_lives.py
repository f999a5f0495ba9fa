"""The lives of servers in trio programs: started, stopped, cancelled and begun anew, by the program's own clock."""

import contextvars
import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
    Connection,
    Deadlines,
    LifecycleError,
    Limits,
    Server,
    State,
    StopReport,
    StreamRequestHandler,
    Trio,
    UnixStream,
    Wait,
)
from plugsocket.core.events import AcceptRecovered, HandlerFailed
from plugsocket.testing import EventRecorder, FaultyTransport
from tests.kit import BEGUN, TIMEOUT, ask, async_busy, async_function, busy, client, function, keep_busy, serving
from tests.programs import connect as connect_to
from tests.programs import end_of, interrupt, line_of, program
from tests.test_trio import connect, keep_it_busy
from tests.trio_kit import Held, exchange, quiet, run, until

ENDPOINT = "tcp://127.0.0.1:0"
CENTURY = 3e9  # seconds; no test has that much time, but the clock of one may


# Beginning


def test_started_means_that_every_listener_accepts(tmp_path: Path) -> None:
    held = Held(TCP("127.0.0.1", 0))
    server = Server([ENDPOINT, f"unix://{tmp_path}/app.sock", held], async_function)
    started = []

    async def start(nursery: trio.Nursery) -> None:
        started.append(await nursery.start(server.serve))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, nursery)
            await trio.to_thread.run_sync(held.reached.wait, TIMEOUT)
            await trio.testing.wait_all_tasks_blocked()
            assert (started, server.state, server.addresses) == ([], State.NEW, ())
            held.released.set()
            await until(lambda: bool(started))
            assert started == [server]
            assert server.addresses[0].port != server.addresses[2].port
            for which in range(3):
                with client(server, which) as sock:
                    assert await trio.to_thread.run_sync(ask, sock, b"hello") == b"hello"
            await server.stop_async()

    run(main)


def test_one_listener_that_fails_leaves_none_and_ends_the_program_as_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            first = await nursery.start(plugsocket.serve, ENDPOINT, async_function)
            endpoints = [f"unix://{tmp_path}/app.sock", first.urls[0]]
            with pytest.raises(OSError, match="in use"):
                await nursery.start(plugsocket.serve, endpoints, async_function)
            assert not (tmp_path / "app.sock").exists()
            async with await connect(first) as stream:
                assert await exchange(stream, b"hello") == b"hello"
            await first.stop_async()

    run(main)


def test_stopping_a_server_that_binds_keeps_no_other_task_waiting() -> None:
    held = Held(TCP("127.0.0.1", 0))
    server = Server(held, async_function)
    reports: list[StopReport] = []

    async def serve() -> None:
        with suppress(LifecycleError):  # if it is stopped before it serves; which comes first is left to chance
            await server.serve()

    async def stop() -> None:
        reports.append(await server.stop_async())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.to_thread.run_sync(held.reached.wait, TIMEOUT)
            nursery.start_soon(stop)
            await trio.testing.wait_all_tasks_blocked()
            assert reports == []
            held.released.set()
        assert reports == [server.report]

    run(main)
    assert server.state is State.CLOSED


class Spawned(trio.abc.Instrument):
    """Keeps the tasks that the system's nursery got, and those that are left."""

    def __init__(self) -> None:
        self.by_the_system: list[str] = []
        self.left: set[trio.lowlevel.Task] = set()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.left.add(task)
        root = trio.lowlevel.current_root_task()
        parent = task.parent_nursery
        if root is None or parent is None or parent.parent_task is root:
            self.by_the_system.append(task.name)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.left.discard(task)


@pytest.mark.parametrize("handler", [async_busy, busy])
def test_a_server_has_its_tasks_in_its_own_task(handler: Any) -> None:
    """None among the system's, and none but itself in a nursery of its user's, which it need not have."""
    spawned = Spawned()

    async def in_no_nursery() -> None:
        trio.lowlevel.add_instrument(spawned)
        before = set(spawned.left)
        server = Server(ENDPOINT, handler, "trio")
        server.bind()
        with client(server) as sock:
            await trio.to_thread.run_sync(server.state.name.lower)  # trio's own thread machinery is there by now
            visitor = threading.Thread(target=visit, args=(server, sock))
            visitor.start()
            await server.serve()
            visitor.join()
        assert spawned.left == before

    def visit(server: Server, sock: Any) -> None:
        keep_busy(sock)
        assert ask(sock, b"hello") == b"hello"
        server.stop(0)

    run(in_no_nursery)
    assert spawned.by_the_system == []


def test_context_variables_stay_with_their_handler(recorder: EventRecorder) -> None:
    variable = contextvars.ContextVar("variable", default=b"default")

    async def task(stream: AsyncConnection) -> None:
        before = variable.get()
        variable.set(await stream.receive_some())
        await stream.send_all(before)
        await stream.receive_some()
        await stream.send_all(variable.get())

    def thread(connection: Connection) -> None:
        before = variable.get()
        variable.set(connection.recv(100))
        connection.sendall(before)
        connection.recv(100)
        connection.sendall(variable.get())

    async def main() -> None:
        variable.set(b"of the caller")
        async with trio.open_nursery() as nursery:
            for handler in (task, thread):
                server = quiet(Server(ENDPOINT, handler, "trio"), recorder)
                await nursery.start(server.serve)
                async with await connect(server) as one, await connect(server) as other:
                    for stream, name in ((one, b"one"), (other, b"other")):
                        await stream.send_all(name)
                        assert await stream.receive_some() == b"of the caller"
                    for stream, name in ((one, b"one"), (other, b"other")):
                        await stream.send_all(b"and now?")
                        assert await stream.receive_some() == name
                await server.stop_async()
        assert variable.get() == b"of the caller"

    run(main)
    assert recorder.events == []


# Again and again


@pytest.mark.parametrize("handler", [async_busy, busy])
def test_a_new_server_in_the_place_of_one_that_was_cancelled(handler: Any, tmp_path: Path) -> None:
    """On the same port and path, at once, though clients of the one before are still connected."""
    path = tmp_path / "app.sock"
    ports = set()
    visitors = []

    async def main() -> None:
        endpoints: list[Any] = [TCP("127.0.0.1", 0), UnixStream(str(path))]
        for _ in range(5):
            server = Server(endpoints, handler, "trio")
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(server.serve)
                    ports.add(server.addresses[0].port)
                    endpoints[0] = TCP("127.0.0.1", server.addresses[0].port)
                    for which in range(2):
                        sock = client(server, which)
                        visitors.append(sock)
                        await trio.to_thread.run_sync(keep_busy, sock)
                    scope.cancel()
            assert server.state is State.CLOSED
            assert not path.exists()
        assert len(ports) == 1

    run(main)
    for sock in visitors:
        assert sock.recv(1) == b""
        sock.close()


def test_a_supervisor_restarts_a_server_beside_others_that_do_not_notice(tmp_path: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            neighbour = await nursery.start(plugsocket.serve, ENDPOINT, async_function)
            async with await connect(neighbour) as stream:
                for _ in range(3):
                    with trio.move_on_after(CENTURY) as scope:
                        async with trio.open_nursery() as inner:
                            server = await inner.start(plugsocket.serve, f"unix://{tmp_path}/app.sock", async_function)
                            async with await trio.open_unix_socket(server.addresses[0]) as other:
                                assert await exchange(other, b"hello") == b"hello"
                            scope.cancel()
                    assert await exchange(stream, b"still") == b"still"
            await neighbour.stop_async()
            assert (neighbour.stats.accepted, neighbour.stats.failed) == (1, 0)

    run(main)


# Its clock


def in_jumps(main: Callable[[trio.testing.MockClock], Any]) -> float:
    """Run with a clock that stands still; return how many real seconds it took."""
    clock = trio.testing.MockClock()
    began = time.monotonic()
    run(main, clock, clock=clock)
    return time.monotonic() - began


@pytest.mark.parametrize(("client_is_busy", "seconds"), [(False, 0), (True, 1000)])
def test_a_long_grace_takes_no_real_time(client_is_busy: bool, seconds: float) -> None:
    async def main(clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, async_busy)
            async with await connect(server) as stream:
                if client_is_busy:
                    await keep_it_busy(stream)
                began = trio.current_time()
                clock.autojump_threshold = 0
                report = await server.stop_async(grace=1000)
                assert trio.current_time() - began == pytest.approx(seconds)
                assert (len(report.cut), report.finished) == (client_is_busy, True)
                assert await stream.receive_some() == b""

    assert in_jumps(main) < TIMEOUT


def test_who_lingers_has_the_time_of_trio_s_clock() -> None:
    async def main(clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            server = Server(ENDPOINT, ends_at_once, deadlines=Deadlines(linger=1000))
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                assert await stream.receive_some() == b""
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_all(b"is thrown away")
                clock.jump(999)
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_all(b"as is this")
                clock.jump(1)
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_all(b"nobody is there")  # which is answered with a reset
                with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - the reset may take a moment
                    while True:
                        await stream.send_all(b"nor now")
            await server.stop_async()

    async def ends_at_once(stream: AsyncConnection) -> None:
        pass

    in_jumps(main)


def test_who_waits_for_room_does_so_by_trio_s_clock() -> None:
    async def main(clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            server = Server(ENDPOINT, async_busy, limits=Limits(max_connections=1, overload=Wait(1000)))
            await nursery.start(server.serve)
            async with await connect(server) as first, await connect(server) as second:
                await keep_it_busy(first)
                await until(lambda: server.stats.waiting == 1)
                clock.jump(999)
                await trio.testing.wait_all_tasks_blocked()
                assert server.stats.waiting == 1
                clock.jump(1)
                assert await second.receive_some() == b""
                assert (server.stats.waiting, server.stats.rejected) == (0, 1)
            await server.stop_async()

    in_jumps(main)


def test_the_back_off_goes_by_trio_s_clock(recorder: EventRecorder) -> None:
    transport = FaultyTransport(ENDPOINT, [errno.EMFILE] * 100)

    async def main(clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            server = Server(transport, async_function)
            server.unsubscribe(plugsocket.log_events)
            server.subscribe(recorder, AcceptRecovered)
            await nursery.start(server.serve)
            clock.autojump_threshold = 0
            async with await connect(server) as stream:
                assert await exchange(stream, b"hello") == b"hello"
            assert trio.current_time() > TIMEOUT  # of waiting, a quarter of a second each time
            await server.stop_async()

    assert in_jumps(main) < TIMEOUT
    assert len(recorder.events) == 1


# Stopping


def test_two_stops_at_once_end_in_one_report_after_the_shorter_grace() -> None:
    reports = []

    async def stop(server: Server, grace: float) -> None:
        reports.append(await server.stop_async(grace))

    async def main(clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, async_busy)
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                began = trio.current_time()
                for grace in (1000, 10, 100):
                    nursery.start_soon(stop, server, grace)
                await trio.testing.wait_all_tasks_blocked()
                clock.autojump_threshold = 0
                assert await stream.receive_some() == b""
                assert trio.current_time() - began == pytest.approx(10)
        assert reports == [server.report] * 3

    in_jumps(main)


def test_a_stop_whose_caller_is_cancelled_goes_on() -> None:
    async def main(clock: trio.testing.MockClock) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, async_busy)
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                began = trio.current_time()
                clock.autojump_threshold = 0
                with trio.move_on_after(1) as scope:
                    await server.stop_async(grace=1000)
                assert scope.cancelled_caught
                assert server.state is State.DRAINING
                assert await stream.receive_some() == b""
                assert trio.current_time() - began == pytest.approx(1000)
        assert server.report is not None
        assert len(server.report.cut) == 1

    in_jumps(main)


def test_no_grace_overrides_a_long_one_while_draining() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, async_busy)
            async with await connect(server) as stream:
                await keep_it_busy(stream)
                nursery.start_soon(server.stop_async, CENTURY)
                await trio.testing.wait_all_tasks_blocked()
                assert server.state is State.DRAINING
                report = await server.stop_async(grace=0)
                assert len(report.cut) == 1
                assert await stream.receive_some() == b""

    run(main)


def test_a_handler_of_one_server_stops_another_and_waits_for_it() -> None:
    states = []

    async def main() -> None:
        async def stops_other(stream: AsyncConnection) -> None:
            report = await other.stop_async(grace=0)
            states.append((other.state, report.finished))

        async with trio.open_nursery() as nursery:
            other = await nursery.start(plugsocket.serve, ENDPOINT, async_busy)
            server = await nursery.start(plugsocket.serve, ENDPOINT, stops_other)
            async with await connect(other) as of_other, await connect(server) as stream:
                await keep_it_busy(of_other)
                assert await stream.receive_some() == b""
            assert states == [(State.CLOSED, True)]
            await server.stop_async()

    run(main)


# A cancellation that is none


async def a_cancellation() -> trio.Cancelled:
    """What a task gets that is cancelled, and should not keep."""
    kept = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
    return kept[0]


async def raise_one(data: bytes) -> None:
    if data == b"alone":
        raise await a_cancellation()
    if data == b"group":
        raise BaseExceptionGroup("mixed", [ValueError("of the handler"), await a_cancellation()])


async def task_with_cancellation(stream: AsyncConnection) -> None:
    async for data in stream:
        await raise_one(data)
        await stream.send_all(data)


def thread_with_cancellation(connection: Connection) -> None:
    while data := connection.recv(100):
        trio.run(raise_one, data)
        connection.sendall(data)


@pytest.mark.parametrize("data", [b"alone", b"group"])
@pytest.mark.parametrize(
    ("handler", "strategy"),
    [
        (task_with_cancellation, "trio"),
        (thread_with_cancellation, "trio"),
        (thread_with_cancellation, "thread"),
        (thread_with_cancellation, "sync"),
    ],
)
def test_a_handler_that_raises_a_cancellation_ends_nobody_else(
    handler: Any, strategy: str, data: bytes, recorder: EventRecorder
) -> None:
    """It is reported once, with its peer."""
    with serving(Server(ENDPOINT, handler, strategy), recorder) as server, client(server) as bad:
        if strategy != "sync":
            beside = client(server)
            assert ask(beside, b"before") == b"before"
        bad.sendall(data)
        assert bad.recv(100) == b""
        (failure,) = recorder.wait_for(HandlerFailed)
        assert failure.peer == bad.getsockname()
        assert isinstance(failure.error, trio.Cancelled if data == b"alone" else BaseExceptionGroup)
        if strategy != "sync":
            assert ask(beside, b"after") == b"after"
            beside.close()
        with client(server) as another:
            assert ask(another, b"next") == b"next"
        assert server.state is State.SERVING
        assert server.stats.failed == 1
    assert len(recorder.events) == 1


def test_a_handler_that_raises_a_cancellation_while_others_drain(recorder: EventRecorder) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, busy_with_cancellation), recorder)
            await nursery.start(server.serve)
            async with await connect(server) as bad, await connect(server) as good:
                await keep_it_busy(bad)
                await keep_it_busy(good)
                nursery.start_soon(server.stop_async, CENTURY)
                await trio.testing.wait_all_tasks_blocked()
                await bad.send_all(b"group")
                assert await bad.receive_some() == b""
                assert await exchange(good, b"still served") == b"still served"
        assert server.report is not None
        assert server.report.cut == ()

    async def busy_with_cancellation(stream: AsyncConnection) -> None:
        await stream.receive_some(1)
        os.write(stream.socket.fileno(), BEGUN)
        await task_with_cancellation(stream)

    run(main)
    assert [type(event) for event in recorder.events] == [HandlerFailed]


def test_a_group_with_an_interrupt_of_a_handler_s_own_does_not_end_a_background_server(recorder: EventRecorder) -> None:
    async def handle(stream: AsyncConnection) -> None:
        async with trio.open_nursery():
            if await stream.receive_some() == b"raise":
                raise KeyboardInterrupt
        await stream.send_all(b"bye")

    with serving(Server(ENDPOINT, handle), recorder) as server:
        for data, answer in ((b"raise", b""), (b"next", b"bye")):
            with client(server) as sock:
                sock.sendall(data)
                assert sock.recv(100) == answer
    assert len(recorder.events) == 1


# Blocking handlers


class Lines(StreamRequestHandler):
    """Reads through a buffer, as handlers of the standard library do."""

    def handle(self) -> None:
        self.rfile.readline()
        os.write(self.request.fileno(), BEGUN)
        self.rfile.readline()


@pytest.mark.parametrize("how", ["cancelled", "grace"])
@pytest.mark.parametrize("handler", [busy, Lines])
def test_the_end_reaches_a_blocking_handler_by_its_socket(handler: Any, how: str, recorder: EventRecorder) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, handler, "trio"), recorder)
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                await stream.send_all(b"?\n" if handler is Lines else b"?")
                assert await stream.receive_some() == BEGUN
                if how == "cancelled":
                    nursery.cancel_scope.cancel()
                else:
                    assert len((await server.stop_async(grace=0.01)).cut) == 1
                with trio.CancelScope(shield=True):
                    assert await stream.receive_some() == b""
        assert server.state is State.CLOSED

    run(main)
    assert recorder.events == []


@pytest.mark.parametrize("how", ["cancelled", "grace"])
def test_a_blocking_handler_can_ask_whether_it_is_cancelled(how: str, recorder: EventRecorder) -> None:
    asked: list[str] = []
    ask_on = threading.Event()

    def handle(connection: Connection) -> None:
        trio.from_thread.check_cancelled()
        asked.append("not yet")
        connection.sendall(b"ready")
        connection.closing.wait()
        assert ask_on.wait(TIMEOUT)
        with suppress(OSError):  # it is cut
            while True:
                trio.from_thread.check_cancelled()
                time.sleep(0.001)  # work

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, handle, "trio"), recorder)
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                assert await stream.receive_some() == b"ready"
                ask_on.set()
                if how == "cancelled":
                    nursery.cancel_scope.cancel()
                else:
                    await server.stop_async(grace=0.01)
        assert (server.stats.failed, server.stats.active) == (0, 0)

    run(main)
    assert asked == ["not yet"]
    assert recorder.events == []


def test_blocking_handlers_go_on_while_trio_s_own_threads_are_all_taken() -> None:
    taken, release = threading.Barrier(3), threading.Event()

    def take() -> None:
        taken.wait(TIMEOUT)
        release.wait(TIMEOUT)

    async def main() -> None:
        limiter = trio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 2
        async with trio.open_nursery() as nursery:
            server = await nursery.start(plugsocket.serve, ENDPOINT, function)
            for _ in range(2):
                nursery.start_soon(trio.to_thread.run_sync, take)
            await trio.to_thread.run_sync(partial(taken.wait, TIMEOUT), limiter=trio.CapacityLimiter(1))
            async with await connect(server) as stream:
                assert await exchange(stream, b"hello") == b"hello"
            assert limiter.available_tokens == 0
            await server.stop_async()
            release.set()

    run(main)


@pytest.mark.parametrize("grace", [None, 0.0])
def test_a_blocking_handler_that_has_no_thread_yet_is_given_up(grace: float | None, recorder: EventRecorder) -> None:
    """As between two handlers: the place is free before the thread is."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = quiet(Server(ENDPOINT, function, Trio(max_threads=1)), recorder)
            server.bind()
            limiter = server._engine.runner._limiter
            limiter.acquire_on_behalf_of_nowait("another handler")
            await nursery.start(server.serve)
            async with await connect(server) as stream:
                await until(lambda: (server.stats.active, limiter.statistics().tasks_waiting) == (1, 1))
                if grace is None:
                    nursery.cancel_scope.cancel()
                else:
                    await server.stop_async(grace)
                with trio.CancelScope(shield=True):
                    assert await stream.receive_some() == b""
        assert server.stats.active == 0
        assert server.report is not None
        assert server.report.finished

    run(main)
    assert recorder.events == []


# Ctrl-C


@pytest.mark.parametrize("where", ["program", "handler"])
def test_ctrl_c_in_a_program_with_a_server(where: str, tmp_path: Path) -> None:
    """It comes out of `trio.run` as trio promises it, wherever it hits; everything is closed."""
    source = """
        import signal, sys
        import plugsocket, trio

        async def handle(stream):
            if await stream.receive_some() == b"handler":
                try:
                    signal.raise_signal(signal.SIGINT)
                finally:
                    print("handler ends", flush=True)
            await trio.sleep_forever()

        async def main():
            global server
            async with trio.open_nursery() as nursery:
                server = await nursery.start(plugsocket.serve, ["tcp://127.0.0.1:0", sys.argv[1]], handle)
                print(server.addresses[0].port, flush=True)

        try:
            trio.run(main)
        except* KeyboardInterrupt:
            print(server.state.name, server.cause, server.stats.failed)
    """
    path = tmp_path / "app.sock"
    with program(source, f"unix://{path}") as process, connect_to(line_of(process)) as sock:
        assert path.is_socket()
        sock.sendall(where.encode())
        if where == "program":
            interrupt(process.pid, signal.SIGINT)
        else:
            assert line_of(process) == "handler ends"
        assert sock.recv(100) == b""
        assert end_of(process) == (0, "CLOSED None 0\n", "")
    assert not path.exists()
