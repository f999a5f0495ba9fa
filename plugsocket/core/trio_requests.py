"""Requests that are streams of a trio program, whatever is behind them."""

from collections.abc import Callable, Collection, Hashable
from typing import Any

import trio
from zope.interface import implementer

from plugsocket.core.addresses import Address, UnixAddress, address_of
from plugsocket.core.interfaces import IAsyncRequest
from plugsocket.core.traffic import Traffic

UNNAMED = UnixAddress("")


@implementer(IAsyncRequest)
class StreamOfTrio:
    """A stream that a `trio.abc.Listener` accepted.

    Args:
        payload: the stream; this owns it.
        dismiss: has some bytes sent over a stream and closes it, without waiting for that.

    Attributes:
        id: its number, which the server gives it.
        traffic: the account of what goes over it.
        patience: seconds that closing it may take, which the server sets.
        idle: what the handler waits in for a request to begin; `None` while it does not.
    """

    __slots__ = ("_closed", "_dismiss", "id", "idle", "local", "patience", "payload", "peer", "traffic")

    def __init__(self, payload: trio.abc.Stream, dismiss: Callable[[trio.abc.Stream, bytes], None]) -> None:
        self.payload = payload
        self.id = 0
        self.traffic = Traffic()
        self.patience = 0.0
        self.idle: trio.CancelScope | None = None
        # Now, since a stream that is closed has forgotten them.
        self.peer = name_behind(payload, "getpeername")
        self.local = name_behind(payload, "getsockname")
        self._dismiss = dismiss
        self._closed = False

    @property
    def origin(self) -> Hashable:
        """Who the peer is, whatever the number of its connections: its host; those without a name share one."""
        return getattr(self.peer, "host", self.peer)

    def filenos(self) -> Collection[int]:
        """Return nothing: no other process could answer."""
        return ()

    def end_if_idle(self) -> bool:
        """Have a handler that waits for a request to begin see end of file; see `IConnectionRequest`."""
        if self.idle is not None:
            self.idle.cancel()
        return self.traffic.waiting

    def cut(self) -> None:
        """Nothing: the tasks of handlers are cancelled, which wakes them."""

    async def aclose(self) -> None:
        """Close the stream; see `IAsyncRequest`."""
        self._closed = True
        with trio.move_on_after(self.patience):  # which closes it at once
            await self.payload.aclose()

    def close(self) -> None:
        """Have the stream closed, without waiting for that. Idempotent."""
        self.close_after(b"")

    def close_after(self, last_words: bytes) -> None:
        """Have a few bytes sent and the stream closed; see `IAsyncRequest`."""
        if not self._closed:
            self._closed = True
            self._dismiss(self.payload, last_words)


def name_behind(part: Any, question: str) -> Address:
    """Ask the socket behind a stream or listener of trio's for an address; `""` if there is none.

    Args:
        part: the stream or listener.
        question: `getsockname` or `getpeername`.
    """
    while part is not None and not hasattr(part, "socket"):
        part = getattr(part, "transport_stream", None) or getattr(part, "transport_listener", None)
    try:
        return address_of(part.socket.family, getattr(part.socket, question)())
    except (AttributeError, OSError):  # it has no socket, or the peer is gone already
        return UNNAMED
