"""Unix sockets, stream and datagram: whose the file is, its mode, names without files, and peers without names."""

import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import plugsocket
from plugsocket import (
    AsyncDatagram,
    BaseRequestHandler,
    Connection,
    Datagram,
    ReplyError,
    Server,
    State,
    Sync,
    UnixAddress,
    UnixDatagram,
    UnixStream,
)
from plugsocket.core.addresses import display
from plugsocket.core.events import CloseFailed, DatagramTruncated, HandlerFailed
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.transports import unix
from tests.kit import HANDLERS, TIMEOUT, ask, async_function, client, function, serving, strategy_names, until

both = pytest.mark.parametrize("transport", [UnixStream, UnixDatagram])
every_strategy = pytest.mark.parametrize("strategy", strategy_names())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.sock"


def kind_of(transport: Any) -> int:
    return socket.SOCK_STREAM if transport is UnixStream else socket.SOCK_DGRAM


def dead_socket(path: Path, kind: int) -> None:
    """Leave behind what a server does that was killed."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(str(path))


@contextmanager
def live_socket(path: Path, kind: int, backlog: int = 5) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(str(path))
        if kind != socket.SOCK_DGRAM:
            sock.listen(backlog)
        yield sock
    path.unlink(missing_ok=True)


def refusal(endpoint: Any) -> str:
    with pytest.raises(OSError, match="cannot listen on ") as caught:
        endpoint.listen()
    assert caught.value.errno == errno.EADDRINUSE
    return str(caught.value.strerror)


LIVE = "a live server answers at the path"
NO_SOCKET = "a file that is no socket is at the path"

# What is at the path already


@both
@pytest.mark.parametrize("left", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_the_socket_of_a_dead_server_is_replaced(transport: Any, left: int, path: Path) -> None:
    dead_socket(path, left)
    with serving(Server(transport(path), function)) as server, client(server) as sock:
        assert ask(sock, b"hello") == b"hello"
    assert not path.exists()


@both
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_live_server_keeps_its_path(transport: Any, kind: int, path: Path) -> None:
    with live_socket(path, kind):
        number = path.stat().st_ino
        text = f"cannot listen on {transport(path)}: {os.strerror(errno.EADDRINUSE)}: {LIVE}"
        assert refusal(transport(path)) == text
        assert path.stat().st_ino == number


def test_a_live_server_with_a_full_queue_keeps_its_path(path: Path) -> None:
    with live_socket(path, socket.SOCK_STREAM, backlog=0), ExitStack() as stack:
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            full = waiting.connect_ex(str(path)) == errno.EAGAIN
        assert full  # else this test would show nothing
        assert LIVE in refusal(UnixStream(path))
        assert path.is_socket()


def test_a_live_server_of_one_peer_only_keeps_its_path(path: Path, tmp_path: Path) -> None:
    with live_socket(tmp_path / "b.sock", socket.SOCK_DGRAM), live_socket(path, socket.SOCK_DGRAM) as sock:
        sock.connect(str(tmp_path / "b.sock"))  # and so everybody else's datagrams are refused
        assert LIVE in refusal(UnixDatagram(path))
        assert path.is_socket()


@both
def test_two_servers_at_one_path(transport: Any, path: Path) -> None:
    with serving(Server(transport(path), function)) as first:
        second = Server(transport(path), function)
        with pytest.raises(OSError, match=LIVE):
            second.start()
        assert second.state is State.NEW
        with client(first) as sock:
            assert ask(sock, b"unharmed") == b"unharmed"
        first.stop(grace=0)
        with serving(second), client(second) as sock:
            assert ask(sock, b"my turn") == b"my turn"


@both
@pytest.mark.parametrize("target", ["regular", "missing", "dead", "live"])
def test_what_is_no_socket_is_never_removed(transport: Any, target: str, path: Path, tmp_path: Path) -> None:
    """A file, a directory, and links to anything."""
    path.write_text("precious")
    assert NO_SOCKET in refusal(transport(path))
    assert path.read_text() == "precious"
    path.unlink()
    path.mkdir()
    assert NO_SOCKET in refusal(transport(path))
    assert path.is_dir()
    path.rmdir()
    other = tmp_path / "other"
    with ExitStack() as stack:
        if target == "live":
            stack.enter_context(live_socket(other, kind_of(transport)))
        elif target == "dead":
            dead_socket(other, kind_of(transport))
        elif target == "regular":
            other.write_text("precious")
        path.symlink_to(other)
        before = os.path.lexists(other)
        assert NO_SOCKET in refusal(transport(path))
        assert path.is_symlink()
        assert os.path.lexists(other) == before
        if target == "regular":
            assert other.read_text() == "precious"
    other.unlink(missing_ok=True)


@both
def test_a_socket_that_disappears_while_it_is_looked_at(
    transport: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its server is just closing."""
    dead_socket(path, kind_of(transport))
    plain = os.lstat

    def lstat(name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name) == str(path) and not gone:
            gone.append(name)
            path.unlink()
        return plain(name, *arguments, **options)

    gone: list[Any] = []
    monkeypatch.setattr(os, "lstat", lstat)
    transport(path).listen().close()
    assert gone


