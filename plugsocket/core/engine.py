"""The engine: the decisions of serving, for drivers of both colours.

It knows the listeners, the limit, what is to be done about errors, and whether to stop. It never waits, so that a
driver in a thread and a driver in a trio task share all of it; what they add is the waiting.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from plugsocket.core.accepting import AcceptAction, AcceptPolicy, BackOff
from plugsocket.core.control import Control
from plugsocket.core.events import (
    AcceptFailed,
    AcceptRecovered,
    CloseFailed,
    DatagramTruncated,
    Events,
    HandlerFailed,
    RequestRefused,
)
from plugsocket.core.job import Job
from plugsocket.core.ledger import Ledger
from plugsocket.core.protocols import Listener, Request, Runner, View

BATCH = 64  # requests taken from one listener before the others, and a stop, get their turn; picked, not measured


@attrs.define(eq=False)
class Endpoint:
    """One listener of a server.

    Attributes:
        listener: the open endpoint.
        view: makes the handler's argument from a request.
        url: how people call it, with the bound address.
        datagrams: whether its requests are single messages.
    """

    listener: Listener
    view: View
    url: str
    datagrams: bool
    back_off: BackOff = attrs.field(factory=BackOff)


@attrs.frozen
class StopReport:
    """How a stop went.

    Attributes:
        completed: how many of the requests that were under way ended by themselves.
        cut: the peers of those that did not, whose handlers were ended.
        seconds: how long it took.
        finished: whether the server is closed; not yet, if the stop came from a handler or a signal handler, which it
            does not block.
    """

    completed: int
    cut: tuple[Any, ...]
    seconds: float
    finished: bool = True


class Engine:
    """What drivers drive.

    Args:
        endpoints: the open listeners; the engine closes them.
        runner: says how many requests may run at once, and starts them (through `spawn`).
        call: the handler: called with a view.
        handler_name: what messages call it.
        ledger: the account of requests.
        events: the subscribers.
        grace: seconds that requests under way get when a stop says nothing else.
        on_drain: called when the driver, or who stops it, begins to drain.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        runner: Runner,
        call: Callable[[Any], Any],
        handler_name: str,
        ledger: Ledger,
        events: Events,
        grace: float,
        on_drain: Callable[[], None],
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.runner = runner
        self.call = call
        self.handler_name = handler_name
        self.ledger = ledger
        self.events = events
        self.capacity = runner.capacity
        self.grace = grace
        self.control = Control(on_stop=lambda: self.request_stop(grace))
        self.closing_lock = threading.Lock()
        self.paused = False
        self.stopping = False
        self._given_up: set[Job] = set()
        self.busy_at_stop = 0
        self._on_drain = on_drain
        self._policy = AcceptPolicy()
        self._graces: deque[float] = deque()
        self._deadline = math.inf
        self.clock: Callable[[], float]
        self._spawn: Callable[[Job], object]

    # Accepting

    def begin(self, clock: Callable[[], float], spawn: Callable[[Job], object]) -> None:
        """Get ready for a driver.

        Args:
            clock: its clock, in seconds; another driver's may have another zero.
            spawn: starts a job, or raises.
        """
        self.clock, self._spawn = clock, spawn
        for endpoint in self.endpoints:
            endpoint.back_off.until = None

    def hold_up(self, endpoint: Endpoint) -> float | None:
        """Say how long an endpoint is not to be accepted from.

        Returns:
            `None`: it may be accepted from now; else seconds, or `inf` for "until the loop is rung".
        """
        if self.stopping or self.paused or self._full():
            return math.inf
        if endpoint.back_off.until is None:
            return None
        left = endpoint.back_off.until - self.clock()
        return left if left > 0 else None

    def accept_batch(self, endpoint: Endpoint, limit: int = BATCH) -> int:
        """Take what waits at an endpoint and start its jobs, until nothing waits or something forbids more.

        Args:
            endpoint: one whose descriptor is readable.
            limit: at most so many.

        Returns:
            How many requests were taken.

        Raises:
            OSError: the listener can give nothing any more.
        """
        taken = 0
        failure: OSError | None = None
        for _ in range(BATCH):
            if self.stopping or self.paused or taken == limit or self._full():
                return taken
            try:
                request = endpoint.listener.accept()
            except BlockingIOError:
                return taken
            except OSError as error:
                failure = error
                if not self._survive(endpoint, error):
                    return taken
                continue
            taken += 1
            if endpoint.back_off.failing:
                self._recover(endpoint)
            self._start(endpoint, request)
        if not taken and failure is not None:
            self._back_off(endpoint, failure, AcceptAction.RETRY)  # it should have been gone by now
        return taken

    def _full(self) -> bool:
        ledger = self.ledger
        if len(ledger.active) < self.capacity:
            return False
        ledger.wanted = True
        return len(ledger.active) >= self.capacity  # again: one may have ended before it could know

    def _start(self, endpoint: Endpoint, request: Request) -> None:
        job = Job(request, endpoint.view, self)
        self.ledger.open(job)
        if endpoint.datagrams and getattr(request, "truncated", False):
            self.events.emit(DatagramTruncated(request.peer, len(request.payload)))
        try:
            self._spawn(job)
        except Exception as error:  # noqa: BLE001 - whatever a strategy raises is reported
            self.refuse(job, error)

    def refuse(self, job: Job, error: Exception) -> None:
        """Close a request that could not be started, report it, and give its slot back."""
        self.ledger.count_refusal()
        self.events.emit(RequestRefused(job.peer, error))
        job.finish()

    def _survive(self, endpoint: Endpoint, error: OSError) -> bool:
        """Decide about an error of accept: whether to try again at once; one that is fatal is raised."""
        if self.stopping:
            return False
        self.ledger.accept_errors += 1
        action = self._policy.classify(error)
        if action is AcceptAction.FATAL:
            self.events.emit(AcceptFailed(endpoint.url, error, action))
            raise error
        if action is AcceptAction.BACK_OFF:
            self._back_off(endpoint, error, action)
        return action is AcceptAction.RETRY

    def _back_off(self, endpoint: Endpoint, error: OSError, action: AcceptAction) -> None:
        """Leave the endpoint alone for a while; report it if it is the first time."""
        if not endpoint.back_off.failing:
            self.events.emit(AcceptFailed(endpoint.url, error, action))
        endpoint.back_off.fail(self.clock())

    def _recover(self, endpoint: Endpoint) -> None:
        endpoint.back_off.recover()
        self.events.emit(AcceptRecovered(endpoint.url))

    def report_failure(self, job: Job, error: BaseException) -> None:
        """Count and report a handler that raised or died."""
        self.ledger.count_failure()
        self.events.emit(HandlerFailed(job.peer, error))

    # Stopping

    def request_stop(self, grace: float) -> None:
        """Ask for the end, with so many seconds for requests under way; the shortest grace asked for holds.

        Takes no lock and never waits: signal handlers call it.
        """
        self._graces.append(grace)
        self.stopping = True
        self.control.ring()

    def begin_drain(self) -> None:
        """Close the listeners and tell the handlers. Idempotent.

        The driver calls it when it watches no listener any more; while an inline strategy keeps the driver busy, who
        stops the server does.
        """
        self.stopping = True
        self._on_drain()
        self.busy_at_stop = max(self.busy_at_stop, len(self.ledger.active))
        self.close_listeners()
        self.control.announce_closing()

    def close_listeners(self) -> None:
        """Close every listener, also when closing another one fails, which is reported. Idempotent."""
        for endpoint in self.endpoints:
            try:
                endpoint.listener.close()
            except Exception as error:  # noqa: BLE001 - whatever a plug-in raises is reported
                self.events.emit(CloseFailed(endpoint.url, error))

    def close(self) -> None:
        """Close the listeners and the way to the loop, for good. Idempotent."""
        self.close_listeners()
        self.control.announce_closing()
        self.control.close()

    def time_left(self) -> float:
        """Seconds until the grace is over, by the driver's clock."""
        now = self.clock()
        while self._graces:
            self._deadline = min(self._deadline, now + self._graces.popleft())
        return max(0.0, self._deadline - now)

    def busy(self) -> bool:
        """Whether requests are under way; when one ends, the loop is rung."""
        self.ledger.wanted = True
        return bool(self.ledger.active)

    def give_up(self) -> list[Job]:
        """Record the jobs that are still under way as cut, and return them."""
        jobs = list(self.ledger.active)
        self._given_up.update(jobs)
        return jobs

    @property
    def cut_peers(self) -> tuple[Any, ...]:
        """The peers of the jobs that were cut."""
        return tuple(job.peer for job in self._given_up)
