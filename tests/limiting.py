"""What the tests of limits share: servers that have some, and who comes to them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from plugsocket import Limits, Server, Wait, strategy
from plugsocket.core.interfaces import IInlineStrategy
from plugsocket.core.readiness import wait_readable
from tests.kit import TIMEOUT, serving, strategy_names
from tests.test_matrix import COMPOSING, STREAMS

ENDPOINT = "tcp://127.0.0.1:0"
PEERS = "127.0.0.1", "127.0.0.2"  # all of 127/8 is the loopback interface's (RFC 1122, section 3.2.1.3)
FAREWELL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
LATER = Wait(TIMEOUT * 3)  # for tests in which nobody waits in vain

# Under an inline strategy the loop accepts nobody while a handler runs, so that there is never one too many.
PARALLEL = [pair for pair in COMPOSING if not IInlineStrategy.providedBy(strategy(pair[0]))]
V4 = [example for example in STREAMS if example[1] == 0]  # IPv6 has the same limits as IPv4
ONE = V4[:1]
PARALLEL_NAMES = [name for name in strategy_names() if not IInlineStrategy.providedBy(strategy(name))]

every_parallel_strategy = pytest.mark.parametrize("strategy_name", PARALLEL_NAMES)


@contextmanager
def limited(endpoint: Any, handler: Any, strategy_name: Any, limits: Limits, **options: Any) -> Iterator[Server]:
    """Serve under limits; to be told of everything, a subscriber goes with `recorder=`."""
    recorder = options.pop("recorder", None)
    server = Server(endpoint, handler, strategy_name, limits=limits, **options)
    if recorder is not None:
        server.subscribe(recorder)
    with serving(server):
        yield server


def has_nothing(sock: socket.socket) -> bool:
    """Whether neither bytes nor the end have come."""
    return not wait_readable(sock.fileno(), 0)


def from_host(server: Server, host: str) -> socket.socket:
    """A client with an address of one's choice."""
    return socket.create_connection(server.addresses[0], TIMEOUT, source_address=(host, 0))
