"""Unix stream sockets."""

import socket

import attrs

from plugsocket.core.options import integer
from plugsocket.transports.base import DEFAULT_BACKLOG, StreamListener, StreamTransport
from plugsocket.transports.unix import UnixEndpoint


@attrs.frozen
class UnixStream(UnixEndpoint, StreamTransport):
    """Unix stream sockets: `UnixStream("/run/app.sock")`, or `"unix:///run/app.sock"`.

    The socket of a dead server at the path is replaced; a live server's, and a file that is no socket, never. When the
    listener closes, the file is removed if it is still the one that the listener made.

    Attributes:
        backlog: connections that may wait in the kernel's queue, at most net.core.somaxconn (listen(2)).
    """

    backlog: int = attrs.field(default=DEFAULT_BACKLOG, kw_only=True, validator=integer(1, 65_535))

    scheme = "unix"

    def listen(self) -> StreamListener:
        """Bind and listen.

        Returns:
            A listener that the caller owns.

        Raises:
            OSError: the path is taken, not allowed or not there; nothing is left open, nothing was removed.
        """
        return StreamListener(*self.open(socket.SOCK_STREAM, self.backlog))
