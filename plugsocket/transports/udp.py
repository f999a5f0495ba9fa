"""UDP, over IPv4 and IPv6."""

import socket

import attrs
from zope.interface import implementer

from plugsocket.core.interfaces import IDatagramTransport
from plugsocket.core.options import integer
from plugsocket.transports.base import MAX_DATAGRAM, DatagramListener, bind_to, open_socket
from plugsocket.transports.inet import InetEndpoint


@implementer(IDatagramTransport)
@attrs.frozen
class UDP(InetEndpoint):
    """UDP: `UDP("127.0.0.1", 9999)`, or `"udp://127.0.0.1:9999"`.

    An address is never shared unless `reuse_port` asks for it: under SO_REUSEADDR a second server would take the first
    one's datagrams.

    Attributes:
        max_datagram: bytes kept of a datagram; a longer one arrives cut, with `truncated` set, and is reported.
    """

    max_datagram: int = attrs.field(default=MAX_DATAGRAM, kw_only=True, validator=integer(1, MAX_DATAGRAM))

    scheme = "udp"

    def listen(self) -> DatagramListener:
        """Resolve the host and bind.

        Returns:
            A listener that the caller owns.

        Raises:
            socket.gaierror: the host does not resolve.
            OSError: the address is in use, not allowed or not there; nothing is left open.
        """
        family, address = self.resolve(socket.SOCK_DGRAM)
        options = self.socket_options(family)
        sock = open_socket(family, socket.SOCK_DGRAM, bind_to(address), str(self), options=options)
        return DatagramListener(sock, max_datagram=self.max_datagram)
