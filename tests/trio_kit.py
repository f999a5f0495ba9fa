"""What the tests of trio programs share."""

import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing
import trustme
from zope.interface import directlyProvides, providedBy

import plugsocket
from plugsocket import Server
from tests.kit import PROBLEMS, TIMEOUT


def run(main: Callable[..., Awaitable[Any]], *arguments: Any, clock: trio.abc.Clock | None = None) -> None:
    """Run a test in trio; a hang becomes a failure, unless the clock is a mock one, whose time is the test's."""

    async def bounded() -> None:
        with trio.fail_after(TIMEOUT if clock is None else float("inf")):
            await main(*arguments)

    trio.run(bounded, clock=clock)


def quiet(server: Server, *subscribers: Any) -> Server:
    """A server that tells the subscribers what goes wrong, and nobody else."""
    server.unsubscribe(plugsocket.log_events)
    for subscriber in subscribers:
        server.subscribe(subscriber, *PROBLEMS)
    return server


async def echo(stream: Any) -> None:
    """A handler as people write it for `trio.serve_tcp`."""
    async for chunk in stream:
        await stream.send_all(chunk)


async def exchange(stream: trio.abc.Stream, data: bytes) -> bytes:
    """Send, and receive as many bytes back, or fewer if no more come."""
    await stream.send_all(data)
    received = bytearray()
    while len(received) < len(data) and (chunk := await stream.receive_some()):
        received += chunk
    return bytes(received)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells of, in real time, whatever the clock."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.001)


def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for a server called `localhost`, and for clients who trust it."""
    authority = trustme.CA()
    of_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    of_client = ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(of_server)
    authority.configure_trust(of_client)
    return of_server, of_client


class Held:
    """A transport that listens when it is let, with an error or without."""

    def __init__(self, transport: Any, error: OSError | None = None) -> None:
        self._transport = transport
        self._error = error
        self.scheme = transport.scheme
        self.reached, self.released = threading.Event(), threading.Event()
        directlyProvides(self, providedBy(transport))

    def listen(self) -> Any:
        self.reached.set()
        assert self.released.wait(TIMEOUT)
        if self._error is not None:
            raise self._error
        return self._transport.listen()
