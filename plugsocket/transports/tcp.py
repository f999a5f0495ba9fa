"""TCP, over IPv4 and IPv6."""

import socket
import sys

import attrs

from plugsocket.core.options import flag, integer
from plugsocket.transports.base import (
    DEFAULT_BACKLOG,
    SocketOption,
    StreamListener,
    StreamTransport,
    bind_to,
    open_socket,
)
from plugsocket.transports.inet import InetEndpoint


@attrs.frozen
class TCP(InetEndpoint, StreamTransport):
    """TCP: `TCP("127.0.0.1", 9999)`, or `"tcp://127.0.0.1:9999"`.

    A port in TIME_WAIT can be bound again at once, one that another server listens on cannot: SO_REUSEADDR does that on
    POSIX (socket(7)), SO_EXCLUSIVEADDRUSE on Windows, where SO_REUSEADDR would let two servers share the port.

    Attributes:
        backlog: connections that may wait in the kernel's queue, of which it keeps at most net.core.somaxconn
            (listen(2)); not a limit on connections that are served.
        nodelay: send small segments at once (TCP_NODELAY, tcp(7)).
        keepalive: notice peers that vanished (SO_KEEPALIVE, socket(7)).
        keepalive_idle: seconds of silence before the first probe (TCP_KEEPIDLE, tcp(7)); `None` leaves the system's.
    """

    backlog: int = attrs.field(default=DEFAULT_BACKLOG, kw_only=True, validator=integer(1, 65_535))
    nodelay: bool = attrs.field(default=True, kw_only=True, validator=flag)
    keepalive: bool = attrs.field(default=True, kw_only=True, validator=flag)
    keepalive_idle: int | None = attrs.field(default=None, kw_only=True, validator=integer(1, 32_767, optional=True))

    scheme = "tcp"

    def listen(self) -> StreamListener:
        """Resolve the host, bind, and listen.

        Returns:
            A listener that the caller owns.

        Raises:
            socket.gaierror: the host does not resolve.
            OSError: the address is in use, not allowed or not there; nothing is left open.
        """
        family, address = self.resolve(socket.SOCK_STREAM)
        options = [*self.socket_options(family), *self._tcp_options()]
        return StreamListener(
            open_socket(family, socket.SOCK_STREAM, bind_to(address), str(self), options=options, backlog=self.backlog)
        )

    def _tcp_options(self) -> list[SocketOption]:
        """Set on the listening socket, connections inherit them, which spares system calls for each."""
        if sys.platform == "win32":
            reuse = socket.SO_EXCLUSIVEADDRUSE
        else:
            reuse = socket.SO_REUSEADDR
        options: list[SocketOption] = [
            (socket.SOL_SOCKET, reuse, 1),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, int(self.nodelay)),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(self.keepalive)),
        ]
        if self.keepalive_idle is not None:
            # macOS has it as TCP_KEEPALIVE, 0x10 (tcp(4)).
            name: int = getattr(socket, "TCP_KEEPIDLE", 0x10)
            options.append((socket.IPPROTO_TCP, name, self.keepalive_idle))
        return options
