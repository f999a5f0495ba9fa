"""UDP: sizes, truncation, senders, the way back to them, and who may have an address."""

import errno
import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plugsocket import (
    TCP,
    UDP,
    AsyncDatagram,
    Datagram,
    DatagramRequestHandler,
    Inet6Address,
    InetAddress,
    Server,
    Thread,
    echo,
)
from plugsocket.core.events import DatagramTruncated, HandlerFailed
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import HANDLERS, TIMEOUT, ask, async_function, client, function, serving, strategy_names

V4 = UDP("127.0.0.1", 0)
LARGEST = 65_507  # bytes: 65,535 without the headers of IPv4 and UDP

every_strategy = pytest.mark.parametrize("strategy", strategy_names())


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", LARGEST), ("::1", LARGEST + 20)])
@pytest.mark.parametrize("strategy", [*strategy_names(), "async"])
def test_the_largest_datagram(host: str, largest: int, strategy: str, recorder: Recorder) -> None:
    """IPv6 does not count its own header, and so has room for 20 bytes more."""
    handler = async_function if strategy == "async" else echo
    server = Server(UDP(host, 0), handler, "trio" if strategy == "async" else strategy)
    data = os.urandom(largest)
    with serving(server, recorder), client(server) as sock:
        assert ask(sock, data) == data
        with pytest.raises(OSError, match="too long") as caught:
            sock.send(data + b"x")
        assert caught.value.errno == errno.EMSGSIZE
    assert recorder.events == []


@every_strategy
def test_what_is_too_long_says_so(strategy: str, recorder: Recorder) -> None:
    def handle(datagram: Datagram) -> None:
        datagram.reply(b"%d %s" % (datagram.truncated, datagram.data))

    with (
        serving(Server(UDP("127.0.0.1", 0, max_datagram=5), handle, strategy), recorder) as server,
        client(server) as sock,
    ):
        peer = sock.getsockname()
        assert ask(sock, b"12345") == b"0 12345"
        assert recorder.events == []
        assert ask(sock, b"123456789") == b"1 12345"
    (event,) = recorder.events
    assert isinstance(event, DatagramTruncated)
    assert (event.peer, event.size) == (peer, 5)
    assert str(event) == f"datagram from {peer[0]}:{peer[1]} was cut to 5 bytes"


def test_async_handlers_see_it_too() -> None:
    async def handle(datagram: AsyncDatagram) -> None:
        await datagram.reply(b"%d %s" % (datagram.truncated, datagram.data))

    with serving(Server("udp://127.0.0.1:0?max_datagram=5", handle)) as server, client(server) as sock:
        server.subscribe(lambda event: None)
        assert ask(sock, b"12345") == b"0 12345"
        assert ask(sock, b"123456") == b"1 12345"


@every_strategy
@pytest.mark.parametrize("handler", list(HANDLERS))
def test_an_empty_datagram_is_a_datagram(strategy: str, handler: str) -> None:
    if handler == "async" and strategy != "trio":
        handler = "own_loop"
    with serving(Server(V4, HANDLERS[handler], strategy)) as server, client(server) as sock:
        assert ask(sock, b"") == b""
        assert ask(sock, b"next") == b"next"
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert server.stats.accepted == 2


def test_no_reply_unless_asked_for() -> None:
    seen = threading.Event()

    def handle(datagram: Datagram) -> None:
        if datagram.data == b"reply":
            datagram.reply(b"")
        seen.set()

    class Quiet(DatagramRequestHandler):
        def handle(self) -> None:
            if self.packet == b"reply":
                self.socket.sendto(b"", self.client_address)
            seen.set()

    for handler in (handle, Quiet):
        with serving(Server(V4, handler)) as server, client(server) as sock:
            sock.send(b"quiet")
            assert seen.wait(TIMEOUT)
            assert server.wait(connections=0, timeout=TIMEOUT)
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
            sock.settimeout(TIMEOUT)
            assert ask(sock, b"reply") == b""
            seen.clear()


