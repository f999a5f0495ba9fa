"""What a server reports: frozen records, one class for each kind of thing that happens."""

import time
from typing import Any

import attrs

from plugsocket.core.accepting import AcceptAction
from plugsocket.core.addresses import display
from plugsocket.core.lifecycle import State
from plugsocket.core.report import StopReport


@attrs.frozen(eq=False, kw_only=True)
class Event:
    """What all events have.

    Attributes:
        at: when it happened, in nanoseconds of `time.monotonic_ns`.
    """

    at: int = attrs.field(factory=time.monotonic_ns)


@attrs.frozen(eq=False)
class StateChanged(Event):
    """The server moved from one state of its life to another."""

    before: State
    state: State

    def __str__(self) -> str:
        return f"server was {self.before.name}, is {self.state.name}"


@attrs.frozen(eq=False)
class ListenerOpened(Event):
    """An endpoint was opened; `endpoint` has the address that is bound."""

    endpoint: str

    def __str__(self) -> str:
        return f"listening on {self.endpoint}"


@attrs.frozen(eq=False)
class ListenerClosed(Event):
    """An endpoint was closed; nobody can connect there any more."""

    endpoint: str

    def __str__(self) -> str:
        return f"not listening on {self.endpoint} any more"


@attrs.frozen(eq=False)
class CloseFailed(Event):
    """A listener could not be closed as it should, such as its socket file not be removed."""

    endpoint: str
    error: Exception

    def __str__(self) -> str:
        return f"closing {self.endpoint}: {self.error}"


@attrs.frozen(eq=False)
class AcceptFailed(Event):
    """Accepting began to fail; there is one such event until it works again, not one an attempt."""

    endpoint: str
    error: OSError
    action: AcceptAction

    def __str__(self) -> str:
        return f"accept on {self.endpoint} failed ({self.action.value}): {self.error}"


@attrs.frozen(eq=False)
class AcceptRecovered(Event):
    """Accepting works again."""

    endpoint: str

    def __str__(self) -> str:
        return f"accept on {self.endpoint} works again"


@attrs.frozen(eq=False)
class LimitReached(Event):
    """As many requests are under way as may be, and somebody waits or was turned away.

    Attributes:
        limit: how many.
    """

    limit: int

    def __str__(self) -> str:
        return f"limit reached (requests under way: {self.limit}), and more come"


@attrs.frozen(eq=False)
class LimitCleared(Event):
    """There is room again, and nobody waits.

    Attributes:
        seconds: for how long there was none.
        rejected: how many connections were rejected meanwhile.
        dropped: how many datagrams were dropped meanwhile, by the server, and by the kernel where it says so.
    """

    seconds: float
    rejected: int
    dropped: int

    def __str__(self) -> str:
        lost = f"; rejected: {self.rejected}, dropped: {self.dropped}"
        return f"room again after {self.seconds:.3f} s at the limit{lost if self.rejected or self.dropped else ''}"


@attrs.frozen(eq=False)
class RequestEvent(Event):
    """What the events about one request have.

    Attributes:
        id: the number of the request, counted from 1 by its server; handlers see it as `connection.id`.
        peer: the address of who sent it.
        endpoint: where it came in.
    """

    id: int
    peer: Any
    endpoint: str


@attrs.frozen(eq=False)
class ConnectionOpened(RequestEvent):
    """A connection was accepted, and its handler is about to run."""

    def __str__(self) -> str:
        return f"connection {self.id} from {display(self.peer)} on {self.endpoint}"


@attrs.frozen(eq=False)
class ConnectionClosed(RequestEvent):
    """A connection's handler is over, well or not.

    Attributes:
        received: bytes that the handler took from the peer.
        sent: bytes that it gave to the peer. What it reads and writes past its connection object, such as through a
            descriptor, is not seen.
        seconds: from accepting to the end of the handler.
    """

    received: int
    sent: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"connection {self.id} from {display(self.peer)} closed after {self.seconds:.3f} s; "
            f"received {self.received} bytes, sent {self.sent}"
        )


@attrs.frozen(eq=False)
class ConnectionRejected(RequestEvent):
    """A connection was accepted and closed without a handler, as the limits or the `verify` hook would have it.

    Attributes:
        reason: `"max_connections"`, `"max_per_peer"` or `"verify"`.
    """

    reason: str

    def __str__(self) -> str:
        return f"connection {self.id} from {display(self.peer)} rejected ({self.reason})"


@attrs.frozen(eq=False)
class DatagramDropped(RequestEvent):
    """A datagram was received and dropped without a handler.

    Attributes:
        reason: as for `ConnectionRejected`; or, in a conversation, `"buffer"`: too many wait for its handler, or
            `"unread"`: the handler ended first.
    """

    reason: str

    def __str__(self) -> str:
        return f"datagram {self.id} from {display(self.peer)} dropped ({self.reason})"


@attrs.frozen(eq=False)
class DatagramTruncated(RequestEvent):
    """A datagram was longer than the transport's `max_datagram`; its handler sees `truncated`."""

    size: int

    def __str__(self) -> str:
        return f"datagram from {display(self.peer)} was cut to {self.size} bytes"


@attrs.frozen(eq=False)
class RequestRefused(RequestEvent):
    """A request was accepted and closed again, since the strategy could not start it."""

    error: BaseException

    def __str__(self) -> str:
        return f"could not start the handler for {display(self.peer)}: {self.error!r}"


@attrs.frozen(eq=False)
class HandlerFailed(RequestEvent):
    """A handler raised, or the process that ran it died; the request is over, the server goes on.

    Attributes:
        seconds: from accepting to the failure.
    """

    error: BaseException
    seconds: float

    def __str__(self) -> str:
        return f"handler failed for {display(self.peer)} on {self.endpoint} after {self.seconds:.3f} s: {self.error!r}"


@attrs.frozen(eq=False)
class HookFailed(Event):
    """A function that the server was given, and that is no handler, raised; the server goes on.

    Attributes:
        hook: which one, such as `verify`.
        peer: the address of the request that it was about.
    """

    hook: str
    peer: Any
    error: BaseException

    def __str__(self) -> str:
        return f"{self.hook} failed for {display(self.peer)}: {self.error!r}"


@attrs.frozen(eq=False)
class DrainBegan(Event):
    """The server is stopping: it has closed its listeners, and waits for the requests that are under way.

    Attributes:
        busy: how many they are.
        grace: seconds that they get, unless another stop says less.
    """

    busy: int
    grace: float

    def __str__(self) -> str:
        return f"stopping; requests under way: {self.busy}, which get {self.grace:g} s"


@attrs.frozen(eq=False)
class DrainEnded(Event):
    """The stop is over.

    Attributes:
        report: how it went.
    """

    report: StopReport

    def __str__(self) -> str:
        return (
            f"stopped after {self.report.seconds:.3f} s; "
            f"requests completed: {self.report.completed}, cut: {len(self.report.cut)}"
        )


@attrs.frozen(eq=False)
class ServerFailed(Event):
    """The server cannot go on; its state is `FAILED`."""

    error: BaseException

    def __str__(self) -> str:
        return f"server failed: {self.error!r}"
