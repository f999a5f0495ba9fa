"""`trio.serve_tcp` under test: `serve_trio.py`."""

from functools import partial

import trio
from contender import BACKLOG, announce, echo


async def main() -> None:
    """Serve until killed."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, echo, 0, host="127.0.0.1", backlog=BACKLOG)
        listeners = await nursery.start(serve)
        announce(listeners[0].socket.getsockname()[1])


if __name__ == "__main__":
    trio.run(main)
