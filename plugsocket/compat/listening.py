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
from plugsocket.compat.workers import workers_of
from plugsocket.core.accepting import BACK_OFF
from plugsocket.core.errors import LifecycleError
from plugsocket.core.interfaces import IListener, IRequest, ITransport
from plugsocket.core.readiness import wait_readable
from plugsocket.core.server import Server

OFTEN = 4  # how often all were there that were looked for, until more are
LARGEST = 64  # requests that the hooks see to before the loop looks after anything else
FOR_THE_LOOP = BACK_OFF | {errno.EAGAIN, errno.EWOULDBLOCK}

Failures: TypeAlias = dict[int, Exception | None]
"""What `get_request()` raised, by the thread in which it did; the threads that are there are those that accept."""


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
        waits: whether `get_request()` may wait, and so is to be called only when something is there.
        lenient: whether a request that cannot be got counts as one, as `handle_request()` has it.

    Attributes:
        burst: how many requests are seen to in one `accept()`; `None` for one.
        ended: whether the hooks are to see to no more.
    """

    def __init__(self, server: Any, failures: Failures, *, waits: bool, lenient: bool) -> None:
        self._reference = weakref.ref(server)
        self.address = server.server_address
        self._failures = failures
        self._waits = waits
        self._lenient = lenient
        self.burst: Burst | None = None
        self.ended = False

    @property
    def server(self) -> Any:
        """The server, which lives as long as it is being served."""
        return self._reference()

    def fileno(self) -> int:
        """Return the server's descriptor."""
        return int(self.server.fileno())

    def gather(self) -> None:
        """Have several requests seen to in one `accept()`, where `get_request()` does not wait."""
        if not self._waits:
            self.burst = Burst()

    def close(self) -> None:
        """Leave the socket open, which belongs to the server."""

    def _check_readable(self) -> None:
        if self._waits and not wait_readable(self.fileno(), 0):
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


class Burst:
    """How many requests to look for at once: to look for one in vain costs more than to wait once more.

    Attributes:
        size: so many.
    """

    def __init__(self) -> None:
        self.size = 1
        self._found = 0

    def note(self, *, found_all: bool) -> None:
        """Take note of whether so many were there."""
        if not found_all:
            self.size, self._found = max(1, self.size // 2), 0
            return
        self._found += 1
        if self._found == OFTEN:
            self.size, self._found = min(2 * self.size, LARGEST), 0


@implementer(IListener)
class HookedListener(_Listener):
    """Accepts by having the hooks of the server see to what is waiting.

    Attributes:
        inner: the plugsocket server that this is the listener of.
        handling: whether the hooks see to a request.
    """

    inner: Server
    handling = False

    def accept(self) -> SeenTo:
        """Have the hooks see to what is waiting; see `IListener`."""
        if self._is_full():
            raise BlockingIOError(errno.EAGAIN, "there is no room")
        self._check_readable()
        burst, thread = self.burst, threading.get_ident()
        self.handling = True
        self._failures[thread] = None
        try:
            found_all = self._see_to(1 if burst is None else burst.size, thread)
        except BaseException as error:  # noqa: BLE001 - it is raised on, not to be taken for an error of accepting
            return Raised(error)
        finally:
            self.handling = False
            failure = self._failures.pop(thread)
        if burst is not None:
            burst.note(found_all=found_all)
        if failure is not None:
            self._weigh(failure)
        if burst is not None:
            raise BlockingIOError(errno.EAGAIN, "that was all for now")
        return SEEN_TO

    def _see_to(self, most: int, thread: int) -> bool:
        """Have the hooks see to at most so many requests; return whether there were so many."""
        server, failures, workers = self.server, self._failures, None
        for _ in range(most):
            server._handle_request_noblock()  # noqa: SLF001 - a hook too, for programs that there are
            workers = workers or workers_of(server)  # which the first request makes
            if self.ended or failures[thread] is not None or (workers is not None and workers.is_full()):
                return False
        return True

    def _is_full(self) -> bool:
        """Whether there is no room for requests beside the loop; then it is paused until there is."""
        workers = workers_of(self.server)
        if workers is None or not workers.is_full():
            return False
        with suppress(LifecycleError):  # it is paused, or stops
            self.inner.pause()
        workers.on_room = partial(_resume, self.inner)
        if not workers.is_full():  # since there was room in between
            _resume(self.inner)
        return True


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
