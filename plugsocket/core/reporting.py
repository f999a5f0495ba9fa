"""Who is told of events: a server's subscribers, and the one that logs.

Nothing is logged where it happens. `log_events` is attached to every server at first, and can be taken off.
"""

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from plugsocket.core.endings import deadline_of, is_disconnection, is_interrupt
from plugsocket.core.events import (
    AcceptFailed,
    AcceptRecovered,
    CloseFailed,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRejected,
    DatagramDropped,
    DatagramTruncated,
    DrainBegan,
    DrainEnded,
    Event,
    HandlerFailed,
    HookFailed,
    LimitCleared,
    LimitReached,
    ListenerClosed,
    ListenerOpened,
    RequestRefused,
    ServerFailed,
    StateChanged,
)

if TYPE_CHECKING:
    import logging

DEBUG, INFO, WARNING, ERROR, CRITICAL = 10, 20, 30, 40, 50  # of `logging`

Subscriber: TypeAlias = Callable[[Any], object]
"""Called with one event; typed for any, so that it may name the kind that it subscribed to."""


_LEVELS: dict[type[Event], int] = {
    StateChanged: DEBUG,
    ListenerOpened: DEBUG,
    ListenerClosed: DEBUG,
    CloseFailed: WARNING,
    AcceptFailed: WARNING,
    AcceptRecovered: INFO,
    LimitReached: INFO,
    LimitCleared: INFO,
    ConnectionOpened: DEBUG,
    ConnectionClosed: DEBUG,
    ConnectionRejected: DEBUG,
    DatagramDropped: DEBUG,
    DatagramTruncated: WARNING,
    RequestRefused: ERROR,
    HandlerFailed: ERROR,
    HookFailed: ERROR,
    DrainBegan: INFO,
    DrainEnded: INFO,
    ServerFailed: CRITICAL,
}
KINDS = frozenset(_LEVELS)
"""Every kind of event."""

FREQUENT = frozenset({ConnectionOpened, ConnectionClosed, ConnectionRejected, DatagramDropped})
"""The kinds that can come with every request, and so cost something for each."""


def logger() -> "logging.Logger":
    """Return the logger `plugsocket`, once there is something to log.

    With the module a process has its hooks, which take a tenth of the time of forking a child.
    """
    import logging  # noqa: PLC0415 - see above

    return logging.getLogger("plugsocket")


def log_events(event: Event) -> None:
    """Log an event with the logger `plugsocket`: one record, its `event` attribute being the event.

    A peer that disconnected is no failure of ours: it is logged at `DEBUG`, without a traceback; one that took too long
    is logged at `INFO`, likewise.
    """
    level = _level(event)
    if level < WARNING and "logging" not in sys.modules:
        return  # as it would have it, which nobody has told otherwise
    fault: BaseException | None = None
    if level >= ERROR and isinstance(event, HandlerFailed | HookFailed | ServerFailed):
        fault = event.error
    logger().log(level, "%s", event, exc_info=fault, extra={"event": event})


def _level(event: Event) -> int:
    if isinstance(event, HandlerFailed) and is_disconnection(event.error):
        return DEBUG
    if isinstance(event, HandlerFailed) and deadline_of(event.error) is not None:
        return INFO
    if isinstance(event, LimitCleared) and (event.rejected or event.dropped):
        return WARNING
    return _LEVELS[type(event)]


class Events:
    """A server's subscribers.

    Attributes:
        wanted: the kinds that somebody wants; the others need not be made.
    """

    def __init__(self) -> None:
        self._subscribers: tuple[tuple[Subscriber, frozenset[type[Event]]], ...] = ()
        self.wanted: frozenset[type[Event]] = frozenset()
        self.subscribe(log_events, *KINDS - FREQUENT)

    def subscribe(self, subscriber: Subscriber, *kinds: type[Event]) -> None:
        """Call `subscriber(event)` from now on for events of these kinds; see `Server.subscribe`."""
        if not callable(subscriber) or inspect.iscoroutinefunction(subscriber):
            raise TypeError(f"a subscriber must be a plain function of an event, not {subscriber!r}")
        for kind in kinds:
            if kind not in KINDS:
                raise TypeError(
                    f"{kind!r} is no kind of event; these are: {', '.join(sorted(k.__name__ for k in KINDS))}"
                )
        self._set((*self._subscribers, (subscriber, frozenset(kinds) or KINDS)))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop calling a subscriber; it is a `ValueError` if it was not one."""
        remaining = tuple(pair for pair in self._subscribers if pair[0] != subscriber)
        if len(remaining) == len(self._subscribers):
            raise ValueError(f"{subscriber!r} is no subscriber; these are: {[each for each, _ in remaining]}")
        self._set(remaining)

    def _set(self, subscribers: tuple[tuple[Subscriber, frozenset[type[Event]]], ...]) -> None:
        self._subscribers = subscribers
        self.wanted = frozenset().union(*(kinds for _, kinds in subscribers))

    def emit(self, event: Event) -> None:
        """Tell every subscriber. One that raises is logged; it keeps the event from nobody else, and ends nothing."""
        kind = type(event)
        for subscriber, kinds in self._subscribers:
            if kind not in kinds:
                continue
            try:
                subscriber(event)
            except BaseException as error:
                if is_interrupt(error):
                    raise
                _log_failure(subscriber, event)


def _log_failure(subscriber: Subscriber, event: Event) -> None:
    try:
        logger().exception("subscriber %r failed for: %s", subscriber, event)
    except BaseException as error:
        if is_interrupt(error):
            raise
        # It is the log itself that fails: nobody is left to tell.
