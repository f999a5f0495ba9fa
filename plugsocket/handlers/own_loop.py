"""Async handlers where there is no event loop: each request gets one of its own."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from plugsocket.core.errors import CompositionError
from plugsocket.core.interfaces import IAsyncHandler
from plugsocket.core.kinds import inspect_handler
from plugsocket.handlers.connection import Connection
from plugsocket.handlers.datagram import Datagram


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
        trio.run(_handle, handler, request)

    # What wraps() says about the original is wrong here: this function is not async.
    del blocking.__wrapped__
    return blocking


async def _handle(handler: Callable[[Any], Awaitable[object]], request: Connection | Datagram) -> None:
    if isinstance(request, Connection):
        async with request.to_async() as connection:
            await handler(connection)
    else:
        await handler(request.to_async())
