"""Every transport under every strategy with every kind of handler, over real sockets."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plugsocket import CompositionError, Server, strategy
from plugsocket.core.events import HandlerFailed
from plugsocket.core.interfaces import IBlockingStrategy, IStreamTransport
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import (
    HANDLERS,
    TIMEOUT,
    ask,
    client,
    example_ids,
    example_name,
    receive,
    serving,
    strategy_names,
)

EXAMPLES = list(example_ids())
CLIENTS = 32
MEBIBYTE = bytes(range(256)) * 4096


def composes(strategy_name: str, handler_name: str) -> bool:
    return handler_name != "async" or not IBlockingStrategy.providedBy(strategy(strategy_name))


PAIRS = [(s, h) for s in strategy_names() for h in HANDLERS]
COMPOSING = [pair for pair in PAIRS if composes(*pair)]
REFUSED = [pair for pair in PAIRS if not composes(*pair)]
STREAMS = [example for example in EXAMPLES if IStreamTransport.implementedBy(example[0])]


def endpoint_of(example: tuple[Any, int], folder: Path) -> Any:
    cls, number = example
    return cls.examples(str(folder))[number]


def over(examples: list[Any], pairs: list[tuple[str, str]]) -> Any:
    cases = [
        pytest.param(example, *pair, id="-".join((example_name(example), *pair)))
        for example in examples
        for pair in pairs
    ]
    return pytest.mark.parametrize(("example", "strategy_name", "handler_name"), cases)


@pytest.fixture
def server(
    example: tuple[Any, int], strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> Iterator[Server]:
    with serving(Server(endpoint_of(example, tmp_path), HANDLERS[handler_name], strategy_name), recorder) as running:
        yield running


def test_the_matrix_is_the_documented_one() -> None:
    names = {example_name(example) for example in EXAMPLES}
    assert names >= {"tcp", "tcp1", "udp", "udp1", "unix", "unixgram"}
    assert set(strategy_names()) >= {"sync", "thread", "fork", "trio"}
    assert {("sync", "async"), ("thread", "async"), ("fork", "async")} <= set(REFUSED)
    assert ("trio", "function") in COMPOSING


@over(EXAMPLES, COMPOSING)
def test_echo(server: Server) -> None:
    with client(server) as sock:
        assert ask(sock, b"hello") == b"hello"
    assert server.wait(connections=0, timeout=TIMEOUT)
    assert server.stats.accepted == 1
    assert server.stats.failed == 0


@over(STREAMS, COMPOSING)
def test_a_mebibyte(server: Server) -> None:
    received = bytearray()
    sent = 0
    with client(server) as sock:
        while len(received) < len(MEBIBYTE):
            if sent < len(MEBIBYTE):
                sent += sock.send(MEBIBYTE[sent : sent + 65_536])
            received += sock.recv(65_536)
    assert received == MEBIBYTE


@over(STREAMS, COMPOSING)
def test_half_close(server: Server) -> None:
    with client(server) as sock:
        sock.sendall(b"all there is")
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 65_536) == b"all there is"  # up to end of file, which the server sends in turn


@over(EXAMPLES, COMPOSING)
def test_a_handler_that_raises_ends_its_own_request(server: Server, recorder: Recorder) -> None:
    with client(server) as bad:
        peer = bad.getsockname()
        bad.sendall(b"raise this")
        (failure,) = recorder.wait_for(HandlerFailed)
        if bad.type == socket.SOCK_STREAM:
            assert bad.recv(100) == b""
    assert server.wait(connections=0, timeout=TIMEOUT)
    with client(server) as good:
        assert ask(good, b"next") == b"next"
    expected = peer.decode() if isinstance(peer, bytes) else peer
    assert failure.peer == expected
    assert "raise this" in str(failure.error)
    assert "RuntimeError" in repr(failure.error)
    assert recorder.events == [failure]
    assert server.stats.failed == 1


@over(EXAMPLES, COMPOSING)
def test_many_clients_at_once(server: Server) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(CLIENTS)]
        for number, sock in enumerate(socks):
            sock.sendall(b"client %d" % number)
        for number, sock in enumerate(socks):
            expected = b"client %d" % number
            assert receive(sock, len(expected)) == expected
            sock.close()  # under Sync() it is the next one's turn only now
    assert server.wait(connections=0, timeout=TIMEOUT)
    assert server.stats.accepted == CLIENTS


@over(EXAMPLES, REFUSED)
def test_what_does_not_compose_is_refused(
    example: tuple[Any, int], strategy_name: str, handler_name: str, tmp_path: Path
) -> None:
    with pytest.raises(CompositionError, match=r"use Trio\(\), or wrap it .*own_loop\(async_function\)"):
        Server(endpoint_of(example, tmp_path), HANDLERS[handler_name], strategy_name)
