"""The classes of the standard library's `socketserver`, on plugsocket.

A program that says `from plugsocket.compat import socketserver` instead of `import socketserver` does what it did: each
class and each hook is here, called in the documented order, and each documented attribute is honoured, wherever it is
set. What waits, accepts, forks and starts threads is plugsocket. New are `strategy`, `max_threads` and `grace`.
"""

import io
import math
import os
import selectors
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, Self, TypeAlias

from plugsocket.compat.hooks import finish
from plugsocket.compat.kept import NoThreads, Threads, children_of, join_threads, reap_children, threads_of
from plugsocket.compat.per_request import ChildPerRequest, ThreadPerRequest
from plugsocket.compat.serving import Loop
from plugsocket.compat.workers import (
    check_options,
    close_workers,
    handle_beside,
    own_strategy,
    strategy_of,
)
from plugsocket.concurrency.fork import Fork
from plugsocket.concurrency.thread import Thread
from plugsocket.core.protocols import ManagedStrategy, Strategy
from plugsocket.core.requests import DONT_WAIT
from plugsocket.handlers import classes
from plugsocket.transports.base import ACCEPTS_BLOCKING

__version__ = "0.4"  # of the interface
__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "UDPServer",
]

Socket: TypeAlias = socket.socket  # in classes that have a member of the name `socket`


