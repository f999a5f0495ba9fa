"""A server with a supervisor, which makes it anew when it fails, after pauses that grow while it keeps failing."""

import signal
import sys
from collections.abc import Callable

import trio

from plugsocket import AsyncConnection, Server, State, Trio
from plugsocket.core.events import ListenerOpened

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 60.0  # seconds


async def supervise(make_server: Callable[[], Server]) -> None:
    """Serve until a server is stopped; raise the error of one that cannot even open its endpoint."""
    pause = 0.0
    while True:
        server, began = make_server(), trio.current_time()
        try:
            await server.serve()
        except Exception:
            if server.state is not State.FAILED:
                raise
        else:
            return
        lasted = trio.current_time() - began > LONGEST_PAUSE
        pause = min(2 * pause, LONGEST_PAUSE) if pause and not lasted else FIRST_PAUSE
        print(f"failed with {server.cause!r}, again in {pause:g} s")
        await trio.sleep(pause)


async def shout(connection: AsyncConnection) -> None:
    """Answer in upper case; what it raises makes the whole server fail."""
    async for data in connection:
        if data == b"crash\n":
            raise RuntimeError("as you like")
        await connection.send_all(data.upper())


def make_server(endpoint: str) -> Server:
    """Compose the server, and have it say where it is."""
    server = Server(endpoint, shout, Trio(), on_failure="abort")
    server.subscribe(print, ListenerOpened)
    return server


async def main(endpoint: str) -> None:
    """Have a server serve until a signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, lambda: make_server(endpoint))
            await anext(signals)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if sys.argv[1:] else "tcp://127.0.0.1:9999")
