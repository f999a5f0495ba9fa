"""What several rooms do with a server's hooks, and with requests."""

import socket
from contextlib import suppress
from typing import Any


def finish(server: Any, request: Any, client_address: Any) -> None:
    """Have a request handled, and closed whatever happens."""
    try:
        server.finish_request(request, client_address)
    except Exception:  # noqa: BLE001 - whatever a handler raises, the hook reports
        server.handle_error(request, client_address)
    finally:
        server.shutdown_request(request)


def cut(request: Any) -> bool:
    """Wake a handler that waits for the client of a connection; return whether there is one."""
    if isinstance(request, tuple):
        return False
    with suppress(Exception):  # it is closed, or no socket at all
        request.shutdown(socket.SHUT_RDWR)
        return True
    return False
