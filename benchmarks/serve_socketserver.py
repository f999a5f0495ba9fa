"""A server of the standard library under test: `serve_socketserver.py CLASS`, such as `ThreadingTCPServer`."""

import socketserver
import sys

from contender import BACKLOG, Echo, EchoDatagram, announce


def main() -> None:
    """Serve until killed."""
    cls = getattr(socketserver, sys.argv[1])
    cls.request_queue_size = BACKLOG
    cls.allow_reuse_address = True
    handler = EchoDatagram if issubclass(cls, socketserver.UDPServer) else Echo
    with cls(("127.0.0.1", 0), handler) as server:
        announce(server.server_address[1])
        server.serve_forever()


if __name__ == "__main__":
    main()
