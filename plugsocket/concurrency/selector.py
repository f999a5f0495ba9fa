"""The driver of blocking strategies: one loop that waits for listeners, for strategies and for being rung."""

import math
import selectors
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from zope.interface import implementer

from plugsocket.core.engine import Endpoint, Engine
from plugsocket.core.interfaces import IDriver, IManagedStrategy, IWatcher
from plugsocket.core.protocols import BlockingRunner, ManagedStrategy
from plugsocket.core.readiness import LONGEST_WAIT
from plugsocket.core.signals import signals_wake

PATIENCE = 1.0  # seconds that handlers get to notice that they were cut, and children that they were killed


@implementer(IDriver, IWatcher)
class SelectorDriver:
    """A loop over a selector. It sleeps until something happens: no polling, no wake-ups while idle.

    Args:
        strategy: the strategy of the server.
    """

    def __init__(self, strategy: Any) -> None:
        self._managed = cast("ManagedStrategy", strategy) if IManagedStrategy.providedBy(strategy) else None
        self._selector: selectors.BaseSelector | None = None
        self._watched: dict[Endpoint, int] = {}
        self._one = False
        self._taken = 0

    def watch(self, fileno: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable; see `IWatcher`."""
        assert self._selector is not None, "strategies watch between open() and join()"
        self._selector.register(fileno, selectors.EVENT_READ, callback)

    def unwatch(self, fileno: int) -> None:
        """Stop watching a descriptor; see `IWatcher`."""
        if self._selector is not None and fileno in self._selector.get_map():
            self._selector.unregister(fileno)

    def run(self, engine: Engine, started: Callable[[], object], one: float | None) -> None:
        """Serve in this thread; see `IDriver`."""
        self._open(engine)
        self._one, self._taken = one is not None, 0
        with signals_wake(engine.control.closing.fileno()):
            try:
                self._rearrange(engine)
                started()
                self._loop(engine, math.inf if one is None else time.monotonic() + one)
            except BaseException as error:
                engine.request_stop(engine.grace if isinstance(error, Exception) else 0.0)
                raise
            finally:
                if engine.stopping:
                    self.finish(engine)

    def _open(self, engine: Engine) -> None:
        if self._selector is not None:
            return
        engine.begin(time.monotonic, cast("BlockingRunner", engine.runner).spawn, self)
        self._selector = selectors.DefaultSelector()
        self.watch(engine.control.fileno(), engine.control.answer)
        if self._managed is not None:
            self._managed.open(self)

    def _loop(self, engine: Engine, deadline: float) -> None:
        while not engine.stopping and not (self._one and self._taken and not engine.admission.waiting):
            wake_up = min(deadline, self._rearrange(engine))
            self._turn(wake_up)
            if deadline < math.inf and time.monotonic() >= deadline:
                return

    def _turn(self, until: float) -> None:
        """Wait for what is watched, at most until a time of the clock, and do what is to be done about it."""
        assert self._selector is not None, "the loop runs between open and finish"
        left = None if until == math.inf else min(max(0.0, until - time.monotonic()), LONGEST_WAIT)
        for key, _ in self._selector.select(left):
            key.data()

    def _rearrange(self, engine: Engine) -> float:
        """Watch the endpoints that may be accepted from; return when to look again, as a time of the clock."""
        look_again = engine.attend()
        for endpoint in engine.endpoints:
            hold_up = engine.hold_up(endpoint)
            if hold_up is not None and hold_up < math.inf:
                look_again = min(look_again, time.monotonic() + hold_up)
            if hold_up is None and endpoint not in self._watched:
                self._watch_endpoint(engine, endpoint)
            elif hold_up is not None and endpoint in self._watched:
                self.unwatch(self._watched.pop(endpoint))
        return look_again

    def _watch_endpoint(self, engine: Engine, endpoint: Endpoint) -> None:
        descriptor = endpoint.listener.fileno()
        try:
            self.watch(descriptor, partial(self._accept, engine, endpoint))
        except (OSError, ValueError):
            if not engine.stopping:  # else it was closed this moment, by who stops the server
                raise
        else:
            self._watched[endpoint] = descriptor

    def _accept(self, engine: Engine, endpoint: Endpoint) -> None:
        if not self._one:
            engine.accept_batch(endpoint)
        elif not self._taken:
            self._taken = engine.accept_batch(endpoint, 1)

    def finish(self, engine: Engine) -> None:
        """Drain and release everything; see `IDriver`."""
        if self._selector is None:
            engine.begin_drain()
            return
        try:
            while self._watched:
                self.unwatch(self._watched.popitem()[1])
            engine.begin_drain()
            engine.admission.close()
            self._drain(engine)
            if self._managed is not None:
                self._managed.join(0.0 if engine.busy() else PATIENCE)
        finally:  # also when a second Ctrl-C cuts it short
            engine.end_drain()
            self._selector.close()
            self._selector = None

    def _drain(self, engine: Engine) -> None:
        """Let requests under way end; then wake those that wait for their peers; then use force."""
        while engine.busy() and (left := engine.time_left()):
            self._turn(min(time.monotonic() + left, engine.attend()))
        if not engine.busy():
            return
        for job in engine.give_up():
            job.cut()
        self._wait_for_the_cut(engine)
        for force in (False, True):
            if engine.busy() and self._managed is not None and self._managed.cut(force):
                self._wait_for_the_cut(engine)

    def _wait_for_the_cut(self, engine: Engine) -> None:
        deadline = time.monotonic() + PATIENCE
        while engine.busy() and time.monotonic() < deadline:
            self._turn(deadline)
