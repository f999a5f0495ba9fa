"""Requests as transports hand them over: a connection, or a datagram with the way back to its sender."""

import errno
import socket
import struct
from collections.abc import Callable, Collection, Hashable
from typing import Any, Protocol, TypeAlias, TypeVar

from zope.interface import implementer

from plugsocket.core.addresses import Address, UnixAddress, address_of
from plugsocket.core.interfaces import IDatagramRequest, IStreamRequest
from plugsocket.core.traffic import Traffic

Socket: TypeAlias = socket.socket  # in classes that have a member of the name `socket`
AncillaryData: TypeAlias = tuple[int, int, bytes]
"""As `sendmsg` takes it: level, type, data."""

Kind = TypeVar("Kind", bound=Socket)
_FAMILY: Callable[[Socket], int] = socket.SocketType.family.__get__
_TYPE: Callable[[Socket], int] = socket.SocketType.type.__get__
DONT_WAIT = int(getattr(socket, "MSG_DONTWAIT", 0))  # send(2), recv(2); Windows has no such flag
"""What tells a socket that waits not to, for once; a plain number, since flags of an enum are slow."""

_SENDTO = socket.SocketType.sendto  # not the method of a derived class, which may wait
_SENDMSG = socket.SocketType.sendmsg
_CREDENTIALS = struct.Struct("3i")  # process, user, group (unix(7))


@implementer(IStreamRequest)
class StreamRequest:
    """A connection that was accepted.

    Args:
        payload: the connected socket; the request owns it.
        raw: the peer's address, as `accept` gave it.
        family: the address family of both.

    Attributes:
        id: its number, which the server gives it.
        traffic: the account of what goes over it.
        linger: what looks after it once the handler is done with it; `None` closes it at once.
        before_close: called with the socket before its descriptor is closed, for an event loop that must know.
    """

    __slots__ = ("_family", "_hung_up", "before_close", "id", "linger", "payload", "raw", "traffic")

    def __init__(self, payload: Socket, raw: Any, family: int) -> None:
        self.payload = payload
        self.raw = raw
        self.id = 0
        self.traffic = Traffic()
        self._family = family
        self._hung_up = False
        self.linger: Callable[[StreamRequest], None] | None = None
        self.before_close: Callable[[Socket], object] | None = None

    @property
    def peer(self) -> Address:
        """The peer's address; an IPv4 peer of a dual-stack socket appears as such."""
        return address_of(self._family, self.raw)

    @property
    def local(self) -> Address:
        """The address at which the peer reached us."""
        return address_of(self._family, self.payload.getsockname())

    @property
    def origin(self) -> Hashable:
        """Who the peer is, whatever the number of its connections: its host, or its process."""
        peer = self.peer
        if isinstance(peer, UnixAddress):
            return process_of(self.payload) or peer.path
        return getattr(peer, "host", peer)

    def rewrap(self, cls: type[Kind]) -> Kind:
        """Make the payload a socket of another class, which owns the descriptor from then on; return it."""
        given = self.payload
        # As plain numbers: the properties of these names make members of an enum of them, which takes longer than all.
        family, kind, proto = _FAMILY(given), _TYPE(given), given.proto
        self.payload = made = cls(family, kind, proto, given.detach())
        return made

    def filenos(self) -> Collection[int]:
        """Return the connection's descriptor."""
        return (self.payload.fileno(),)

    def end_if_idle(self) -> bool:
        """Let nothing more be received if the handler waits for a request to begin; see `IStreamRequest`."""
        if self.traffic.waiting:
            _shutdown(self.payload, socket.SHUT_RD)
        return self.traffic.waiting

    def cut(self) -> None:
        """Shut both directions down, which wakes whoever waits for the peer."""
        self.traffic.over = True
        _shutdown(self.payload, socket.SHUT_RDWR)

    def end(self) -> None:
        """Close it for a handler that does so before it returns; see `IStreamRequest`."""
        if self.linger is not None:
            self.linger(self)
        else:
            self.close()

    def hang_up(self) -> bool:
        """Send end of file, and close unless the peer may still be sending; see `IStreamRequest`."""
        if self._hung_up or self.payload.fileno() < 0:
            return False
        self._hung_up = True
        self._end_sending()
        if self.traffic.over:
            self._close()
            return False
        self.rewrap(Socket).setblocking(False)
        return True

    def discard(self, scratch: bytearray) -> int | None:
        """Throw away input; see `IStreamRequest`."""
        try:
            return int(self.payload.recv_into(scratch))
        except BlockingIOError:
            return None
        except OSError:
            return 0  # reset

    def close(self) -> None:
        """Send end of file, and close. Idempotent."""
        if self.payload.fileno() >= 0:
            if not self._hung_up:
                self._hung_up = True
                self._end_sending()
            self._close()

    def _end_sending(self) -> None:
        if self.before_close is not None:
            self.before_close(self.payload)
        try:
            self.payload.shutdown(socket.SHUT_WR)  # closing would not do, if another process has a copy
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK):  # its number may be anybody's next
                self.payload.detach()
                raise

    def _close(self) -> None:
        # Not by the socket's own close(), which waits for file objects that the handler may have left open.
        socket.close(self.payload.detach())


