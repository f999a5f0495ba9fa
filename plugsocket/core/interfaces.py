"""The contracts between the parts of a server.

Every method's docstring states what holds after it returns or raises. Durations are in seconds, as `float`, and
sizes in bytes unless something else is said. zope.interface leaves `self` out of method signatures.

A plug-in implements the small interfaces (`ITransport` and `IListener`, or `IBlockingStrategy`); what else it can
do, it says by providing a capability interface as well (`IManagedStrategy`).
"""

from collections.abc import Callable, Collection
from typing import Any

from zope.interface import Attribute, Interface

# Transports: where requests come from.


class ITransport(Interface):
    """Where requests come from: a value that describes an endpoint and opens it when asked."""

    scheme = Attribute("str: the name before `://` in endpoint strings, such as `tcp`.")

    def listen() -> "IListener":
        """Open the endpoint.

        May block (name resolution, the file system); the caller keeps it away from event loops.

        Returns:
            A listener that accepts from now on and belongs to the caller, who closes it.

        Raises:
            OSError: the endpoint cannot be opened, with the system's `errno` (name resolution:
                `socket.gaierror`). Nothing is left open, no file is left behind.
        """


class IStreamTransport(ITransport):
    """A transport whose requests are connections: each payload is a connected stream socket."""


class IDatagramTransport(ITransport):
    """A transport whose requests are single messages: each payload is `bytes`."""


class IAsyncTransport(ITransport):
    """A transport of trio streams: its listener is an `IAsyncListener`, which a task waits for."""


class IListener(Interface):
    """An open endpoint. It never waits: drivers wait for its descriptor to become readable."""

    address = Attribute("What a client passes to `socket.connect`: the real one, with the port that the kernel chose.")

    def fileno() -> int:
        """Return the descriptor that is readable when `accept()` has something to give; -1 once closed, or for none."""

    def accept() -> "IRequest":
        """Take the next request, without waiting.

        Returns:
            A request that belongs to the caller, who closes it.

        Raises:
            BlockingIOError: nothing is waiting.
            OSError: the system could not give one; the listener is still open unless `errno` is `EBADF`,
                `EINVAL` or `ENOTSOCK`.
        """

    def close() -> None:
        """Stop listening and remove what `listen()` made (such as a socket file that is still its own).

        Idempotent. The descriptor is closed even when removing something else raises.
        In a forked child it closes the child's copy only.
        """


class IDatagramListener(IListener):
    """Capability: a listener that can tell what never reached it."""

    lost = Attribute("int: how many messages the kernel dropped for want of room; 0 where it does not say.")


class IAsyncListener(IListener):
    """A listener without a descriptor: a task of a trio program waits for it."""

    def enter(nursery: Any) -> None:
        """Get ready to be waited for; called before the first `wait()` of each trio program.

        Args:
            nursery: a `trio.Nursery` for whatever it and its requests have to do beside the caller's task.
        """

    async def wait() -> None:
        """Wait until `accept()` has something to give, or to raise. Cancelled, it has lost nothing."""

    async def aclose() -> None:
        """As `close()`, in a task. Closes also when cancelled. Idempotent."""


class IRequest(Interface):
    """One piece of work: a connection, or a datagram."""

    id = Attribute("int: its number, which the server sets: it counts what it takes, from 1.")
    payload = Attribute("A connected `socket.socket` that blocks (stream transports) or `bytes` (datagram transports).")
    peer = Attribute("The address of who sent it, as handlers see it.")
    origin = Attribute(
        "Hashable: who sent it, for limits: the same for all requests of one peer, such as its host. Never raises."
    )

    def filenos() -> Collection[int]:
        """Return the descriptors without which a handler in another process could not answer."""

    def cut() -> None:
        """Wake a handler that waits for this request's peer, for good: its reads end, its writes fail.

        Idempotent, callable from any thread, and never raises for a request that is already over.
        The descriptor stays open until `close()`.
        """

    def close() -> None:
        """Tell the peer that nothing more comes, and release what the request holds. Idempotent."""


class IConnectionRequest(IRequest):
    """A connection that keeps an account, so that a stop can tell idle ones from busy ones."""

    local = Attribute("The address at which the peer reached the server, as handlers see it.")
    traffic = Attribute("The account of what goes over it: a `plugsocket.core.traffic.Traffic()` of its own.")

    def end_if_idle() -> bool:
        """Let a handler that waits for a request to begin see end of file; one that is busy notices nothing.

        Callable from any thread. What has come already can still be read.

        Returns:
            Whether it waits for a request to begin.
        """


