"""What the system does: it has no more, it loses paths, its clock jumps; the server goes on."""

import errno
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import trio
from trio.testing import MockClock

from plugsocket import TCP, Deadlines, Server
from plugsocket.core.events import AcceptFailed, AcceptRecovered, HandlerFailed, RequestRefused
from plugsocket.testing import EventRecorder, FaultyTransport, failing_forks, failing_threads, low_descriptor_limit
from tests.faults import SHORT, Bench, Fault, Trial, name_of, over, try_out
from tests.kit import HANDLERS, TIMEOUT, client, receive, serving

DAY = 86_400.0


class NoDescriptors(Fault):
    """For a while, the process can open none: connections wait."""

    datagrams = False

    def inject(self, bench: Bench) -> None:
        with ExitStack() as stack:
            bench.server.pause()
            socks = [stack.enter_context(bench.client()) for _ in range(3)]
            with low_descriptor_limit(0):
                bench.server.resume()
                bench.expect(AcceptFailed)
                bench.ask_friend()
            for sock in socks:
                with sock:
                    bench.ask(sock)
            bench.expect(AcceptRecovered)


class NoDescriptorsForDatagrams(Fault):
    """The same: datagrams need none, but some ways to handle them do."""

    streams = False

    def inject(self, bench: Bench) -> None:
        with bench.client() as sock:
            # What the friend's datagram took is free again, and does not come free later.
            assert bench.server.wait(connections=0, timeout=TIMEOUT)
            with low_descriptor_limit(0):
                bench.say(sock, b"good")
                if bench.strategy == "fork":
                    bench.expect(RequestRefused, name_of(sock), "refused", "Too many open files")
                elif bench.handler == "own_loop":
                    bench.expect(HandlerFailed, name_of(sock), "failed", "Too many open files")
                else:
                    assert receive(sock, 4) == b"good"


class LimitBelowWhatIsOpen(Fault):
    """The limit of descriptors is lowered, and the number of an open one is above it."""

    every_example = False
    high = 200  # any that nothing else has come to
    enough = 16  # for a few requests at once

    def inject(self, bench: Bench) -> None:
        descriptor = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, self.high)
        try:
            with low_descriptor_limit(self.enough):
                bench.serve_one()
                bench.ask_friend()
                assert bench.server.wait(connections=int(bench.streams and bench.friend is not None), timeout=TIMEOUT)
        finally:
            os.close(descriptor)


class AcceptFails(Fault):
    """Accepting fails a few times, as if the system had said so.

    Args:
        number: what it says.
        reported: whether that is told, once; else it concerned nothing but a connection that is gone.
    """

    every_example = False
    times = 2

    def __init__(self, number: int, reported: bool) -> None:
        self._number = number
        self._reported = reported

    def transport(self, transport: Any) -> Any:
        # After the friend, or else the first one.
        return FaultyTransport(transport, [None, *[self._number] * self.times])

    def inject(self, bench: Bench) -> None:
        if bench.friend is None:
            bench.serve_one()
        bench.serve_one()
        if self._reported:
            bench.expect(AcceptFailed)
            bench.expect(AcceptRecovered)
        assert bench.server.stats.accept_errors == self.times


class NoThread(Fault):
    """A thread does not start: of the pool of `Thread()`, or of those that trio has for blocking handlers."""

    lonely = True  # who was there before would leave an idle thread, and another need not start

    def concerns(self, transport: Any, strategy: str, handler: str) -> bool:
        return strategy == "thread" or (strategy == "trio" and handler != "async")

    def inject(self, bench: Bench) -> None:
        failing = failing_threads(1) if bench.strategy == "thread" else failing_worker()
        with failing:
            refuse(bench, "can't start new thread")
            bench.serve_beside()


