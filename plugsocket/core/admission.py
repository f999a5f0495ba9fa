"""Who is let in: the limits on requests under way, the hook that refuses peers, and those who wait for room."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import attrs

from plugsocket.core.endings import is_interrupt
from plugsocket.core.events import (
    ConnectionRejected,
    DatagramDropped,
    HookFailed,
    LimitCleared,
    LimitReached,
)
from plugsocket.core.interfaces import IAsyncRequest
from plugsocket.core.limits import Limits
from plugsocket.core.protocols import AsyncRequest, Request
from plugsocket.core.readiness import wait_readable

if TYPE_CHECKING:
    from plugsocket.core.engine import Endpoint, Engine

CALM = 0.25  # seconds without pressure after which it is told that it is over; else each request might begin a new one

Said = TypeVar("Said")
Verify = Callable[[Request], object]
"""Called with a request before its handler: whether it is to be served."""


@attrs.frozen(eq=False)
class _Waiting:
    endpoint: "Endpoint"
    request: Request
    reason: str
    until: float


@attrs.define(eq=False)
class _Pressure:
    """What was the case when the limit was reached, and since when it is not any more, by the driver's clock."""

    since: float
    rejected: int
    dropped: int
    eased: float = math.inf


class Admission:
    """Decides about each request that was accepted, and about accepting at all, by the limits of one server.

    All of it happens in the serving thread, setting `limits` excepted.

    Args:
        limits: how many requests may be under way.
        verify: a hook that may refuse a request; `None` for none.

    Attributes:
        verify: the hook.
    """

    def __init__(self, limits: Limits, verify: Verify | None) -> None:
        self._limits = limits
        self.verify = verify
        self._waiting: deque[_Waiting] = deque()
        self._pressure: _Pressure | None = None
        self._engine: Engine
        self._most = math.inf
        self._simple = False
        self._strategys = 0

    def open(self, engine: "Engine", capacity: int) -> None:
        """Begin to decide for an engine, whose strategy takes so many requests."""
        self._engine = engine
        self._strategys = capacity
        self._apply()

    @property
    def limits(self) -> Limits:
        """How many requests may be under way; may be set at any time, from any thread."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        if self._strategys:
            self._apply()
            self._engine.control.ring()

    def _apply(self) -> None:
        limits = self._limits
        self._most = min(self._strategys, limits.max_connections or self._strategys)
        self._engine.ledger.count_peers(limits.max_per_peer is not None)
        # What needs no look at each request: the kernel keeps those that are too many.
        self._simple = self.verify is None and limits.max_per_peer is None and not limits.overload.admits(0)

    @property
    def waiting(self) -> int:
        """How many requests were accepted and wait for room."""
        return len(self._waiting)

    def is_open(self) -> bool:
        """Whether a request may be accepted now; if not, the loop is rung when one may."""
        ledger = self._engine.ledger
        if len(ledger.active) < self._most:
            return True
        ledger.wanted = True
        if len(ledger.active) < self._most:  # again: one may have ended before it could know
            return True
        return self._limits.overload.admits(len(self._waiting))

    def admit(self, endpoint: "Endpoint", request: Request) -> bool:
        """Decide about a request that was accepted.

        Returns:
            Whether its handler is to run now; else it was taken care of.
        """
        if self._simple and len(self._engine.ledger.active) < self._most:
            return True
        try:
            return self._decide(endpoint, request)
        except Exception as error:  # noqa: BLE001 - a request or a policy of somebody else's
            self._engine.events.emit(HookFailed("admission", request.peer, error))
            self._close(request)
            return False

    def _decide(self, endpoint: "Endpoint", request: Request) -> bool:
        if not self._is_welcome(request):
            self._turn_away(endpoint, request, "verify", b"")
            return False
        if self._waiting:
            self._call_up(self._engine.clock())  # who waits is first
            if self._engine.routed(endpoint, request):  # to one of the same peer, which just got in
                return False
        reason = self._excess(request)
        if reason is None:
            return True
        if reason == "max_connections":
            self.reach()
        policy = self._limits.overload
        if policy.patience and policy.admits(len(self._waiting)):
            until = self._engine.clock() + policy.patience
            self._waiting.append(_Waiting(endpoint, request, reason, until))
            self._engine.ledger.wanted = True
            self._engine.control.ring()  # for the loop to know how long it may sleep
        else:
            self._turn_away(endpoint, request, reason, self._farewell(request))
        return False

    def _is_welcome(self, request: Request) -> bool:
        verify = self.verify
        return verify is None or self._asked("verify", lambda: bool(verify(request)), request, otherwise=False)

    def _asked(self, hook: str, ask: Callable[[], Said], request: Request, otherwise: Said) -> Said:
        """Ask a function that the server was given; whatever it raises is reported, and decides nothing else."""
        try:
            return ask()
        except BaseException as error:
            if is_interrupt(error):
                request.close()
                raise
            self._engine.events.emit(HookFailed(hook, request.peer, error))
            return otherwise

    def _excess(self, request: Request) -> str | None:
        """Say which limit the request would exceed."""
        ledger = self._engine.ledger
        if len(ledger.active) >= self._most:
            return "max_connections"
        most, peers = self._limits.max_per_peer, ledger.peers
        if most is not None and peers is not None and peers.of(request.origin) >= most:
            return "max_per_peer"
        return None

    def _farewell(self, request: Request) -> bytes:
        policy = self._limits.overload
        return self._asked("farewell", lambda: _checked(policy.farewell(request.peer)), request, otherwise=b"")

    def _turn_away(self, endpoint: "Endpoint", request: Request, reason: str, farewell: bytes) -> None:
        """Close a request without a handler, after a last word if there is one."""
        engine, peer = self._engine, request.peer
        if endpoint.datagrams:
            self.drop(endpoint, request, reason)
            return
        engine.ledger.rejected += 1
        self._say_and_close(request, farewell)
        if ConnectionRejected in engine.events.wanted:
            engine.events.emit(ConnectionRejected(request.id, peer, endpoint.url, reason))

    def drop(self, endpoint: "Endpoint", request: Request, reason: str) -> None:
        """Close a datagram that no handler gets, and count it."""
        events = self._engine.events
        self._engine.ledger.dropped += 1
        self._close(request)
        if DatagramDropped in events.wanted:
            events.emit(DatagramDropped(request.id, request.peer, endpoint.url, reason))

    def _say_and_close(self, request: Request, farewell: bytes) -> None:
        if not farewell:
            self._close(request)
        elif IAsyncRequest.providedBy(request):
            self._ending(request, lambda: cast("AsyncRequest", request).close_after(farewell))
        else:
            _send_at_once(request, farewell)
            self._ending(request, lambda: self._engine.dismiss(request))  # which lingers: words of its own may come

    def _close(self, request: Request) -> None:
        self._ending(request, request.close)

    def _ending(self, request: Request, end: Callable[[], None]) -> None:
        try:
            end()
        except Exception as error:  # noqa: BLE001 - closed behind our back, or a request of somebody else's
            self._engine.events.emit(HookFailed("close", request.peer, error))

    def attend(self, now: float) -> float:
        """Let those in for whom there is room now, turn away those who waited in vain, and tell of the limit.

        Returns:
            When to look again, by the driver's clock; `inf` for when the loop is rung.
        """
        if not self._waiting and self._pressure is None:
            return math.inf
        if self._waiting:
            self._call_up(now)
        due = min((each.until for each in self._waiting), default=math.inf)
        return due if self._pressure is None else min(due, self._ease(self._pressure, now))

    def _call_up(self, now: float) -> None:
        for _ in range(len(self._waiting)):
            each = self._waiting.popleft()
            if self._engine.routed(each.endpoint, each.request):  # to one of the same peer, which waited before it
                continue
            if self._excess(each.request) is None:
                self._engine.start(each.endpoint, each.request)
            elif each.until <= now:
                self._turn_away(each.endpoint, each.request, each.reason, self._farewell(each.request))
            else:
                self._waiting.append(each)
        self._engine.ledger.wanted = True

    @property
    def pressed(self) -> bool:
        """Whether there is no room, and somebody wanted in."""
        return self._pressure is not None

    def reach(self) -> None:
        """Take note that there is no room, and that somebody wants in; tell it once, until it is over."""
        if self._pressure is None:
            ledger = self._engine.ledger
            ledger.wanted = True  # so that the loop is rung when there is room again
            self._pressure = _Pressure(time.monotonic(), ledger.rejected, ledger.dropped + self._engine.lost)
            self._engine.events.emit(LimitReached(int(self._most)))

    def _ease(self, pressure: _Pressure, now: float) -> float:
        """Tell that there is room again, once there was for a while; return when to look again."""
        self._engine.ledger.wanted = True
        full = len(self._engine.ledger.active) >= self._most
        if full or self._engine.stopping or self._engine.paused:
            pressure.eased = math.inf
            return math.inf
        if self._somebody_waits():  # who may belong to a job, and so may end without ringing
            pressure.eased = math.inf
            return now + CALM
        pressure.eased = min(pressure.eased, now)
        if now < pressure.eased + CALM:
            return pressure.eased + CALM
        self._clear(pressure)
        return math.inf

    def _clear(self, pressure: _Pressure) -> None:
        self._pressure = None
        ledger = self._engine.ledger
        rejected = ledger.rejected - pressure.rejected
        dropped = ledger.dropped + self._engine.lost - pressure.dropped
        seconds = max(0.0, time.monotonic() - pressure.since - CALM)
        self._engine.events.emit(LimitCleared(seconds, rejected, dropped))

    def _somebody_waits(self) -> bool:
        descriptors = [endpoint.listener.fileno() for endpoint in self._engine.endpoints]
        # One that is negative was closed this moment, by who stops the server.
        return bool(self._waiting) or any(wait_readable(each, 0) for each in descriptors if each >= 0)

    def close(self) -> None:
        """Turn away those who wait, since the server stops. Idempotent."""
        while self._waiting:
            each = self._waiting.popleft()
            self._turn_away(each.endpoint, each.request, each.reason, self._farewell(each.request))


def _checked(farewell: bytes) -> bytes:
    if not isinstance(farewell, bytes):
        raise TypeError(f"what is sent to those that are too many must be bytes, not {farewell!r}")
    return farewell


def _send_at_once(request: Request, data: bytes) -> None:
    """Send what fits into the send buffer, which is empty."""
    try:
        request.payload.setblocking(False)
        request.payload.send(data)
    except OSError:
        pass  # the peer is gone