class IAsyncRequest(IConnectionRequest):
    """A connection that is a trio stream."""

    patience = Attribute("float: seconds that closing may take; the server sets it.")

    async def aclose() -> None:
        """Close the stream as it should be closed, within `patience`; at once when cancelled. Idempotent."""

    def close_after(last_words: bytes) -> None:
        """Have a few bytes sent and the stream closed, without waiting for that."""


class IStreamRequest(IConnectionRequest):
    """A connection, as the listeners of `plugsocket.transports` make them and its connection objects need them."""

    raw = Attribute("The peer's address as `accept` gave it.")
    linger = Attribute("None, or what to call with the request when the handler is done with it; the server sets it.")
    before_close = Attribute("None, or what to call with the socket before its descriptor is closed.")

    def end() -> None:
        """Close it, for a handler that does so before it returns: by way of `linger`. Idempotent."""

    def hang_up() -> bool:
        """Send end of file; then close if the peer has done so as well, else take the connection from the handler.

        What the handler has left of it, such as a socket, a file object or a thread, has nothing to close any more.

        Returns:
            Whether it is still open, since the peer may still be sending, and the caller is to close it; `False` also
            if somebody else is to, since it was hung up before.
        """

    def discard(scratch: bytearray) -> int | None:
        """Throw away what the peer has sent, after `hang_up()`, without waiting.

        Args:
            scratch: where to put it.

        Returns:
            How many bytes it was; 0 at end of file, or when the connection is broken; `None`: there is nothing yet.
        """


class IDatagramRequest(IRequest):
    """A datagram, as the listeners of `plugsocket.transports` make them and its datagram objects need them."""

    raw = Attribute("The sender's address as receiving it gave it; None or empty when it has none.")
    local = Attribute("The address of the listener, as handlers see it.")
    truncated = Attribute("bool: whether the end of it is missing.")
    conversation = Attribute("Hashable: the same for what one sender sends to one address.")
    listener = Attribute("What has the `socket` that a reply leaves through.")

    def send(data: Any) -> None:
        """Send a datagram, a bytes-like object, to the sender, from the address that it wrote to; wait for room.

        Raises:
            OSError: the system refuses.
        """

    def send_now(data: Any) -> None:
        """The same, without waiting.

        Raises:
            BlockingIOError: there is no room.
            OSError: the system refuses.
        """


# Strategies: how requests run beside each other.


class IJob(Interface):
    """One request on its way through a handler: what a strategy is given to run."""

    peer = Attribute("The address of who sent the request.")

    def __call__() -> bool:
        """Run the handler here and now, close the request, report a failure, and give the slot back.

        Must be called exactly once, in any thread.

        Returns:
            Whether the handler returned without an exception.

        Raises:
            KeyboardInterrupt: in the main thread; the request is closed all the same. Nothing else is passed on.
        """

    def filenos() -> Collection[int]:
        """Return the descriptors that the job needs in another process: the request's and the close signal's."""

    def run_in_child() -> BaseException | None:
        """Run the handler here and now, in a forked child, and close the request; the parent does the rest.

        The parent keeps its own copy of the request until `finish()`, so that it can cut it.

        Returns:
            What the handler raised, for the child to tell the parent. Never raises.
        """

    def summary() -> tuple[int, int, bool]:
        """Return, in the child, what the parent should know: bytes received, bytes sent, whether the peer is done."""

    def adopt(summary: tuple[int, int, bool]) -> None:
        """Take over, in the parent, what the child told."""

    def finish(failure: BaseException | None = None) -> None:
        """Say that the other process is done: the slot is given back, and the failure reported if there is one."""


class IStrategy(Interface):
    """How requests run beside each other. One instance serves one server at a time."""

    name = Attribute("str: its name in strategy strings, such as `thread`.")


class IBlockingStrategy(IStrategy):
    """A strategy for blocking code. The smallest one is `capacity` and `spawn()`."""

    capacity = Attribute("int: how many jobs it takes at once; at the cap, requests wait in the kernel's queue.")

    def spawn(job: IJob) -> None:
        """Have the job run, here or elsewhere; called by one thread, with at most `capacity` jobs unfinished.

        Raises:
            Exception: the job could not be started; it was not called and will not be. The request is closed,
                its slot given back and the exception reported by the caller, and the server goes on.
        """


