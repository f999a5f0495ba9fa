"""What the servers under test share: the handlers, and how they tell their port and their figures.

This module imports nothing but the standard library, so that no server carries the weight of another one's imports.
"""

import json
import os
import resource
import signal
import socketserver
from collections.abc import Callable, Mapping
from typing import Any

BACKLOG = 1024  # connections; plugsocket's default, given to its peers too
SIZE = 4096  # bytes that a handler asks for; more than the load generator sends


class Echo(socketserver.BaseRequestHandler):
    """Send one message back. The same class serves under socketserver and plugsocket."""

    def handle(self) -> None:
        """Receive once, send once."""
        self.request.sendall(self.request.recv(SIZE))


class EchoDatagram(socketserver.BaseRequestHandler):
    """Send a datagram back. The same class serves under socketserver and plugsocket."""

    def handle(self) -> None:
        """Reply to the sender."""
        data, sock = self.request
        sock.sendto(data, self.client_address)


async def echo(stream: Any) -> None:
    """Send one message back. The same function serves under trio.serve_tcp and plugsocket."""
    await stream.send_all(await stream.receive_some(SIZE))


async def echo_all(stream: Any) -> None:
    """Send everything back, up to end of file; likewise."""
    while chunk := await stream.receive_some(SIZE):
        await stream.send_all(chunk)


async def reply(datagram: Any) -> None:
    """Send one datagram back, under plugsocket."""
    await datagram.reply(datagram.data)


async def reply_all(sock: Any) -> None:
    """Send every datagram back, as a program does that has a trio socket and nothing else."""
    while True:
        data, sender = await sock.recvfrom(SIZE)
        await sock.sendto(data, sender)


def resident(process: int | str) -> int:
    """Count the resident pages of a process, in KiB: `status` and `statm` have an estimate, says proc(5)."""
    with open(f"/proc/{process}/smaps_rollup") as lines:
        for line in lines:
            if line.startswith("Rss:"):
                return int(line.split()[1])
    raise AssertionError("smaps_rollup has no Rss, which proc(5) promises")


def announce(address: int | str, counters: Callable[[], Mapping[str, int]] = dict) -> None:
    """Tell port or path on standard output, and from now on the figures whenever SIGUSR1 comes, one line of JSON each.

    A signal, since it needs no thread in a server that forks.

    Args:
        address: where the server listens already: a port, or a path.
        counters: what the server itself has counted; a server without counters leaves it out.
    """

    def report(_number: int, _frame: object) -> None:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        _tell({"cpu": sum(usage.ru_utime + usage.ru_stime for usage in usages), **counters()})

    signal.signal(signal.SIGUSR1, report)
    _tell({"address": address})


def _tell(what: Mapping[str, float | str]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")
