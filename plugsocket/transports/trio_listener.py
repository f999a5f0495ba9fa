"""Any `trio.abc.Listener` as a transport, for servers whose requests are trio tasks."""

import errno
import os
from collections import deque
from contextlib import suppress
from typing import Any, TypeAlias

import trio
from zope.interface import implementer

from plugsocket.core.addresses import Address
from plugsocket.core.interfaces import IAsyncListener, IAsyncTransport, ITransport
from plugsocket.core.registry import default_registry
from plugsocket.core.trio_requests import StreamOfTrio, name_behind

PATIENCE = 2.0  # seconds; as the linger of connections, see `plugsocket.core.deadlines`

Listener: TypeAlias = trio.abc.Listener[Any]


@implementer(IAsyncTransport)
class ListenerTransport:
    """What a server makes of a `trio.abc.Listener` that it is given: `Server(listener, handle)`.

    Args:
        listener: accepts streams. Once the server is bound it belongs to that, which closes it.
    """

    scheme = "trio"

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def listen(self) -> "AwaitedListener":
        """Take the listener over; see `ITransport`."""
        return AwaitedListener(self._listener)

    def __repr__(self) -> str:
        return repr(self._listener)


@implementer(IAsyncListener)
class AwaitedListener:
    """A `trio.abc.Listener` that is waited for before it accepts.

    Args:
        listener: the listener; this owns it.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._address = _address_of(listener)
        self._came: deque[StreamOfTrio | OSError] = deque()
        self._nursery: trio.Nursery | None = None
        self._closed = False

    @property
    def address(self) -> Address:
        """Where clients connect to, if a socket is behind it; else `""`."""
        return self._address

    def fileno(self) -> int:
        """Return -1: there is no descriptor to wait for, see `wait()`."""
        return -1

    def enter(self, nursery: trio.Nursery) -> None:
        """Get ready to be waited for; see `IAsyncListener`."""
        self._nursery = nursery

    async def wait(self) -> None:
        """Wait until a stream came; see `IAsyncListener`."""
        await trio.lowlevel.checkpoint()
        if self._came:
            return
        try:
            self._came.append(StreamOfTrio(await self._listener.accept(), self._dismiss))
        except OSError as error:
            self._came.append(error)

    def accept(self) -> "StreamOfTrio":
        """Take the stream that came; see `IListener`."""
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not self._came:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        came = self._came.popleft()
        if isinstance(came, OSError):
            raise came
        return came

    def _dismiss(self, stream: trio.abc.Stream, last_words: bytes) -> None:
        assert self._nursery is not None, "what is dismissed came by wait(), and so after enter()"
        self._nursery.start_soon(_say_and_close, stream, last_words)

    async def aclose(self) -> None:
        """Close the listener, and what came and was not accepted; see `IAsyncListener`."""
        if self._closed:
            return
        self._closed = True
        try:
            await trio.aclose_forcefully(self._listener)
        finally:
            while self._came:
                request = self._came.popleft()
                if isinstance(request, StreamOfTrio):
                    await trio.aclose_forcefully(request.payload)

    def close(self) -> None:
        """As `aclose()`, where no trio program runs. Idempotent."""
        if not self._closed:
            trio.run(self.aclose)


def _address_of(listener: Any) -> Address:
    """Where clients connect to, also through a listener of TLS; `""` if no socket is behind it."""
    while not hasattr(listener, "address") and hasattr(listener, "transport_listener"):
        listener = listener.transport_listener
    return getattr(listener, "address", None) or name_behind(listener, "getsockname")


async def _say_and_close(stream: trio.abc.Stream, last_words: bytes) -> None:
    """Send a few bytes and close a stream, in a moment or not at all."""
    try:
        with trio.move_on_after(PATIENCE):
            if last_words:
                await stream.send_all(last_words)
            await stream.aclose()
    except Exception:  # noqa: BLE001, S110 - nobody is served on it: that it breaks is no news
        pass
    finally:  # also when cancelled, since the server stops
        with suppress(Exception):
            await trio.aclose_forcefully(stream)


default_registry.register(ListenerTransport, [trio.abc.Listener], ITransport)
