"""How fast plugsocket serves short requests, beside the servers that it would replace, in one run.

A client connects, sends a few bytes, reads them back until end of file, and closes; or sends a datagram and reads the
reply. Subject and peer take turns, each time as a fresh process on one core, with the load generator on another one.

    python benchmarks/connect_echo_close.py
    python benchmarks/connect_echo_close.py --only thread --only trio --rounds 15 --check

Exit status: 0; 1 when a run failed, or with `--check` when a wanted ratio was missed; 2 for wrong arguments.
"""

import sys
from typing import Any

from side_by_side import Pair, main, plugsocket_server, socketserver_server, trio_server

REAPING = 0.6  # seconds; ForkingMixIn looks after its children in its poll of half a second


def _pair(name: str, peer: str, **options: Any) -> Pair:
    return Pair(name, plugsocket_server("tcp", name, "Echo"), socketserver_server(peer), **options)


PAIRS = (
    _pair("thread", "ThreadingTCPServer", wanted=1.5),
    Pair("trio", plugsocket_server("tcp", "trio", "echo"), trio_server("serve_tcp", "echo"), wanted=1.5),
    _pair("sync", "TCPServer", wanted=1.0),
    _pair("fork", "ForkingTCPServer", count=400, settle=REAPING),
    Pair(
        "udp",
        plugsocket_server("udp", "sync", "EchoDatagram"),
        socketserver_server("UDPServer"),
        load="udp",
        count=20_000,
    ),
)

if __name__ == "__main__":
    sys.exit(main(__doc__, PAIRS))
