"""The close signal, as the tasks of a trio program see it."""

from contextlib import suppress

import trio
from zope.interface import implementer

from plugsocket.core.closing import CloseSignal
from plugsocket.core.interfaces import IAsyncCloseSignal


@implementer(IAsyncCloseSignal)
class AsyncCloseSignal:
    """The close signal for the tasks of one `trio.run`.

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
