"""How many requests of one peer may be under way at once, and who counts as one."""

import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plugsocket import UDP, Answer, Connection, Datagram, Limits, UnixDatagram, UnixStream
from plugsocket.core.events import ConnectionRejected, DatagramDropped, LimitReached
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import HANDLERS, TIMEOUT, ask, client, function, receive, until
from tests.limiting import (
    ENDPOINT,
    LATER,
    ONE,
    PARALLEL,
    PEERS,
    V4,
    every_parallel_strategy,
    from_host,
    has_nothing,
    limited,
)
from tests.programs import line_of, program
from tests.test_matrix import endpoint_of, over


@over(ONE, PARALLEL)
def test_each_host_has_its_own_number(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path, recorder: Recorder
) -> None:
    """Under Queue(), too: who it is shows only when it was accepted."""
    with limited(
        endpoint_of(example, tmp_path),
        HANDLERS[handler_name],
        strategy_name,
        Limits(max_per_peer=2),
        recorder=recorder,
    ) as server:
        with ExitStack() as stack:
            socks = [stack.enter_context(from_host(server, host)) for host in PEERS for _ in range(2)]
            for sock in socks:
                assert ask(sock, b"hello") == b"hello"
            for host in PEERS:
                with from_host(server, host) as one_more:
                    assert one_more.recv(1) == b""
            assert ask(socks[0], b"still there") == b"still there"
            (rejected, other) = recorder.wait_for(ConnectionRejected, 2)
            assert (rejected.peer.host, rejected.reason) == (PEERS[0], "max_per_peer")
            assert (other.peer.host, other.reason) == (PEERS[1], "max_per_peer")
        assert server.wait(connections=0, timeout=TIMEOUT)
        with from_host(server, PEERS[0]) as again:
            assert ask(again, b"again") == b"again"
    assert server.stats.rejected == 2
    assert recorder.of(LimitReached) == []  # which is about all of them


@every_parallel_strategy
def test_one_peer_that_waits_keeps_nobody_else_waiting(strategy_name: str) -> None:
    limits = Limits(max_per_peer=1, overload=LATER)
    with (
        limited(ENDPOINT, function, strategy_name, limits) as server,
        from_host(server, PEERS[0]) as first,
        from_host(server, PEERS[0]) as second,
    ):
        assert ask(first, b"1") == b"1"
        second.sendall(b"2")
        until(lambda: server.stats.waiting == 1)
        with from_host(server, PEERS[1]) as third:
            assert ask(third, b"3") == b"3"
        assert has_nothing(second)
        first.close()
        assert receive(second, 1) == b"2"


CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b"hello")
print(sock.recv(100))
"""


@every_parallel_strategy
def test_unix_peers_are_counted_by_process(strategy_name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    limits = Limits(max_per_peer=1, overload=Answer(b"full"))
    with limited(UnixStream(path), function, strategy_name, limits) as server, client(server) as first:
        assert ask(first, b"1") == b"1"
        with client(server) as second:
            assert receive(second, 100) == b"full"
        with program(CLIENT, path) as process:
            assert line_of(process) == "b'hello'"


@every_parallel_strategy
def test_a_name_of_its_own_gives_a_process_no_more(strategy_name: str, tmp_path: Path) -> None:
    limits = Limits(max_per_peer=1, overload=Answer(b"full"))
    with (
        limited(UnixStream(tmp_path / "socket"), function, strategy_name, limits) as server,
        client(server) as first,
        socket.socket(socket.AF_UNIX) as second,
    ):
        assert ask(first, b"1") == b"1"
        second.settimeout(TIMEOUT)
        second.bind("")  # an abstract name of the kernel's choice
        second.connect(server.addresses[0])
        second.sendall(b"2")
        assert second.recv(100) == b"full"


@over(V4, PARALLEL)
def test_max_per_peer_switched_on_counts_those_that_are_open(
    example: Any, strategy_name: str, handler_name: str, tmp_path: Path
) -> None:
    endpoint = endpoint_of(example, tmp_path)
    with limited(endpoint, HANDLERS[handler_name], strategy_name, Limits()) as server, ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(2)]
        for sock in socks:
            assert ask(sock, b"x") == b"x"
        server.limits = Limits(max_per_peer=2)
        with client(server) as late:
            assert late.recv(1) == b""
        socks[0].close()
        assert server.wait(connections=1, timeout=TIMEOUT)
        with client(server) as late:
            assert ask(late, b"y") == b"y"
        server.limits = Limits()
        assert ask(stack.enter_context(client(server)), b"1") == b"1"
        assert ask(stack.enter_context(client(server)), b"2") == b"2"
        assert server.wait(connections=3, timeout=TIMEOUT)
        server.limits = Limits(max_per_peer=3)  # those before are not counted twice, nor forgotten
        with client(server) as late:
            assert late.recv(1) == b""


@pytest.mark.parametrize("strategy_name", ["thread", "trio"])
def test_max_per_peer_switched_on_when_a_handler_has_closed_its_connection(strategy_name: str, tmp_path: Path) -> None:
    closed, over_now = threading.Event(), threading.Event()

    def handle(connection: Connection) -> None:
        connection.close()
        closed.set()
        over_now.wait(TIMEOUT)

    with limited(UnixStream(tmp_path / "socket"), handle, strategy_name, Limits()) as server, client(server):
        try:
            assert closed.wait(TIMEOUT)
            server.limits = Limits(max_per_peer=1)
        finally:
            over_now.set()


@pytest.mark.parametrize("endpoint", [UDP("127.0.0.1", 0), UnixDatagram(f"@plugsocket-limits-{os.getpid()}")])
def test_datagrams_of_one_peer(endpoint: Any, recorder: Recorder) -> None:
    free = threading.Event()

    def handle(datagram: Datagram) -> None:
        free.wait(TIMEOUT)
        datagram.reply(datagram.data)

    with (
        limited(endpoint, handle, "thread", Limits(max_per_peer=1), recorder=recorder) as server,
        client(server) as sock,
    ):
        sock.send(b"1")
        assert server.wait(connections=1, timeout=TIMEOUT)
        sock.send(b"2")
        (dropped,) = recorder.wait_for(DatagramDropped)
        free.set()
        assert sock.recv(10) == b"1"
    assert dropped.reason == "max_per_peer"
