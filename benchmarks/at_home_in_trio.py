"""What plugsocket costs a trio program, beside what trio has itself, in one run.

Connections, idle ones and busy ones, are compared with `trio.serve_tcp`; datagrams with a loop of `recvfrom` and
`sendto` on a trio socket, since trio has no server for them. Both sides have the same handler. Subject and peer take
turns, each time as a fresh process on one core, with the load generator on another one.

    python benchmarks/at_home_in_trio.py
    python benchmarks/at_home_in_trio.py --only memory --only datagrams --rounds 15 --check

Exit status: 0; 1 when a run failed, or with `--check` when a wanted ratio was missed; 2 for wrong arguments.
"""

import sys
from typing import Any

from side_by_side import Pair, main, plugsocket_server, trio_server


def _pair(name: str, handler: str, **options: Any) -> Pair:
    return Pair(name, plugsocket_server("tcp", "trio", handler), trio_server("serve_tcp", handler), **options)


PAIRS = (
    _pair("memory", "echo_all", load="idle", count=5_000, memory=True, wanted=1.15),
    _pair("connections", "echo", load="tcp", count=4_000, wanted=2.0),
    _pair("requests", "echo_all", load="open", count=20_000, wanted=1.0),
    Pair(
        "datagrams", plugsocket_server("udp", "trio", "reply"), trio_server("recvfrom", "reply_all"),
        load="udp", count=20_000, wanted=2.5,
    ),
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(__doc__, PAIRS))