class IInlineStrategy(IBlockingStrategy):
    """A blocking strategy whose `spawn()` runs the job to its end before it returns."""


class IWatcher(Interface):
    """The driver's readiness loop, lent to a strategy."""

    def watch(fileno: int, callback: Callable[[], None]) -> None:
        """Call back in the serving thread whenever the descriptor is readable, until `unwatch()`."""

    def unwatch(fileno: int) -> None:
        """Stop watching; to be called before the descriptor is closed. Idempotent."""


class IManagedStrategy(IBlockingStrategy):
    """Capability: a strategy with threads, processes or descriptors of its own."""

    def open(watcher: IWatcher) -> None:
        """Get ready; called in the serving thread before the first `spawn()`, and again after a `join()`."""

    def cut(force: bool) -> bool:
        """End the jobs that still run elsewhere: ask them to end, or with `force` end them. Returns at once.

        Returns:
            Whether there were any, so that waiting for them may help.
        """

    def join(timeout: float) -> bool:
        """Let go of threads and processes, waiting at most this long.

        Returns:
            Whether nothing is left.
        """


class ITrioStrategy(IStrategy):
    """A strategy whose requests are tasks of a trio program."""

    max_tasks = Attribute("int: how many requests with async handlers run at once.")
    max_threads = Attribute("int: how many requests with blocking handlers run at once, each in a worker thread.")


# Handlers: what to do with one request.


class IHandler(Interface):
    """What to do with one request: a callable, marked with its kind."""

    name = Attribute("str: how messages call it.")
    function = Attribute("The callable itself.")


class ISyncHandler(IHandler):
    """A function that blocks: `handle(connection)` or `handle(datagram)`."""


class IRequestHandlerClass(ISyncHandler):
    """A class in the style of `socketserver.BaseRequestHandler`: `cls(request, client_address, server)`."""


class IStreamHandlerClass(IRequestHandlerClass):
    """One for connections, derived from the `StreamRequestHandler` of plugsocket or `socketserver`."""


class IDatagramHandlerClass(IRequestHandlerClass):
    """One for datagrams, derived from the `DatagramRequestHandler` of plugsocket or `socketserver`."""


class IAsyncHandler(IHandler):
    """An async function under trio: `await handle(stream)` or `await handle(datagram)`."""


class IPeerHandler(IHandler):
    """An async function of a conversation: `await handle(conversation)`, once for each peer that sends datagrams."""


class ICloseSignal(Interface):
    """Tells handlers, wherever they run, that the server is stopping."""

    def is_set() -> bool:
        """Return whether the server is stopping; true for good once it was."""

    def fileno() -> int:
        """Return a descriptor that becomes readable when the server stops, for `select`; never read from it."""

    def wait(timeout: float | None = None) -> bool:
        """Block until the server stops, at most `timeout` seconds.

        Returns:
            What `is_set()` would.
        """


class IAsyncCloseSignal(Interface):
    """The same for the handlers that are tasks."""

    def is_set() -> bool:
        """Return whether the server is stopping; true for good once it was."""

    def fileno() -> int:
        """Return a descriptor that becomes readable when the server stops; never read from it."""

    async def wait() -> None:
        """Wait until the server stops. A checkpoint; any number of tasks may wait, and be cancelled while they do."""


# What composition adapts to.


class IView(Interface):
    """What (transport, handler) adapts to: makes what the handler is called with out of a request.

    The adapter is a factory, called once per request as `factory(request, closing)`.
    """

    def __call__(request: Any, closing: Any) -> Any:
        """Return what the handler is to be called with; it does not own the request.

        Args:
            request: an `IRequest` of the kind of transport that the view is registered for.
            closing: an `ICloseSignal`, or for async handlers an `IAsyncCloseSignal`.
        """


class IRunner(Interface):
    """What (handler, strategy) adapts to: brings jobs to the handler. Called once per server with both."""

    capacity = Attribute("int: how many requests may run at once.")


class IBlockingRunner(IRunner):
    """A runner for blocking code."""

    def spawn(job: IJob) -> None:
        """Start a job, as `IBlockingStrategy.spawn` does."""


class ITrioRunner(IRunner):
    """A runner for trio tasks."""

    async def run(job: Any) -> None:
        """Take a job to its end. Raises only what ends the whole server: `trio.Cancelled`, `KeyboardInterrupt`."""


