"""The close signal, by which handlers see a stop coming."""

import socket

from zope.interface import implementer

from plugsocket.core.interfaces import ICloseSignal
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
