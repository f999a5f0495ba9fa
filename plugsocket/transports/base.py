"""What transports have in common: sockets opened whole or not at all, and the two kinds of listener.

A transport for another address family needs little more than `open_socket` and one of the listeners.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from zope.interface import implementer

from plugsocket.core.addresses import Address, address_of
from plugsocket.core.interfaces import IDatagramListener, IDatagramTransport, IListener, IStreamTransport
from plugsocket.core.options import Options
from plugsocket.core.requests import DONT_WAIT, AncillaryData, DatagramRequest, StreamRequest

SocketOption = tuple[int, int, int]
"""Arguments of `setsockopt`: level, name, value."""

DEFAULT_BACKLOG = 1024  # of the kernel's queue, which caps it at net.core.somaxconn (listen(2)); picked, not measured
CONNECTING = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
ACCEPTS_BLOCKING = sys.platform == "linux"  # elsewhere accepted sockets inherit O_NONBLOCK (accept(2), accept4(2))
MAX_DATAGRAM = 65_535  # the largest that the length field of UDP can say (RFC 768)
ANCILLARY = 256  # bytes for the ancillary data of one message; a packet's information takes 40 (ip(7), ipv6(7))
SO_MEMINFO = 55  # include/uapi/asm-generic/socket.h of Linux; Python has no name for it
MEMINFO = struct.Struct("9I")  # SK_MEMINFO_VARS counters
MEMINFO_DROPS = 8  # SK_MEMINFO_DROPS in include/uapi/linux/sock_diag.h
LOOK_UP = 50_000  # microseconds after which a reply without room looks whether it was cut
TIMEVALS = ("@ll", "@qq")  # seconds and microseconds; the second on 32-bit systems whose time has 64


def open_socket(
    family: int,
    kind: int,
    bind: Callable[[socket.socket], None],
    what: str,
    *,
    proto: int = 0,
    options: Collection[SocketOption] = (),
    backlog: int | None = None,
) -> socket.socket:
    """Open a socket for a listener: bound, non-blocking, not inherited by other programs.

    Args:
        family: the address family.
        kind: `socket.SOCK_STREAM`, `socket.SOCK_DGRAM`, or another type.
        bind: binds the socket that it is given.
        what: the endpoint as a string, for the message of an error.
        proto: the protocol number.
        options: set before binding.
        backlog: for sockets of connections, which also listen then, the length of the queue of those that wait to be
            accepted; `None` for 1024.

    Returns:
        The socket; the caller owns it.

    Raises:
        OSError: it could not be opened; `errno` is the system's, the message names `what`; nothing is left open.
    """
    try:
        sock = socket.socket(family, kind, proto)  # close-on-exec since PEP 446
        try:
            sock.setblocking(False)
            for option in options:
                sock.setsockopt(*option)
            bind(sock)
            if kind in CONNECTING:
                sock.listen(DEFAULT_BACKLOG if backlog is None else backlog)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise named(error, what) from error
    return sock


def named(error: OSError, what: str) -> OSError:
    """Make an error that says which endpoint it is about; class, `errno` and therefore meaning are the same."""
    return type(error)(error.errno, f"cannot listen on {what}: {error.strerror or error}")


class SocketListener:
    """What the two kinds of socket listener share.

    Args:
        sock: bound, and listening if it takes connections; the listener owns it, and makes it non-blocking.
        on_close: removes what else was made for it; called once, while the socket is still open: until then nobody
            else can have taken its place, nor the number of its file.
    """

    def __init__(self, sock: socket.socket, on_close: Callable[[], None] | None = None) -> None:
        sock.setblocking(False)  # accept() must not wait, whoever opened it
        self.socket = sock
        self._family = sock.family
        self._address = address_of(sock.family, sock.getsockname())
        self._on_close = on_close
        self._pid = os.getpid()

    @property
    def address(self) -> Address:
        """Where clients connect to, also after `close()`."""
        return self._address

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 once closed."""
        return self.socket.fileno()

    def close(self) -> None:
        """Remove what else was made for it, unless this is a forked child, and close the socket. Idempotent."""
        try:
            self._clean_up()
        finally:
            self.socket.close()

    def _clean_up(self) -> None:
        on_close, self._on_close = self._on_close, None
        if on_close is not None and os.getpid() == self._pid:
            on_close()


@implementer(IListener)
class StreamListener(SocketListener):
    """A listening socket, whose requests are connections."""

    def accept(self) -> StreamRequest:
        """Take the next connection; see `IListener`."""
        sock, raw = self.socket.accept()
        if not ACCEPTS_BLOCKING:
            sock.setblocking(True)
        return StreamRequest(sock, raw, self._family)


