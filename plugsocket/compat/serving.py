"""When a server of this package serves: the calls that begin, end and await it, in whatever thread they come.

Each `serve_forever()` is another `plugsocket.Server`, composed of the socket, the hooks, and a strategy that has them
called in the loop; or of a strategy for trio. It is over when `shutdown()` was called, and the socket stays open.
"""

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import Any

import attrs
from zope.interface import implementer

from plugsocket.compat.listening import (
    Failures,
    HookedListener,
    HookedRequest,
    HookedTransport,
    IHookedTransport,
    Raised,
    RequestListener,
)
from plugsocket.compat.workers import Relay, check_options, own_strategy, runs_beside
from plugsocket.concurrency.base import BlockingStrategy
from plugsocket.core.errors import LifecycleError
from plugsocket.core.events import AcceptFailed, AcceptRecovered, HandlerFailed, RequestRefused
from plugsocket.core.interfaces import (
    IBlockingRunner,
    IManagedStrategy,
    IRouter,
    IRunner,
    ISyncHandler,
    ITrioStrategy,
    IView,
)
from plugsocket.core.lifecycle import FINAL, State
from plugsocket.core.protocols import Watcher
from plugsocket.core.registry import Registry, default_registry
from plugsocket.core.reporting import log_events
from plugsocket.core.server import Server

STOPPED = {State.DRAINING, *FINAL}
PATIENCE = 5.0  # seconds that a request gets to be handed over
LOOK = 0.005  # seconds between looks whether the loop is over, or in a handler


class IInLoop(IManagedStrategy):
    """Runs nothing: the requests were seen to when they were accepted."""


