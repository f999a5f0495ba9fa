"""A plugsocket server to wear out: `serve_soak.py STRATEGY blocking|async`.

It prints its port, as a line of JSON. From then on every line of standard input is a number of requests under way: once
there are so many, it answers with its figures, another line of JSON. It ends with its input.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
from contender import BACKLOG, SIZE, resident

import plugsocket
from plugsocket import log_events

PATIENCE = 30.0  # seconds after which a number of requests under way does not come any more
PROCESS = Path("/proc/self")


@attrs.frozen
class Figures:
    """What a server holds, and what it counted.

    Attributes:
        memory: resident, in KiB.
        descriptors: how many are open.
        threads: how many run.
        children: how many there are, with those that nobody has reaped.
        accepted: requests.
        raised: handlers that failed otherwise than because their peers were gone.
        disconnected: those that did because of that.
        lost: requests refused, and errors of `accept`.
    """

    memory: int
    descriptors: int
    threads: int
    children: int
    accepted: int
    raised: int
    disconnected: int
    lost: int


def answer(chunk: bytes) -> bytes:
    """Return what is to be sent back."""
    if chunk.startswith(b"raise"):
        raise RuntimeError("as the client asked for")
    return chunk


def blocking_echo(connection: plugsocket.Connection) -> None:
    """Send everything back, up to the end of a line or of the file.

    `SIZE` at a time: out of freed buffers of 64 KiB, glibc's malloc keeps up to some 10 MiB for 16 threads, and takes a
    million connections to come to that. It would be growth, though of nothing that anybody holds.
    """
    while chunk := connection.recv(SIZE):
        connection.sendall(answer(chunk))
        if chunk.endswith(b"\n"):
            return


async def async_echo(stream: plugsocket.AsyncConnection) -> None:
    """As `blocking_echo`."""
    while chunk := await stream.receive_some(SIZE):
        await stream.send_all(answer(chunk))
        if chunk.endswith(b"\n"):
            return


HANDLERS: dict[str, Callable[..., object]] = {"blocking": blocking_echo, "async": async_echo}


def take(server: plugsocket.Server) -> Figures:
    """Take the figures, without what is garbage already.

    A failure's traceback and its frames are a cycle, which goes when the collector comes by: without a collection the
    figures would tell how long ago that was.
    """
    gc.collect()
    stats = server.stats
    return Figures(
        memory=resident("self"),
        descriptors=len(os.listdir(PROCESS / "fd")) - 1,  # the folder's own
        threads=len(os.listdir(PROCESS / "task")),
        children=sum(len(file.read_text().split()) for file in PROCESS.glob("task/*/children")),
        accepted=stats.accepted,
        raised=stats.failed,
        disconnected=stats.disconnected,
        lost=stats.refused + stats.accept_errors,
    )


def _tell(what: Mapping[str, int]) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - how it answers


def main() -> None:
    """Serve until the standard input ends."""
    strategy, handler = sys.argv[1:]
    transport = plugsocket.TCP("127.0.0.1", 0, backlog=BACKLOG)
    with plugsocket.Server(transport, HANDLERS[handler], strategy) as server:
        server.unsubscribe(log_events)
        server.start()
        _tell({"port": server.addresses[0].port})
        for line in sys.stdin:
            if not server.wait(connections=int(line), timeout=PATIENCE):
                sys.exit(f"after {PATIENCE} seconds not {line.strip()} requests are under way, but {server.stats}")
            _tell(attrs.asdict(take(server)))


if __name__ == "__main__":
    main()