class IRouter(Interface):
    """Capability: a runner whose jobs go on to take requests, each of those that belong to it."""

    def route(endpoint: Any, request: Any) -> bool | None:
        """Give a request to the job that it belongs to; called in the loop that accepts, for each request.

        Returns:
            Whether there was room for it; `None` if it belongs to none, and so may begin one.
        """

    def expect(job: Any) -> None:
        """Take note of a job that is about to be started, so that what belongs to it is found to."""

    def end_idle() -> Collection[Any]:
        """Let no job take more, since the server stops.

        Returns:
            Those that were waiting for more.
        """


class IDriver(Interface):
    """What (transport, strategy) adapts to: waits, accepts, and has jobs run.

    The adapter is a factory, called once per server as `factory(strategy)`; all transports of a server must
    adapt to the same one. What the driver works on is a `plugsocket.core.engine.Engine`.
    """

    def run(engine: Any, started: Callable[[], object], one: float | None) -> None:
        """Serve in this thread until the engine is told to stop, then drain and release everything.

        Args:
            engine: the listeners, limits and decisions.
            started: called once requests are being accepted.
            one: `None` to serve until stopped; else serve one request, waiting at most so many seconds for it
                (`inf`: for ever), and return with the listeners open, unless told to stop meanwhile.

        Raises:
            OSError: a listener failed for good; everything is released.
        """

    def finish(engine: Any) -> None:
        """Drain and release everything, for a server that is not being served at the moment. Idempotent."""


class ITrioDriver(IDriver):
    """A driver that can also run inside a trio program."""

    async def serve(engine: Any, started: Callable[[], object], one: float | None) -> None:
        """As `run()`, in the calling task; cancelling it cancels the handlers and closes everything."""


# The server, and policies.


class IOverloadPolicy(Interface):
    """Decides what becomes of requests while as many are under way as may be. Called in the loop that accepts."""

    patience = Attribute("float: seconds that a request which was accepted may wait for room; 0 for not at all.")

    def admits(waiting: int) -> bool:
        """Return whether requests are accepted while there is no room, and so many wait already.

        It may be asked at any time, and should always say the same.
        """

    def farewell(peer: Any) -> bytes:
        """Return what a connection is sent before it is closed without a handler; nothing for `b""`.

        If it raises, or returns something else, that is reported, and nothing is sent.
        """


class IFailurePolicy(Interface):
    """Decides what the failure of a handler means for the server. Called in whatever thread the handler ran in."""

    def aborts(failure: Any) -> bool:
        """Return whether the server is to end: `FAILED`, with the error as its cause, and whatever is under way cut.

        If it raises, that is reported, and the server goes on. A server that is stopping does not ask: handlers may
        fail for what the stop has them see.

        Args:
            failure: a `plugsocket.core.events.HandlerFailed`, which was reported already.
        """


class IAcceptPolicy(Interface):
    """Decides what to do about an error of `IListener.accept`."""

    def classify(error: OSError) -> Any:
        """Return an `AcceptAction`: `RETRY`, `BACK_OFF` or `FATAL`. Must not raise."""


class IServer(Interface):
    """A transport, a handler and a strategy, put together; and their life."""

    state = Attribute("State: where in its life the server is.")
    addresses = Attribute("tuple: the bound addresses, one a transport; each is what `socket.connect` takes.")
    stats = Attribute("Stats: counters, taken now.")

    def bind() -> None:
        """Open every listener, or none."""

    def serve_forever() -> None:
        """Serve in this thread until stopped; everything is closed afterwards."""

    def start() -> "IServer":
        """Serve in a background thread; returns the server once requests are being accepted."""

    async def serve() -> None:
        """Serve inside a trio program, in the calling task."""

    def stop(grace: float | None = None) -> Any:
        """Stop: listeners first, then the requests under way; returns a `StopReport`."""

    async def stop_async(grace: float | None = None) -> Any:
        """As `stop()`, inside a trio program."""

    def run(grace: float | None = None) -> Any:
        """As `serve_forever()`, until SIGTERM or SIGINT; returns a `StopReport`."""

    def handle_request(timeout: float | None = None) -> bool:
        """Serve one request; returns whether there was one."""

    def pause() -> None:
        """Stop accepting; requests under way go on, new ones wait in the kernel's queue."""

    def resume() -> None:
        """Accept again."""