@every_strategy
def test_every_reply_goes_to_its_own_sender(strategy: str) -> None:
    with serving(Server(V4, function, strategy)) as server:
        socks = [client(server) for _ in range(16)]
        try:
            for turn in range(4):
                for number, sock in enumerate(socks):
                    sock.send(b"%d of %d" % (turn, number))
            for number, sock in enumerate(socks):
                assert sorted(sock.recv(100) for _ in range(4)) == [b"%d of %d" % (turn, number) for turn in range(4)]
            assert server.wait(connections=0, timeout=TIMEOUT)
            for sock in socks:
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(100)
        finally:
            for sock in socks:
                sock.close()
    assert server.stats.accepted == 64


# Addresses


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [(V4, InetAddress), (UDP("::1", 0), Inet6Address), (UDP("localhost", 0), (InetAddress, Inet6Address))],
    ids=str,
)
def test_addresses(endpoint: UDP, kind: Any, recorder: Recorder) -> None:
    def handle(datagram: Datagram) -> None:
        datagram.reply(f"{datagram.peer} {datagram.local}".encode())

    with serving(Server(endpoint, handle), recorder) as server, client(server) as sock:
        (address,) = server.addresses
        assert isinstance(address, kind)
        assert address.port > 0
        assert server.urls == (f"udp://{address}",)
        peer = kind(*sock.getsockname()) if isinstance(kind, type) else type(address)(*sock.getsockname())
        assert ask(sock, b"who") == f"{peer} {address}".encode()


@pytest.mark.parametrize("handler", ["function", "class", "async"])
def test_dual_stack(handler: str, recorder: Recorder) -> None:
    with serving(Server(UDP("::", 0, dual_stack=True), HANDLERS[handler]), recorder) as server:
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(TIMEOUT)
                sock.connect((host, server.addresses[0].port))
                assert ask(sock, b"hello") == b"hello"
                sock.send(b"raise this")
                failure = recorder.wait_for(HandlerFailed)[-1]
                assert tuple(failure.peer) == sock.getsockname()
                assert type(failure.peer) is (InetAddress if family == socket.AF_INET else Inet6Address)
                recorder.events.clear()


