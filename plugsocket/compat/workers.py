"""What handles requests beside the loop of a server: a strategy, and the account of what it has under way."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, cast

import attrs
from zope.interface import implementer

from plugsocket.compat.hooks import cut, finish
from plugsocket.concurrency.base import BlockingStrategy
from plugsocket.core.errors import OptionError
from plugsocket.core.interfaces import IInlineStrategy, IJob, IManagedStrategy, IStrategy, ITrioStrategy, IWatcher
from plugsocket.core.options import SECONDS, is_seconds
from plugsocket.core.protocols import BlockingStrategy as Spawning
from plugsocket.core.protocols import Job, ManagedStrategy, Strategy, Watcher
from plugsocket.core.reporting import logger
from plugsocket.core.specs import strategy as make_strategy

ATTRIBUTE = "_plugsocket_workers"  # of a server, which may be one of the standard library's with a mix-in of ours
LOOP = "_plugsocket_loop"
PATIENCE = 1.0  # seconds that handlers get to notice that they were cut, and children that they were told to end
MOMENT = 0.1  # seconds
A_WHILE = 0.1  # seconds between looks for room, where no loop is there to be told of it


@implementer(IJob)
class RequestJob:
    """A request on its way through the hooks of a server.

    Args:
        server: whose hooks.
        request: as `get_request()` gave it.
        client_address: likewise.
        workers: keep the account.

    Attributes:
        thread: which it is handled in, if it is one.
    """

    __slots__ = ("_closed", "_workers", "client_address", "request", "server", "thread")

    def __init__(self, server: Any, request: Any, client_address: Any, workers: "Workers") -> None:
        self.server = server
        self.request = request
        self.client_address = client_address
        self.thread: int | None = None
        self._workers = workers
        self._closed = False

    @property
    def peer(self) -> Any:
        """The client's address."""
        return self.client_address

    def __call__(self) -> bool:
        """Have it handled, in whatever thread this is; see `IJob`."""
        self.thread = threading.get_ident()
        try:
            in_thread = getattr(self.server, "process_request_thread", None)
            if in_thread is not None:
                in_thread(self.request, self.client_address)
            else:
                finish(self.server, self.request, self.client_address)
        finally:
            self._workers.end(self)
        return True

    def filenos(self) -> Collection[int]:
        """Return the descriptors that a handler in another process answers with, and asks for the end."""
        loop = vars(self.server).get(LOOP)
        return (self._socket.fileno(), *(() if loop is None else loop.filenos()))

    @property
    def _socket(self) -> Any:
        return self.request[1] if isinstance(self.request, tuple) else self.request

    def run_in_child(self) -> BaseException | None:
        """Have it handled in a forked child, which says itself what went wrong; see `IJob`."""
        listener = getattr(self.server, "socket", None)
        if listener is not None and listener is not self._socket:
            listener.close()  # or else nobody could bind its address while this child lives
        try:
            finish(self.server, self.request, self.client_address)
        except BaseException as error:  # noqa: BLE001 - the process ends with it
            _say_the_end(error)
        return None

    def summary(self) -> tuple[int, int, bool]:
        """Return nothing worth telling: these connections keep no account."""
        return (0, 0, False)

    def adopt(self, summary: tuple[int, int, bool]) -> None:
        """Have nothing to take over."""

    def cut(self) -> bool:
        """Wake a handler that waits for the client, unless only a child has the connection; return whether it did."""
        return not self._closed and cut(self.request)

    def close(self) -> None:
        """Close the parent's copy of what a child handles. Idempotent."""
        if not self._closed:
            self._closed = True
            self.server.close_request(self.request)

    def finish(self, failure: BaseException | None = None) -> None:
        """Say that the child is done; how it died is logged, since it could not say so itself."""
        if failure is not None:
            logger().error("request from %s: %s", self.client_address, failure)
        self.close()
        self._workers.end(self)


def _say_the_end(error: BaseException) -> None:
    """Do what the end of a program does about an exception."""
    if isinstance(error, KeyboardInterrupt):
        return  # which the parent, that had it as well, says something about
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
    elif error.code is not None and not isinstance(error.code, int):
        with suppress(Exception):  # closed, None, or its reader is gone: nobody is left to tell
            sys.stderr.write(f"{error.code}\n")


