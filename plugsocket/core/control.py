"""How anybody reaches a server's loop, and how the server reaches every handler: one pair of connected sockets.

The *inner* end belongs to the loop, which waits for it to become readable. The *outer* end is everybody's: writing
to it wakes the loop, from any thread, signal handler or forked child; and when the server stops it turns readable,
in every process that has it, since the inner end is shut down then, or gone with its process. A socket pair and no
pipe, since `select` takes nothing but sockets on Windows.
"""

import os
import socket
from collections.abc import Callable

from plugsocket.core.closing import CloseSignal

WAKE = b"w"
STOP = b"s"


class Control:
    """The pair of sockets between a server's loop and everybody else.

    Args:
        on_stop: called in the loop when a forked child asked for the server to stop.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._inner, self._outer = socket.socketpair()
        self._inner.setblocking(False)
        self._outer.setblocking(False)
        self._on_stop = on_stop
        self._pid = os.getpid()
        self.closing = CloseSignal(self._outer)

    def fileno(self) -> int:
        """Return the descriptor that the loop waits on; -1 once closed."""
        return self._inner.fileno()

    def ring(self, what: bytes = WAKE) -> None:
        """Wake the loop. Callable from anywhere, never blocks, no matter whether the server still lives."""
        try:
            self._outer.send(what)
        except OSError:
            pass  # full: the loop is about to wake anyway; closed: there is no loop to wake

    def answer(self) -> None:
        """Take in what was rung; the loop calls it when its end is readable."""
        try:
            rung = self._inner.recv(4096)
        except BlockingIOError:
            return
        if STOP in rung:
            self._on_stop()

    def announce_closing(self) -> None:
        """Set the close signal, here and in every child. Idempotent."""
        self.closing.marked = True
        try:
            self._inner.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already, and so announced

    def enter_child(self) -> None:
        """Take note that this process is a forked child of the one that serves."""
        self.closing.remote = True

    def in_child(self) -> bool:
        """Return whether this process is a forked child of the one that serves."""
        return os.getpid() != self._pid

    def close(self) -> None:
        """Close both ends; the signal stays as it is. Idempotent."""
        self._inner.close()
        self._outer.close()
