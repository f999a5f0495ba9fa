"""UDP, over IPv4 and IPv6."""

import socket
import struct
import sys
from collections.abc import Collection

import attrs

from plugsocket.core.options import integer
from plugsocket.core.requests import AncillaryData
from plugsocket.transports.base import (
    MAX_DATAGRAM,
    DatagramListener,
    DatagramTransport,
    SocketOption,
    bind_to,
    open_socket,
)
from plugsocket.transports.inet import InetEndpoint


@attrs.frozen
class UDP(InetEndpoint, DatagramTransport):
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
        tell = _tell_destination(family) if address[0] in WILDCARDS else []
        options = [*self.socket_options(family), *tell]
        sock = open_socket(family, socket.SOCK_DGRAM, bind_to(address), str(self), options=options)
        return DatagramListener(sock, max_datagram=self.max_datagram, source_of=_source_of if tell else None)


WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
IP_PKTINFO = 8  # ip(7); Python has the name from 3.12 on
IN_PKTINFO = struct.Struct("@i4s4s")  # interface, local address, destination in the header
MULTICAST = 0xFF  # the first byte of such an IPv6 address (RFC 4291, section 2.7)


def _tell_destination(family: int) -> list[SocketOption]:
    """The options that have each datagram come with the address that it was sent to, where the system has them.

    Without it, a reply from a machine with several addresses leaves from the one that the route back prefers, and the
    client, who asked another one, drops it.
    """
    if family == socket.AF_INET and sys.platform == "linux":
        return [(socket.IPPROTO_IP, IP_PKTINFO, 1)]
    if family == socket.AF_INET6 and hasattr(socket, "IPV6_RECVPKTINFO"):
        return [(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)]
    return []


def _source_of(ancillary: list[AncillaryData]) -> Collection[AncillaryData]:
    """Turn the destination of a datagram into the source of its reply; the interface is left to the route."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            _, local, _ = IN_PKTINFO.unpack_from(data)
            return [(level, kind, IN_PKTINFO.pack(0, local, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and data[0] != MULTICAST:
            return [(level, kind, data[:16] + bytes(len(data) - 16))]
    return []