@implementer(IInLoop)
class InLoop(BlockingStrategy):
    """The strategy of servers whose hooks run in the loop: it is given no job, since what was accepted is seen to.

    What runs beside the loop it leaves alone, for `server_close()` to wait for.

    Args:
        relay: how workers beside the loop have their descriptors watched.
    """

    name = "socketserver"
    capacity = 1

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._watcher: Watcher | None = None

    def open(self, watcher: Watcher) -> None:
        """Have the loop watch what the workers want watched."""
        self._watcher = watcher
        self._relay.attach(watcher)

    def join(self, timeout: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        """Let go of the loop."""
        if self._watcher is not None:
            self._relay.detach(self._watcher)
        self._watcher = None
        return True

    def __repr__(self) -> str:
        return "the loop of socketserver"


@implementer(IBlockingRunner, IRouter)
class SeenToRunner:
    """Leaves every request to where it was seen to."""

    capacity = 1

    def __init__(self, handler: Any, strategy: InLoop) -> None:  # noqa: ARG002 - the form of every runner
        self.spawn = strategy.spawn

    def route(self, endpoint: Any, request: Any) -> bool:  # noqa: ARG002 - the form of every router
        """Say that the request is taken care of."""
        if isinstance(request, Raised):
            raise request.error
        return True

    def expect(self, job: Any) -> None:
        """Is not called: no job begins here."""

    def end_idle(self) -> Collection[Any]:
        """Return nothing: no job takes requests."""
        return ()


def _handle(request: HookedRequest) -> None:
    request.process()


def _is_welcome(request: Any) -> bool:
    return bool(request.is_welcome())


def _view(request: HookedRequest, closing: Any) -> HookedRequest:  # noqa: ARG001 - the form of every view
    return request


REGISTRY = Registry("plugsocket.compat.socketserver", bases=(default_registry,))
REGISTRY.register(SeenToRunner, (ISyncHandler, IInLoop), IRunner)
REGISTRY.register(_view, (IHookedTransport, ISyncHandler), IView)


@attrs.frozen
class _Kept:
    inner: Server
    listener: HookedListener | RequestListener
    socket: Any  # when it was kept; another one may have taken its place since, or its number
    fileno: int


@attrs.define(eq=False)
class _Run:
    """A call of `serve_forever()`."""

    thread: int
    inner: Server | None = None


class Loop:
    """The serving of one server, by one thread at a time; and `handle_request()`, by any number of them.

    Args:
        server: whose hooks are called.
        takes_batches: has `get_request()` of a server not wait from then on, and returns whether it does not.

    Attributes:
        relay: how workers beside the loop have their descriptors watched.
        is_shut_down: set while `serve_forever()` does not run.
    """

    def __init__(self, server: Any, takes_batches: Callable[[Any], bool]) -> None:
        self.is_shut_down = threading.Event()
        self._failures: Failures = {}
        self._reference = weakref.ref(server)
        self._takes_batches = takes_batches
        self._begin_process()
        weakref.finalize(server, self._drop_kept)

    def _begin_process(self) -> None:
        """Start afresh: after a fork, what the parent has running is not the child's."""
        self._pid = os.getpid()
        self._lock = threading.RLock()  # signal handlers take it too, whatever they interrupt
        self.relay = Relay()
        self._running: dict[Server, HookedListener | RequestListener] = {}
        self._kept: _Kept | None = None  # of handle_request(), for the next one
        self._run: _Run | None = None
        self._awaited = True  # whether a stop that comes while nobody serves is meant for who begins to
        self._asked = False
        self.is_shut_down.set()

    @property
    def _server(self) -> Any:
        return self._reference()  # which lives as long as somebody calls it

    def failed(self, error: Exception) -> None:
        """Take note of what `get_request()` raised, if it was a loop of ours that had it called."""
        thread = threading.get_ident()
        if thread in self._failures:
            self._failures[thread] = error

    def filenos(self) -> Collection[int]:
        """Return the descriptors by which a forked child can ask for the end."""
        return [inner.closing.fileno() for inner in list(self._running) if inner.closing is not None]

    def _in_child(self) -> bool:
        return os.getpid() != self._pid

    def _check_process(self) -> None:
        if self._in_child():
            self._begin_process()

    def _make(self, *, lenient: bool) -> tuple[Server, HookedListener | RequestListener]:
        server = self._server
        if server.fileno() < 0:
            raise ValueError(f"{server!r} is closed; its socket cannot be served any more")
        check_options(server)
        strategy = own_strategy(server)
        waits = not self._takes_batches(server)
        if strategy is not None and ITrioStrategy.providedBy(strategy):
            requests = RequestListener(server, self._failures, waits=waits, lenient=lenient)
            listener: HookedListener | RequestListener = requests
            inner = Server(HookedTransport(requests), _handle, strategy, verify=_is_welcome, registry=REGISTRY)
        else:
            hooked = HookedListener(server, self._failures, waits=waits, lenient=lenient)
            inner = hooked.inner = Server(HookedTransport(hooked), _handle, InLoop(self.relay), registry=REGISTRY)
            listener = hooked
        inner.unsubscribe(log_events)
        inner.subscribe(log_events, AcceptFailed, AcceptRecovered, HandlerFailed, RequestRefused)
        return inner, listener

    def _open(self, inner: Server, listener: HookedListener | RequestListener) -> None:
        inner.bind()
        self._running[inner] = listener  # from now on who stops it finds it

    # serve_forever()

    def serve(self, interval: float | None) -> None:
        """Serve in this thread until stopped.

        Args:
            interval: seconds after which `service_actions()` is called again; `None` if that does nothing.

        Raises:
            LifecycleError: another thread does.
            ValueError: the socket is closed.
            OSError: the socket failed for good.
        """
        self._check_process()
        run = _Run(threading.get_ident())
        try:
            inner = self._begin(run)
            if self._asked:
                return
            if interval is None:
                self._running[inner].gather()
                inner.serve_forever()
            elif ITrioStrategy.providedBy(inner.strategy):
                self._serve_beside_actions(inner, interval)
            while inner.state not in FINAL:
                inner.handle_request(interval)
                self._server.service_actions()
        except LifecycleError:
            if run.inner is None or run.inner.state not in STOPPED:  # else it was stopped this moment
                raise
        finally:
            try:
                self._end(run)
            finally:
                self._end(run)  # in case that a signal cut the first one short

    def _serve_beside_actions(self, inner: Server, interval: float) -> None:
        """Serve with trio, whose turns are its own, and have a thread call `service_actions()`."""
        over, raised = threading.Event(), list[BaseException]()

        def act() -> None:
            try:
                while not over.wait(interval):
                    self._server.service_actions()
            except BaseException as error:  # noqa: BLE001 - it is raised below
                raised.append(error)
                inner.stop(self._grace, wait=False)

        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        try:
            inner.serve_forever()
        finally:
            over.set()
            thread.join()
        if raised:
            raise raised[0]

    def _begin(self, run: _Run) -> Server:
        with self._lock:
            if self._run is not None:
                raise LifecycleError(f"{self._server!r} serves already, in another thread; one can at a time")
            self._run = run  # first: whatever is done from now on, `_end()` undoes
            self._awaited = True
            self._drop_kept()
            run.inner, listener = self._make(lenient=False)
            self._open(run.inner, listener)
            self.is_shut_down.clear()
            self._awaited = False
            return run.inner

    def _end(self, run: _Run) -> None:
        with self._lock:
            if self._run is not run:
                return
            if run.inner is not None:
                if run.inner.state not in FINAL:
                    run.inner.stop(0)
                self._running.pop(run.inner, None)
            self.is_shut_down.set()  # first: a signal handler waits for it unless this thread still is the one
            self._asked = False
            self._run = None

    # shutdown() and server_close()

    def stop(self, *, wait: bool = True) -> None:
        """Have `serve_forever()` and `handle_request()` end.

        Args:
            wait: whether to wait until they have; they are not waited for in the thread that serves, in a handler, and
                in a forked child, whose parent is asked.
        """
        with nullcontext() if self._in_child() else self._lock:  # which may be held there for good
            running = list(self._running)
            for listener in self._running.values():
                listener.ended = True
            self._asked = self._asked or (self._awaited and not running)
        reports = [inner.stop(self._grace, wait=wait) for inner in running]
        if wait and not self._is_here() and all(report.finished for report in reports):
            self.is_shut_down.wait()

    def _is_here(self) -> bool:
        """Whether this thread is in `serve()`."""
        run = self._run
        return run is not None and run.thread == threading.get_ident()

    @property
    def _grace(self) -> float:
        """What requests get that trio handles; the others are not the loop's."""
        grace = self._server.grace
        return math.inf if grace is None else float(grace)

    def is_stopping(self) -> bool:
        """Whether a stop was asked for that is not over."""
        return self._asked or any(inner.state is State.DRAINING for inner in list(self._running))

    def close(self) -> None:
        """End what runs, since the socket is about to be closed; wait for it, but not for a handler in the loop."""
        self._check_process()
        with self._lock:
            running = dict(self._running)
            self._drop_kept()
        for inner, listener in running.items():
            listener.ended = True
            if isinstance(listener, HookedListener):
                inner.stop(math.inf, wait=False)
                self._await(listener)
            else:
                inner.stop(self._grace)

    def _await(self, listener: HookedListener) -> None:
        """Wait for the end of the loop, but not for a handler that runs in it, which may be waiting for the caller."""
        # What handles requests beside the loop is not to be closed while the loop still hands one over.
        until = time.monotonic() + (PATIENCE if runs_beside(self._server) else 0.0)
        while self._run is not None and not self._is_here() and not self.is_shut_down.wait(LOOK):
            if listener.handling and time.monotonic() >= until:
                return

    # handle_request()

    def handle_one(self, timeout: float | None) -> bool:
        """Have one request handled.

        Args:
            timeout: seconds to wait for it; `None` for ever.

        Returns:
            Whether there was one, or the waiting was ended by `stop()`.
        """
        inner = self._borrow()
        try:
            return inner.handle_request(timeout) or inner.state is not State.BOUND
        except LifecycleError:
            if inner.state not in STOPPED:  # else it was stopped this moment
                raise
            return True
        finally:
            self._give_back(inner)

    def _borrow(self) -> Server:
        self._check_process()
        with self._lock:
            kept = self._kept
            server = self._server
            if kept is None or (kept.socket, kept.fileno) != (getattr(server, "socket", None), server.fileno()):
                self._drop_kept()
                inner, listener = self._make(lenient=True)
                self._open(inner, listener)
                return inner
            self._kept = None
            self._running[kept.inner] = kept.listener
            return kept.inner

    def _give_back(self, inner: Server) -> None:
        with self._lock:
            listener = self._running.pop(inner)
            if inner.state is State.BOUND and self._kept is None:
                server = self._server
                self._kept = _Kept(inner, listener, getattr(server, "socket", None), server.fileno())
            else:
                inner.stop(0)

    def _drop_kept(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None and not self._in_child():
            kept.inner.stop(0)
