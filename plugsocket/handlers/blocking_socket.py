"""The socket that blocking handlers use: it keeps an account, and holds deadlines.

Handlers may use it in any way that sockets are used: its own methods, file objects made of it, the classes of the
standard library. So what is to hold for all of them holds here.
"""

import math
import socket
import time
from collections.abc import Callable, Collection
from typing import Any, Self, TypeVar

from plugsocket.core.closing import CloseSignal
from plugsocket.core.readiness import wait_ready
from plugsocket.core.requests import DONT_WAIT, StreamRequest
from plugsocket.core.traffic import Traffic

CHUNK = 65_536  # bytes of a file sent at once
WAIT_ALL = int(getattr(socket, "MSG_WAITALL", 0))
PEEK = int(socket.MSG_PEEK)  # as plain numbers, which are tested ten times faster than flags of an enum
_receive = socket.SocketType.recv
Received = TypeVar("Received")


class ConnectionSocket(socket.socket):
    """A connected socket in blocking mode, of a connection that a server accepted.

    To its handler it is an ordinary socket, except that

    * an operation raises `DeadlineError` when one of the server's deadlines is over;
    * when the server stops, receiving ends, as if the peer had ended, unless an answer is due: bytes came, and none
      were sent since. What has come can still be received.

    Non-blocking mode is left alone, since who uses it does the waiting.
    """

    __slots__ = ("_closing", "_request", "_traffic")

    _closing: CloseSignal
    _request: StreamRequest
    _traffic: Traffic

    @classmethod
    def of(cls, request: StreamRequest, closing: CloseSignal) -> Self:
        """Make the socket of a request; it takes the place of the request's own, whose descriptor it owns now."""
        made = request.rewrap(cls)
        made._begin(request, closing)  # noqa: SLF001 - its own class
        return made

    def _begin(self, request: StreamRequest, closing: CloseSignal) -> None:
        self._closing = closing
        self._request = request
        self._traffic = traffic = request.traffic
        if closing.remote:
            traffic.watched = True
        if traffic.limited:
            traffic.start(time.monotonic)

    def expire_in(self, seconds: float | None) -> None:
        """Set when the request is over, from now; see `Connection.expire_in`."""
        self._traffic.expire_in(seconds, time.monotonic)

    # Receiving

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive at most `bufsize` bytes."""
        traffic = self._traffic
        # In this order: who sets the signal looks for those who wait afterwards, and wakes them.
        traffic.waiting = not traffic.unanswered
        try:
            if traffic.watched or self._closing.marked:
                if flags & WAIT_ALL:
                    buffer = bytearray(bufsize)
                    return bytes(buffer[: self._fill(buffer, flags)])
                if not self._can_receive(flags):
                    return b""
            data = _receive(self, bufsize, flags)
        finally:
            traffic.waiting = False
        self._took(len(data), bufsize, flags)
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a buffer."""
        if self._traffic.watched and flags & WAIT_ALL:
            return self._fill(memoryview(buffer).cast("B")[: nbytes or None], flags)
        receive = super().recv_into
        size = self._take(lambda: receive(buffer, nbytes, flags), flags)
        if size is None:
            return 0
        self._took(size, nbytes or memoryview(buffer).nbytes, flags)
        return size

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        """Receive with ancillary data, such as descriptors over a Unix socket."""
        receive = super().recvmsg
        message = self._take(lambda: receive(bufsize, ancbufsize, flags), flags)
        if message is None:
            return b"", [], 0, None
        self._took(len(message[0]), bufsize, flags)
        return message

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> tuple[int, list[Any], int, Any]:
        """Receive into buffers, with ancillary data."""
        receive = super().recvmsg_into
        message = self._take(lambda: receive(buffers, ancbufsize, flags), flags)
        if message is None:
            return 0, [], 0, None
        self._took(message[0], 1, flags)
        return message

    def _take(self, receive: Callable[[], Received], flags: int) -> Received | None:
        """Receive in one way or another, as `recv()` does; `None` if nothing comes, since the server stops."""
        traffic = self._traffic
        traffic.waiting = not traffic.unanswered
        try:
            return receive() if self._can_receive(flags) else None
        finally:
            traffic.waiting = False

    def _fill(self, buffer: Any, flags: int) -> int:
        """Receive until the buffer is full or nothing more comes, since the system's own way knows no deadline."""
        received = 0
        with memoryview(buffer) as view:
            while received < len(view) and (size := self.recv_into(view[received:], 0, flags & ~WAIT_ALL)):
                received += size
        return received

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receive; the second value is always `None`, since a connected stream has no other sender."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receive into a buffer, as `recvfrom()`."""
        return self.recv_into(buffer, nbytes, flags), None

    def _took(self, size: int, wanted: int, flags: int) -> None:
        if flags & PEEK:
            return
        if size:
            self._traffic.took(size)
        elif wanted:
            self._traffic.over = True

    def _can_receive(self, flags: int) -> bool:
        """Wait for input as far as the system does not; return whether it is worth asking for."""
        own = self.gettimeout()
        if own == 0 or flags & DONT_WAIT or self.fileno() < 0:
            return True
        if self._traffic.watched:
            return self._await_input(math.inf if own is None else time.monotonic() + own)
        if not self._traffic.waiting or not self._closing.marked:
            return True
        return bool(wait_ready((self.fileno(),), (), 0))

    def _await_input(self, until: float) -> bool:
        """Wait until there is input, or none will come since the server stops.

        Raises:
            DeadlineError: a deadline is over.
            TimeoutError: the socket's own time is.
        """
        traffic, closing, fileno = self._traffic, self._closing, self.fileno()
        if not traffic.waiting:
            return bool(self._wait((fileno,), (), until, receiving=True))
        if closing.is_set():
            return bool(wait_ready((fileno,), (), 0))
        return fileno in self._wait((fileno, closing.fileno()), (), until, receiving=True)

    def _wait(
        self, reading: Collection[int], writing: Collection[int], until: float, *, receiving: bool
    ) -> Collection[int]:
        """Wait for descriptors until the socket's own time, or the peer's, is over; return those that are ready."""
        traffic = self._traffic
        since = traffic.now() if traffic.limited else 0.0
        patience = math.inf
        while patience > 0:
            left = traffic.time_left(since, receiving) if traffic.limited else math.inf
            patience = min(left, max(0.0, until - time.monotonic()))
            if ready := wait_ready(reading, writing, patience):
                return ready
        if time.monotonic() >= until:
            raise TimeoutError("timed out")  # in the words of sockets
        raise traffic.expired(since, receiving)

    # Sending

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send what there is room for."""
        sent = self._send(lambda more: super(ConnectionSocket, self).send(data, flags | more), flags)
        self._traffic.gave(sent)
        return sent

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:  # noqa: ARG002
        """Send with ancillary data."""
        sent = self._send(lambda more: super(ConnectionSocket, self).sendmsg(buffers, ancdata, flags | more), flags)
        self._traffic.gave(sent)
        return sent

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Send; the address says nothing new about a connected stream."""
        return self.send(data, *flags_and_address[:-1])

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send every byte."""
        if not self._traffic.limited:
            super().sendall(data, flags)
            self._traffic.gave(len(data) if type(data) is bytes else memoryview(data).nbytes)
            return
        with memoryview(data).cast("B") as view:
            sent = 0
            while sent < len(view):
                sent += self.send(view[sent:], flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a file, or `count` bytes of it."""
        if not self._traffic.limited:
            before = self._traffic.sent
            sent = super().sendfile(file, offset, count)
            self._traffic.gave(before + sent - self._traffic.sent)  # it may have gone through send()
            return sent
        # The system's sendfile knows no deadline.
        if offset:
            file.seek(offset)
        sent = 0
        while chunk := file.read(CHUNK if count is None else min(CHUNK, count - sent)):
            self.sendall(chunk)
            sent += len(chunk)
        return sent

    def _send(self, send: Callable[[int], int], flags: int) -> int:
        """Send with more flags, once there is room; the system does the waiting where there is no deadline."""
        own = self.gettimeout()
        if own == 0 or flags & DONT_WAIT or not self._traffic.limited or self.fileno() < 0:
            return send(0)
        until = math.inf if own is None else time.monotonic() + own
        while True:
            self._wait((), (self.fileno(),), until, receiving=False)
            try:
                return send(DONT_WAIT)
            except BlockingIOError:
                continue

    # Copies

    def dup(self) -> socket.socket:  # type: ignore[override]  # typed as a copy of this class
        """Return a copy as an ordinary socket, which keeps no account; the caller owns it."""
        copy = socket.fromfd(self.fileno(), self.family, self.type, self.proto)
        copy.settimeout(self.gettimeout())
        return copy

    def _real_close(self, *_arguments: Any) -> None:
        """What `close()` comes to, once no file object is open; the standard library's own subclasses have it too."""
        if self.fileno() >= 0:
            self._request.end()
