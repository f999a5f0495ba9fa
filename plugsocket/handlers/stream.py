"""A connection as an async handler sees it: a trio stream."""

import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from plugsocket.core.errors import DeadlineError
from plugsocket.core.requests import StreamRequest
from plugsocket.core.trio_closing import AsyncCloseSignal
from plugsocket.handlers.view import RequestView

Socket: TypeAlias = socket.socket  # in classes that have a member of the name `socket`

RECEIVE_SIZE = 65_536  # bytes asked for when the handler does not say; as trio's streams, which chose it unmeasured


class AsyncConnection(RequestView[StreamRequest], trio.abc.HalfCloseableStream):
    """A connected peer, as a `trio.abc.HalfCloseableStream`: what is written for `trio.serve_tcp` works on it.

    The server closes it when the handler returns or raises. It keeps trio's rules for streams: every call is a
    checkpoint, a second task that sends or receives meanwhile gets `trio.BusyResourceError`.

    Attributes:
        closing: tells that the server is stopping, so that a handler can come to an end by itself.
    """

    def __init__(self, request: StreamRequest, closing: AsyncCloseSignal) -> None:
        super().__init__(request)
        self._traffic = request.traffic
        self._socket = _plain(request)
        self._socket.setblocking(False)
        self._trio_socket: trio.socket.SocketType | None = None
        self._sending = False
        self._receiving = False
        self._sent_eof = False
        self._task = trio.lowlevel.current_task() if trio.lowlevel.in_trio_task() else None
        self.closing = closing
        request.before_close = _notify_closing
        if self._traffic.limited:
            self._traffic.start(trio.current_time)

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connected socket, as trio has sockets; the server owns it."""
        if self._trio_socket is None:
            self._trio_socket = trio.socket.from_stdlib_socket(self._socket)
        return self._trio_socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; see `trio.abc.ReceiveStream`.

        Args:
            max_bytes: at most so many; at least 1.

        Returns:
            What there is, or `b""` at end of file; and when the server stops, if the handler has no other task, unless
            an answer is due: bytes came, and none were sent since.

        Raises:
            DeadlineError: one of the server's deadlines is over.
            trio.BrokenResourceError: the peer reset the connection.
            trio.ClosedResourceError: it was closed here.
            trio.BusyResourceError: another task is receiving.
        """
        size = RECEIVE_SIZE if max_bytes is None else max_bytes
        if size < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this connection")
        self._receiving = True
        try:
            await self._begin()
            if (data := self._receive_now(size)) is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
            self._traffic.waiting = not self._traffic.unanswered and is_alone(self._task)
            if self._traffic.waiting and self.closing.marked:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return b""
            while True:
                await self._ready(trio.lowlevel.wait_readable, receiving=True)
                if (data := self._receive_now(size)) is not None:
                    return data
        except DeadlineError:
            raise
        except OSError as error:
            raise self._translated(error) from error
        finally:
            self._receiving = self._traffic.waiting = False

    def _receive_now(self, size: int) -> bytes | None:
        try:
            data = self._socket.recv(size)
        except BlockingIOError:
            return None
        if data:
            self._traffic.took(len(data))
        else:
            self._traffic.over = True
        return data

    async def _begin(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._traffic.limited:
            self._traffic.now()  # which raises once the request is over, whatever there is

    async def _ready(self, wait: Callable[[Any], Awaitable[None]], *, receiving: bool) -> None:
        """Wait for the socket, as long as the peer's deadlines allow."""
        if not self._traffic.limited:
            await wait(self._socket)
            return
        since = self._traffic.now()
        with trio.move_on_after(self._traffic.time_left(since, receiving)) as scope:
            await wait(self._socket)
        if scope.cancelled_caught:
            raise self._traffic.expired(since, receiving)

    async def send_all(self, data: Any) -> None:
        """Send every byte of a bytes-like object; see `trio.abc.SendStream`.

        Raises:
            DeadlineError: one of the server's deadlines is over.
            trio.BrokenResourceError: the peer is gone; some of the bytes may have been sent.
            trio.ClosedResourceError: it was closed here, or `send_eof()` was called.
            trio.BusyResourceError: another task is sending.
        """
        self._check_sendable()
        self._sending = True
        try:
            await self._begin()
            with memoryview(data).cast("B") as view:
                sent = self._send_now(view) if view else 0
                if sent == len(view):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return
                while sent < len(view):
                    await self._ready(trio.lowlevel.wait_writable, receiving=False)
                    sent += self._send_now(view[sent:])
        except DeadlineError:
            raise
        except OSError as error:
            raise self._translated(error) from error
        finally:
            self._sending = False

    def _send_now(self, view: memoryview) -> int:
        try:
            sent = self._socket.send(view)
        except BlockingIOError:
            return 0
        self._traffic.gave(sent)
        return sent

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until sending might not have to wait; see `trio.abc.SendStream`."""
        self._check_sendable()
        self._sending = True
        try:
            await self._ready(trio.lowlevel.wait_writable, receiving=False)
        except DeadlineError:
            raise
        except OSError as error:
            raise self._translated(error) from error
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Send end of file; receiving goes on. Idempotent; see `trio.abc.HalfCloseableStream`."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this connection")
        await trio.lowlevel.checkpoint()
        if self._sent_eof:
            return
        try:
            self._socket.shutdown(trio.socket.SHUT_WR)
        except OSError as error:
            raise self._translated(error) from error
        self._sent_eof = True

    async def aclose(self) -> None:
        """Close the connection before the handler ends. Idempotent; closes even when cancelled."""
        self._request.end()
        await trio.lowlevel.checkpoint()

    def expire_in(self, seconds: float | None) -> None:
        """Set when the request is over, from now, in place of `Deadlines.request`; `None` for never.

        For a handler that serves one request after the other on a connection. Operations that would go on beyond it
        raise `DeadlineError`.
        """
        self._traffic.expire_in(seconds, trio.current_time)

    def end_if_idle(self) -> None:
        """Have a task that waits for a request to begin receive end of file; one that owes an answer goes on."""
        self._request.end_if_idle()

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """Set an option of the socket, as `trio.SocketStream` has it."""
        self._socket.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, buffersize: int = 0) -> int | bytes:
        """Ask for an option of the socket, as `trio.SocketStream` has it."""
        if buffersize:
            return self._socket.getsockopt(level, option, buffersize)
        return self._socket.getsockopt(level, option)

    def _check_sendable(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this connection")
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this connection was closed")
        if self._sent_eof:
            raise trio.ClosedResourceError("end of file was sent already")

    def _translated(self, error: OSError) -> Exception:
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError("this connection was closed")
        return trio.BrokenResourceError(f"connection with {self.peer} is broken: {error}")

    def __repr__(self) -> str:
        return f"<AsyncConnection from {self.peer}>"


def is_alone(handler: trio.lowlevel.Task | None) -> bool:
    """Whether a handler is this task and no other one: what it waits for says what it is about.

    In another task it may be sending a reply, or be about to say goodbye when the server stops.

    Args:
        handler: the task in which it began; `None` if it began its own `trio.run`.
    """
    task = trio.lowlevel.current_task()
    return (handler is None or handler is task) and not any(nursery.child_tasks for nursery in task.child_nurseries)


def _plain(request: StreamRequest) -> Socket:
    """The request's socket, without the waiting that one for blocking handlers does."""
    if type(request.payload) is socket.socket:
        return request.payload
    return request.rewrap(socket.socket)


def _notify_closing(sock: Socket) -> None:
    """Wake the tasks that wait for a socket which is about to be closed."""
    try:
        trio.lowlevel.notify_closing(sock)
    except RuntimeError:
        pass  # the handler's own trio.run is over, and its tasks with it
