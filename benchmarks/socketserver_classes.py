"""How fast the classes of plugsocket.compat.socketserver serve, each beside its namesake of the standard library.

A client connects, sends a few bytes, reads them back until end of file, and closes; or sends a datagram and reads the
reply. The two take turns, each time as a fresh process on one core, with the load generator on another one.

    python benchmarks/socketserver_classes.py
    python benchmarks/socketserver_classes.py --only UDPServer --rounds 15 --check

Exit status: 0; 1 when a run failed, or with `--check` when a wanted ratio was missed; 2 for wrong arguments.
"""

import sys

from side_by_side import Contender, Pair, main, socketserver_server

OURS = "plugsocket.compat.socketserver"
REAPING = 0.6  # seconds; the standard library looks after its children in its poll of half a second
COUNTS = {"Forking": 400, "Threading": 4_000, "": 8_000}


def _pair(mix_in: str, base: str) -> Pair:
    name = f"{mix_in}{base}"
    datagrams = base.startswith(("UDP", "UnixDatagram"))
    return Pair(
        name,
        Contender("plugsocket", ("serve_socketserver.py", name, OURS)),
        socketserver_server(name),
        wanted=1.0,
        load="udp" if datagrams else "tcp",
        count=COUNTS[mix_in] * (2 if datagrams and not mix_in else 1),
        settle=REAPING if mix_in == "Forking" else 0.0,
    )


PAIRS = tuple(
    _pair(mix_in, base)
    for mix_in in COUNTS
    for base in ("TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer")
)

if __name__ == "__main__":
    sys.exit(main(__doc__, PAIRS))