def test_without_dual_stack_ipv4_does_not_reach_it() -> None:
    with serving(Server(UDP("::", 0), function)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(("127.0.0.1", server.addresses[0].port))
        sock.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("handler", ["function", "class", "async", "own_loop"])
def test_replies_come_from_the_address_that_was_asked(host: str, handler: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with serving(Server(UDP(host, 0), HANDLERS[handler])) as server, socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendto(b"hello", server.addresses[0])
        assert sock.recvfrom(100) == (b"hello", tuple(server.addresses[0]))


@pytest.mark.parametrize("first_shares", [True, False])
@pytest.mark.parametrize("second_shares", [True, False])
def test_two_servers_share_an_address_only_when_both_say_so(first_shares: bool, second_shares: bool) -> None:
    with Server(UDP("127.0.0.1", 0, reuse_port=first_shares), function) as first:
        first.bind()
        second = Server(UDP(*first.addresses[0], reuse_port=second_shares), function)
        if first_shares and second_shares:
            second.bind()
        else:
            with pytest.raises(OSError, match="cannot listen on udp://127") as caught:
                second.bind()
            assert caught.value.errno == errno.EADDRINUSE
        second.stop()


def test_an_address_is_free_after_the_stop() -> None:
    with serving(Server(V4, function)) as server, client(server) as sock:
        assert ask(sock, b"hello") == b"hello"
    with serving(Server(UDP(*server.addresses[0]), function)) as again, client(again) as sock:
        assert ask(sock, b"again") == b"again"


def test_tcp_and_udp_have_ports_of_their_own() -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(serving(Server(TCP("127.0.0.1", 0), function)))
        datagram = stack.enter_context(serving(Server(UDP(*stream.addresses[0]), function)))
        assert stream.addresses == datagram.addresses
        for server in (stream, datagram):
            with client(server) as sock:
                assert ask(sock, b"hello") == b"hello"


# The listener


@pytest.fixture
def listener() -> Any:
    listener = V4.listen()
    yield listener
    listener.close()


def test_accepting_never_waits(listener: Any) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"", listener.address)
        request = listener.accept()
        assert (request.payload, request.peer, request.truncated) == (b"", sock.getsockname(), False)
        assert request.local == listener.address
        request.close()
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_nothing_is_inherited_by_other_programs(listener: Any) -> None:
    assert not os.get_inheritable(listener.fileno())


def test_closing_twice(listener: Any) -> None:
    address = listener.address
    assert listener.fileno() >= 0
    listener.close()
    assert listener.fileno() == -1
    listener.close()
    assert listener.address == address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(address)


def test_a_reply_that_is_too_long_is_the_handlers_error(recorder: Recorder) -> None:
    def handle(datagram: Datagram) -> None:
        datagram.reply(bytes(LARGEST + 1) if datagram.data == b"long" else datagram.data)

    with serving(Server(V4, handle), recorder) as server, client(server) as sock:
        sock.send(b"long")
        (failure,) = recorder.wait_for(HandlerFailed)
        assert failure.error.errno == errno.EMSGSIZE
        assert ask(sock, b"next") == b"next"


def test_a_client_that_is_gone_harms_nobody(recorder: Recorder) -> None:
    """Its address refuses the reply, which some systems report to the next call on the socket."""
    gate = threading.Event()

    def handle(datagram: Datagram) -> None:
        if datagram.data == b"gone":
            assert gate.wait(TIMEOUT)
        datagram.reply(datagram.data)

    with serving(Server(V4, handle, Thread(max_workers=1)), recorder) as server:
        with client(server) as sock:
            sock.send(b"gone")
            assert server.wait(connections=1, timeout=TIMEOUT)
        gate.set()
        with client(server) as sock:
            for _ in range(3):
                assert ask(sock, b"next") == b"next"
    assert recorder.events == []


@pytest.mark.parametrize("endpoint", [UDP("", 0), UDP("", 0, dual_stack=True)], ids=repr)
@pytest.mark.parametrize("handler", ["function", "async", "own_loop"])
def test_replies_come_from_the_address_that_was_asked_of_several(endpoint: UDP, handler: str) -> None:
    with serving(Server(endpoint, HANDLERS[handler])) as server:
        for host in ("127.0.0.1", "127.0.0.2", "127.3.4.5"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(TIMEOUT)
                sock.sendto(b"hello", (host, server.addresses[0].port))
                assert sock.recvfrom(100) == (b"hello", (host, server.addresses[0].port))


@pytest.mark.parametrize("strategy", [*strategy_names(), "async"])
@pytest.mark.parametrize("scheme", ["udp", "unixgram"])
def test_requests_under_way_when_the_server_stops_are_answered(strategy: str, scheme: str, tmp_path: Path) -> None:
    def handle(datagram: Datagram) -> None:
        assert datagram.closing.wait(TIMEOUT)
        datagram.reply(b"late")

    async def async_handle(datagram: AsyncDatagram) -> None:
        await datagram.closing.wait()
        await datagram.reply(b"late")

    endpoint = "udp://127.0.0.1:0" if scheme == "udp" else f"unixgram://{tmp_path}/a.sock"
    handlers: dict[str, Any] = {"async": Server(endpoint, async_handle)}
    server = handlers.get(strategy) or Server(endpoint, handle, strategy)
    with serving(server), client(server) as sock:
        sock.send(b"hello")
        assert server.wait(connections=1, timeout=TIMEOUT)
        report = server.stop(grace=TIMEOUT)
        assert (report.completed, report.cut) == (1, ())
        assert sock.recv(100) == b"late"
    assert server.stats.failed == 0