class Unmanaged(BlockingStrategy):
    """Completes a strategy that has nothing of its own to look after, and so nothing to wait for.

    Args:
        strategy: with `capacity` and `spawn()`.
    """

    def __init__(self, strategy: Spawning) -> None:
        self.name = strategy.name
        self.capacity = strategy.capacity
        self._strategy = strategy

    def spawn(self, job: Job) -> None:
        """Have the job run; see `IBlockingStrategy`."""
        self._strategy.spawn(job)


@implementer(IWatcher)
class Relay:
    """Has descriptors watched by whatever loop runs at the moment, if any."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._loop: Watcher | None = None

    def watch(self, fileno: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable and a loop runs; see `IWatcher`."""
        self._callbacks[fileno] = callback
        if self._loop is not None:
            self._loop.watch(fileno, callback)

    def unwatch(self, fileno: int) -> None:
        """Stop watching; see `IWatcher`."""
        self._callbacks.pop(fileno, None)
        if self._loop is not None:
            self._loop.unwatch(fileno)

    def attach(self, loop: Watcher) -> None:
        """Have a loop watch, unless another one does."""
        if self._loop is None:
            self._loop = loop
            for fileno, callback in self._callbacks.items():
                loop.watch(fileno, callback)

    def detach(self, loop: Watcher) -> None:
        """Let a loop watch no more, which is about to end."""
        if self._loop is loop:
            self._loop = None
            for fileno in self._callbacks:
                loop.unwatch(fileno)


class Workers:
    """Has requests handled beside the loop.

    Args:
        server: whose requests.
        strategy: what runs them.
        capacity: says how many may be under way now.
        relay: how the strategy has its descriptors watched.

    Attributes:
        strategy: what runs them.
        on_room: called, in whatever thread, when a request has ended; `None` if nobody waits for that.
    """

    def __init__(self, server: Any, strategy: ManagedStrategy, capacity: Callable[[], float], relay: Relay) -> None:
        self.strategy = strategy
        self.on_room: Callable[[], object] | None = None
        self._server = server
        self._capacity = capacity
        self._active: set[RequestJob] = set()
        self._pid = os.getpid()
        strategy.open(relay)

    def is_here(self) -> bool:
        """Whether this process made it, and not one that this one was forked from."""
        return os.getpid() == self._pid

    def is_full(self) -> bool:
        """Whether as many are under way as may be."""
        return len(self._active) >= self._capacity()

    def spawn(self, request: Any, client_address: Any) -> RequestJob:
        """Have a request handled; where no loop sees to it that there is room, wait for some.

        Raises:
            Exception: it could not be started; the request is the caller's still.
        """
        while self.is_full() and not getattr(self._server, "_BaseServer__shutdown_request", False):
            if self.strategy.join(A_WHILE):
                time.sleep(A_WHILE)  # for a strategy that does not say
        job = RequestJob(self._server, request, client_address, self)
        self._active.add(job)
        try:
            self.strategy.spawn(job)
        except BaseException:
            self._active.discard(job)
            raise
        return job

    def end(self, job: RequestJob) -> None:
        """Take note that a request is not under way any more."""
        self._active.discard(job)
        on_room, self.on_room = self.on_room, None
        if on_room is not None:
            on_room()

    def close(self, grace: float | None) -> bool:
        """Wait for what is under way, but for what this very thread has.

        Args:
            grace: seconds until connections are cut, and children terminated; `None` for never.

        Returns:
            Whether that is all; else somebody who closes in another thread waits for this one.
        """
        if not self.strategy.join(threading.TIMEOUT_MAX if grace is None else grace) and grace is not None:
            self._use_force()
        return all(job.thread != threading.get_ident() for job in list(self._active))

    def _use_force(self) -> None:
        others = [job for job in list(self._active) if job.thread != threading.get_ident()]
        if [job for job in others if job.cut()] and self.strategy.join(PATIENCE):
            return
        for force in (False, True):
            if self.strategy.cut(force) and self.strategy.join(PATIENCE):
                return


