"""The close signal, by which handlers see a stop coming: for blocking handlers, and for tasks."""

import socket
from contextlib import suppress

import trio
from zope.interface import implementer

from plugsocket.core.interfaces import IAsyncCloseSignal, ICloseSignal
from plugsocket.core.readiness import wait_readable


@implementer(ICloseSignal)
class CloseSignal:
    """Tells handlers, in whatever thread or child, that the server is stopping.

    Args:
        outer: a socket that becomes readable then; it stays its owner's.

    Attributes:
        marked: whether this process knows that the server is stopping; asking costs no system call.
        remote: whether another process serves, which cannot mark this one's signal.
    """

    def __init__(self, outer: socket.socket) -> None:
        self._outer = outer
        self.marked = False
        self.remote = False

    def is_set(self) -> bool:
        """Return whether the server is stopping; true for good once it was."""
        return self.marked or self.wait(0)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the server stops, for `select`; never read from it."""
        return self._outer.fileno()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the server stops, at most `timeout` seconds; return what `is_set()` would."""
        if not self.marked and self._outer.fileno() >= 0:
            self.marked = wait_readable(self._outer.fileno(), timeout)
        return self.marked


@implementer(IAsyncCloseSignal)
class AsyncCloseSignal:
    """The same for the tasks of one `trio.run`.

    trio lets one task wait for a descriptor, so one does, and the others wait for that one; when it is cancelled,
    another takes its place.

    Args:
        signal: the signal.
        drains: whether a connection ends by it that waits for a request to begin.
    """

    def __init__(self, signal: CloseSignal, *, drains: bool = True) -> None:
        self._signal = signal
        self._drains = drains
        self._watched = False
        self._others = trio.lowlevel.ParkingLot()

    @property
    def marked(self) -> bool:
        """Whether this process knows that the server drains; asking costs no system call."""
        return self._signal.marked and self._drains

    @property
    def remote(self) -> bool:
        """Whether another process serves, which cannot mark this one's signal."""
        return self._signal.remote

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
                # Closed under the waiting task once it was set, by an owner that does not wait for its handlers.
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(self._signal.fileno())
                self._others.unpark_all()
            finally:
                self._watched = False
                self._others.unpark()
