"""A server of `socketserver` under test: `serve_socketserver.py CLASS [MODULE]`, such as `ThreadingTCPServer`.

The module is the standard library's, or another one with the same classes. Those for Unix sockets that the standard
library has from Python 3.12 on are made of its parts before.
"""

import importlib
import sys
import tempfile
from typing import Any

from contender import BACKLOG, Echo, EchoDatagram, announce


def class_of(module: Any, name: str) -> Any:
    """Find the class, or make it of its parts."""
    if hasattr(module, name):
        return getattr(module, name)
    return type(name, (module.ForkingMixIn, getattr(module, name.removeprefix("Forking"))), {})


def main() -> None:
    """Serve until killed."""
    module: Any = importlib.import_module(sys.argv[2] if len(sys.argv) > 2 else "socketserver")  # noqa: PLR2004 - optional
    cls = class_of(module, sys.argv[1])
    cls.request_queue_size = BACKLOG
    cls.allow_reuse_address = True
    handler = EchoDatagram if issubclass(cls, module.UDPServer) else Echo
    with cls(f"{tempfile.gettempdir()}/socket" if "Unix" in sys.argv[1] else ("127.0.0.1", 0), handler) as server:
        address = server.server_address
        announce(address if isinstance(address, str) else address[1])
        server.serve_forever()


if __name__ == "__main__":
    main()
