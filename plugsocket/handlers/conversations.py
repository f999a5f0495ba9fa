"""Conversations over datagrams: one task for each peer, instead of one for each datagram."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import trio
from zope.interface import implementer

from plugsocket.core.errors import CompositionError
from plugsocket.core.interfaces import IAsyncHandler, IPeerHandler
from plugsocket.core.kinds import HandlerSpec, inspect_handler
from plugsocket.core.options import SECONDS, Options, integer, is_seconds, wrong
from plugsocket.handlers.async_datagram import AsyncDatagram
from plugsocket.handlers.view import RequestView


class Conversation(RequestView[AsyncDatagram], trio.abc.ReceiveChannel[AsyncDatagram]):
    """What one peer sends, as a channel: `async for datagram in conversation`; and the way back.

    It begins with a datagram from an address that nobody converses with, and goes on for as long as the handler runs.
    It ends, after what has come, once nothing came for the idle time, or when the server stops: then the channel is at
    its end (`trio.EndOfChannel`), and the handler can still send. What the peer sends afterwards begins another one.

    Args:
        first: the datagram that it begins with.
        idle: seconds.
        buffer: how many datagrams may wait for the handler.

    Attributes:
        closing: tells that the server is stopping.
    """

    def __init__(self, first: AsyncDatagram, idle: float, buffer: int) -> None:
        super().__init__(first)
        self._idle = idle
        self._entrance, self._exit = trio.open_memory_channel[AsyncDatagram](buffer)
        self._over = False
        self._left: list[AsyncDatagram] = []  # of those that came before it was closed
        self.closing = first.closing
        self.offer(first)

    async def receive(self) -> AsyncDatagram:
        """Wait for the next datagram. A checkpoint. Several tasks may wait.

        Raises:
            trio.EndOfChannel: nothing came for the idle time, or the server is stopping.
            trio.ClosedResourceError: it was closed here.
        """
        with trio.move_on_after(self._idle):
            return await self._exit.receive()
        self.end()
        return await self._exit.receive()  # what came nevertheless, or the end

    async def send(self, data: Any) -> None:
        """Send a datagram to the peer, from the address that it wrote to, as `AsyncDatagram.reply` does.

        Args:
            data: a bytes-like object.

        Raises:
            ReplyError: the peer has no address.
            OSError: the system refuses, as for a datagram that is too long (`EMSGSIZE`).
        """
        await self._request.reply(data)

    async def aclose(self) -> None:
        """Receive no more, before the handler ends. Idempotent."""
        self._left += self._take_all()  # closing would forget them
        self._exit.close()
        self.end()
        await trio.lowlevel.checkpoint()

    # For who brings the datagrams

    @property
    def over(self) -> bool:
        """Whether nothing more is taken."""
        return self._over

    def offer(self, datagram: AsyncDatagram) -> bool:
        """Add a datagram to those that wait; return whether there was room."""
        try:
            self._entrance.send_nowait(datagram)
        except trio.WouldBlock:
            return False
        return True

    def end(self) -> bool:
        """Take nothing more. Idempotent.

        Returns:
            Whether the handler was waiting for more, and nothing was left to be received.
        """
        waiting = self._exit.statistics().tasks_waiting_receive
        self._over = True
        self._entrance.close()
        return bool(waiting)

    def unread(self) -> Iterator[AsyncDatagram]:
        """Give what came and was not received, when the handler is over."""
        self.end()
        yield from self._left
        yield from self._take_all()

    def _take_all(self) -> Iterator[AsyncDatagram]:
        while self._exit.statistics().current_buffer_used:
            yield self._exit.receive_nowait()

    def __repr__(self) -> str:
        return f"<Conversation with {self.peer}>"


def _seconds_or_none(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if value is not None and not is_seconds(value):
        raise wrong(instance, attribute.name, value, f"{SECONDS}, or None")


@implementer(IPeerHandler)
@attrs.frozen(eq=False)
class PerPeer(Options):
    """A handler of conversations; `per_peer` makes them."""

    function: Callable[[Conversation], Awaitable[object]]
    name: str
    idle: float | None = attrs.field(validator=_seconds_or_none)
    buffer: int = attrs.field(validator=integer(1))

    def __call__(self, conversation: Conversation) -> Awaitable[object]:
        """Handle a conversation."""
        return self.function(conversation)

    def begin(self, first: AsyncDatagram) -> Conversation:
        """Make the conversation that begins with this datagram."""
        return Conversation(first, float("inf") if self.idle is None else self.idle, self.buffer)

    def __repr__(self) -> str:
        return f"per_peer({self.name})"


def per_peer(
    handler: Callable[[Conversation], Awaitable[object]], *, idle: float | None = 60.0, buffer: int = 64
) -> PerPeer:
    """Make a handler of conversations, one with each peer that sends datagrams.

    For protocols that have connections of their own over datagrams. A peer is an address and port, and the address that
    it wrote to; `Limits.max_per_peer` goes by the host alone. The server's limits are about conversations: a datagram
    of a peer that is being served is never one too many, and one that would begin a conversation above the limit is
    dropped and counted, under `Queue()` too; `Wait()` keeps it.

    Args:
        handler: an async function of a `Conversation`. A task of its own runs it for each peer.
        idle: seconds without a datagram, while the handler waits for one, after which a conversation is at its end;
            `None` for never.
        buffer: how many datagrams of one peer may wait for its handler; more are dropped and counted.

    Returns:
        A handler for transports of datagrams under `Trio()`.

    Raises:
        CompositionError: the handler is not an async one.
        OptionError: an option is wrong.
    """
    spec = inspect_handler(handler)
    if not IAsyncHandler.providedBy(spec):
        raise CompositionError(
            f"per_peer() takes an async function of a conversation, and {spec.name} is none; one that does not look "
            "like it is declared with zope.interface.directlyProvides(handler, IAsyncHandler)"
        )
    return PerPeer(handler, spec.name, idle, buffer)


def no_peers(transport: Any, handler: HandlerSpec) -> str:
    """Say why a handler of conversations does not get connections."""
    return f"{handler.name} is for datagrams, and {transport!r} gives connections, which have a handler each anyway"
