"""Connection and Datagram: what blocking handlers are given."""

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugsocket import UDP, Connection, Datagram, InetAddress, ReplyError, Server, UnixAddress, UnixDatagram
from plugsocket.core.events import DatagramTruncated, HandlerFailed
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import TIMEOUT, ask, client, receive, serving, strategy_names

ENDPOINT = "tcp://127.0.0.1:0"


@contextmanager
def connected(use: Callable[[Connection], Any], endpoint: str = ENDPOINT) -> Iterator[tuple[socket.socket, list[Any]]]:
    """Have a handler use a connection; give the client's socket, and a list that gets what came of it."""
    results: list[Any] = []
    done = threading.Event()

    def handle(connection: Connection) -> None:
        try:
            results.append(use(connection))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.append(error)
        done.set()

    with serving(Server(endpoint, handle, "thread")) as server:
        with client(server) as sock:
            yield sock, results
        assert done.wait(TIMEOUT)
        assert server.wait(connections=0, timeout=TIMEOUT)


def used(use: Callable[[Connection], Any], sent: bytes = b"", endpoint: str = ENDPOINT) -> tuple[Any, bytes]:
    """Send, and end; return what came of using the connection, and what the handler sent."""
    with connected(use, endpoint) as (sock, results):
        if sent:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
        received = receive(sock, 1_000_000)
    return results[0], received


def test_addresses() -> None:
    with connected(lambda connection: (connection.peer, connection.local, repr(connection))) as (sock, results):
        mine, its = sock.getsockname(), sock.getpeername()
    assert results == [(InetAddress(*mine), InetAddress(*its), f"<Connection from {mine[0]}:{mine[1]}>")]


def test_addresses_of_unix_sockets(tmp_path: Path) -> None:
    path = f"{tmp_path}/app.sock"
    (peer, local), _ = used(lambda connection: (connection.peer, connection.local), endpoint=f"unix://{path}")
    assert (peer, local) == (UnixAddress(""), UnixAddress(path))


def test_recv() -> None:
    result, _ = used(lambda c: (c.recv_exactly(3), c.recv(2), c.recv(100), c.recv(100)), b"abcdefg")
    assert result == (b"abc", b"de", b"fg", b"")


def test_recv_exactly_says_how_much_came() -> None:
    result, _ = used(lambda c: c.recv_exactly(10), b"seven..")
    assert isinstance(result, EOFError)
    assert str(result) == "the peer ended after 7 of 10 bytes"


def test_recv_exactly_nothing() -> None:
    assert used(lambda c: c.recv_exactly(0))[0] == b""


def test_recv_exactly_across_packets() -> None:
    with connected(lambda c: (c.sendall(b"?"), c.recv_exactly(6))) as (sock, results):
        for part in (b"ab", b"cd", b"ef"):
            sock.sendall(part)
        assert sock.recv(1) == b"?"
        assert sock.recv(1) == b""
    assert results == [(None, b"abcdef")]


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")])
def test_sendall_takes_what_is_like_bytes(data: Any) -> None:
    assert used(lambda c: c.sendall(data)) == (None, b"bytes")


def test_send_eof() -> None:
    def use(connection: Connection) -> bytes:
        connection.sendall(b"that was all")
        connection.send_eof()
        return connection.recv(100)

    with connected(use) as (sock, results):
        assert receive(sock, 100) == b"that was all"
        sock.sendall(b"received anyway")
    assert results == [b"received anyway"]


def test_makefile() -> None:
    def use(connection: Connection) -> list[str]:
        with connection.makefile("rw", encoding="utf-8", newline="\n") as file:
            lines = file.readlines()
            file.writelines(reversed(lines))
        return lines

    assert used(use, "eins\nzwölf\n".encode()) == (["eins\n", "zwölf\n"], "zwölf\neins\n".encode())


