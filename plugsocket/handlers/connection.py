"""A connection as a blocking handler sees it."""

import socket
import time
from typing import TYPE_CHECKING, Any

from plugsocket.core.closing import CloseSignal
from plugsocket.core.requests import StreamRequest
from plugsocket.handlers.blocking_socket import ConnectionSocket
from plugsocket.handlers.view import RequestView

if TYPE_CHECKING:
    from plugsocket.handlers.stream import AsyncConnection


class Connection(RequestView[StreamRequest]):
    """A connected peer. The server closes it when the handler returns or raises.

    Attributes:
        socket: the connected socket, in blocking mode; the server owns it.
        closing: tells that the server is stopping, so that a handler can come to an end by itself.
    """

    __slots__ = ("closing", "socket")

    def __init__(self, request: StreamRequest, closing: CloseSignal) -> None:
        super().__init__(request)
        self.closing = closing
        self.socket: socket.socket = ConnectionSocket.of(request, closing)

    def recv(self, size: int) -> bytes:
        """Wait for bytes; return at most `size` of them, or `b""` at end of file."""
        return self.socket.recv(size)

    def recv_exactly(self, size: int) -> bytes:
        """Wait for exactly `size` bytes.

        Raises:
            EOFError: the peer ended before that; the message says how many came.
        """
        buffer = bytearray()
        while len(buffer) < size:
            chunk = self.socket.recv(size - len(buffer))
            if not chunk:
                raise EOFError(f"the peer ended after {len(buffer)} of {size} bytes")
            buffer += chunk
        return bytes(buffer)

    def sendall(self, data: Any) -> None:
        """Send every byte of a bytes-like object; after an exception nobody knows how many were sent."""
        self.socket.sendall(data)

    def send_eof(self) -> None:
        """Send end of file; receiving goes on."""
        self.socket.shutdown(socket.SHUT_WR)

    def makefile(
        self,
        mode: str = "rwb",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Return a file object of the connection, as `socket.makefile` does; the caller closes it."""
        make: Any = self.socket.makefile  # typed for modes that are literals
        return make(mode, buffering, encoding=encoding, errors=errors, newline=newline)

    def settimeout(self, seconds: float | None) -> None:
        """Set how long each of these calls may wait, as `socket.settimeout` does."""
        self.socket.settimeout(seconds)

    def expire_in(self, seconds: float | None) -> None:
        """Set when the request is over, from now, in place of `Deadlines.request`; `None` for never.

        For a handler that serves one request after the other on a connection. Operations that would go on beyond it
        raise `DeadlineError`.
        """
        self._request.traffic.expire_in(seconds, time.monotonic)

    def fileno(self) -> int:
        """Return the socket's descriptor, for `select`."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the connection before the handler ends. Idempotent."""
        self._request.end()

    def to_async(self) -> "AsyncConnection":
        """Return the same connection as a trio stream; this object is of no use from then on."""
        # Whoever wants it has imported trio.
        from plugsocket.core.trio_closing import AsyncCloseSignal  # noqa: PLC0415
        from plugsocket.handlers.stream import AsyncConnection  # noqa: PLC0415

        return AsyncConnection(self._request, AsyncCloseSignal(self.closing))

    def __repr__(self) -> str:
        return f"<Connection from {self.peer}>"
