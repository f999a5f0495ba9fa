"""What trio has under test: `serve_trio.py serve_tcp|recvfrom HANDLER`, a handler of `contender.py`."""

import sys
from functools import partial
from typing import Any

import contender
import trio


async def serve_tcp(handler: Any) -> None:
    """Serve connections until killed."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1", backlog=contender.BACKLOG)
        listeners = await nursery.start(serve)
        contender.announce(listeners[0].socket.getsockname()[1])


async def recvfrom(handler: Any) -> None:
    """Serve datagrams until killed, one after the other."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        contender.announce(sock.getsockname()[1])
        await handler(sock)


if __name__ == "__main__":
    trio.run({"serve_tcp": serve_tcp, "recvfrom": recvfrom}[sys.argv[1]], getattr(contender, sys.argv[2]))
