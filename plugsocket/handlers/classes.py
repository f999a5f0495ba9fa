"""Request handler classes, as the documentation of `socketserver` describes them."""

import io
import socket
from typing import Any, ClassVar, Self, TypeAlias

from plugsocket.core.closing import CloseSignal
from plugsocket.core.interfaces import IStreamHandlerClass
from plugsocket.core.kinds import HandlerSpec
from plugsocket.core.requests import DatagramRequest, StreamRequest
from plugsocket.handlers.blocking_socket import ConnectionSocket

Socket: TypeAlias = socket.socket  # in classes that have a member of the name `socket`


class BaseRequestHandler:
    """A class whose instances handle one request each, by being constructed.

    `setup()`, `handle()` and `finish()` run in this order; `finish()` follows every `setup()` that returned, also when
    `handle()` raises.

    Attributes:
        request: the connected socket; for datagrams the pair of data and socket. The server closes it afterwards.
        client_address: the peer's address.
        server: the server.
    """

    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        self.request = request
        self.client_address = client_address
        self.server = server
        self._handled = False
        self.setup()
        try:
            self.handle()
            self._handled = True
        finally:
            self.finish()

    def setup(self) -> None:
        """Prepare; called before `handle()`."""

    def handle(self) -> None:
        """Do all the work for the request; a subclass does."""

    def finish(self) -> None:
        """Clean up; called after `handle()`."""


class StreamRequestHandler(BaseRequestHandler):
    """A handler of connections, with a file to read from and one to write to.

    Attributes:
        rbufsize: the buffer size of `rfile`, as for `socket.makefile`.
        wbufsize: the buffer size of `wfile`; 0 sends each write at once, and wholly.
        timeout: seconds that each operation may wait; `None` for ever.
        disable_nagle_algorithm: whether to set TCP_NODELAY.
        connection: the connected socket.
        rfile: where the request is read from.
        wfile: where the reply is written to.
    """

    rbufsize: ClassVar[int] = -1
    wbufsize: ClassVar[int] = 0
    timeout: ClassVar[float | None] = None
    disable_nagle_algorithm: ClassVar[bool] = False

    request: Socket
    connection: Socket
    rfile: Any
    wfile: Any

    def setup(self) -> None:
        """Make the two files."""
        self.connection = self.request
        if self.timeout is not None:
            self.connection.settimeout(self.timeout)
        if self.disable_nagle_algorithm:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rfile = self.connection.makefile("rb", self.rbufsize)
        # An unbuffered socket file may write less than it is given; nobody expects that of a reply.
        self.wfile = (
            SocketWriter(self.connection) if self.wbufsize == 0 else self.connection.makefile("wb", self.wbufsize)
        )

    def finish(self) -> None:
        """Send what is buffered, unless the peer is gone, and close both files."""
        try:
            if not self.wfile.closed:
                self.wfile.flush()
        except OSError:
            pass  # the peer went first, which is its right
        finally:
            try:
                self.wfile.close()
            except OSError:
                pass  # closing flushes again, with the same result
            self.rfile.close()


class SocketWriter(io.BufferedIOBase):
    """A file that sends all of what each `write()` is given; closing it leaves the socket open."""

    def __init__(self, sock: Socket) -> None:
        self._sock = sock

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, data: Any) -> int:
        """Send all of a bytes-like object; return how many bytes it has."""
        self._sock.sendall(data)
        with memoryview(data) as view:
            return view.nbytes

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()


class DatagramRequestHandler(BaseRequestHandler):
    """A handler of datagrams, with the data to read as a file, and a file whose content is the reply.

    A reply is sent if something was written, and `handle()` returned.

    Attributes:
        packet: the bytes that came.
        socket: what to send other datagrams with.
        rfile: where the packet is read from.
        wfile: where the reply is written to.
    """

    packet: bytes
    socket: Socket
    rfile: io.BytesIO
    wfile: io.BytesIO

    def setup(self) -> None:
        """Make the two files."""
        self.packet, self.socket = self.request
        self.rfile = io.BytesIO(self.packet)
        self.wfile = io.BytesIO()

    def finish(self) -> None:
        """Send the reply, if there is one."""
        reply = self.wfile.getvalue()
        if not reply or not self._handled:
            return
        if isinstance(self.request, _DatagramAndSocket) and self.request.request.raw:
            self.request.request.send(reply)
        else:
            self.socket.sendto(reply, self.client_address)


def other_class(transport: Any, handler: HandlerSpec) -> str:
    """Say why a handler class for connections does not get datagrams, and the other way round."""
    streams = IStreamHandlerClass.providedBy(handler)
    what, given, other = ("connections", "datagrams", "Datagram") if streams else ("datagrams", "connections", "Stream")
    return f"{handler.name} is a class for {what}, and {transport!r} gives {given}: derive from {other}RequestHandler"


def stream_arguments(request: StreamRequest, closing: CloseSignal) -> tuple[Any, Any]:
    """Make the first two arguments of a request handler class from a connection."""
    return ConnectionSocket.of(request, closing), request.peer


def datagram_arguments(request: DatagramRequest, closing: CloseSignal) -> tuple[Any, Any]:  # noqa: ARG001 - the form of a view
    """Make the first two arguments of a request handler class from a datagram."""
    pair = _DatagramAndSocket(request) if request.source else (request.payload, request.listener.socket)
    # The address as the kernel gave it, which is what `sendto` on this socket takes, whatever its family shows.
    return pair, request.raw or request.peer


class _DatagramAndSocket(tuple[bytes, Socket]):
    """The pair that `socketserver` documents, which also knows the address that a reply should leave from."""

    request: DatagramRequest

    def __new__(cls, request: DatagramRequest) -> Self:
        pair = super().__new__(cls, (request.payload, request.listener.socket))
        pair.request = request
        return pair
