"""A datagram as handlers see it, blocking and async."""

import socket
from contextlib import suppress
from typing import Any, TypeAlias

import trio

from plugsocket.core.closing import AsyncCloseSignal, CloseSignal
from plugsocket.core.errors import ReplyError
from plugsocket.core.requests import DatagramRequest
from plugsocket.handlers.view import RequestView

Socket: TypeAlias = socket.socket  # in classes that have a member of the name `socket`

FIRST_PAUSE = 0.001  # seconds before a reply for which there was no room is tried again; each is twice as long
LONGEST_PAUSE = 0.1


class _Datagram(RequestView[DatagramRequest]):
    """What both colours have in common."""

    __slots__ = ("data", "truncated")

    def __init__(self, request: DatagramRequest) -> None:
        super().__init__(request)
        self.data: bytes = request.payload
        self.truncated: bool = request.truncated

    @property
    def request(self) -> DatagramRequest:
        """What the datagram came as."""
        return self._request

    def _check_answerable(self) -> None:
        if not self._request.raw:
            raise ReplyError("the sender has no address to reply to: it did not bind its socket")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.data)} bytes from {self.peer}>"


class AsyncDatagram(_Datagram):
    """A datagram, for async handlers.

    Attributes:
        data: the bytes that came.
        truncated: whether the sender sent more than `data` has.
        closing: tells that the server is stopping.
    """

    __slots__ = ("_replied", "closing")

    def __init__(self, request: DatagramRequest, closing: AsyncCloseSignal) -> None:
        # As `_Datagram` does it; this is on the way of every datagram.
        self._request = request
        self.data = request.payload
        self.truncated = request.truncated
        self._replied = False
        self.closing = closing

    async def reply(self, data: Any) -> None:
        """Send a datagram back to the sender, from the address that it wrote to; may wait for room.

        It can be cancelled. The first reply to a datagram lets other tasks run only if there is no room, since the
        server does between one batch of datagrams and the next; every further one is a checkpoint in full.

        Args:
            data: a bytes-like object.

        Raises:
            ReplyError: the sender has no address.
            OSError: the system refuses, as for a datagram that is too long (`EMSGSIZE`).
        """
        if self._replied:
            await trio.lowlevel.checkpoint()
        else:
            self._replied = True
            await trio.lowlevel.checkpoint_if_cancelled()
        self._check_answerable()
        try:
            self._request.send_now(data)
        except BlockingIOError:
            await self._send_later(data)

    async def _send_later(self, data: Any) -> None:
        """Send once there is room; nothing tells when: an unconnected Unix socket is writable always (unix(7))."""
        pause = FIRST_PAUSE
        while True:
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            with suppress(BlockingIOError):
                self._request.send_now(data)
                return


class Datagram(_Datagram):
    """A datagram, for blocking handlers.

    Attributes:
        data: the bytes that came.
        truncated: whether the sender sent more than `data` has.
        closing: tells that the server is stopping.
    """

    __slots__ = ("closing",)

    def __init__(self, request: DatagramRequest, closing: CloseSignal) -> None:
        super().__init__(request)
        self.closing = closing

    @property
    def socket(self) -> Socket:
        """The socket that replies leave through; the server owns it."""
        return self._request.listener.socket

    def reply(self, data: Any) -> None:
        """Send a datagram back to the sender, from the address that it wrote to; may wait for room in the send buffer.

        Args:
            data: a bytes-like object.

        Raises:
            ReplyError: the sender has no address.
            OSError: the system refuses, as for a datagram that is too long (`EMSGSIZE`).
        """
        self._check_answerable()
        self._request.send(data)

    def to_async(self) -> AsyncDatagram:
        """Return the same datagram for an async handler."""
        return AsyncDatagram(self._request, AsyncCloseSignal(self.closing))