@contextmanager
def failing_worker() -> Iterator[None]:
    """Make trio fail to start its next worker thread, of which it may have idle ones from anywhere."""
    errors = [RuntimeError("can't start new thread")]
    original = trio.to_thread.run_sync

    async def run_sync(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await original(*arguments, **options)

    with patch.object(trio.to_thread, "run_sync", run_sync):
        yield


class NoProcess(Fault):
    """A process cannot be forked.

    Args:
        number: what the system says.
        words: the same, as reports have it.
    """

    def __init__(self, number: int, words: str) -> None:
        self._number = number
        self._words = words

    def concerns(self, transport: Any, strategy: str, handler: str) -> bool:
        return strategy == "fork"

    def inject(self, bench: Bench) -> None:
        with failing_forks(2, self._number) as failures:
            for _ in range(failures.times):
                refuse(bench, self._words)
            bench.serve_beside()


def refuse(bench: Bench, saying: str) -> None:
    """Have a client come that cannot be served."""
    with bench.client() as sock:
        if bench.streams:
            assert sock.recv(1) == b""
        else:
            bench.say(sock, b"in vain")
        bench.expect(RequestRefused, name_of(sock), "refused", saying)


class PathDeleted(Fault):
    """Somebody removes the socket file: who is connected stays so."""

    reachable = False

    def concerns(self, transport: Any, strategy: str, handler: str) -> bool:
        return hasattr(transport, "path")

    def inject(self, bench: Bench) -> None:
        Path(bench.server.addresses[0].path).unlink()
        with pytest.raises(FileNotFoundError):
            client(bench.server)


class PathReplaced(PathDeleted):
    """Another server takes the path, which is its own from then on."""

    def inject(self, bench: Bench) -> None:
        super().inject(bench)
        successor = Server(bench.server.transports[0], HANDLERS["function"])
        bench.later.enter_context(serving(successor))
        self._is_served(bench)

    def afterwards(self, bench: Bench) -> None:
        self._is_served(bench)

    def _is_served(self, bench: Bench) -> None:
        with client(bench.server) as sock:  # of the same path
            sock.sendall(b"good")
            assert receive(sock, 4) == b"good"


class ClockJumps(Fault):
    """What the time of day is, nothing depends on: no pause, no deadline, no wait."""

    every_example = False

    def transport(self, transport: Any) -> Any:
        return FaultyTransport(transport, [errno.ENOBUFS])

    def options(self, streams: bool) -> dict[str, Any]:
        return {"deadlines": Deadlines(first_byte=SHORT, idle=TIMEOUT, request=TIMEOUT)} if streams else {}

    def around(self, server: Server) -> AbstractContextManager[object]:
        original = time.time
        jumps = itertools.cycle([DAY, -DAY])
        return patch.object(time, "time", lambda: original() + next(jumps))

    def inject(self, bench: Bench) -> None:
        bench.serve_one()
        bench.expect(AcceptFailed)
        bench.expect(AcceptRecovered)
        if bench.streams:
            with bench.client() as sock:
                bench.serve_beside()
                assert sock.recv(1) == b""
                bench.expect(HandlerFailed, name_of(sock), "timed_out", "no byte came")


FAULTS: dict[str, Callable[[], Fault]] = {
    "no_descriptors": NoDescriptors,
    "no_descriptors_for_datagrams": NoDescriptorsForDatagrams,
    "limit_below_what_is_open": LimitBelowWhatIsOpen,
    "enobufs": partial(AcceptFails, errno.ENOBUFS, reported=True),
    "eperm": partial(AcceptFails, errno.EPERM, reported=False),
    "no_thread": NoThread,
    "no_process": partial(NoProcess, errno.EAGAIN, "Resource temporarily unavailable"),
    "no_memory_for_a_process": partial(NoProcess, errno.ENOMEM, "Cannot allocate memory"),
    "path_deleted": PathDeleted,
    "path_replaced": PathReplaced,
    "clock_jumps": ClockJumps,
}


@over(FAULTS)
def test_the_server_goes_on(trial: Trial, tmp_path: Path, recorder: EventRecorder) -> None:
    try_out(trial, tmp_path, recorder)


@pytest.mark.parametrize("handler", [name for name in HANDLERS if name != "own_loop"])
def test_trio_s_clock_jumps(handler: str, recorder: EventRecorder) -> None:
    """It may be any; a jump of it is as much time, that may end pauses, but no request."""

    async def exchange(stream: trio.SocketStream) -> None:
        await stream.send_all(b"good")
        assert await stream.receive_some() == b"good"

    async def main() -> None:
        server = Server(FaultyTransport(TCP("127.0.0.1", 0), [errno.ENOBUFS]), HANDLERS[handler], "trio")
        server.subscribe(recorder, HandlerFailed)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with await trio.open_tcp_stream(*server.addresses[0]) as friend:
                await until(lambda: server.stats.accept_errors == 1)
                for _ in range(3):
                    clock.jump(DAY)  # which is all the time that passes
                    await exchange(friend)
                    async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
                        await exchange(stream)
                await until(lambda: server.stats.active == 1)
                report = await server.stop_async()
                assert (report.completed, report.cut) == (1, ())
                assert await friend.receive_some() == b""

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await trio.lowlevel.checkpoint()

    clock = MockClock()
    trio.run(main, clock=clock)
    assert recorder.events == []