# Removing the file


@both
def test_the_file_is_removed_on_close(transport: Any, path: Path) -> None:
    with serving(Server(transport(path), function)) as server:
        assert path.is_socket()
        assert server.addresses == (str(path),)
    assert not path.exists()


@both
def test_a_file_that_is_not_ours_any_more_stays(transport: Any, path: Path, recorder: Recorder) -> None:
    with serving(Server(transport(path), function), recorder) as first:
        path.unlink()
        with serving(Server(transport(path), function)) as second:
            number = path.stat().st_ino
            first.stop(grace=0)
            assert path.stat().st_ino == number
            with client(second) as sock:
                assert ask(sock, b"still here") == b"still here"
    assert not path.exists()
    assert recorder.events == []


@both
def test_the_file_is_removed_while_the_socket_is_open(
    transport: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems give the number of a removed file to the next one: ours must not be free before we have looked."""
    plain = socket.socket.close
    there: list[bool] = []

    def close(sock: socket.socket) -> None:
        if sock is listener.socket:
            there.append(path.exists())
        plain(sock)

    listener = transport(path).listen()
    monkeypatch.setattr(socket.socket, "close", close)
    listener.close()
    assert there == [False]


@both
def test_a_file_that_is_gone_already_is_no_error(transport: Any, path: Path, recorder: Recorder) -> None:
    with serving(Server(transport(path), function), recorder):
        path.unlink()
    assert recorder.events == []


@both
def test_a_regular_file_in_its_place_stays(transport: Any, path: Path) -> None:
    with serving(Server(transport(path), function)):
        path.unlink()
        path.write_text("precious")
    assert path.read_text() == "precious"


@both
def test_the_descriptor_is_closed_also_when_the_file_cannot_be_removed(
    transport: Any, path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(name: str) -> None:
        raise PermissionError(errno.EACCES, "no", name)

    with monkeypatch.context() as patched, serving(Server(transport(path), function), recorder) as server:
        patched.setattr(os, "unlink", unlink)
        assert server.stop(grace=0).finished
        assert server.state is State.CLOSED
        assert path.is_socket()
    (event,) = recorder.events
    assert isinstance(event, CloseFailed)
    assert str(event) == f"closing {transport(path)}: [Errno {errno.EACCES}] no: '{path}'"
    path.unlink()


@both
@pytest.mark.parametrize("relative", ["a.sock", "./a.sock", "sub/../a.sock"])
def test_a_relative_path_is_removed_from_elsewhere(
    transport: Any, relative: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with serving(Server(transport(relative), function)) as server:
        with client(server) as sock:
            assert ask(sock, b"hello") == b"hello"
        assert server.addresses == (relative,)
        monkeypatch.chdir(elsewhere)
        (elsewhere / "a.sock").write_text("precious")
    assert not (tmp_path / "a.sock").exists()
    assert (elsewhere / "a.sock").read_text() == "precious"


@both
def test_a_forked_child_leaves_the_file_alone(transport: Any, path: Path) -> None:
    listener = transport(path).listen()
    pid = os.fork()
    if pid == 0:
        try:
            listener.close()
        finally:
            os._exit(0 if listener.fileno() == -1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert path.is_socket()
    listener.close()
    assert not path.exists()


@both
@pytest.mark.parametrize("failing", ["chmod", "lstat", "listen"])
def test_everything_or_nothing(transport: Any, failing: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (failing, transport) == ("listen", UnixDatagram):
        failing = "chmod"

    def fail(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patched:
        patched.setattr(socket.socket if failing == "listen" else os, failing, fail)
        with pytest.raises(PermissionError, match=f"cannot listen on {transport(path)}: no"):
            transport(path, mode=0o600).listen()
    if failing == "lstat":  # it is not known whose the file is then
        path.unlink()
    assert not path.exists()


# Races


@both
def test_of_many_threads_that_start_at_a_dead_path_one_wins(transport: Any, path: Path) -> None:
    starters, rounds = 8, 40
    together = threading.Barrier(starters)
    won: list[Any] = []
    lost: list[int | None] = []

    def start() -> None:
        endpoint = transport(path)
        together.wait(TIMEOUT)
        try:
            won.append(endpoint.listen())
        except OSError as error:
            lost.append(error.errno)

    for _ in range(rounds):
        dead_socket(path, kind_of(transport))
        threads = [threading.Thread(target=start) for _ in range(starters)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert len(won) == 1
        assert lost == [errno.EADDRINUSE] * (starters - 1)
        assert reaches(path, won[0])
        won.pop().close()
        lost.clear()
        assert not path.exists()


def reaches(path: Path, listener: Any) -> bool:
    """Whether what is sent to the path arrives at the listener, after those who only looked whether it lives."""
    with socket.socket(socket.AF_UNIX, listener.socket.type) as sock:
        sock.connect(str(path))
        sock.send(b"hello")
        while True:
            try:
                request = listener.accept()
            except BlockingIOError:
                return False
            data = request.payload if isinstance(request.payload, bytes) else request.payload.recv(10)
            request.close()
            if data == b"hello":
                return True


def start_whenever_told(endpoint: Any, go: int, close: int, outcome: int) -> None:
    """Be a process that starts a server for each byte in one pipe, and closes it for each in another."""
    while os.read(go, 1):
        listener = None
        try:
            listener = endpoint.listen()
            os.write(outcome, b"W")
        except OSError as error:
            os.write(outcome, b"L" if error.errno == errno.EADDRINUSE else b"?")
        os.read(close, 1)
        if listener is not None:
            listener.close()
        os.write(outcome, b"C")


@both
def test_of_several_processes_that_start_at_a_dead_path_one_wins(transport: Any, path: Path) -> None:
    starters, rounds = 4, 50
    go, close, outcome = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(starters):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                os.close(go[1])
                start_whenever_told(transport(path), go[0], close[0], outcome[1])
            finally:
                os._exit(0)
    try:
        for _ in range(rounds):
            dead_socket(path, kind_of(transport))
            os.write(go[1], bytes(starters))
            assert sorted(os.read(outcome[0], 1) for _ in range(starters)) == [b"L"] * (starters - 1) + [b"W"]
            with socket.socket(socket.AF_UNIX, kind_of(transport)) as sock:
                sock.connect(str(path))
            os.write(close[1], bytes(starters))
            assert [os.read(outcome[0], 1) for _ in range(starters)] == [b"C"] * starters
            assert not path.exists()
    finally:
        os.close(go[1])
        os.write(close[1], bytes(starters))  # for those that wait when an assertion failed
        for child in children:
            os.waitpid(child, 0)
        for descriptor in (go[0], *close, *outcome):
            os.close(descriptor)


@both
def test_a_server_that_closes_never_removes_its_successors_file(transport: Any, path: Path) -> None:
    """One thread closes while another starts at the same path, again and again."""
    for _ in range(200):
        first = transport(path).listen()
        closer = threading.Thread(target=first.close)
        closer.start()
        second = None
        while second is None:
            try:
                second = transport(path).listen()
            except OSError as error:
                assert error.errno == errno.EADDRINUSE  # noqa: PT017 - the first one is still there
        closer.join(TIMEOUT)
        assert reaches(path, second)
        second.close()


def test_a_child_that_is_forked_meanwhile_does_not_keep_the_lock(path: Path) -> None:
    go_on, stop = os.pipe()
    with unix._directory_locked(str(path)):
        pid = os.fork()
        if pid == 0:
            os.close(stop)
            os.read(go_on, 1)
            os._exit(0)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        for descriptor in (go_on, stop, directory):
            os.close(descriptor)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(number: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with serving(Server(UnixStream(path), function)) as server, client(server) as sock:
        assert ask(sock, b"hello") == b"hello"


def test_somebody_who_keeps_the_lock_does_not_keep_servers_from_starting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "LOCK_PAUSE", 0.0)
    with unix._directory_locked(str(path)):
        UnixStream(path).listen().close()


# Mode


@both
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_mode_is_exact(transport: Any, mode: int, umask: int, path: Path) -> None:
    previous = os.umask(umask)
    try:
        listener = transport(path, mode=mode).listen()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    listener.close()


@both
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_without_a_mode_the_umask_decides(transport: Any, umask: int, path: Path) -> None:
    previous = os.umask(umask)
    try:
        listener = transport(path).listen()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask
    listener.close()


@both
def test_the_mode_is_never_wider_than_asked_for(transport: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = socket.socket.bind
    modes = []

    def bind(sock: socket.socket, address: Any) -> None:
        plain(sock, address)
        modes.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(socket.socket, "bind", bind)
    previous = os.umask(0)
    try:
        transport(path, mode=0o600).listen().close()
    finally:
        os.umask(previous)
    assert modes == [0o600]


# Names


@both
@every_strategy
def test_abstract_names(transport: Any, strategy: str) -> None:
    name = f"@plugsocket-test-{os.getpid()}?%"
    with serving(Server(transport(name), function, strategy)) as server:
        (address,) = server.addresses
        assert isinstance(address, UnixAddress)
        assert address.abstract
        assert address == "\0" + name[1:]
        assert display(address) == name
        with client(server) as sock:
            assert ask(sock, b"hello") == b"hello"
        assert LIVE not in refusal(transport(name))
    transport(name).listen().close()  # it is free again


def test_the_longest_abstract_name() -> None:
    name = "@" + f"{os.getpid()}-".ljust(107, "x")
    with serving(Server(UnixStream(name), function)) as server, client(server) as sock:
        assert server.urls == (f"unix://{name}",)
        assert ask(sock, b"hello") == b"hello"


@both
@pytest.mark.parametrize("name", ["plain", "a b", "a?b%c", "%41", "\u20ac", os.fsdecode(b"\xff")])
def test_urls(transport: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with serving(Server(transport(path), function)) as server:
        assert server.addresses == (str(path),)
        assert path.is_socket()
        for url in (server.urls[0], str(server.transports[0])):
            assert plugsocket.transport(url) == transport(path)
        with client(server) as sock:
            assert ask(sock, b"hello") == b"hello"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "name"),
    [("a%3Fb", "a?b"), ("a%25b", "a%b"), ("a b", "a b"), ("a%20b", "a b"), ("a+b", "a+b"), ("a%2541", "a%41")],
)
def test_percent_escapes(spec: str, name: str, tmp_path: Path) -> None:
    with serving(Server(f"unix://{tmp_path}/{spec}?mode=600", function)):
        (file,) = tmp_path.iterdir()
        assert file.name == name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def say_who(request: Any) -> None:
    assert isinstance(request.peer, UnixAddress)
    data = f"{display(request.peer)} {display(request.local)}".encode()
    if isinstance(request, Datagram):
        request.reply(data)
    elif isinstance(request, Connection):
        request.sendall(data)


@both
def test_peers(transport: Any, path: Path, tmp_path: Path) -> None:
    own = tmp_path / "client.sock"
    abstract = f"@plugsocket-client-{os.getpid()}"
    with serving(Server(transport(path), say_who)):
        for name, address in ((str(own), str(own)), (abstract, "\0" + abstract[1:])):
            with socket.socket(socket.AF_UNIX, kind_of(transport)) as sock:
                sock.settimeout(TIMEOUT)
                sock.bind(address)
                sock.connect(str(path))
                if transport is UnixDatagram:
                    sock.send(b"who")
                assert sock.recv(1000) == f"{name} {path}".encode()
    own.unlink()


def test_a_stream_client_has_no_name(path: Path) -> None:
    with serving(Server(UnixStream(path), say_who)) as server, client(server) as sock:
        assert sock.recv(1000) == f"(unnamed) {path}".encode()


# Datagrams


@every_strategy
def test_a_client_without_a_name_cannot_be_answered(strategy: str, path: Path, recorder: Recorder) -> None:
    with serving(Server(UnixDatagram(path), function, strategy), recorder) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", str(path))
        (failure,) = recorder.wait_for(HandlerFailed)
        assert failure.peer == ""
        assert str(failure).startswith(f"handler failed for (unnamed) on unixgram://{path} after ")
        if strategy != "fork":
            assert isinstance(failure.error, ReplyError)
        assert "the sender has no address to reply to: it did not bind its socket" in str(failure.error)
        with client(server) as named:
            assert ask(named, b"next") == b"next"
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert recorder.events == [failure]
    assert server.stats.failed == 1


def test_an_async_handler_cannot_answer_it_either(path: Path, recorder: Recorder) -> None:
    with serving(Server(UnixDatagram(path), async_function), recorder) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", str(path))
        (failure,) = recorder.wait_for(HandlerFailed)
        assert (failure.peer, type(failure.error)) == ("", ReplyError)
        with client(server) as named:
            assert ask(named, b"next") == b"next"


@pytest.mark.parametrize("handler", ["function", "class", "async", "own_loop"])
def test_datagrams_that_are_longer_than_those_of_udp(handler: str, path: Path, recorder: Recorder) -> None:
    data = os.urandom(100_000)
    server = Server(UnixDatagram(path, max_datagram=len(data)), HANDLERS[handler])
    with serving(server, recorder), client(server) as sock:
        sock.send(data)
        assert sock.recv(len(data) + 1) == data
        assert recorder.events == []
        sock.send(data + b"x")
        assert sock.recv(len(data) + 1) == data
    (event,) = recorder.events
    assert isinstance(event, DatagramTruncated)
    assert event.size == len(data)


def test_an_empty_datagram_is_a_datagram(path: Path) -> None:
    with serving(Server(UnixDatagram(path), function)) as server, client(server) as sock:
        assert ask(sock, b"") == b""
        assert ask(sock, b"next") == b"next"
    assert server.stats.accepted == 2


@both
def test_listeners(transport: Any, path: Path) -> None:
    listener = transport(path).listen()
    assert not os.get_inheritable(listener.fileno())
    with pytest.raises(BlockingIOError):  # never waits
        listener.accept()
    listener.close()
    assert listener.fileno() == -1
    listener.close()
    assert listener.address == str(path)


def test_backlog(path: Path) -> None:
    with Server(UnixStream(path), function, Sync()) as server, ExitStack() as stack:
        server.bind()
        socks = [stack.enter_context(client(server)) for _ in range(128)]
        server.start()
        assert ask(socks[0], b"patient") == b"patient"
        server.stop(grace=0)


ROOM = Path("/proc/sys/net/unix/max_dgram_qlen")  # of datagrams that nobody has read (unix(7))

only_where_it_is_said = pytest.mark.skipif(not ROOM.exists(), reason="the system does not say how much room there is")


class Talkative:
    """Handlers of each kind that send more replies than there is room for, and count those that are sent."""

    def __init__(self) -> None:
        self.room = int(ROOM.read_text()) + 1
        self.words = [b"%d" % number for number in range(self.room + 2)]
        self.sent = 0

    def function(self, datagram: Datagram) -> None:
        for word in self.words:
            datagram.reply(word)
            self.sent += 1

    async def task(self, datagram: AsyncDatagram) -> None:
        for word in self.words:
            await datagram.reply(word)
            self.sent += 1

    def handler_class(self) -> type[BaseRequestHandler]:
        talkative = self

        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                for word in talkative.words:
                    self.request[1].sendto(word, self.client_address)
                    talkative.sent += 1

        return Handler

    def handlers(self) -> dict[str, tuple[Any, str]]:
        return {
            "function": (self.function, "thread"),
            "class": (self.handler_class(), "thread"),
            "task": (self.task, "trio"),
        }


@contextmanager
def listener_of_replies() -> Iterator[socket.socket]:
    """A client that is not connected: from the peer of a connected one, any number of datagrams may wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.bind("")
        yield sock


@only_where_it_is_said
@pytest.mark.parametrize("how", ["function", "class", "task"])
def test_a_reply_waits_for_room(how: str, path: Path) -> None:
    """Several that wait do not disturb each other, nor who reads."""
    talkative = Talkative()
    handler, strategy = talkative.handlers()[how]
    with serving(Server(UnixDatagram(str(path)), handler, strategy)) as server:
        with listener_of_replies() as one, listener_of_replies() as two:
            for sock in (one, two):
                sock.sendto(b"go on", str(path))
            until(lambda: talkative.sent >= 2 * talkative.room)
            for sock in (two, one):
                assert [sock.recv(100) for _ in talkative.words] == talkative.words
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert server.stats.failed == 0


@only_where_it_is_said
@pytest.mark.parametrize("how", ["function", "class", "task"])
def test_a_reply_that_waits_for_room_is_cut(how: str, path: Path) -> None:
    talkative = Talkative()
    handler, strategy = talkative.handlers()[how]
    with serving(Server(UnixDatagram(str(path)), handler, strategy)) as server, listener_of_replies() as sock:
        sock.sendto(b"go on", str(path))
        until(lambda: talkative.sent >= talkative.room)
        report = server.stop(grace=0)
        assert len(report.cut) == 1
        assert report.finished
