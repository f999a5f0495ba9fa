"""A datagram as a blocking handler sees it."""

import socket
from typing import TYPE_CHECKING, Any, TypeAlias

from plugsocket.core.closing import CloseSignal
from plugsocket.core.errors import ReplyError
from plugsocket.core.requests import DatagramRequest
from plugsocket.handlers.view import RequestView

if TYPE_CHECKING:
    from plugsocket.handlers.async_datagram import AsyncDatagram

Socket: TypeAlias = socket.socket  # in classes that have a member of the name `socket`


class DatagramView(RequestView[DatagramRequest]):
    """What datagrams have in common for handlers of both colours."""

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


class Datagram(DatagramView):
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

    def to_async(self) -> "AsyncDatagram":
        """Return the same datagram for an async handler."""
        # Whoever wants it has imported trio.
        from plugsocket.core.trio_closing import AsyncCloseSignal  # noqa: PLC0415
        from plugsocket.handlers.async_datagram import AsyncDatagram  # noqa: PLC0415

        return AsyncDatagram(self._request, AsyncCloseSignal(self.closing))
