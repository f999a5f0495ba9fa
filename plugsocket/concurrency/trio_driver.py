"""The driver of trio strategies: a task for each listener, in a trio program of the server's own or of its user's."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import trio
from zope.interface import implementer

from plugsocket.concurrency.task_pool import TaskPool
from plugsocket.concurrency.task_relay import TaskRelay
from plugsocket.core.engine import Endpoint, Engine
from plugsocket.core.events import CloseFailed
from plugsocket.core.interfaces import ITrioDriver, IWatcher
from plugsocket.core.protocols import AsyncListener, Strategy, Transport, TrioRunner


async def _stop_when_cancelled(engine: Engine, served: trio.Event) -> None:
    try:
        await served.wait()
    except trio.Cancelled:
        engine.request_stop(0.0)
        raise


@implementer(ITrioDriver, IWatcher)
class TrioDriver:
    """A task for each listener, and one that waits to be rung.

    Args:
        strategy: the strategy of the server.
    """

    def __init__(self, strategy: Strategy) -> None:  # noqa: ARG002 - the form of every driver
        self._changed = trio.Event()
        self._failure: Exception | None = None  # kept, and not raised in its task, so that no group comes around it
        self._taken = 0
        self._requests: trio.Nursery | None = None
        self._watched: dict[int, Callable[[], None]] = {}

    def run(self, engine: Engine, started: Callable[[], object], one: float | None) -> None:
        """Serve in a `trio.run` of one's own; see `IDriver`."""
        try:
            trio.run(self.serve, engine, started, one)
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is None:
                raise
            raise KeyboardInterrupt from group

    def watch(self, fileno: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable; see `IWatcher`."""
        assert self._requests is not None, "descriptors are watched while serving"
        self._watched[fileno] = callback
        self._requests.start_soon(self._watch, fileno, callback)

    async def _watch(self, fileno: int, callback: Callable[[], None]) -> None:
        # The one is raised by unwatch(), the other if a task that the handler left behind waits for its connection.
        with suppress(trio.ClosedResourceError, trio.BusyResourceError):
            while self._watched.get(fileno) is callback:
                await trio.lowlevel.wait_readable(fileno)
                if self._watched.get(fileno) is callback:  # else it was unwatched since this task was woken
                    callback()

    def unwatch(self, fileno: int) -> None:
        """Stop watching a descriptor; see `IWatcher`."""
        if fileno in self._watched:
            del self._watched[fileno]
            trio.lowlevel.notify_closing(fileno)

    def finish(self, engine: Engine) -> None:
        """Nothing is under way when no task serves; see `IDriver`."""
        engine.begin_drain()

    async def serve(self, engine: Engine, started: Callable[[], object], one: float | None) -> None:
        """Serve in this task; see `ITrioDriver`."""
        served = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_when_cancelled, engine, served)
            # So that a cancellation stops the server as stop() does, in that order: listeners, close signal, handlers.
            with trio.CancelScope(shield=True):
                await self._serve(engine, started, one)
            served.set()
        if self._failure is not None:
            raise self._failure

    async def _serve(self, engine: Engine, started: Callable[[], object], one: float | None) -> None:
        async with trio.open_nursery() as requests:
            run = cast("TrioRunner", engine.runner).run
            pool, relay = TaskPool(requests, run), TaskRelay(requests, run)
            self._requests = requests
            for endpoint in engine.endpoints:
                if endpoint.awaited:
                    cast("AsyncListener", endpoint.listener).enter(requests)
            # Handlers of connections wait for them, those of datagrams need not.
            begin = lambda job: (relay if job.endpoint.datagrams else pool).spawn(job)  # noqa: E731
            engine.begin(trio.current_time, begin, self)
            try:
                await self._accept_all(engine, started, one)
                await self._until_handled(engine)
            except BaseException:  # Ctrl-C; leaving the block cancels the handlers, and some may take their time
                engine.request_stop(0.0)
                await self._begin_drain(engine)
                engine.admission.close()
                engine.give_up()
                engine.end_drain()
                raise
            if engine.stopping:
                await self._begin_drain(engine)
                engine.admission.close()
                await self._drain(engine)
                engine.end_drain()
                requests.cancel_scope.cancel()
            else:
                pool.close()
                relay.close()
                engine.lingering.suspend(self, trio.current_time())

    async def _begin_drain(self, engine: Engine) -> None:
        for endpoint in engine.endpoints:
            if endpoint.awaited:
                try:
                    await cast("AsyncListener", endpoint.listener).aclose()
                except Exception as error:  # noqa: BLE001 - whatever a listener of somebody else's raises is reported
                    engine.events.emit(CloseFailed(endpoint.url, error))
        engine.begin_drain()

    async def _accept_all(self, engine: Engine, started: Callable[[], object], one: float | None) -> None:
        """Accept at every endpoint until told to stop, or until one request came or `one` seconds are over."""
        self._taken = 0
        async with trio.open_nursery() as intake:
            for endpoint in engine.endpoints:
                intake.start_soon(self._accept, engine, endpoint, one is not None, intake.cancel_scope)
            started()
            with trio.move_on_after(math.inf if one is None else one):
                while not engine.stopping:
                    await self._turn(engine, math.inf)
            intake.cancel_scope.cancel()

    async def _accept(self, engine: Engine, endpoint: Endpoint, one: bool, intake: trio.CancelScope) -> None:
        try:
            while True:
                await self._until_free(engine, endpoint)
                if one:  # before waiting, since there may be no time to wait
                    self._take_one(engine, endpoint, intake)
                if endpoint.awaited:
                    await cast("AsyncListener", endpoint.listener).wait()
                else:
                    await trio.lowlevel.wait_readable(endpoint.listener.fileno())
                if not one:
                    engine.accept_batch(endpoint)
        except Exception as error:  # noqa: BLE001 - whatever a listener raises, serve() raises
            self._failure = error
            engine.request_stop(engine.grace)

    async def _until_handled(self, engine: Engine) -> None:
        """Let the one request end, after which there is nothing to serve; or be told to stop."""
        while not engine.stopping and (engine.busy() or engine.admission.waiting):
            await self._turn(engine, math.inf)

    def _take_one(self, engine: Engine, endpoint: Endpoint, intake: trio.CancelScope) -> None:
        if not self._taken:
            self._taken = engine.accept_batch(endpoint, 1)
        if self._taken:
            intake.cancel()

    async def _until_free(self, engine: Engine, endpoint: Endpoint) -> None:
        while (hold_up := engine.hold_up(endpoint)) is not None:
            with trio.move_on_after(hold_up):
                await self._changed.wait()

    async def _turn(self, engine: Engine, until: float) -> None:
        """Wait until the loop is rung, or something is due, at most until a time of the clock."""
        with trio.move_on_at(min(until, engine.attend())):
            await trio.lowlevel.wait_readable(engine.control.fileno())
        engine.control.answer()
        self._changed.set()
        self._changed = trio.Event()

    async def _drain(self, engine: Engine) -> None:
        """Let requests under way end, as long as the grace lasts; record the others as cut."""
        while engine.busy() and (left := engine.time_left()):
            await self._turn(engine, trio.current_time() + left)
        engine.give_up()


def only_in_trio(transport: Transport, strategy: Strategy) -> str:
    """Say why a blocking strategy does not serve a listener of trio."""
    return f"{transport!r} gives streams of a trio program, and {strategy!r} runs blocking code: use Trio()"
