"""Async handlers where there is no event loop: each request gets one of its own."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import trio

import plugsocket.handlers.async_datagram  # noqa: F401 - or each forked child would import it by itself
from plugsocket.core.errors import CompositionError
from plugsocket.core.interfaces import IAsyncHandler
from plugsocket.core.kinds import inspect_handler
from plugsocket.core.signals import wake_up_left_to_others
from plugsocket.handlers.connection import Connection
from plugsocket.handlers.datagram import Datagram
from plugsocket.handlers.stream import AsyncConnection


def own_loop(handler: Callable[[Any], Awaitable[object]]) -> Callable[[Connection | Datagram], None]:
    """Make a blocking handler of an async one, by a `trio.run` per request in its thread or child.

    Args:
        handler: an async function of a connection or a datagram.

    Returns:
        A handler for `Sync()`, `Thread()`, `Fork()` and other strategies that run blocking code.

    Raises:
        CompositionError: the handler is not an async one.
    """
    spec = inspect_handler(handler)
    if not IAsyncHandler.providedBy(spec):
        raise CompositionError(f"own_loop() wraps async handlers; {spec.name} is none and needs no loop")

    @functools.wraps(handler, updated=())  # in the handler's __dict__ it may stand declared that it is async
    def blocking(request: Connection | Datagram) -> None:
        with wake_up_left_to_others():
            trio.run(_handle, handler, request)

    # What wraps() says about the original is wrong here: this function is not async.
    del blocking.__wrapped__
    return blocking


async def _handle(handler: Callable[[Any], Awaitable[object]], request: Connection | Datagram) -> None:
    if not isinstance(request, Connection):
        await handler(request.to_async())
        return
    # Not closed here: whoever serves does that, so that closing lingers.
    if not request.closing.remote:
        await handler(request.to_async())
        return
    # Nobody else in this process can end an idle connection when the server stops.
    failures: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_handle_watched, handler, request, nursery, failures)
    for failure in failures:
        raise failure  # here, where no group comes around it


async def _handle_watched(
    handler: Callable[[Any], Awaitable[object]],
    request: Connection,
    nursery: trio.Nursery,
    failures: list[BaseException],
) -> None:
    """Handle a connection in a task of its own, so that the handler is one task still."""
    connection = request.to_async()
    nursery.start_soon(_end_when_closing, connection)
    try:
        await handler(connection)
    except BaseException as error:  # noqa: BLE001 - raised by who waits for this
        failures.append(error)
    nursery.cancel_scope.cancel()


async def _end_when_closing(connection: AsyncConnection) -> None:
    await connection.closing.wait()
    connection.end_if_idle()