def test_makefile_unbuffered() -> None:
    def use(connection: Connection) -> bytes:
        with connection.makefile("rb", 0) as file:
            return file.read(100)  # what there is, without waiting for more

    with connected(use) as (sock, results):
        sock.sendall(b"abc")
        assert sock.recv(1) == b""
    assert results == [b"abc"]


def test_settimeout() -> None:
    def use(connection: Connection) -> Any:
        assert connection.socket.gettimeout() is None
        connection.settimeout(0.01)
        return connection.recv(1)

    with connected(use) as (sock, results):
        assert sock.recv(1) == b""
    assert isinstance(results[0], TimeoutError)


def test_fileno_is_for_select() -> None:
    def use(connection: Connection) -> Any:
        assert connection.fileno() == connection.socket.fileno() == os.dup2(connection.fileno(), connection.fileno())
        return select.select([connection], [], [], TIMEOUT)[0] == [connection] and connection.recv(100) == b"x"

    assert used(use, b"x")[0] is True


def test_close_before_the_handler_ends() -> None:
    closed, gone_on = threading.Event(), threading.Event()

    def use(connection: Connection) -> Any:
        peer = connection.peer
        connection.sendall(b"bye")
        connection.close()
        connection.close()
        closed.set()
        assert gone_on.wait(TIMEOUT)
        assert connection.fileno() == -1
        assert connection.peer == peer
        assert repr(connection) == f"<Connection from {peer}>"
        return connection.recv(1)

    with connected(use) as (sock, results):
        assert receive(sock, 100) == b"bye"
        assert closed.wait(TIMEOUT)
        assert results == []
        gone_on.set()
    assert isinstance(results[0], OSError)
    assert results[0].errno == errno.EBADF


def test_end_of_file_comes_although_a_file_is_left_open() -> None:
    files = []
    with connected(lambda c: files.append(c.makefile("rb"))) as (sock, _):
        assert sock.recv(1) == b""
    files[0].close()


def test_a_file_left_open_does_not_keep_the_descriptor() -> None:
    left: list[Any] = []
    try:
        with connected(lambda c: left.extend((c.socket, c.makefile("rb")))):
            pass
        assert left[0].fileno() == -1
    finally:
        left[1].close()


def test_closing() -> None:
    seen = []
    ready = threading.Event()

    def handle(connection: Connection) -> None:
        closing = connection.closing
        seen.append((closing.is_set(), closing.wait(0), closing.wait(0.001)))
        seen.append(select.select([closing], [], [], 0)[0])
        ready.set()
        seen.append(closing.wait(TIMEOUT))
        seen.append((closing.is_set(), closing.wait(), select.select([closing], [], [], 0)[0] == [closing]))

    with serving(Server(ENDPOINT, handle)) as server, client(server):
        assert ready.wait(TIMEOUT)
        assert server.stop(grace=TIMEOUT).completed == 1
    assert seen == [(False, False, False), [], True, (True, True, True)]


# Datagrams


def describes(datagram: Datagram) -> None:
    peer, local = datagram.peer, datagram.local
    datagram.reply(repr((datagram.data, peer, local, datagram.truncated, repr(datagram))).encode())


@pytest.mark.parametrize("strategy", strategy_names())
def test_a_datagram(strategy: str) -> None:
    with serving(Server("udp://127.0.0.1:0", describes, strategy)) as server, client(server) as sock:
        mine, its = InetAddress(*sock.getsockname()), server.addresses[0]
        sock.send(b"hello")
        assert sock.recv(1000).decode() == repr(
            (b"hello", mine, its, False, f"<Datagram of 5 bytes from {mine[0]}:{mine[1]}>")
        )


