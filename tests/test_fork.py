"""Fork(): what the children print, hold and die of; and that the program's other children are left alone."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from plugsocket import ChildError, Connection, Datagram, Fork, Server, StopReport
from plugsocket.core.events import HandlerFailed, RequestRefused
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.testing import failing_forks
from tests.kit import TIMEOUT, ask, child_pids, client, function, receive, serving
from tests.programs import connect, end_of, line_of, program

ENDPOINT = "tcp://127.0.0.1:0"
GRACE = 5.0


def forking(handler: Callable[..., Any], max_children: int = 40) -> Server:
    return Server(ENDPOINT, handler, Fork(max_children))


# Output

PRINTING = """
    import logging, logging.handlers, sys
    import plugsocket

    logging.basicConfig(handlers=[logging.handlers.MemoryHandler(100, target=logging.StreamHandler())])

    def handle(connection):
        logging.warning("from its log")
        print("from the child")

    server = plugsocket.Server("tcp://127.0.0.1:0", handle, "fork")
    server.bind()
    print(server.addresses[0].port, flush=True)
    print("once")
    for _ in range(3):
        server.handle_request()
    print(server.stop().completed)
"""


def test_output_arrives_and_what_the_parent_had_not_flushed_arrives_once() -> None:
    with program(PRINTING) as process:
        port = line_of(process)
        for _ in range(3):
            with connect(port) as sock:
                assert sock.recv(1) == b""
        code, output, errors = end_of(process)
    assert (code, errors) == (0, "from its log\n" * 3)
    lines = output.splitlines()
    assert lines[0] == "once"
    assert lines[1:-1] == ["from the child"] * 3


def test_output_arrives_when_it_goes_through_a_socket() -> None:
    """As it does under service managers that collect it."""
    inner, outer = socket.socketpair()
    with outer, inner, program(PRINTING, stdout=inner) as process:
        inner.close()
        with outer.makefile() as output:
            port = output.readline()
            for _ in range(3):
                with connect(port) as sock:
                    assert sock.recv(1) == b""
            lines = output.read().splitlines()
        assert end_of(process)[0] == 0
    assert lines.count("from the child") == 3
    assert lines.count("once") == 1


# How children end


def exits(_connection: Connection) -> None:
    os._exit(3)


def is_killed(_connection: Connection) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wants_to_exit(_connection: Connection) -> None:
    raise SystemExit(4)


def has_much_to_say(_connection: Connection) -> None:
    raise ValueError("the first line\n" + "and many more\n" * 10_000)


def has_a_long_line(_connection: Connection) -> None:
    raise ValueError("x" * 100_000)


def has_a_note(_connection: Connection) -> None:
    error = KeyError("key")
    error.add_note("a note")
    raise error


def speaks_in_surrogates(_connection: Connection) -> None:
    raise ValueError(os.fsdecode(b"\xff"))


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def is_speechless(_connection: Connection) -> None:
    raise SpeechlessError


def says_nothing(_connection: Connection) -> None:
    raise ValueError


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (exits, "child {} exited with status 3"),
        (is_killed, "child {} was killed by SIGKILL"),
        (wants_to_exit, "SystemExit: 4"),
        (has_much_to_say, "ValueError: the first line"),
        (has_a_long_line, "ValueError: " + "x" * 2036),
        (has_a_note, "KeyError: 'key'"),
        (speaks_in_surrogates, r"ValueError: \udcff"),
        (is_speechless, "SpeechlessError: <its __str__ failed>"),
        (says_nothing, "ValueError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_failure_is_reported_once_with_its_peer(
    handler: Callable[..., Any], expected: str, recorder: Recorder
) -> None:
    with serving(forking(handler), recorder) as server, client(server) as sock:
        assert sock.recv(1) == b""
        (failure,) = recorder.wait_for(HandlerFailed)
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert failure.peer == sock.getsockname()
    assert recorder.events == [failure]
    assert type(failure.error) is ChildError
    pid = str(failure.error).split()[1] if str(failure.error).startswith("child ") else ""
    assert str(failure.error) == expected.format(pid)
    assert server.stats.failed == 1


def test_the_traceback_is_the_cause(recorder: Recorder) -> None:
    with serving(forking(says_nothing), recorder) as server, client(server):
        (failure,) = recorder.wait_for(HandlerFailed)
    assert 'test_fork.py", line' in str(failure.error.__cause__)
    assert "in says_nothing" in str(failure.error.__cause__)


def test_a_peer_that_is_gone_is_a_disconnection(recorder: Recorder) -> None:
    def handle(_connection: Connection) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with serving(forking(handle), recorder) as server, client(server):
        (failure,) = recorder.wait_for(HandlerFailed)
    assert isinstance(failure.error, ConnectionError)
    assert str(failure.error) == "BrokenPipeError: [Errno 32] Broken pipe"


def test_other_children_of_the_program_keep_their_exit_status() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]) as other:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
        # Served by this thread, whose children are found in their order by who waits for any.
        with forking(function) as server:
            server.bind()
            with client(server) as sock:
                sock.sendall(b"served meanwhile")
                sock.shutdown(socket.SHUT_WR)
                assert server.handle_request(timeout=TIMEOUT)
                assert receive(sock, 100) == b"served meanwhile"
            assert server.stop().finished
        assert other.wait(TIMEOUT) == 7


def test_no_zombie_is_left_while_the_server_idles() -> None:
    before = child_pids()
    with serving(forking(function)) as server:
        for _ in range(3):
            with client(server) as sock:
                ask(sock, b"hello")
                assert len(child_pids() - before) == 1
            assert server.wait(connections=0, timeout=TIMEOUT)
            assert child_pids() == before


def test_a_program_that_ignores_sigchld(recorder: Recorder) -> None:
    """The system then reaps the children by itself."""
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with serving(forking(function), recorder) as server:
            for data in (b"1", b"raise", b"3"):
                with client(server) as sock:
                    sock.sendall(data)
                    assert sock.recv(100) == (b"" if data == b"raise" else data)
                assert server.wait(connections=0, timeout=TIMEOUT)
            assert [str(failure.error) for failure in recorder.events] == ["RuntimeError: raise"]
    finally:
        signal.signal(signal.SIGCHLD, previous)


def test_without_pidfds(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with serving(forking(function), recorder) as server:
        for data in (b"1", b"raise", b"3"):
            with client(server) as sock:
                sock.sendall(data)
                assert sock.recv(100) == (b"" if data == b"raise" else data)
            assert server.wait(connections=0, timeout=TIMEOUT)
        with client(server) as sock:
            ask(sock, b"busy")
            assert server.stop(grace=0).cut == (sock.getsockname(),)
    assert [str(failure.error) for failure in recorder.events] == ["RuntimeError: raise"]


# What children hold


def tells_its_sockets(connection: Connection) -> None:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue  # the folder's own
        if target.startswith("socket:") and int(descriptor) > 2:
            found.append(int(descriptor))
    own = {connection.fileno(), connection.closing.fileno()}
    connection.sendall(b"its own" if set(found) == own else repr((found, own)).encode())


def test_a_child_holds_no_socket_but_its_own() -> None:
    made = Server([ENDPOINT, "tcp://[::1]:0", "udp://127.0.0.1:0"], tells_its_sockets, Fork())
    with serving(made) as server, client(server) as sock, client(server) as other:
        assert receive(sock, 1000) == b"its own"
        assert receive(other, 1000) == b"its own"


def test_one_client_sees_its_end_while_another_is_served() -> None:
    with serving(forking(function)) as server, client(server) as long, client(server) as short:
        ask(short, b"hello")
        ask(long, b"forked after the other")
        short.shutdown(socket.SHUT_WR)
        assert short.recv(1) == b""


ORPHANED = """
    import plugsocket

    def handle(connection):
        connection.sendall(b"ready")
        connection.closing.wait()
        connection.sendall(b"orphaned")
        connection.recv(1)

    server = plugsocket.Server("tcp://127.0.0.1:0", handle, "fork")
    server.bind()
    print(server.addresses[0].port, flush=True)
    server.serve_forever()
