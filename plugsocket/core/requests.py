"""Requests as transports hand them over: a connection, or a datagram with the way back to its sender."""

import socket
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeAlias

from zope.interface import implementer

from plugsocket.core.addresses import Address, address_of
from plugsocket.core.interfaces import IRequest

Socket: TypeAlias = socket.socket  # in classes that have a member of the name `socket`
AncillaryData: TypeAlias = tuple[int, int, bytes]
"""As `sendmsg` takes it: level, type, data."""


@implementer(IRequest)
class StreamRequest:
    """A connection that was accepted.

    Args:
        payload: the connected socket; the request owns it.
        raw: the peer's address, as `accept` gave it.
        family: the address family of both.

    Attributes:
        before_close: called with the socket before its descriptor is closed, for an event loop that must know.
    """

    __slots__ = ("_family", "before_close", "payload", "raw")

    def __init__(self, payload: Socket, raw: Any, family: int) -> None:
        self.payload = payload
        self.raw = raw
        self._family = family
        self.before_close: Callable[[Socket], object] | None = None

    @property
    def peer(self) -> Address:
        """The peer's address; an IPv4 peer of a dual-stack socket appears as such."""
        return address_of(self._family, self.raw)

    @property
    def local(self) -> Address:
        """The address at which the peer reached us."""
        return address_of(self._family, self.payload.getsockname())

    def filenos(self) -> Collection[int]:
        """Return the connection's descriptor."""
        return (self.payload.fileno(),)

    def cut(self) -> None:
        """Shut both directions down, which wakes whoever waits for the peer."""
        _shutdown(self.payload, socket.SHUT_RDWR)

    def close(self) -> None:
        """Send end of file, and close: the first also when another process still has a copy of the descriptor."""
        if self.payload.fileno() < 0:
            return
        if self.before_close is not None:
            self.before_close(self.payload)
        _shutdown(self.payload, socket.SHUT_WR)
        self.disown()

    def disown(self) -> None:
        """Close this process's copy of the descriptor; the peer notices nothing."""
        # Not by the socket's own close(), which waits for file objects that the handler may have left open.
        if self.payload.fileno() >= 0:
            socket.close(self.payload.detach())


def _shutdown(sock: Socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass  # the peer is gone, or the handler closed it: what was wanted


class DatagramSender(Protocol):
    """What a datagram needs of its listener, to be answered."""

    @property
    def socket(self) -> Socket:
        """The listener's own socket, which is non-blocking."""
        ...

    @property
    def reply_socket(self) -> Socket:
        """A copy of the socket that behaves as a blocking one; the listener owns it."""
        ...

    @property
    def address(self) -> Address:
        """Where the datagram came in."""
        ...

    def release(self, request: Any) -> None:
        """Take note that the request needs the sockets no more. Idempotent, callable from any thread."""
        ...


@implementer(IRequest)
class DatagramRequest:
    """A datagram that was received.

    Args:
        payload: its bytes.
        raw: the sender's address, as `recvmsg` gave it; `None` or empty when it has none.
        truncated: whether the end of it is missing.
        listener: where it came in, and where a reply leaves from.
        family: the address family.
        source: ancillary data with which a reply leaves from the address that the sender wrote to; empty where the
            socket is bound to one address, and so sees to it by itself.
    """

    __slots__ = ("_family", "_source", "listener", "payload", "raw", "truncated")

    def __init__(
        self,
        payload: bytes,
        raw: Any,
        truncated: bool,
        listener: DatagramSender,
        family: int,
        source: Collection[AncillaryData] = (),
    ) -> None:
        self.payload = payload
        self.raw = raw
        self.truncated = truncated
        self.listener = listener
        self._family = family
        self._source = source

    @property
    def peer(self) -> Address:
        """The sender's address; for an unbound Unix socket `""`."""
        return address_of(self._family, self.raw)

    @property
    def local(self) -> Address:
        """The address of the listener."""
        return self.listener.address

    def send(self, sock: Socket, data: Any) -> None:
        """Send a datagram to the sender, through one of the listener's sockets."""
        if self._source:
            sock.sendmsg([data], self._source, 0, self.raw)
        else:
            sock.sendto(data, self.raw)

    def filenos(self) -> Collection[int]:
        """Return the descriptors that a reply leaves through."""
        return (self.listener.socket.fileno(), self.listener.reply_socket.fileno())

    def cut(self) -> None:
        """Wake a reply that waits for room: nobody waits for more of a datagram. It is cut for every request."""
        _shutdown(self.listener.reply_socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give up the way back: the sockets are the listener's, which keeps them for its requests."""
        self.listener.release(self)

    def disown(self) -> None:
        """Nothing to do: the socket is the listener's."""
