"""own_loop(): async handlers under blocking strategies, and what is left of to_async() without it."""

import functools
from collections.abc import Awaitable
from typing import Any

import pytest
import trio
from zope.interface import directlyProvides, providedBy

from plugsocket import AsyncConnection, AsyncDatagram, CompositionError, Connection, Server, Thread, own_loop
from plugsocket.core.events import HandlerFailed
from plugsocket.core.interfaces import IAsyncHandler, ISyncHandler
from plugsocket.core.kinds import inspect_handler
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import (
    TIMEOUT,
    ask,
    async_busy,
    async_function,
    client,
    function,
    keep_busy,
    receive,
    serving,
    strategy_names,
)

ENDPOINT = "tcp://127.0.0.1:0"

every_strategy = pytest.mark.parametrize("strategy", strategy_names())


async def echo_and_time(stream: AsyncConnection) -> None:
    """Uses what only a running loop has."""
    with trio.fail_after(TIMEOUT):
        async for chunk in stream:
            await stream.send_all(chunk)


@every_strategy
@pytest.mark.parametrize("endpoint", [ENDPOINT, "udp://127.0.0.1:0"])
def test_it_runs_under_every_strategy(strategy: str, endpoint: str) -> None:
    handler = echo_and_time if endpoint == ENDPOINT else async_function
    with serving(Server(endpoint, own_loop(handler), strategy)) as server:
        for _ in range(3):
            with client(server) as sock:
                assert ask(sock, b"hello") == b"hello"
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.failed == 0


@every_strategy
def test_an_exception_is_reported_as_itself(strategy: str, recorder: Recorder) -> None:
    async def handle(stream: AsyncConnection) -> None:
        raise LookupError("nothing here")

    with serving(Server(ENDPOINT, own_loop(handle), strategy), recorder) as server, client(server) as sock:
        assert sock.recv(1) == b""
        (failure,) = recorder.wait_for(HandlerFailed)
        assert failure.peer == sock.getsockname()
    assert recorder.events == [failure]
    if strategy == "fork":
        assert str(failure.error) == "LookupError: nothing here"
    else:
        assert type(failure.error) is LookupError
        assert failure.error.args == ("nothing here",)


@every_strategy
def test_stopping_ends_it(strategy: str, recorder: Recorder) -> None:
    with serving(Server(ENDPOINT, own_loop(async_busy), strategy), recorder) as server, client(server) as sock:
        keep_busy(sock)
        report = server.stop(grace=0)
        assert report.cut == (sock.getsockname(),)
        assert report.finished
        assert sock.recv(1) == b""
    assert recorder.events == []


@every_strategy
def test_it_can_see_the_end_coming(strategy: str) -> None:
    async def handle(stream: AsyncConnection) -> None:
        await stream.send_all(b"ready")
        await stream.closing.wait()
        await stream.send_all(b"bye")

    with serving(Server(ENDPOINT, own_loop(handle), strategy)) as server, client(server) as sock:
        assert receive(sock, 5) == b"ready"
        assert server.stop(grace=TIMEOUT).completed == 1
        assert receive(sock, 100) == b"bye"


@pytest.mark.parametrize("handler", [function, lambda connection: None, Connection, functools.partial(function)])
def test_a_handler_that_blocks_is_refused(handler: Any) -> None:
    with pytest.raises(CompositionError):
        own_loop(handler)


def test_the_text_of_the_refusal() -> None:
    with pytest.raises(CompositionError) as caught:
        own_loop(function)  # type: ignore[arg-type]
    assert str(caught.value) == "own_loop() wraps async handlers; function is none and needs no loop"


class Callable_:  # noqa: N801 - beside typing's
    def __init__(self) -> None:
        self.attribute = 1

    async def __call__(self, stream: AsyncConnection) -> None:
        await stream.send_all(b"hello")

    async def method(self, stream: AsyncConnection) -> None:
        await self(stream)


def declared(stream: AsyncConnection) -> Awaitable[None]:
    return Callable_()(stream)


directlyProvides(declared, IAsyncHandler)


@pytest.mark.parametrize(
    "handler",
    [async_function, Callable_(), Callable_().method, functools.partial(Callable_().method), declared],
    ids=["function", "instance", "method", "partial", "declared"],
)
def test_what_it_returns_is_recognised_as_blocking(handler: Any) -> None:
    wrapped = own_loop(handler)
    spec = inspect_handler(wrapped)
    assert list(providedBy(spec)) == [ISyncHandler]
    with Server(ENDPOINT, wrapped) as server:
        assert isinstance(server.strategy, Thread)
    with pytest.raises(CompositionError, match="is none and needs no loop"):
        own_loop(wrapped)  # type: ignore[arg-type]
    if handler is not async_function:
        with serving(Server(ENDPOINT, wrapped)) as server, client(server) as sock:
            assert receive(sock, 100) == b"hello"


def test_it_is_called_what_the_handler_is_called() -> None:
    wrapped = own_loop(echo_and_time)
    assert inspect_handler(wrapped).name == "echo_and_time"
    assert wrapped.__doc__ == echo_and_time.__doc__


# to_async() in a trio.run of the handler's own


@every_strategy
def test_a_loop_of_the_handler_s_own_that_leaves_the_stream_open(strategy: str, recorder: Recorder) -> None:
    async def hello(stream: AsyncConnection) -> None:
        await stream.send_all(b"hello")

    def handle(connection: Connection) -> None:
        trio.run(hello, connection.to_async())

    with serving(Server(ENDPOINT, handle, strategy), recorder) as server:
        for _ in range(2):
            with client(server) as sock:
                assert receive(sock, 100) == b"hello"
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.failed == 0
    assert recorder.events == []


def test_a_datagram_in_a_loop_of_the_handler_s_own() -> None:
    async def hello(datagram: AsyncDatagram) -> None:
        await datagram.reply(datagram.data)

    made = Server("udp://127.0.0.1:0", lambda datagram: trio.run(hello, datagram.to_async()))
    with serving(made) as server, client(server) as sock:
        assert ask(sock, b"hello") == b"hello"