class BaseServer:
    """What all servers have in common: the loop, and the hooks that it calls.

    Args:
        server_address: where it serves, in the form of its address family.
        RequestHandlerClass: called with request, client address and server to handle a request.

    Raises:
        OptionError: `strategy`, `grace` or a cap of the class cannot work.
        PluginError: `strategy` names one that is not there.

    Attributes:
        timeout: seconds that `handle_request()` waits; `None` for ever.
        strategy: how requests run beside each other, instead of what the class stands for: a strategy of plugsocket, of
            which each server takes a copy, or its string; `None` for what the class stands for.
        grace: seconds that `server_close()` waits for requests under way before it cuts them; `None` for ever.
    """

    timeout: float | None = None
    strategy: str | Strategy | None = None
    grace: float | None = None

    socket: Socket
    server_address: Any
    RequestHandlerClass: Callable[[Any, Any, Any], Any]

    def __init__(self, server_address: Any, RequestHandlerClass: Callable[[Any, Any, Self], Any]) -> None:  # noqa: N803 - its documented name
        self.server_address = server_address
        self.RequestHandlerClass = RequestHandlerClass
        check_options(self)
        own_strategy(self)
        self._plugsocket_loop  # noqa: B018 - made here, before there are threads

    @cached_property
    def _plugsocket_loop(self) -> Loop:
        return Loop(self, _takes_batches)  # also for a subclass that does not call `__init__`

    # Life

    def server_activate(self) -> None:
        """Begin to listen; a subclass does."""

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Handle requests until `shutdown()`.

        Args:
            poll_interval: seconds between calls of `service_actions()`, if a subclass overrides that; nothing else
                polls.

        Raises:
            LifecycleError: another thread does already.
            ValueError: the server is closed.
        """
        self._plugsocket_loop.serve(poll_interval if _has_actions(self) else None)

    def shutdown(self) -> None:
        """Have `serve_forever()` return, and wait until it does; in a handler, or a signal handler, it only asks.

        Requests under way beside the loop go on.
        """
        self._plugsocket_loop.stop()

    def server_close(self) -> None:
        """Clean up: a loop that runs is stopped."""
        self._plugsocket_loop.close()

    def handle_request(self) -> None:
        """Handle one request; without one for `timeout` seconds, call `handle_timeout()`."""
        times = (self.timeout, self.socket.gettimeout() if hasattr(self, "socket") else None)
        if not self._plugsocket_loop.handle_one(min((each for each in times if each is not None), default=None)):
            self.handle_timeout()

    def _handle_request_noblock(self) -> None:
        """Handle one request, which is there."""
        try:
            request, client_address = self.get_request()
        except OSError as error:
            self._plugsocket_loop.failed(error)
            return
        except Exception as error:  # noqa: BLE001 - whatever a hook raises is reported
            self.handle_error(None, None)
            self._plugsocket_loop.failed(error)
            return
        try:
            if self.verify_request(request, client_address):
                self.process_request(request, client_address)
            else:
                self.shutdown_request(request)
        except Exception:  # noqa: BLE001 - whatever a hook raises is reported
            self.handle_error(request, client_address)
            self.shutdown_request(request)
        except BaseException:
            self.shutdown_request(request)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Call `server_close()`."""
        self.server_close()

    # Hooks

    def service_actions(self) -> None:
        """Do what is to be done in each turn of the loop; a subclass may."""

    def handle_timeout(self) -> None:
        """Do something about `handle_request()` having waited in vain; a subclass may."""

    def get_request(self) -> tuple[Any, Any]:
        """Accept a request.

        Returns:
            It, and the client's address.
        """
        raise NotImplementedError

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - a hook
        """Return whether the request is to be handled."""
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have the request handled and closed: here, unless there is a `strategy`."""
        if self.strategy is None:
            self.finish_request(request, client_address)
            self.shutdown_request(request)
        else:
            handle_beside(self, request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Handle the request, by making a handler for it."""
        self.RequestHandlerClass(request, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        """Tell the client that nothing more comes, and close the request."""
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Close the request; a subclass does."""

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - a hook
        """Report the exception that is being handled: print it to standard error, in one piece."""
        line = "-" * 40
        said = f"Exception occurred during processing of request from {client_address}"
        with suppress(Exception):  # standard error is closed, None, or its reader is gone: nobody is left to tell
            sys.stderr.write(f"{line}\n{said}\n{traceback.format_exc()}{line}\n")

    # What programs reach for that is not documented

    @property
    def __shutdown_request(self) -> bool:
        return self._plugsocket_loop.is_stopping()

    @__shutdown_request.setter
    def __shutdown_request(self, asked: bool) -> None:
        if asked:
            self._plugsocket_loop.stop(wait=False)

    @property
    def __is_shut_down(self) -> threading.Event:
        return self._plugsocket_loop.is_shut_down


class TCPServer(BaseServer):
    """A server of TCP connections, one at a time.

    Args:
        server_address: host and port; port 0 for one that the system chooses.
        RequestHandlerClass: as for `BaseServer`.
        bind_and_activate: whether to call `server_bind()` and `server_activate()`.

    Attributes:
        address_family: of the socket.
        socket_type: of the socket.
        request_queue_size: how many connections wait in the kernel's queue.
        allow_reuse_address: whether the address may be bound while connections of another server linger.
        allow_reuse_port: whether several servers may bind the address at once (AF_INET and AF_INET6).
        socket: what it listens with; may be replaced while the server does not serve.
    """

    address_family: int = socket.AF_INET
    socket_type: int = socket.SOCK_STREAM
    request_queue_size = 5
    allow_reuse_address = False
    allow_reuse_port = False

    server_address: tuple[Any, int]

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Callable[[Any, Any, Self], Any],  # noqa: N803 - its documented name
        bind_and_activate: bool = True,
    ) -> None:
        # And not that of a mix-in, which programs call themselves.
        BaseServer.__init__(self, server_address, RequestHandlerClass)
        self.socket = socket.socket(self.address_family, self.socket_type)
        if bind_and_activate:
            try:
                self.server_bind()
                self.server_activate()
            except BaseException:
                try:
                    self.server_close()
                except Exception:  # noqa: BLE001 - of a subclass that is not ready for it; what counts is raised below
                    self.socket.close()
                raise

    def server_bind(self) -> None:
        """Bind the socket, and take note of the address."""
        if self.allow_reuse_address and hasattr(socket, "SO_REUSEADDR"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.allow_reuse_port and self.address_family in _WITH_PORTS and hasattr(socket, "SO_REUSEPORT"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """Begin to listen."""
        self.socket.listen(self.request_queue_size)

    def server_close(self) -> None:
        """Stop a loop that runs, and close the socket."""
        super().server_close()
        self.socket.close()
        if self.strategy is not None:
            close_workers(self, wait=getattr(self, "block_on_close", True))

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 once closed."""
        return self.socket.fileno()

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection."""
        connection, client_address = self.socket.accept()
        if not ACCEPTS_BLOCKING:
            connection.setblocking(True)
        return connection, client_address

    def shutdown_request(self, request: Any) -> None:
        """Send end of file, and close the connection."""
        try:
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client went first
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Close the connection."""
        request.close()


class UDPServer(TCPServer):
    """A server of UDP datagrams, one at a time. A request is the pair of the data and the socket to answer with.

    Attributes:
        max_packet_size: bytes of a datagram that are kept.
    """

    socket_type = socket.SOCK_DGRAM
    max_packet_size: ClassVar[int] = 8192
    _plugsocket_flags = 0

    def get_request(self) -> tuple[Any, Any]:
        """Receive a datagram."""
        data, client_address = self.socket.recvfrom(self.max_packet_size, self._plugsocket_flags)
        return (data, self.socket), client_address

    def server_activate(self) -> None:
        """Have nothing to do: nobody connects."""

    def shutdown_request(self, request: Any) -> None:
        """Close the request."""
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Have nothing to close."""


class ThreadingMixIn:
    """Has each request handled in a thread of its own; to be named before the class of the server.

    Attributes:
        daemon_threads: whether the program may end while threads run, and `server_close()` without waiting for them.
        block_on_close: whether `server_close()` waits for the others.
        max_threads: how many there are at most; then connections wait in the kernel's queue. `None` for no limit.
    """

    daemon_threads = False
    block_on_close = True
    max_threads: int | None = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a thread call `process_request_thread()`."""
        handle_beside(self, request, client_address, self.__strategy, self.__most)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle the request and close it, in its thread."""
        finish(self, request, client_address)

    def server_close(self) -> None:
        """Close the server, and wait for its threads."""
        super().server_close()  # type: ignore[misc]  # of the server that this is mixed with
        waits = self.block_on_close and not self.daemon_threads
        close_workers(self, wait=waits)
        if waits:
            join_threads(self)

    def __strategy(self) -> ManagedStrategy:
        return ThreadPerRequest(max_workers=sys.maxsize, idle_timeout=0, daemon=self.daemon_threads)

    def __most(self) -> float:
        return math.inf if self.max_threads is None else self.max_threads

    @property
    def _threads(self) -> Any:
        strategy = strategy_of(self)
        return threads_of(self, strategy.threads if isinstance(strategy, Thread) else ())

    @_threads.setter
    def _threads(self, threads: Any) -> None:
        vars(self)["_threads"] = threads


class ForkingMixIn:
    """Has each request handled in a child process of its own; to be named before the class of the server.

    Attributes:
        timeout: seconds that `handle_request()` waits.
        max_children: how many there are at most; then connections wait in the kernel's queue.
        block_on_close: whether `server_close()` waits for children.
    """

    timeout: float | None = 300
    max_children = 40
    block_on_close = True

    @property
    def active_children(self) -> Any:
        """The process ids of the children, a set; a program that forks by itself may add its own, to be reaped."""
        return children_of(self, self.__children())

    @active_children.setter
    def active_children(self, children: Any) -> None:
        vars(self)["active_children"] = children

    def __children(self) -> Collection[int]:
        strategy = strategy_of(self)
        return strategy.children if isinstance(strategy, Fork) else ()

    def collect_children(self, *, blocking: bool = False) -> None:
        """Reap the children that have ended, which happens by itself while the server serves.

        Args:
            blocking: whether to wait for them all.
        """
        strategy = strategy_of(self)
        if isinstance(strategy, Fork):
            strategy.reap()
            if blocking or not strategy.children:  # then there is nothing to watch for any more
                strategy.join(threading.TIMEOUT_MAX)
        reap_children(self, self.__children(), blocking=blocking)

    def handle_timeout(self) -> None:
        """Reap the children that have ended."""
        self.collect_children()

    def service_actions(self) -> None:
        """Reap the children that have ended."""
        self.collect_children()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a child handle the request, and close it here."""
        job = handle_beside(self, request, client_address, self.__strategy, lambda: self.max_children)
        if job is not None and isinstance(strategy_of(self), Fork):
            job.close()

    def server_close(self) -> None:
        """Close the server, and wait for its children."""
        super().server_close()  # type: ignore[misc]  # of the server that this is mixed with
        close_workers(self, wait=self.block_on_close)
        if self.block_on_close:
            reap_children(self, self.__children(), blocking=True)

    def __strategy(self) -> ManagedStrategy:
        return ChildPerRequest(max_children=sys.maxsize)


class BaseRequestHandler(classes.BaseRequestHandler):
    """Handles a request by being made: `setup()`, `handle()` and `finish()` are called, in this order."""


class StreamRequestHandler(classes.StreamRequestHandler, BaseRequestHandler):
    """A handler of connections, with a file to read from and one to write to."""

    # Typed as programs know them: `get_request()` may give other things than sockets, such as TLS.
    request: Any
    connection: Any
    rfile: io.BufferedIOBase
    wfile: io.BufferedIOBase


class DatagramRequestHandler(classes.DatagramRequestHandler, BaseRequestHandler):
    """A handler of datagrams, with the data to read as a file, and a file whose content is the reply, even if empty."""

    def finish(self) -> None:
        """Send the reply, to a client that has an address."""
        if self.client_address:
            self.socket.sendto(self.wfile.getvalue(), self.client_address)


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """TCP, a thread per connection."""


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """UDP, a thread per datagram."""


if hasattr(os, "fork"):

    class ForkingTCPServer(ForkingMixIn, TCPServer):
        """TCP, a child process per connection."""

    class ForkingUDPServer(ForkingMixIn, UDPServer):
        """UDP, a child process per datagram."""

    __all__ += ["ForkingMixIn", "ForkingTCPServer", "ForkingUDPServer"]

if hasattr(socket, "AF_UNIX"):

    class UnixStreamServer(TCPServer):
        """Unix stream sockets, one connection at a time; whoever starts it removes the file."""

        address_family = socket.AF_UNIX
        server_address: Any

    class UnixDatagramServer(UDPServer):
        """Unix datagram sockets, one datagram at a time; whoever starts it removes the file."""

        address_family = socket.AF_UNIX
        server_address: Any

    class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
        """Unix stream sockets, a thread per connection."""

    class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
        """Unix datagram sockets, a thread per datagram."""

    __all__ += [
        "ThreadingUnixDatagramServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixStreamServer",
    ]

if hasattr(os, "fork") and hasattr(socket, "AF_UNIX"):

    class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
        """Unix stream sockets, a child process per connection."""

    class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
        """Unix datagram sockets, a child process per datagram."""

    __all__ += ["ForkingUnixDatagramServer", "ForkingUnixStreamServer"]

# What programs take from here that is not documented.
BufferedIOBase = io.BufferedIOBase
_SocketWriter = classes.SocketWriter
_Threads = Threads
_NoThreads = NoThreads
_ServerSelector = getattr(selectors, "PollSelector", selectors.SelectSelector)

_WITH_PORTS = (socket.AF_INET, socket.AF_INET6)

_REAPING, _FORKING = ForkingMixIn.service_actions, ForkingMixIn.process_request

if not hasattr(os, "fork"):
    del ForkingMixIn  # by which programs tell that they cannot fork


def _has_actions(server: BaseServer) -> bool:
    """Whether something is to be done in each turn of the loop: by a subclass, or for one that forks by itself."""
    actions = getattr(server.service_actions, "__func__", None)
    if actions is BaseServer.service_actions:
        return False
    return actions is not _REAPING or getattr(server.process_request, "__func__", None) is not _FORKING


def _takes_batches(server: Any) -> bool:
    """Have `get_request()` not wait from now on, and return whether it does not: it may be a subclass's."""
    get_request = getattr(server.get_request, "__func__", None)
    if not hasattr(server, "socket") or server.socket.gettimeout() is not None:
        return False
    if get_request is UDPServer.get_request:
        server._plugsocket_flags = DONT_WAIT  # noqa: SLF001 - of this module; replies may wait for room still
        return True
    if _listens(server.socket):
        os.set_blocking(server.fileno(), False)  # for the system alone: `gettimeout()` says what it said
        return get_request is TCPServer.get_request
    return False


def _listens(sock: Socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except (AttributeError, OSError):  # the system does not tell, or it is no socket
        return False