def check_options(server: Any) -> None:
    """Check the numbers that a server was given, before it serves; its strategy `own_strategy()` checks.

    Raises:
        OptionError: one cannot work.
    """
    for name in ("max_threads", "max_children"):
        most = getattr(server, name, None)
        if most is not None and not (isinstance(most, int | float) and most >= 1):
            raise OptionError(f"{name} of {type(server).__name__} must be a number, at least 1, not {most!r}")
    grace = getattr(server, "grace", None)
    if grace is not None and grace != math.inf and not is_seconds(grace):
        raise OptionError(f"grace of {type(server).__name__} must be {SECONDS}, or None, not {grace!r}")


def runs_beside(server: Any) -> bool:
    """Whether requests are handled beside the loop, and not in it."""
    if server.strategy is None:
        return hasattr(server, "block_on_close")  # which the mix-ins have
    return not IInlineStrategy.providedBy(strategy_of(server))


def own_strategy(server: Any) -> Strategy | None:
    """Return the strategy that a server was given, as an instance of its own, since an instance serves one server.

    Raises:
        OptionError: it is none.
        PluginError: a string names one that is not there.
    """
    given: Any = getattr(server, "strategy", None)
    if given is None:
        return None
    if isinstance(given, str):
        return make_strategy(given)
    if not IStrategy.providedBy(given):
        raise OptionError(f"strategy of {type(server).__name__} must be a strategy or its string, not {given!r}")
    own: Any = given  # which says nothing of attrs
    return cast("Strategy", attrs.evolve(own) if attrs.has(type(own)) else own)


def handle_beside(
    server: Any,
    request: Any,
    client_address: Any,
    default: Callable[[], ManagedStrategy] | None = None,
    most: Callable[[], float] | None = None,
) -> RequestJob | None:
    """Have a request handled beside the loop of its server.

    Args:
        server: whose hooks.
        request: as `get_request()` gave it.
        client_address: likewise.
        default: makes the strategy of a server that was given none.
        most: says how many requests that may have under way.

    Returns:
        The job; `None` if it is over, since the loop is trio's, and this one of its threads.

    Raises:
        Exception: it could not be started; the request is the caller's still.
    """
    workers = workers_of(server)
    if workers is None:
        workers = _make_workers(server, default, most)
    if workers is None:
        finish(server, request, client_address)
        return None
    return workers.spawn(request, client_address)


def _make_workers(
    server: Any, default: Callable[[], ManagedStrategy] | None, most: Callable[[], float] | None
) -> Workers | None:
    loop = vars(server).get(LOOP)
    if loop is None:
        check_options(server)
    strategy = cast("Any", own_strategy(server))
    if strategy is not None and ITrioStrategy.providedBy(strategy):
        if loop is None:
            raise OptionError(
                f"{type(server).__name__} has the loop of the standard library, and {strategy!r} needs a loop of its "
                "own: derive from the servers of plugsocket.compat.socketserver, or run `python -m plugsocket.compat`"
            )
        return None
    if strategy is not None and not IManagedStrategy.providedBy(strategy):
        strategy = Unmanaged(strategy)
    relay = Relay() if loop is None else loop.relay
    if strategy is None:
        assert default is not None, "a server without a strategy has what its class stands for"
        assert most is not None, "which knows how many"
        workers = Workers(server, default(), most, relay)
    else:
        workers = Workers(server, strategy, lambda: float(strategy.capacity), relay)
    setattr(server, ATTRIBUTE, workers)
    return workers


def workers_of(server: Any) -> Workers | None:
    """Return what handles requests of a server beside its loop; `None` while there was no request in this process.

    After a fork, threads and children that were there before are the parent's.
    """
    workers: Workers | None = vars(server).get(ATTRIBUTE)
    return workers if workers is not None and workers.is_here() else None


def strategy_of(server: Any) -> Strategy | None:
    """Return the strategy of a server that handles requests beside its loop; `None` while there was no request."""
    workers = workers_of(server)
    return None if workers is None else workers.strategy


def close_workers(server: Any, *, wait: bool) -> None:
    """Let go of what handles requests beside the loop.

    Args:
        server: whose requests.
        wait: whether to wait for those under way, as long as `grace` of the server has it; else they get a moment, in
            which those end that are about to.
    """
    workers = workers_of(server)
    if workers is None:
        return
    if not wait:
        workers.strategy.join(MOMENT)
    elif workers.close(getattr(server, "grace", None)):
        vars(server).pop(ATTRIBUTE, None)