class DatagramSocket(socket.socket):
    """A socket for datagrams that waits for room when it sends, unless it was told not to.

    The system does the waiting, and gives up now and then (SO_SNDTIMEO, socket(7)), since shutting a socket down does
    not wake who waits for the peer of a Unix socket to read; and netlink sockets cannot be shut down at all.
    """

    _cut = False

    def sendto(self, *arguments: Any) -> int:
        """Send a datagram, as `socket.sendto` does."""
        while True:
            try:
                return super().sendto(*arguments)
            except BlockingIOError:
                _, *flags, _ = arguments  # (data, address), or (data, flags, address)
                if not self._may_wait(*flags):
                    raise

    def sendmsg(self, *arguments: Any) -> int:
        """Send a datagram, as `socket.sendmsg` does."""
        while True:
            try:
                return super().sendmsg(*arguments)
            except BlockingIOError:
                if not self._may_wait(*arguments[2:3]):  # (buffers, ancillary data, flags, address)
                    raise

    def shutdown(self, how: int) -> None:
        """Shut down, and end the waiting of those who send, also where the system does neither."""
        self._cut = self._cut or how != socket.SHUT_RD
        super().shutdown(how)

    def _may_wait(self, flags: int = 0) -> bool:
        """Return whether sending is to be tried again; raise if that would be in vain."""
        if self._cut:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return not flags & DONT_WAIT and self.gettimeout() is None


@implementer(IDatagramListener)
class DatagramListener(SocketListener):
    """A bound datagram socket, whose requests are messages.

    Requests that are under way when it is closed can still be answered: the socket closes with the last of them.
    Its socket waits for room when it sends, so that a derived class which receives from it must tell it not to wait
    (MSG_DONTWAIT, recv(2)).

    Args:
        sock: bound; the listener takes its descriptor over.
        on_close: as for every listener.
        max_datagram: bytes of a message that are kept; of a longer one the rest is lost, and it says so.
        source_of: for a socket that receives for several addresses: makes, of the ancillary data of a message, those
            with which a reply leaves from the address that was written to.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_close: Callable[[], None] | None = None,
        *,
        max_datagram: int = MAX_DATAGRAM,
        source_of: Callable[[list[AncillaryData]], Collection[AncillaryData]] | None = None,
    ) -> None:
        super().__init__(DatagramSocket(sock.family, sock.type, sock.proto, sock.detach()), on_close)
        self.socket.setblocking(True)  # for replies; receiving is told not to wait
        for layout in TIMEVALS:
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack(layout, 0, LOOK_UP))
                break
        # One byte more shows that there was more. One buffer for all: a new one each time takes longer than receiving.
        self._buffer = bytearray(max_datagram + 1)
        self._kept = memoryview(self._buffer)[:max_datagram]
        self._source_of = source_of
        self._closed = False
        self._lost = 0
        self._answerable: set[DatagramRequest] = set()

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 once closed."""
        return -1 if self._closed else super().fileno()

    def accept(self) -> DatagramRequest:
        """Take the next message; see `IListener`."""
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        source: Collection[AncillaryData] = ()
        if self._source_of is None:
            size, raw = self.socket.recvfrom_into(self._buffer, 0, DONT_WAIT)
        else:
            size, ancillary, _, raw = self.socket.recvmsg_into([self._buffer], ANCILLARY, DONT_WAIT)
            source = self._source_of(ancillary)
        kept = self._kept
        request = DatagramRequest(kept[:size].tobytes(), raw, size > len(kept), self, self._family, source)
        self._answerable.add(request)
        return request

    @property
    def lost(self) -> int:
        """How many messages the kernel dropped for want of room; see `IDatagramListener`."""
        if self.socket.fileno() >= 0 and sys.platform == "linux":
            with suppress(OSError):  # a family, or a kernel, that does not count
                counters = self.socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size)
                self._lost = MEMINFO.unpack(counters.ljust(MEMINFO.size, b"\0"))[MEMINFO_DROPS]
        return self._lost

    def release(self, request: DatagramRequest) -> None:
        """Take note that the request needs the socket no more; the last one closes it if the listener is closed."""
        self._answerable.discard(request)
        if self._closed and not self._answerable:
            self._close_socket()

    def close(self) -> None:
        """Take no more messages; the socket is closed, now or with the last request; see `SocketListener`."""
        self._closed = True
        try:
            self._clean_up()
        finally:
            if not self._answerable:
                self._close_socket()

    def _close_socket(self) -> None:
        self._lost = self.lost  # which nobody can ask for afterwards
        self.socket.close()


@implementer(IStreamTransport)
class StreamTransport(Options):
    """A base for transports of connections: write `scheme` and `listen()`.

    Attributes:
        scheme: the name before `://` in endpoint strings.
    """

    scheme: str

    def listen(self) -> StreamListener:
        """Open the endpoint; see `ITransport`."""
        raise NotImplementedError


@implementer(IDatagramTransport)
class DatagramTransport(Options):
    """A base for transports of single messages: write `scheme` and `listen()`.

    Attributes:
        scheme: the name before `://` in endpoint strings.
    """

    scheme: str

    def listen(self) -> DatagramListener:
        """Open the endpoint; see `ITransport`."""
        raise NotImplementedError


def bind_to(address: Any) -> Callable[[socket.socket], None]:
    """Make a function that binds a socket to the address."""
    return lambda sock: sock.bind(address)
