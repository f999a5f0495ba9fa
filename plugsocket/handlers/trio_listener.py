"""A transport as a `trio.abc.Listener`, for programs and libraries that serve such ones by themselves."""

import itertools

import trio

from plugsocket.core.accepting import AcceptAction, AcceptPolicy
from plugsocket.core.addresses import Address
from plugsocket.core.composition import compose, is_datagram, url_of
from plugsocket.core.control import Control
from plugsocket.core.errors import CompositionError
from plugsocket.core.interfaces import IAsyncTransport
from plugsocket.core.protocols import Listener, Transport, View
from plugsocket.core.registry import Registry, default_registry
from plugsocket.core.trio_closing import AsyncCloseSignal
from plugsocket.handlers.stream import AsyncConnection


class TransportListener(trio.abc.Listener[AsyncConnection]):
    """An open endpoint whose connections are trio streams; `as_trio_listener` makes them.

    Args:
        listener: the open endpoint; this owns it.
        view: makes a stream of a request.
        url: how people call the endpoint.
    """

    def __init__(self, listener: Listener, view: View, url: str) -> None:
        self._listener = listener
        self._view = view
        self._url = url
        self._closed = False
        self._control = Control(on_stop=self._stop_is_nobodys)
        self._closing = AsyncCloseSignal(self._control.closing, drains=False)
        self._numbers = itertools.count(1)
        self._policy = AcceptPolicy()

    @property
    def address(self) -> Address:
        """Where clients connect to, with the port that the kernel chose; also when closed."""
        return self._listener.address

    @property
    def url(self) -> str:
        """The same as an endpoint string, such as `tcp://127.0.0.1:54321`."""
        return self._url

    async def accept(self) -> AsyncConnection:
        """Wait for a connection; see `trio.abc.Listener`.

        Connections that died while they waited are passed over, as accept(2) asks for.

        Returns:
            A connection that the caller owns. Its `closing` is set when this listener closes.

        Raises:
            OSError: the system has no descriptors or no memory left (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`), which
                passes: `trio.serve_listeners` tries again after a while.
            trio.ClosedResourceError: it was closed.
            trio.BusyResourceError: another task is accepting.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this listener was closed")
            try:
                request = self._listener.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._listener.fileno())
            except OSError as error:
                if self._policy.classify(error) is not AcceptAction.RETRY:
                    raise
                await trio.lowlevel.checkpoint()
            else:
                request.id = next(self._numbers)
                connection: AsyncConnection = self._view(request, self._closing)
                return connection

    async def aclose(self) -> None:
        """Accept no more, and set `closing` for the connections, which stay open. Idempotent; closes when cancelled."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._listener.fileno())
            try:
                self._listener.close()
            finally:
                self._control.announce_closing()
                trio.lowlevel.notify_closing(self._control.closing.fileno())
                self._control.close()
        await trio.lowlevel.checkpoint()

    def _stop_is_nobodys(self) -> None:
        """Nothing: no server stops here, and nobody rings for it."""

    def __repr__(self) -> str:
        return f"<TransportListener {self._url}{' (closed)' if self._closed else ''}>"


async def as_trio_listener(transport: str | Transport, *, registry: Registry = default_registry) -> TransportListener:
    """Open an endpoint for `trio.serve_listeners`, or for a library that takes a `trio.abc.Listener`.

    Nothing of a server stands behind it: no limits, no deadlines, no events, no drain. Whoever accepts has to see to
    that.

    Args:
        transport: a transport of connections, or its string.
        registry: where to look for what fits.

    Returns:
        A listener; the caller closes it.

    Raises:
        OptionError: the string or one of its options is wrong.
        PluginError: no transport has that scheme.
        CompositionError: it is no transport, or one of datagrams.
        OSError: the endpoint cannot be opened; nothing is left open.
    """
    composition = compose(transport, _takes_anything, "trio", registry)
    (given,) = composition.transports
    if IAsyncTransport.providedBy(given):
        raise CompositionError(f"{given!r} is a listener of trio already; pass it on as it is")
    if is_datagram(given):
        raise CompositionError(f"{given!r} gives datagrams, and the listeners of trio give streams; use a Server")
    listener = await trio.to_thread.run_sync(given.listen)
    try:
        return TransportListener(listener, composition.views[0], url_of(given, listener.address))
    except BaseException:  # no descriptors are left
        listener.close()
        raise


async def _takes_anything(_connection: object) -> None:
    """Stand for the handlers of others, when composing."""
