"""A guest book at three endpoints at once: read and signed over TCP and Unix connections, signed by UDP datagrams.

Start it, then visit it from another terminal: `nc 127.0.0.1 9999`, `nc -U guests.sock`, or `nc -u 127.0.0.1 9999`.
Other endpoints can be given as arguments.
"""

import sys
import threading

from plugsocket import Connection, Datagram, Server, Thread


class GuestBook:
    """A handler that is an object, since its requests share something: the entries."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []
        self._lock = threading.Lock()

    def __call__(self, request: Connection | Datagram) -> None:
        """Handle a connection or a datagram, whichever transport it came by."""
        if isinstance(request, Datagram):
            self._sign(request.data)
            request.reply(b"thank you\n")
            return
        with self._lock:
            book = b"".join(self._entries)
        request.sendall(book + b"your entry: ")
        with request.makefile("rb") as lines:
            self._sign(lines.readline(1000))
        request.sendall(b"thank you\n")

    def _sign(self, entry: bytes) -> None:
        with self._lock:
            self._entries.append(entry.rstrip(b"\n") + b"\n")


def make_server(endpoints: list[str]) -> Server:
    """Compose the server: all endpoints share the handler, the strategy and its limit."""
    return Server(endpoints, GuestBook(), Thread(max_workers=100))


def announce(server: Server) -> None:
    """Say where the server is, once it accepts."""
    print("open at", *server.urls)


if __name__ == "__main__":
    server = make_server(sys.argv[1:] or ["tcp://127.0.0.1:9999", "udp://127.0.0.1:9999", "unix://guests.sock"])
    server.run(started=announce)
