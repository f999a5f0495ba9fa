"""What a server reports: frozen records, handed to its subscribers.

Nothing is logged where it happens. `log_events` is the subscriber that logs, attached to every server at first.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import trio

from plugsocket.core.accepting import AcceptAction
from plugsocket.core.addresses import display

logger = logging.getLogger("plugsocket")


@attrs.frozen(eq=False)
class HandlerFailed:
    """A handler raised, or the process that ran it died; the request is over, the server goes on."""

    peer: Any
    error: BaseException

    def __str__(self) -> str:
        return f"handler failed for {display(self.peer)}: {self.error!r}"


@attrs.frozen(eq=False)
class RequestRefused:
    """A request was accepted and closed again, since the strategy could not start it."""

    peer: Any
    error: BaseException

    def __str__(self) -> str:
        return f"could not start the handler for {display(self.peer)}: {self.error!r}"


@attrs.frozen(eq=False)
class DatagramTruncated:
    """A datagram was longer than the transport's `max_datagram`; its handler sees `truncated`."""

    peer: Any
    size: int

    def __str__(self) -> str:
        return f"datagram from {display(self.peer)} was cut to {self.size} bytes"


@attrs.frozen(eq=False)
class AcceptFailed:
    """Accepting began to fail; there is one such event until it works again, not one an attempt."""

    endpoint: str
    error: OSError
    action: AcceptAction

    def __str__(self) -> str:
        return f"accept on {self.endpoint} failed ({self.action.value}): {self.error}"


@attrs.frozen(eq=False)
class AcceptRecovered:
    """Accepting works again."""

    endpoint: str

    def __str__(self) -> str:
        return f"accept on {self.endpoint} works again"


@attrs.frozen(eq=False)
class CloseFailed:
    """A listener could not be closed as it should, such as its socket file not be removed."""

    endpoint: str
    error: Exception

    def __str__(self) -> str:
        return f"closing {self.endpoint}: {self.error}"


@attrs.frozen(eq=False)
class ServerFailed:
    """The server cannot go on; its state is `FAILED`."""

    error: BaseException

    def __str__(self) -> str:
        return f"server failed: {self.error!r}"


def is_disconnection(error: BaseException) -> bool:
    """Whether an error says that the peer is gone, as blocking sockets and as trio's streams say it."""
    return isinstance(error, ConnectionError | trio.BrokenResourceError)


Event: TypeAlias = (
    HandlerFailed | RequestRefused | DatagramTruncated | AcceptFailed | AcceptRecovered | CloseFailed | ServerFailed
)
Subscriber: TypeAlias = Callable[[Event], object]

_LEVELS: dict[type, int] = {
    HandlerFailed: logging.ERROR,
    RequestRefused: logging.ERROR,
    DatagramTruncated: logging.WARNING,
    AcceptFailed: logging.WARNING,
    AcceptRecovered: logging.INFO,
    CloseFailed: logging.WARNING,
    ServerFailed: logging.CRITICAL,
}


def log_events(event: Event) -> None:
    """Log an event with the logger `plugsocket`: one record, its `event` attribute being the event.

    A peer that disconnected is no failure of ours: it is logged at `DEBUG`, without a traceback.
    """
    error = getattr(event, "error", None)
    if isinstance(event, HandlerFailed) and is_disconnection(event.error):
        logger.debug("%s", event, extra={"event": event})
        return
    traceback = error if isinstance(event, HandlerFailed | ServerFailed) else None
    logger.log(_LEVELS[type(event)], "%s", event, exc_info=traceback, extra={"event": event})


class Events:
    """A server's subscribers."""

    def __init__(self) -> None:
        self._subscribers: tuple[Subscriber, ...] = (log_events,)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber(event)` from now on for every event, in the thread or process where it happens."""
        self._subscribers += (subscriber,)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop calling a subscriber; it is a `ValueError` if it was not one."""
        remaining = list(self._subscribers)
        if subscriber not in remaining:
            raise ValueError(f"{subscriber!r} is no subscriber; these are: {self._subscribers}")
        remaining.remove(subscriber)
        self._subscribers = tuple(remaining)

    def emit(self, event: Event) -> None:
        """Tell every subscriber. One that raises is logged; it does not keep the event from the others."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                logger.exception("subscriber %r failed for: %s", subscriber, event)
