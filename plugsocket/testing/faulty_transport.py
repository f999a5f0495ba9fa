"""A transport whose listener fails to accept, as it is told to."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from zope.interface import directlyProvides, implementer, providedBy

from plugsocket.core.interfaces import IListener, ITransport
from plugsocket.core.options import wrong
from plugsocket.core.protocols import Listener, Transport
from plugsocket.core.specs import transport as make_transport
from plugsocket.testing.checks import os_error


@implementer(IListener)
class FaultyListener:
    """A listener that raises what it is told to before it accepts; `FaultyTransport` makes them.

    Args:
        listener: what it passes everything else on to; it owns that.
        faults: what `accept()` raises, one a call; `None` lets one request through.

    Attributes:
        attempts: when `accept()` was called, in seconds of `time.monotonic`, those calls that worked included.
    """

    def __init__(self, listener: Listener, faults: Iterable[OSError | None]) -> None:
        self._listener = listener
        self._faults = deque(faults)
        self.attempts: list[float] = []

    @property
    def address(self) -> Any:
        """The other listener's."""
        return self._listener.address

    def fileno(self) -> int:
        """Return the other listener's descriptor; it says whether clients wait, whatever is left to be raised."""
        return self._listener.fileno()

    def accept(self) -> Any:
        """Raise what comes next, or take the next request; see `IListener`."""
        self.attempts.append(time.monotonic())
        fault = self._faults[0] if self._faults else None
        if fault is not None:
            self._faults.popleft()
            raise fault
        request = self._listener.accept()
        if self._faults:  # the None is used up now, and not by an attempt for which nobody was there
            self._faults.popleft()
        return request

    def close(self) -> None:
        """Close the other listener. Idempotent."""
        self._listener.close()


class FaultyTransport:
    """Another transport, whose listeners first fail to accept: `FaultyTransport(TCP("127.0.0.1", 0), [errno.EMFILE])`.

    It is of the same kind as the other one, so that it goes with the same handlers and strategies. Each listener goes
    through the whole list once; then it works. Since servers try to accept when the descriptor is readable, an error
    comes when a client knocks, and the next ones as long as that client waits: to have a server meet them all, connect.

    Args:
        transport: the other transport, or its string.
        errors: what accepting fails with, in this order: error numbers, such as `errno.ECONNABORTED`, or instances of
            `OSError`; `None` lets one request through.

    Attributes:
        transport: the other transport.
        errors: what each listener raises.
        listeners: those that `listen()` gave, which their callers own.

    Raises:
        OptionError: one of the two cannot work.
    """

    def __init__(self, transport: str | Transport, errors: Iterable[int | OSError | None] = ()) -> None:
        self.transport = make_transport(transport)
        if not ITransport.providedBy(self.transport):
            raise wrong(self, "transport", transport, "a transport or its string")
        if not isinstance(errors, Iterable):
            raise wrong(self, "errors", errors, "a list of error numbers, of OSErrors and of None")
        self.errors = tuple(_fault(error) for error in errors)
        self.listeners: list[FaultyListener] = []
        directlyProvides(self, providedBy(self.transport))

    @property
    def scheme(self) -> str:
        """The other transport's."""
        return self.transport.scheme

    @property
    def attempts(self) -> list[float]:
        """When `accept()` was called, in seconds of `time.monotonic`: of all listeners, one after the other."""
        return [attempt for listener in self.listeners for attempt in listener.attempts]

    def listen(self) -> FaultyListener:
        """Have the other transport listen; see `ITransport`."""
        listener = FaultyListener(self.transport.listen(), self.errors)
        self.listeners.append(listener)
        return listener

    def __repr__(self) -> str:
        return f"FaultyTransport({self.transport!r}, {list(self.errors)!r})"


def _fault(error: Any) -> OSError | None:
    return error if error is None or isinstance(error, OSError) else os_error("each of errors", error)
