"""Unix stream sockets."""

import socket

import attrs
from zope.interface import implementer

from plugsocket.core.interfaces import IStreamTransport
from plugsocket.core.options import integer
from plugsocket.transports.base import DEFAULT_BACKLOG, StreamListener
from plugsocket.transports.unix import UnixEndpoint


@implementer(IStreamTransport)
@attrs.frozen
class UnixStream(UnixEndpoint):
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
