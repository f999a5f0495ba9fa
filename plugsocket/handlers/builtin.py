"""Handlers that are ready to use, for connections and datagrams alike; the command line knows them by name."""

from collections.abc import Callable

from plugsocket.handlers.connection import Connection
from plugsocket.handlers.datagram import Datagram

CHUNK = 65_536


def echo(request: Connection | Datagram) -> None:
    """Send everything back as it came."""
    _answer(request, lambda data: data)


def upper(request: Connection | Datagram) -> None:
    """Send everything back with the letters a to z in upper case."""
    _answer(request, bytes.upper)


def discard(request: Connection | Datagram) -> None:
    """Read everything and send nothing."""
    if isinstance(request, Connection):
        while request.recv(CHUNK):
            pass


def _answer(request: Connection | Datagram, change: Callable[[bytes], bytes]) -> None:
    if isinstance(request, Datagram):
        request.reply(change(request.data))
        return
    while chunk := request.recv(CHUNK):
        request.sendall(change(chunk))
