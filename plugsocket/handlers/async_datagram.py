"""A datagram as an async handler sees it."""

from contextlib import suppress
from typing import Any

import trio

from plugsocket.core.requests import DatagramRequest
from plugsocket.core.trio_closing import AsyncCloseSignal
from plugsocket.handlers.datagram import DatagramView

FIRST_PAUSE = 0.001  # seconds before a reply for which there was no room is tried again; each is twice as long
LONGEST_PAUSE = 0.1


class AsyncDatagram(DatagramView):
    """A datagram, for async handlers.

    Attributes:
        data: the bytes that came.
        truncated: whether the sender sent more than `data` has.
        closing: tells that the server is stopping.
    """

    __slots__ = ("_replied", "closing")

    def __init__(self, request: DatagramRequest, closing: AsyncCloseSignal) -> None:
        # As `DatagramView` does it; this is on the way of every datagram.
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