def _shutdown(sock: Socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass  # the peer is gone, or the handler closed it: what was wanted


def process_of(sock: Socket) -> int:
    """Return the id of the process at the other end of a Unix socket; 0 where the system does not tell.

    It is the one that connected, whoever has the socket now (SO_PEERCRED, unix(7)).
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:  # the handler has closed it
        return 0
    process, _user, _group = _CREDENTIALS.unpack(credentials)
    return int(process)


class DatagramSender(Protocol):
    """What a datagram needs of its listener, to be answered."""

    @property
    def socket(self) -> Socket:
        """The listener's socket, which waits for room when it sends."""
        ...

    @property
    def address(self) -> Address:
        """Where the datagram came in."""
        ...

    def release(self, request: Any) -> None:
        """Take note that the request needs the socket no more. Idempotent, callable from any thread."""
        ...


@implementer(IDatagramRequest)
class DatagramRequest:
    """A datagram that was received.

    Args:
        payload: its bytes.
        raw: the sender's address, as receiving it gave it; `None` or empty when it has none.
        truncated: whether the end of it is missing.
        listener: where it came in, and where a reply leaves from.
        family: the address family.
        source: ancillary data with which a reply leaves from the address that the sender wrote to; empty where the
            socket is bound to one address, and so sees to it by itself.

    Attributes:
        id: its number, which the server gives it.
    """

    __slots__ = ("_family", "id", "listener", "payload", "raw", "source", "truncated")

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
        self.id = 0
        self.truncated = truncated
        self.listener = listener
        self._family = family
        self.source = source

    @property
    def peer(self) -> Address:
        """The sender's address; for an unbound Unix socket `""`."""
        return address_of(self._family, self.raw)

    @property
    def origin(self) -> Hashable:
        """Who the sender is, whatever its ports: its host; of a Unix socket its name, which those without one share."""
        return getattr(self.peer, "host", self.peer)

    @property
    def local(self) -> Address:
        """The address of the listener."""
        return self.listener.address

    @property
    def conversation(self) -> Hashable:
        """Who sent it, and what address it was sent to, where a reply says so."""
        return (self.raw, tuple(self.source))

    def send(self, data: Any) -> None:
        """Send a datagram to the sender, waiting for room; see `IDatagramRequest`."""
        if self.source:
            self.listener.socket.sendmsg([data], self.source, 0, self.raw)
        else:
            self.listener.socket.sendto(data, self.raw)

    def send_now(self, data: Any) -> None:
        """Send a datagram to the sender, without waiting; see `IDatagramRequest`."""
        if self.source:
            _SENDMSG(self.listener.socket, [data], self.source, DONT_WAIT, self.raw)
        else:
            _SENDTO(self.listener.socket, data, DONT_WAIT, self.raw)

    def filenos(self) -> Collection[int]:
        """Return the descriptor that a reply leaves through."""
        return (self.listener.socket.fileno(),)

    def cut(self) -> None:
        """Wake a reply that waits for room: nobody waits for more of a datagram. It is cut for every request."""
        _shutdown(self.listener.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give up the way back: the socket is the listener's, which keeps it for its requests."""
        self.listener.release(self)
