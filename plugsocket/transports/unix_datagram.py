"""Unix datagram sockets."""

import socket

import attrs

from plugsocket.core.options import integer
from plugsocket.transports.base import MAX_DATAGRAM, DatagramListener, DatagramTransport
from plugsocket.transports.unix import UnixEndpoint


@attrs.frozen
class UnixDatagram(UnixEndpoint, DatagramTransport):
    """Unix datagram sockets: `UnixDatagram("/run/log.sock")`, or `"unixgram:///run/log.sock"`.

    Files are replaced and removed as `UnixStream` does it. A client that did not bind its socket has no address, and
    cannot be answered.

    Attributes:
        max_datagram: bytes kept of a datagram; a longer one arrives cut, with `truncated` set, and is reported. The
            system allows longer ones than UDP has (net.core.wmem_max, socket(7)).
    """

    max_datagram: int = attrs.field(default=MAX_DATAGRAM, kw_only=True, validator=integer(1, 16 * 1024 * 1024))

    scheme = "unixgram"

    def listen(self) -> DatagramListener:
        """Bind.

        Returns:
            A listener that the caller owns.

        Raises:
            OSError: the path is taken, not allowed or not there; nothing is left open, nothing was removed.
        """
        sock, on_close = self.open(socket.SOCK_DGRAM, None)
        return DatagramListener(sock, on_close, max_datagram=self.max_datagram)