"""


def test_a_child_that_outlives_the_server_knows_it_and_leaves_the_port_free() -> None:
    with program(ORPHANED) as process:
        port = line_of(process)
        with connect(port) as sock:
            assert receive(sock, 5) == b"ready"
            process.kill()
            process.wait(TIMEOUT)
            assert receive(sock, 8) == b"orphaned"
            with serving(Server(f"tcp://127.0.0.1:{port}", function)) as successor, client(successor) as other:
                assert ask(other, b"hello") == b"hello"
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        assert end_of(process)[0] == -signal.SIGKILL


def tells_its_pid(connection: Connection) -> None:
    connection.sendall(str(os.getpid()).encode())
    function(connection)


def test_ctrl_c_does_not_end_a_busy_child(recorder: Recorder) -> None:
    with serving(forking(tells_its_pid), recorder) as server, client(server) as sock:
        os.kill(int(sock.recv(100)), signal.SIGINT)
        assert ask(sock, b"still there") == b"still there"
    assert recorder.events == []


def test_sigterm_ends_a_child(recorder: Recorder) -> None:
    with serving(forking(tells_its_pid), recorder) as server, client(server) as sock:
        pid = int(sock.recv(100))
        os.kill(pid, signal.SIGTERM)
        assert sock.recv(1) == b""
        (failure,) = recorder.wait_for(HandlerFailed)
    assert str(failure.error) == f"child {pid} was killed by SIGTERM"


def test_a_datagram_is_answered_from_the_server_s_address() -> None:
    def handle(datagram: Datagram) -> None:
        datagram.reply(b"%d" % os.getpid())

    with serving(Server("udp://127.0.0.1:0", handle, Fork())) as server, client(server) as sock:
        sock.send(b"who?")
        assert int(sock.recv(100)) != os.getpid()


# The limit, and the end


def test_max_children_is_a_cap() -> None:
    before = child_pids()
    with serving(forking(function, max_children=2)) as server, ExitStack() as stack:
        first, second, third = (stack.enter_context(client(server)) for _ in range(3))
        ask(first, b"hello")
        ask(second, b"hello")
        third.sendall(b"waits")
        assert len(child_pids() - before) == server.stats.accepted == 2
        first.close()
        assert receive(third, 5) == b"waits"
        assert server.stats.accepted == 3


@pytest.mark.parametrize("grace", [0, 0.05])
def test_stop_at_the_cap(grace: float) -> None:
    with serving(forking(function, max_children=1)) as server, client(server) as sock, client(server) as waiting:
        ask(sock, b"hello")
        report = server.stop(grace=grace)
        assert report.cut == (sock.getsockname(),)
        assert report.finished
        assert report.seconds < GRACE
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)  # it was never accepted


def test_a_fork_that_fails(recorder: Recorder) -> None:
    with serving(forking(function), recorder) as server, failing_forks(1) as failures:
        with client(server) as sock:
            assert sock.recv(1) == b""
            (refusal,) = recorder.wait_for(RequestRefused)
            assert refusal.peer == sock.getsockname()
        with client(server) as sock:
            assert ask(sock, b"next") == b"next"
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert (server.stats.refused, server.stats.completed, server.stats.failed) == (1, 1, 0)
    assert failures.delivered == 1
    assert refusal.error.errno == errno.EAGAIN
    assert recorder.events == [refusal]


def ignores_sigterm(connection: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.sendall(b"deaf")
    while True:
        signal.pause()


def test_a_child_that_ignores_sigterm_is_killed(recorder: Recorder) -> None:
    with serving(forking(ignores_sigterm), recorder) as server, client(server) as sock:
        assert receive(sock, 4) == b"deaf"
        report = server.stop(grace=0.05)
        assert report.cut == (sock.getsockname(),)
        assert (report.completed, report.finished) == (0, True)
        assert report.seconds < GRACE
        assert sock.recv(1) == b""
    assert recorder.events == []


def test_stop_from_a_child() -> None:
    def handle(connection: Connection) -> None:
        report = server.stop(grace=GRACE)
        connection.sendall(b"asked" if report == StopReport(0, (), 0.0, finished=False) else b"waited")

    server = forking(handle)
    waiter = threading.Thread(target=server.wait, kwargs={"connections": 1})
    with serving(server), client(server) as sock:
        waiter.start()
        assert receive(sock, 100) == b"asked"
        waiter.join(TIMEOUT)
        assert not waiter.is_alive()


def test_an_instance_serves_one_server_after_the_other() -> None:
    strategy = Fork(max_children=1)
    for _ in range(2):
        with serving(Server(ENDPOINT, function, strategy)) as server, client(server) as sock:
            assert ask(sock, b"hello") == b"hello"
