"""A connection over somebody else's trio stream, as an async handler sees it."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from plugsocket.core.kinds import HandlerSpec
from plugsocket.core.trio_closing import AsyncCloseSignal
from plugsocket.core.trio_requests import StreamOfTrio
from plugsocket.handlers.stream import is_alone
from plugsocket.handlers.view import RequestView


class StreamConnection(RequestView[StreamOfTrio], trio.abc.Stream):
    """A connected peer whose stream came from a `trio.abc.Listener`: TLS, memory, or whatever that gives.

    The server closes it when the handler returns or raises. If the stream is a `trio.abc.HalfCloseableStream`, so is
    this.

    Attributes:
        stream: the stream itself, for what only it can do; to receive and send, use the connection, or else the server
            does not see whether it is idle, and deadlines do not hold.
        closing: tells that the server is stopping, so that a handler can come to an end by itself.
    """

    def __init__(self, request: StreamOfTrio, closing: AsyncCloseSignal) -> None:
        super().__init__(request)
        self._traffic = request.traffic
        self._receiving = False
        self._task = trio.lowlevel.current_task() if trio.lowlevel.in_trio_task() else None
        self.stream = request.payload
        self.closing = closing
        if self._traffic.limited:
            self._traffic.start(trio.current_time)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; see `trio.abc.ReceiveStream`, and the stream for its errors.

        Args:
            max_bytes: at most so many; at least 1.

        Returns:
            What there is, or `b""` at end of file; and when the server stops, if the handler has no other task, unless
            an answer is due: bytes came, and none were sent since.

        Raises:
            DeadlineError: one of the server's deadlines is over.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this connection")
        self._receiving = True
        traffic, request = self._traffic, self._request
        traffic.waiting = not traffic.unanswered and is_alone(self._task)
        try:
            if traffic.waiting and self.closing.marked:
                await trio.lowlevel.checkpoint()
                return b""
            with trio.CancelScope() as idle:
                request.idle = idle if traffic.waiting else None
                data = bytes(await self._in_time(self.stream.receive_some, max_bytes, receiving=True))
            if idle.cancelled_caught:
                return b""
        finally:
            self._receiving = traffic.waiting = False
            request.idle = None
        if data:
            traffic.took(len(data))
        else:
            traffic.over = True
        return data

    async def send_all(self, data: Any) -> None:
        """Send every byte of a bytes-like object; see `trio.abc.SendStream`, and the stream for its errors.

        Raises:
            DeadlineError: one of the server's deadlines is over; some of the bytes may have been sent.
        """
        await self._in_time(self.stream.send_all, data, receiving=False)
        self._traffic.gave(memoryview(data).nbytes)

    async def _in_time(self, operate: Callable[..., Awaitable[Any]], *arguments: Any, receiving: bool) -> Any:
        """Do something with the stream, as long as the peer's deadlines allow."""
        traffic = self._traffic
        if not traffic.limited:
            return await operate(*arguments)
        since = traffic.now()
        with trio.move_on_after(traffic.time_left(since, receiving)):
            return await operate(*arguments)
        raise traffic.expired(since, receiving)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until sending might not have to wait; see `trio.abc.SendStream`."""
        await self._in_time(self.stream.wait_send_all_might_not_block, receiving=False)

    async def aclose(self) -> None:
        """Close the connection before the handler ends. Idempotent; closes even when cancelled."""
        await self._request.aclose()

    def expire_in(self, seconds: float | None) -> None:
        """Set when the request is over, from now, in place of `Deadlines.request`; `None` for never.

        For a handler that serves one request after the other on a connection. Operations that would go on beyond it
        raise `DeadlineError`.
        """
        self._traffic.expire_in(seconds, trio.current_time)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self.stream!r}>"


class HalfCloseableStreamConnection(StreamConnection, trio.abc.HalfCloseableStream):
    """One whose stream can send end of file and go on receiving."""

    stream: trio.abc.HalfCloseableStream

    async def send_eof(self) -> None:
        """Send end of file; receiving goes on. Idempotent; see `trio.abc.HalfCloseableStream`."""
        await self._in_time(self.stream.send_eof, receiving=False)


def stream_connection(request: StreamOfTrio, closing: AsyncCloseSignal) -> StreamConnection:
    """Make the connection that a stream allows."""
    half_closeable = isinstance(request.payload, trio.abc.HalfCloseableStream)
    return (HalfCloseableStreamConnection if half_closeable else StreamConnection)(request, closing)


def no_stream(listener: Any, handler: HandlerSpec) -> str:
    """Say why a blocking handler does not get what a listener of trio gives."""
    return (
        f"{handler.name} blocks, and {listener!r} gives streams of a trio program, which only async functions can use; "
        "write one, or serve a transport such as TCP()"
    )
