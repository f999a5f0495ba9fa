"""A transport of one's own: datagrams between processes of one machine, through Linux's netlink (netlink(7))."""

import socket
from typing import Any

import attrs

from plugsocket import Server, upper
from plugsocket.core.options import integer
from plugsocket.transports import DatagramListener, DatagramTransport, bind_to, open_socket


@attrs.frozen
class Netlink(DatagramTransport):
    """Netlink datagrams, to a port id or, with 0, to one of the kernel's choice: `Netlink(0)`, or `"netlink://0"`."""

    port: int = attrs.field(validator=integer(0, 2**32 - 1))
    scheme = "netlink"

    @staticmethod
    def parse_location(location: str) -> dict[str, Any]:
        """Read what follows `netlink://`; what is no number is left for the validator to refuse."""
        return {"port": int(location) if location.isdecimal() else location}

    def listen(self) -> DatagramListener:
        """Open the endpoint; its protocol, NETLINK_USERSOCK (2), is the one that is left to programs."""
        where = (self.port, 0)  # and no multicast group
        sock = open_socket(socket.AF_NETLINK, socket.SOCK_DGRAM, bind_to(where), f"netlink://{self.port}", proto=2)
        return DatagramListener(sock)


if __name__ == "__main__":
    with Server(Netlink(0), upper).start() as server, socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 2) as client:
        client.sendto(b"hello", server.addresses[0])
        print(client.recv(100).decode())
