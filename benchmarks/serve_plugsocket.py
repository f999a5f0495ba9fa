"""A plugsocket server under test: `serve_plugsocket.py SCHEME STRATEGY`."""

import sys
from typing import Any

from contender import BACKLOG, Echo, EchoDatagram, announce, echo

import plugsocket


def main() -> None:
    """Serve until killed."""
    scheme, strategy = sys.argv[1:]
    transport: plugsocket.TCP | plugsocket.UDP
    handler: Any
    if scheme == "udp":
        transport, handler = plugsocket.UDP("127.0.0.1", 0), EchoDatagram
    else:
        transport, handler = plugsocket.TCP("127.0.0.1", 0, backlog=BACKLOG), echo if strategy == "trio" else Echo
    server = plugsocket.Server(transport, handler, strategy)
    server.bind()

    def counters() -> dict[str, int]:
        stats = server.stats
        return {"accepted": stats.accepted, "lost": stats.failed + stats.refused + stats.accept_errors}

    announce(server.addresses[0].port, counters)
    server.serve_forever()


if __name__ == "__main__":
    main()
