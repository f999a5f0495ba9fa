"""The close signal, by which handlers see a stop coming: for blocking handlers, and for tasks."""

import select
import socket

import trio
from zope.interface import implementer

from plugsocket.core.interfaces import IAsyncCloseSignal, ICloseSignal
from plugsocket.core.protocols import CloseSignal as CloseSignalType


@implementer(ICloseSignal)
class CloseSignal:
    """Tells handlers, in whatever thread or child, that the server is stopping.

    Args:
        outer: a socket that becomes readable then; it stays its owner's.
    """

    def __init__(self, outer: socket.socket) -> None:
        self._outer = outer
        self._set = False

    def mark(self) -> None:
        """Record in this process that the server stops."""
        self._set = True

    def is_set(self) -> bool:
        """Return whether the server is stopping; true for good once it was."""
        return self._set or self.wait(0)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the server stops, for `select`; never read from it."""
        return self._outer.fileno()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the server stops, at most `timeout` seconds; return what `is_set()` would."""
        if not self._set and self._outer.fileno() >= 0:
            self._set = wait_readable(self._outer.fileno(), timeout)
        return self._set


@implementer(IAsyncCloseSignal)
class AsyncCloseSignal:
    """The same for the tasks of one `trio.run`.

    trio lets one task wait for a descriptor, so one does, and the others wait for that one; when it is cancelled,
    another takes its place.

    Args:
        signal: the signal.
    """

    def __init__(self, signal: CloseSignalType) -> None:
        self._signal = signal
        self._watched = False
        self._others = trio.lowlevel.ParkingLot()

    def is_set(self) -> bool:
        """Return whether the server is stopping; true for good once it was."""
        return self._signal.is_set()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the server stops; never read from it."""
        return self._signal.fileno()

    async def wait(self) -> None:
        """Wait until the server stops. A checkpoint, also when it does already."""
        await trio.lowlevel.checkpoint()
        while not self._signal.is_set():
            if self._watched:
                await self._others.park()
                continue
            self._watched = True
            try:
                await trio.lowlevel.wait_readable(self._signal.fileno())
                self._others.unpark_all()
            finally:
                self._watched = False
                self._others.unpark()


def wait_readable(fileno: int, timeout: float | None) -> bool:
    """Block until a descriptor is readable, at most `timeout` seconds; return whether it is."""
    if hasattr(select, "poll"):  # select() itself fails for descriptors above 1023
        poll = select.poll()
        poll.register(fileno, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    return bool(select.select([fileno], [], [], timeout)[0])