def test_a_datagram_is_not_answered_unless_asked() -> None:
    def handle(datagram: Datagram) -> None:
        if datagram.data == b"answer me":
            datagram.reply(b"here")

    with serving(Server("udp://127.0.0.1:0", handle)) as server, client(server) as sock:
        sock.send(b"say nothing")
        sock.send(b"answer me")
        assert sock.recv(100) == b"here"


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("transport", [UDP("127.0.0.1", 0, max_datagram=4), "unixgram"])
def test_a_datagram_that_was_cut(transport: Any, strategy: str, tmp_path: Path, recorder: Recorder) -> None:
    def handle(datagram: Datagram) -> None:
        datagram.reply(b"%s %r" % (datagram.data, datagram.truncated))

    if transport == "unixgram":
        transport = UnixDatagram(tmp_path / "app.sock", max_datagram=4)
    with serving(Server(transport, handle, strategy), recorder) as server, client(server) as sock:
        assert ask(sock, b"1234") == b"1234 False"
        assert ask(sock, b"12345") == b"1234 True"
        (event,) = recorder.wait_for(DatagramTruncated)
        assert event.size == 4
    assert recorder.events == [event]


def test_an_empty_datagram_is_one() -> None:
    with serving(Server("udp://127.0.0.1:0", describes)) as server, client(server) as sock:
        sock.send(b"")
        assert sock.recv(1000).startswith(b"(b'', ")


@pytest.mark.parametrize("strategy", strategy_names())
def test_a_sender_without_an_address_cannot_be_answered(strategy: str, tmp_path: Path, recorder: Recorder) -> None:
    def handle(datagram: Datagram) -> None:
        assert datagram.peer == ""
        datagram.reply(b"to nobody")

    with serving(Server(f"unixgram://{tmp_path}/app.sock", handle, strategy), recorder) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", server.addresses[0])
        (failure,) = recorder.wait_for(HandlerFailed)
    assert "the sender has no address to reply to: it did not bind its socket" in str(failure.error)
    if strategy != "fork":
        assert isinstance(failure.error, ReplyError)


def test_a_reply_that_is_too_long(recorder: Recorder) -> None:
    made = Server("udp://127.0.0.1:0", lambda datagram: datagram.reply(bytes(70_000)))
    with serving(made, recorder) as server, client(server) as sock:
        sock.send(b"hello")
        (failure,) = recorder.wait_for(HandlerFailed)
    assert failure.error.errno == errno.EMSGSIZE


def test_the_socket_sends_other_datagrams() -> None:
    def handle(datagram: Datagram) -> None:
        for number in range(3):
            datagram.socket.sendto(b"%d" % number, datagram.peer)

    with serving(Server("udp://127.0.0.1:0", handle)) as server, client(server) as sock:
        sock.send(b"count")
        assert [sock.recv(10) for _ in range(3)] == [b"0", b"1", b"2"]


def test_a_blocking_reply_waits_for_room(tmp_path: Path) -> None:
    """A Unix datagram socket whose receiver's queue is full takes no more; see unix(7)."""
    replies = 500
    done = threading.Event()

    def handle(datagram: Datagram) -> None:
        for number in range(replies):
            datagram.reply(b"%d" % number)
        done.set()

    with serving(Server(f"unixgram://{tmp_path}/app.sock", handle)) as server, client(server) as sock:
        sock.send(b"many, please")
        assert server.wait(connections=1, timeout=TIMEOUT)
        assert not done.is_set()
        assert [int(sock.recv(100)) for _ in range(replies)] == list(range(replies))
        assert done.wait(TIMEOUT)


@pytest.mark.parametrize("message", ["sendto", "sendmsg"])
def test_the_socket_does_not_wait_when_it_is_told_not_to(message: str, tmp_path: Path, recorder: Recorder) -> None:
    def handle(datagram: Datagram) -> None:
        while True:
            if message == "sendto":
                datagram.socket.sendto(b"x", socket.MSG_DONTWAIT, datagram.peer.path)
            else:
                datagram.socket.sendmsg([b"x"], [], socket.MSG_DONTWAIT, datagram.peer.path)

    with serving(Server(f"unixgram://{tmp_path}/app.sock", handle), recorder) as server, client(server) as sock:
        sock.send(b"many, please")
        (failure,) = recorder.wait_for(HandlerFailed)
    assert isinstance(failure.error, BlockingIOError)
