"""TCP: names and addresses, the options of its sockets, who may share a port, and what its listener promises."""

import errno
import os
import socket
import struct
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plugsocket import TCP, Connection, Inet6Address, InetAddress, Server, State, Thread
from plugsocket.core.addresses import display
from tests.kit import TIMEOUT, ask, client, function, serving

V4 = TCP("127.0.0.1", 0)
V6 = TCP("::1", 0)


def say_who(connection: Connection) -> None:
    connection.sendall(f"{type(connection.peer).__name__} {connection.peer} {connection.local}".encode())


def everything(sock: socket.socket) -> str:
    with sock.makefile() as file:
        return file.read()


# Addresses


@pytest.mark.parametrize(
    ("endpoint", "kind", "hosts"),
    [
        (V4, InetAddress, ["127.0.0.1"]),
        (V6, Inet6Address, ["::1"]),
        ("tcp://[::1]:0", Inet6Address, ["::1"]),
        (TCP("127.1", 0), InetAddress, ["127.0.0.1"]),
        (TCP("localhost", 0), (InetAddress, Inet6Address), ["127.0.0.1", "::1"]),
        (TCP("", 0), InetAddress, ["0.0.0.0"]),
        (TCP("", 0, dual_stack=True), Inet6Address, ["::"]),
    ],
    ids=str,
)
def test_addresses_are_the_real_ones(endpoint: Any, kind: Any, hosts: list[str]) -> None:
    server = Server(endpoint, say_who)
    assert server.addresses == server.urls == ()
    with serving(server):
        (address,) = server.addresses
        assert isinstance(address, kind)
        assert address.host in hosts
        assert address.port > 0
        assert server.urls == (f"tcp://{display(address)}",)
        with client(server) as sock:
            assert everything(sock).split()[1] == display_of(sock)
    assert server.addresses == (address,)


def display_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def test_the_url_of_a_server_is_an_endpoint() -> None:
    with Server(V6, function) as first:
        first.bind()
        url = first.urls[0]
    with serving(Server(url, function)) as again, client(again) as sock:
        assert again.urls == (url,)
        assert ask(sock, b"the same port") == b"the same port"


def test_dual_stack_takes_ipv4_clients_and_shows_them_as_such() -> None:
    with serving(Server(TCP("::", 0, dual_stack=True), say_who)) as server:
        port = server.addresses[0].port
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
            assert everything(sock) == f"InetAddress {display_of(sock)} 127.0.0.1:{port}"
        with socket.create_connection(("::1", port), TIMEOUT) as sock:
            assert everything(sock) == f"Inet6Address {display_of(sock)} [::1]:{port}"


def test_without_dual_stack_ipv4_clients_are_refused() -> None:
    with serving(Server(TCP("::", 0), say_who)) as server:
        port = server.addresses[0].port
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), TIMEOUT)
        with socket.create_connection(("::1", port), TIMEOUT) as sock:
            assert everything(sock).startswith("Inet6Address")
        # And so the port is free for IPv4.
        with serving(Server(TCP("0.0.0.0", port), say_who)):
            socket.create_connection(("127.0.0.1", port), TIMEOUT).close()


@pytest.mark.parametrize("dual_stack", [True, False])
def test_whether_dual_stack_is_always_said(dual_stack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's default (net.ipv6.bindv6only) is."""
    plain = socket.socket.bind

    def bind(sock: socket.socket, address: Any) -> None:
        said.append(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        plain(sock, address)

    class Contrary(socket.socket):
        """As on a machine with the other default."""

        def __init__(self, family: int, *arguments: Any) -> None:
            super().__init__(family, *arguments)
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(dual_stack))

    said: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "bind", bind)
        patched.setattr(socket, "socket", Contrary)
        listener = TCP("::", 0, dual_stack=dual_stack).listen()
    try:
        assert said == [int(not dual_stack)]
        assert listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == int(not dual_stack)
    finally:
        listener.close()


def test_a_literal_address_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any) -> Any:
        asked.append(host)
        return real(host, *arguments)

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo"):
        monkeypatch.setattr(socket, name, refuse)
    for endpoint in (V4, V6, TCP("", 0)):
        with serving(Server(endpoint, say_who)) as server, client(server) as sock:
            assert server.addresses[0].host in everything(sock) or endpoint.host == ""
    assert asked == ["127.0.0.1", "::1", "0.0.0.0"]


# The options of its sockets


def options_of_the_connection(endpoint: TCP, *wanted: tuple[int, int]) -> list[int]:
    found: list[int] = []

    def look(connection: Connection) -> None:
        found.extend(connection.socket.getsockopt(*option) for option in wanted)
        connection.sendall(b"seen")

    with serving(Server(endpoint, look)) as server, client(server) as sock:
        assert sock.recv(10) == b"seen"
    return found


NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
KEEPALIVE = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
IDLE = (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_options_reach_connections(host: str) -> None:
    with socket.socket() as plain:
        system_idle = plain.getsockopt(*IDLE)
    assert options_of_the_connection(TCP(host, 0), NODELAY, KEEPALIVE, IDLE) == [1, 1, system_idle]
    other = TCP(host, 0, nodelay=False, keepalive=False, keepalive_idle=77)
    assert options_of_the_connection(other, NODELAY, KEEPALIVE, IDLE) == [0, 0, 77]


@pytest.mark.parametrize(("options", "expected"), [({}, 1024), ({"backlog": 128}, 128), ({"backlog": 1}, 1)])
def test_backlog(options: dict[str, int], expected: int) -> None:
    listener = TCP("127.0.0.1", 0, **options).listen()  # type: ignore[arg-type]
    try:
        # tcpi_sacked is the length of a listener's queue: the seventh 32-bit field behind the first eight bytes.
        info = listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
        assert struct.unpack_from("I", info, 8 + 4 * 5)[0] == min(expected, somaxconn)
        assert TCP("127.0.0.1", 0).backlog >= 128
    finally:
        listener.close()


def test_clients_wait_in_the_queue_of_a_server_that_only_bound() -> None:
    with Server(V4, function) as server, ExitStack() as stack:
        server.bind()
        socks = [stack.enter_context(client(server)) for _ in range(128)]
        server.start()
        for sock in socks[:10]:
            assert ask(sock, b"patient") == b"patient"
        server.stop(grace=0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_64_clients_at_once(host: str) -> None:
    answers: list[bytes] = []
    together = threading.Barrier(64)

    def one() -> None:
        together.wait(TIMEOUT)
        with client(server) as sock:
            answers.append(ask(sock, b"hello"))

    with serving(Server(TCP(host, 0), function, Thread(max_workers=8))) as server:
        threads = [threading.Thread(target=one) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert answers == [b"hello"] * 64
    assert server.stats.accepted == 64


# Who may have a port


def test_a_port_in_time_wait_can_be_bound_again() -> None:
    def close_first(connection: Connection) -> None:
        connection.sendall(b"bye")

    with serving(Server(V4, close_first)) as server, client(server) as sock:
        assert sock.recv(10) == b"bye"
        assert sock.recv(10) == b""
    address = server.addresses[0]
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(address)  # the connection is in TIME_WAIT, else this test would show nothing
    with serving(Server(TCP(*address), function)) as again, client(again) as sock:
        assert ask(sock, b"again") == b"again"


@pytest.mark.parametrize("endpoint", [V4, V6], ids=str)
@pytest.mark.parametrize("first_shares", [True, False])
@pytest.mark.parametrize("second_shares", [True, False])
def test_two_servers_share_a_port_only_when_both_say_so(endpoint: TCP, first_shares: bool, second_shares: bool) -> None:
    with Server(TCP(endpoint.host, 0, reuse_port=first_shares), function) as first:
        first.bind()
        second = Server(TCP(endpoint.host, first.addresses[0].port, reuse_port=second_shares), function)
        if first_shares and second_shares:
            second.bind()
        else:
            with pytest.raises(OSError, match="cannot listen on tcp://") as caught:
                second.bind()
            assert caught.value.errno == errno.EADDRINUSE
        second.stop()


def test_servers_that_share_a_port_share_the_clients() -> None:
    with serving(Server(TCP("127.0.0.1", 0, reuse_port=True), function)) as first:
        second = Server(TCP(*first.addresses[0], reuse_port=True), function)
        with serving(second):
            for _ in range(200):
                with client(first) as sock:
                    assert ask(sock, b"somebody") == b"somebody"
    assert first.stats.accepted + second.stats.accepted == 200
    assert min(first.stats.accepted, second.stats.accepted) > 0


# The listener


@pytest.fixture
def listener() -> Any:
    listener = V4.listen()
    yield listener
    listener.close()


def test_accepting_never_waits(listener: Any) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()
    with socket.create_connection(listener.address):
        request = listener.accept()
        request.close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_listener_is_not_affected_by_the_default_timeout() -> None:
    socket.setdefaulttimeout(5.0)
    try:
        listener = V4.listen()
    finally:
        socket.setdefaulttimeout(None)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()


def test_nothing_is_inherited_by_other_programs(listener: Any) -> None:
    assert not os.get_inheritable(listener.fileno())
    assert not os.get_blocking(listener.fileno())
    with socket.create_connection(listener.address):
        request = listener.accept()
        assert not os.get_inheritable(request.payload.fileno())
        request.close()


def test_closing_twice(listener: Any) -> None:
    address = listener.address
    assert listener.fileno() >= 0
    listener.close()
    assert listener.fileno() == -1
    listener.close()
    assert listener.address == address
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with pytest.raises(OSError, match="Bad file descriptor"):
        listener.accept()


def test_a_connection_that_was_reset_while_it_waited_is_no_error() -> None:
    with Server(V4, function) as server:
        server.bind()
        sock = client(server)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()  # sends a reset
        server.start()
        with client(server) as good:
            assert ask(good, b"next") == b"next"
        assert server.state is State.SERVING


@pytest.mark.parametrize("failing", ["setsockopt", "bind", "listen", "setblocking"])
def test_everything_or_nothing(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture that counts descriptors fails if the socket stays open."""

    def fail(*arguments: Any) -> None:
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, failing, fail)
        with pytest.raises(PermissionError, match=r"cannot listen on tcp://127\.0\.0\.1:0: no") as caught:
            V4.listen()
    assert caught.value.errno == errno.EACCES


def test_one_server_at_both_families_and_two_ports() -> None:
    with serving(Server([V4, V6, "tcp://127.0.0.1:0"], say_who)) as server:
        assert len(set(server.addresses)) == 3
        for which, address in enumerate(server.addresses):
            with client(server, which) as sock:
                assert everything(sock) == f"{type(address).__name__} {display_of(sock)} {address}"
