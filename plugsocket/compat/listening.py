"""How requests reach the hooks of a server, while a `plugsocket.Server` waits for its socket.

Accepting is calling the hooks: when `accept()` returns, they have seen to the request, which runs beside the loop by
now or is over. Under a strategy for trio, whose loop cannot be held up, they are called in its threads instead.
"""

import errno
import threading
import weakref
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from zope.interface import implementer

from plugsocket.compat.hooks import cut
from plugsocket.compat.workers import ATTRIBUTE, Workers
from plugsocket.core.accepting import BACK_OFF
from plugsocket.core.errors import LifecycleError
from plugsocket.core.interfaces import IListener, IRequest, ITransport
from plugsocket.core.readiness import wait_readable
from plugsocket.core.server import Server

FOR_THE_LOOP = BACK_OFF | {errno.EAGAIN, errno.EWOULDBLOCK}

Failures: TypeAlias = dict[int, Exception]
"""What `get_request()` raised last, by the thread in which it did."""


class IHookedTransport(ITransport):
    """The socket of a server with hooks."""


@implementer(IHookedTransport)
class HookedTransport:
    """The socket of a server with hooks, as a transport; it stays the server's.

    Args:
        listener: what accepts from it.
    """

    scheme = "socketserver"

    def __init__(self, listener: "HookedListener | RequestListener") -> None:
        self._listener = listener

    def listen(self) -> Any:
        """Return the listener; the socket is open already."""
        return self._listener

    def __repr__(self) -> str:
        return f"the socket of {self._listener.server!r}"


class _Listener:
    """What the two listeners have in common.

    Args:
        server: whose socket.
        failures: where the server puts what `get_request()` raised.
        batches: whether `get_request()` does not wait, so that it may be called until it has nothing to give.
        lenient: whether a request that cannot be got counts as one, as `handle_request()` has it.
    """

    def __init__(self, server: Any, failures: "Failures", *, batches: bool, lenient: bool) -> None:
        self._reference = weakref.ref(server)
        self.address = server.server_address
        self._failures = failures
        self._batches = batches
        self._lenient = lenient

    @property
    def server(self) -> Any:
        """The server, which lives as long as it is being served."""
        return self._reference()

    def fileno(self) -> int:
        """Return the server's descriptor."""
        return int(self.server.fileno())

    def close(self) -> None:
        """Leave the socket open, which belongs to the server."""

    def _check_readable(self) -> None:
        if not self._batches and not wait_readable(self.fileno(), 0):
            raise BlockingIOError(errno.EAGAIN, "nothing is waiting")

    def _weigh(self, failure: Exception) -> None:
        """Raise a failure of `get_request()` if the loop is to do something about it."""
        if isinstance(failure, OSError) and (failure.errno in FOR_THE_LOOP or self.fileno() < 0):
            raise failure
        if not self._lenient:
            # With whatever else a hook raised, such as an error of TLS, the connection is gone, and not the socket.
            raise ConnectionAbortedError(errno.ECONNABORTED, f"get_request() raised {failure!r}") from failure


@implementer(IRequest)
class SeenTo:
    """A request that the hooks have seen to."""

    id = 0
    payload = peer = origin = None

    def filenos(self) -> Collection[int]:
        """Return nothing; the same holds for the rest."""
        return ()

    def cut(self) -> None:
        """Have nothing to cut."""

    def close(self) -> None:
        """Have nothing to close."""


class Raised(SeenTo):
    """One that a hook, such as `handle_error()`, made an end of the server.

    Args:
        error: what it raised.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


SEEN_TO = SeenTo()


@implementer(IListener)
class HookedListener(_Listener):
    """Accepts by having the hooks of the server see to a request."""

    inner: Server
    handling = False

    def accept(self) -> SeenTo:
        """Have the hooks see to one request; see `IListener`."""
        server = self.server
        workers: Workers | None = vars(server).get(ATTRIBUTE)
        if workers is not None and workers.is_full():
            self._wait_for_room(workers)
            raise BlockingIOError(errno.EAGAIN, "nothing is waiting")
        self._check_readable()
        self.handling = True
        try:
            server._handle_request_noblock()  # noqa: SLF001 - a hook too, for programs that there are
        except BaseException as error:  # noqa: BLE001 - it is raised on, not to be taken for an error of accepting
            return Raised(error)
        finally:
            self.handling = False
        if self._failures and (failure := self._failures.pop(threading.get_ident(), None)) is not None:
            self._weigh(failure)
        return SEEN_TO

    def _wait_for_room(self, workers: Workers) -> None:
        with suppress(LifecycleError):  # it stops
            self.inner.pause()
            workers.on_room = partial(_resume, self.inner)
            if not workers.is_full():  # since there was room in between
                _resume(self.inner)


def _resume(inner: Server) -> None:
    with suppress(LifecycleError):  # it stops, or was resumed
        inner.resume()


@implementer(IRequest)
class HookedRequest:
    """A request whose hooks are called in a thread of trio's.

    Args:
        server: whose hooks.
        payload: as `get_request()` gave it.
        peer: likewise.
    """

    def __init__(self, server: Any, payload: Any, peer: Any) -> None:
        self.id = 0
        self.payload = payload
        self.peer = peer
        self.origin = str(peer)
        self._server = server
        self._over = False

    def is_welcome(self) -> bool:
        """Ask the hook whether it is to be handled."""
        try:
            return bool(self._server.verify_request(self.payload, self.peer))
        except Exception:  # noqa: BLE001 - a hook of somebody else's
            self._server.handle_error(self.payload, self.peer)
            return False

    def process(self) -> None:
        """Have the hooks handle it and close it."""
        self._over = True
        try:
            self._server.process_request(self.payload, self.peer)
        except Exception:  # noqa: BLE001 - a hook of somebody else's
            self._server.handle_error(self.payload, self.peer)
            self._server.shutdown_request(self.payload)

    def filenos(self) -> Collection[int]:
        """Return nothing: trio has no other processes."""
        return ()

    def cut(self) -> None:
        """Wake a handler that waits for the client; see `IRequest`."""
        cut(self.payload)

    def close(self) -> None:
        """Have the hook close it, unless the hooks that handled it did; see `IRequest`."""
        if not self._over:
            self._over = True
            self._server.shutdown_request(self.payload)


@implementer(IListener)
class RequestListener(_Listener):
    """Accepts requests whose hooks are called elsewhere."""

    def accept(self) -> HookedRequest:
        """Take the next request; see `IListener`."""
        self._check_readable()
        try:
            return HookedRequest(self.server, *self.server.get_request())
        except OSError as error:
            self._weigh(error)
        except Exception as error:  # noqa: BLE001 - a hook of somebody else's
            self.server.handle_error(None, None)
            self._weigh(error)
        raise BlockingIOError(errno.EAGAIN, "nothing is waiting")
