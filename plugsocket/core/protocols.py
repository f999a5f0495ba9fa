"""The contracts of `plugsocket.core.interfaces` as types that every type checker can read.

mypy needs a plug-in to read zope interfaces and pyright cannot, so what public signatures name is a `Protocol` twin
of the interface. The interface holds the documentation; a test holds each pair together.
"""

from collections.abc import Callable, Collection, Hashable
from typing import Any, Protocol, TypeAlias

Handler: TypeAlias = Callable[..., object]
"""A function of one request, an async function of one request, or a request handler class."""


class Request(Protocol):
    """Twin of `IRequest`."""

    id: int

    @property
    def payload(self) -> Any: ...
    @property
    def peer(self) -> Any: ...
    @property
    def origin(self) -> Hashable: ...
    def filenos(self) -> Collection[int]: ...
    def cut(self) -> None: ...
    def close(self) -> None: ...


class ConnectionRequest(Request, Protocol):
    """Twin of `IConnectionRequest`."""

    @property
    def local(self) -> Any: ...
    @property
    def traffic(self) -> Any: ...
    def end_if_idle(self) -> bool: ...


class AsyncRequest(ConnectionRequest, Protocol):
    """Twin of `IAsyncRequest`."""

    patience: float

    async def aclose(self) -> None: ...
    def close_after(self, last_words: bytes) -> None: ...


class StreamRequest(ConnectionRequest, Protocol):
    """Twin of `IStreamRequest`."""

    linger: Callable[[Any], None] | None
    before_close: Callable[[Any], object] | None

    @property
    def raw(self) -> Any: ...
    def hang_up(self) -> bool: ...
    def end(self) -> None: ...
    def discard(self, scratch: bytearray) -> int | None: ...


class DatagramRequest(Request, Protocol):
    """Twin of `IDatagramRequest`."""

    @property
    def raw(self) -> Any: ...
    @property
    def local(self) -> Any: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def conversation(self) -> Hashable: ...
    @property
    def listener(self) -> Any: ...
    def send(self, data: Any) -> None: ...
    def send_now(self, data: Any) -> None: ...


class Listener(Protocol):
    """Twin of `IListener`."""

    @property
    def address(self) -> Any: ...
    def fileno(self) -> int: ...
    def accept(self) -> Request: ...
    def close(self) -> None: ...


class DatagramListener(Listener, Protocol):
    """Twin of `IDatagramListener`."""

    @property
    def lost(self) -> int: ...


class AsyncListener(Listener, Protocol):
    """Twin of `IAsyncListener`."""

    def enter(self, nursery: Any) -> None: ...
    async def wait(self) -> None: ...
    async def aclose(self) -> None: ...


class Transport(Protocol):
    """Twin of `ITransport`."""

    @property
    def scheme(self) -> str: ...
    def listen(self) -> Listener: ...


class Job(Protocol):
    """Twin of `IJob`."""

    @property
    def peer(self) -> Any: ...
    def __call__(self) -> bool: ...
    def filenos(self) -> Collection[int]: ...
    def run_in_child(self) -> BaseException | None: ...
    def summary(self) -> tuple[int, int, bool]: ...
    def adopt(self, summary: tuple[int, int, bool]) -> None: ...
    def finish(self, failure: BaseException | None = None) -> None: ...


class Strategy(Protocol):
    """Twin of `IStrategy`."""

    @property
    def name(self) -> str: ...


class BlockingStrategy(Strategy, Protocol):
    """Twin of `IBlockingStrategy`."""

    @property
    def capacity(self) -> int: ...
    def spawn(self, job: Job) -> None: ...


class Watcher(Protocol):
    """Twin of `IWatcher`."""

    def watch(self, fileno: int, callback: Callable[[], None]) -> None: ...
    def unwatch(self, fileno: int) -> None: ...


class ManagedStrategy(BlockingStrategy, Protocol):
    """Twin of `IManagedStrategy`."""

    def open(self, watcher: Watcher) -> None: ...
    def cut(self, force: bool) -> bool: ...
    def join(self, timeout: float) -> bool: ...


class TrioStrategy(Strategy, Protocol):
    """Twin of `ITrioStrategy`."""

    @property
    def max_tasks(self) -> int: ...
    @property
    def max_threads(self) -> int: ...


class CloseSignal(Protocol):
    """Twin of `ICloseSignal`."""

    def is_set(self) -> bool: ...
    def fileno(self) -> int: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class AsyncCloseSignal(Protocol):
    """Twin of `IAsyncCloseSignal`."""

    def is_set(self) -> bool: ...
    def fileno(self) -> int: ...
    async def wait(self) -> None: ...


class View(Protocol):
    """Twin of `IView`."""

    def __call__(self, request: Any, closing: Any) -> Any: ...


class Runner(Protocol):
    """Twin of `IRunner`."""

    @property
    def capacity(self) -> int: ...


class BlockingRunner(Runner, Protocol):
    """Twin of `IBlockingRunner`."""

    def spawn(self, job: Job) -> None: ...


class TrioRunner(Runner, Protocol):
    """Twin of `ITrioRunner`."""

    async def run(self, job: Any) -> None: ...


class Router(Protocol):
    """Twin of `IRouter`."""

    def route(self, endpoint: Any, request: Any) -> bool | None: ...
    def expect(self, job: Any) -> None: ...
    def end_idle(self) -> Collection[Any]: ...


class OverloadPolicy(Protocol):
    """Twin of `IOverloadPolicy`."""

    @property
    def patience(self) -> float: ...
    def admits(self, waiting: int) -> bool: ...
    def farewell(self, peer: Any) -> bytes: ...


class FailurePolicy(Protocol):
    """Twin of `IFailurePolicy`."""

    def aborts(self, failure: Any) -> bool: ...


class Driver(Protocol):
    """Twin of `IDriver`."""

    def run(self, engine: Any, started: Callable[[], object], one: float | None) -> None: ...
    def finish(self, engine: Any) -> None: ...


class TrioDriver(Driver, Protocol):
    """Twin of `ITrioDriver`."""

    async def serve(self, engine: Any, started: Callable[[], object], one: float | None) -> None: ...
