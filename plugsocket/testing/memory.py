"""A transport without a network: connections inside the process, for every strategy."""

import errno
import os
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

from zope.interface import implementer

from plugsocket.core.interfaces import IListener, IStreamTransport
from plugsocket.core.requests import StreamRequest

if TYPE_CHECKING:
    import trio


@implementer(IListener)
class MemoryListener:
    """Where the connections of a `MemoryTransport` arrive; `MemoryTransport.listen` makes them.

    Args:
        name: what the transport is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        # One end has a byte to read while connections wait, so that there is a descriptor to wait for.
        self._bell, self._rope = socket.socketpair()

    @property
    def address(self) -> str:
        """The name of the transport: there is nothing for `socket.connect`, see `MemoryTransport.connect`."""
        return self._name

    def fileno(self) -> int:
        """Return a descriptor that is readable while a connection waits; -1 once closed."""
        return self._bell.fileno()

    def connect(self) -> socket.socket:
        """Make a connection that waits to be accepted; see `MemoryTransport.connect`."""
        with self._lock:
            if self._bell.fileno() < 0:
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            ours, theirs = socket.socketpair()
            self._waiting.append(theirs)
            if len(self._waiting) == 1:
                self._rope.send(b"c")
            return ours

    def accept(self) -> StreamRequest:
        """Take the next connection; see `IListener`."""
        with self._lock:
            if self._bell.fileno() < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if not self._waiting:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            sock = self._waiting.popleft()
            if not self._waiting:
                self._bell.recv(1)
        return StreamRequest(sock, sock.getpeername(), sock.family)

    def close(self) -> None:
        """Accept no more; clients that wait see end of file. Idempotent."""
        with self._lock:
            self._bell.close()
            self._rope.close()
            while self._waiting:
                self._waiting.popleft().close()


@implementer(IStreamTransport)
class MemoryTransport:
    """Connections inside the process: `Server(transport := MemoryTransport(), handle)`, then `transport.connect()`.

    They are pairs of connected sockets without an address, so every strategy serves them, forked children included. In
    a trio program nothing but the two ends takes time, so that a `trio.testing.MockClock` can jump.

    Args:
        name: stands in messages and URLs, and as the server's address.
    """

    scheme = "memory"

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self._listener: MemoryListener | None = None

    def listen(self) -> MemoryListener:
        """Take connections from now on; the caller owns the listener.

        Raises:
            OSError: it listens already (`EADDRINUSE`).
        """
        if self._listener is not None and self._listener.fileno() >= 0:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {self!r}: {os.strerror(errno.EADDRINUSE)}")
        self._listener = MemoryListener(self.name)
        return self._listener

    def connect(self) -> socket.socket:
        """Connect to the server, in any thread. Never waits.

        Returns:
            A socket that blocks; the caller owns it.

        Raises:
            ConnectionRefusedError: nobody listens, or nobody does any more.
        """
        if self._listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return self._listener.connect()

    def open_stream(self) -> "trio.SocketStream":
        """Connect to the server, inside a trio program. Never waits.

        Returns:
            A stream; the caller owns it.

        Raises:
            ConnectionRefusedError: nobody listens.
        """
        import trio  # noqa: PLC0415 - which this program has done

        return trio.SocketStream(trio.socket.from_stdlib_socket(self.connect()))

    def __repr__(self) -> str:
        return f"MemoryTransport({self.name!r})"
