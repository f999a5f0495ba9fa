"""The engine: the decisions of serving, for drivers of both colours.

It knows the listeners, the limits, what is to be done about errors, and whether to stop. It never waits, so that a
driver in a thread and a driver in a trio task share all of it; what they add is the waiting.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs

from plugsocket.core.accepting import SCARCE, AcceptAction, AcceptPolicy, BackOff
from plugsocket.core.admission import Admission
from plugsocket.core.control import Control
from plugsocket.core.deadlines import Deadlines
from plugsocket.core.events import (
    AcceptFailed,
    AcceptRecovered,
    CloseFailed,
    ConnectionClosed,
    ConnectionOpened,
    DatagramTruncated,
    HandlerFailed,
    HookFailed,
    ListenerClosed,
    RequestRefused,
)
from plugsocket.core.interfaces import IDatagramListener, IRouter, IStreamRequest
from plugsocket.core.job import Job
from plugsocket.core.ledger import Ledger
from plugsocket.core.lingering import Lingering
from plugsocket.core.protocols import (
    AsyncRequest,
    DatagramListener,
    FailurePolicy,
    Listener,
    Request,
    Router,
    Runner,
    StreamRequest,
    View,
    Watcher,
)
from plugsocket.core.reporting import Events

BATCH = 64  # requests taken from one listener before the others, and a stop, get their turn; picked, not measured


@attrs.define(eq=False)
class Endpoint:
    """One listener of a server.

    Attributes:
        listener: the open endpoint.
        view: makes the handler's argument from a request.
        url: how people call it, with the bound address.
        datagrams: whether its requests are single messages.
        awaited: whether a task waits for it, and closes its requests: it is an `IAsyncListener`.
        retried: how many errors that should pass came since the last request, of a listener that is awaited: it says
            one at a time what it has.
        closed: whether the server closed it.
    """

    listener: Listener
    view: View
    url: str
    datagrams: bool
    awaited: bool = False
    retried: int = 0
    back_off: BackOff = attrs.field(factory=BackOff)
    closed: bool = False


@attrs.frozen(eq=False)
class Terms:
    """What a server is told beside its parts.

    Attributes:
        admission: who is let in.
        deadlines: how long the peers of connections may take.
        grace: seconds that requests under way get when a stop says nothing else.
        on_failure: says whether the failure of a handler ends the server.
    """

    admission: Admission
    deadlines: Deadlines
    grace: float
    on_failure: FailurePolicy


class Engine:
    """What drivers drive.

    Args:
        endpoints: the open listeners; the engine closes them.
        runner: says how many requests may run at once, and starts them (through `spawn`).
        call: the handler: called with a view.
        handler_name: what messages call it.
        ledger: the account of requests.
        events: the subscribers.
        terms: what the server was told beside its parts.
        on_drain: called when the driver, or who stops it, begins to drain, with the number of requests under way.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        runner: Runner,
        call: Callable[[Any], Any],
        handler_name: str,
        ledger: Ledger,
        events: Events,
        terms: Terms,
        on_drain: Callable[[int], None],
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.runner = runner
        self.call = call
        self.handler_name = handler_name
        self.ledger = ledger
        self.events = events
        self.admission = terms.admission
        self.grace = terms.grace
        self.control = Control(on_stop=lambda: self.request_stop(terms.grace))
        self.lingering = Lingering(terms.deadlines.linger, self.control.ring)
        self.closing_lock = threading.RLock()  # signal handlers take it too, whatever they interrupt
        self.accepting = threading.RLock()  # held while a request is accepted; signal handlers take it too
        self.paused = False
        self.stopping = False
        self.busy_at_stop = 0
        self.shortest_grace: float | None = None  # of those that were asked for
        self.failure: BaseException | None = None  # of a handler, for which the server ends
        self._deadlines = terms.deadlines if terms.deadlines.limit else None
        self._idle: set[Job] = set()  # when the drain began: who had nothing to lose
        self._given_up: set[Job] = set()
        self._on_failure = terms.on_failure
        self._router = cast("Router", runner) if IRouter.providedBy(runner) else None
        self._on_drain = on_drain
        self._policy = AcceptPolicy()
        self._graces: deque[float] = deque()
        self._deadline = math.inf
        self.clock: Callable[[], float]
        self._spawn: Callable[[Job], object]
        self._watcher: Watcher
        self.admission.open(self, runner.capacity)

    # Accepting

    def begin(self, clock: Callable[[], float], spawn: Callable[[Job], object], watcher: Watcher) -> None:
        """Get ready for a driver.

        Args:
            clock: its clock, in seconds; another driver's may have another zero.
            spawn: starts a job, or raises.
            watcher: its loop.
        """
        self.clock, self._spawn, self._watcher = clock, spawn, watcher
        for endpoint in self.endpoints:
            endpoint.back_off.until = None

    def attend(self) -> float:
        """Do what is due; the driver calls it each time before it waits.

        Returns:
            When something is due again, by the driver's clock; `inf` if nothing is.
        """
        now = self.clock()
        return min(self.admission.attend(now), self.lingering.attend(now, self._watcher))

    def hold_up(self, endpoint: Endpoint) -> float | None:
        """Say how long an endpoint is not to be accepted from.

        Returns:
            `None`: it may be accepted from now; else seconds, or `inf` for "until the loop is rung".
        """
        if self.stopping or self.paused:
            return math.inf
        if self.admission.pressed and self._router is None and not self.admission.is_open():
            return math.inf  # under no pressure, who knocks is still to be noticed
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
            if self.stopping or taken == limit:
                return taken
            if self._router is None and not self.admission.is_open():  # what belongs to a job needs no room
                if not taken:
                    self.admission.reach()
                return taken
            try:
                with self.accepting:
                    if self.paused:
                        return taken
                    request = endpoint.listener.accept()
            except BlockingIOError:
                if failure is not None and endpoint.retried >= BATCH:
                    self._back_off(endpoint, failure, AcceptAction.RETRY)
                return taken
            except OSError as error:
                failure = error
                if not self._survive(endpoint, error):
                    return taken
                endpoint.retried += endpoint.awaited
                continue
            taken += 1
            endpoint.retried = 0
            if endpoint.back_off.failing:
                self._recover(endpoint)
            self._let_in(endpoint, request)
        if not taken and failure is not None:
            self._back_off(endpoint, failure, AcceptAction.RETRY)  # it should have been gone by now
        return taken

    def _let_in(self, endpoint: Endpoint, request: Request) -> None:
        request.id = self.ledger.number()
        if self._router is not None and self.routed(endpoint, request):
            return
        if self.admission.admit(endpoint, request):
            self.start(endpoint, request)

    def start(self, endpoint: Endpoint, request: Request) -> None:
        """Have the handler run for a request that was let in."""
        job = Job(request, endpoint, self)
        self.ledger.open(job)
        if endpoint.datagrams:
            if getattr(request, "truncated", False):
                self._report_truncation(endpoint, request)
        else:
            if IStreamRequest.providedBy(request):
                cast("StreamRequest", request).linger = self.lingering.take
            elif endpoint.awaited:
                cast("AsyncRequest", request).patience = self.lingering.seconds
            if self._deadlines is not None and job.traffic is not None:
                job.traffic.limit(self._deadlines)
            if ConnectionOpened in self.events.wanted:
                self.events.emit(ConnectionOpened(request.id, request.peer, endpoint.url))
        try:
            if self._router is not None:
                self._router.expect(job)
            self._spawn(job)
        except Exception as error:  # noqa: BLE001 - whatever a strategy raises is reported
            self.refuse(job, error)
            if isinstance(error, OSError) and error.errno in SCARCE:  # the next one would fare no better
                endpoint.back_off.rest(self.clock())

    def routed(self, endpoint: Endpoint, request: Request) -> bool:
        """Give a request to the job that it belongs to; return whether there is one."""
        delivered = None if self._router is None else self._router.route(endpoint, request)
        if delivered is None:
            return False
        if getattr(request, "truncated", False):
            self._report_truncation(endpoint, request)
        if delivered:
            request.close()  # the job holds the way back
        else:
            self.admission.drop(endpoint, request, "buffer")
        return True

    def _report_truncation(self, endpoint: Endpoint, request: Request) -> None:
        self.events.emit(DatagramTruncated(request.id, request.peer, endpoint.url, len(request.payload)))

    def refuse(self, job: Job, error: Exception) -> None:
        """Close a request that could not be started, report it, and give its slot back."""
        self.ledger.refused += 1
        self.events.emit(RequestRefused(job.request.id, job.peer, job.endpoint.url, error))
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
            if self.lingering.shed(self._watcher):  # what they hold may be what is wanting
                return True
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

    # The end of a request

    def dismiss(self, request: Request) -> None:
        """Close a request whose handler is done; where the peer may still be sending, not at once."""
        if IStreamRequest.providedBy(request):
            self.lingering.take(cast("StreamRequest", request))
        else:
            request.close()

    def report_end(self, job: Job, failure: BaseException | None) -> None:
        """Count and report that a handler returned, raised or died."""
        request, url = job.request, job.endpoint.url
        if failure is not None:
            self.ledger.count_ending(failure)
            event = HandlerFailed(request.id, request.peer, url, failure, job.seconds)
            self.events.emit(event)
            if not self.stopping:  # else it may have failed for the end that the stop, which was asked for, has it see
                self._abort_for(event)
        if not job.endpoint.datagrams and ConnectionClosed in self.events.wanted:
            received, sent, _ = job.summary()
            self.events.emit(ConnectionClosed(request.id, request.peer, url, received, sent, job.seconds))

    def _abort_for(self, event: HandlerFailed) -> None:
        """Ask for the end if the policy says so."""
        try:
            aborts = self._on_failure.aborts(event)
        except Exception as error:  # noqa: BLE001 - a policy of somebody else's
            self.events.emit(HookFailed("on_failure", event.peer, error))
            return
        if aborts and self.failure is None:
            self.failure = event.error
            self.request_stop(0.0)

    # Stopping

    def request_stop(self, grace: float) -> None:
        """Ask for the end, with so many seconds for requests under way; the shortest grace asked for holds.

        Takes no lock and never waits: signal handlers call it.
        """
        self._graces.append(grace)
        self.shortest_grace = grace if self.shortest_grace is None else min(self.shortest_grace, grace)
        self.stopping = True
        self.control.ring()

    def begin_drain(self) -> None:
        """Close the listeners, tell the handlers, and let idle connections end. Idempotent.

        The driver calls it when it watches no listener any more; while an inline strategy keeps the driver busy, who
        stops the server does.
        """
        self.stopping = True
        self.busy_at_stop = max(self.busy_at_stop, len(self.ledger.active))
        self.close_listeners()
        self._on_drain(self.busy_at_stop)
        self.control.announce_closing()
        self._idle.update(job for job in list(self.ledger.active) if job.end_if_idle())
        if self._router is not None:
            self._idle.update(self._router.end_idle())

    def close_listeners(self) -> None:
        """Close every listener, also when closing another one fails, which is reported. Idempotent."""
        for endpoint in self.endpoints:
            try:
                endpoint.listener.close()
            except Exception as error:  # noqa: BLE001 - whatever a plug-in raises is reported
                self.events.emit(CloseFailed(endpoint.url, error))
            if not endpoint.closed:
                endpoint.closed = True
                self.events.emit(ListenerClosed(endpoint.url))

    def end_drain(self) -> None:
        """Close what lingers; the driver calls it while its loop still is one. Idempotent."""
        self.lingering.close(self._watcher)

    def close(self) -> None:
        """Close the listeners and the way to the loop, for good. Idempotent."""
        self.close_listeners()
        self.admission.close()
        self.lingering.close(None)
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
        """Record the jobs that are still under way as cut, unless they were idle, and return them all."""
        jobs = set(self.ledger.active)
        self._given_up.update(jobs - self._idle)
        return list(jobs)

    @property
    def lost(self) -> int:
        """Datagrams that the kernel dropped for want of room, where it says so."""
        return sum(
            cast("DatagramListener", endpoint.listener).lost
            for endpoint in self.endpoints
            if IDatagramListener.providedBy(endpoint.listener)
        )

    @property
    def cut_peers(self) -> tuple[Any, ...]:
        """The peers of the jobs that were cut, and of those that did not end although they were."""
        return tuple(job.peer for job in self._given_up | self._idle & self.ledger.active)
