"""Fork(): what the children print, hold and die of; and that the program's other children are left alone."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugsocket import ChildError, Connection, Datagram, Fork, Server, StopReport
from plugsocket.concurrency import orphans
from plugsocket.core.events import HandlerFailed, RequestRefused
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.testing import failing_forks
from tests.kit import TIMEOUT, ask, busy, child_pids, client, function, keep_busy, receive, serving
from tests.programs import connect, end_of, interrupt, line_of, program

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


WRITING_AT_THE_FORK = """
    import logging, os, select, sys, threading
    import plugsocket
    from plugsocket.compat import socketserver

    def begin():
        for stream, reader in zip((sys.stdout, handler.stream), readers):
            printing.append(threading.Thread(target=print, args=("x" * 2**20,), kwargs={"file": stream, "flush": True}))
            printing[-1].start()
            select.select([reader], [], [])  # it has the stream's lock, until somebody has read all of it

    def handle(connection):
        print("from the child")
        handler.handle(logging.makeLogRecord({"msg": "from the child"}))

    printing = []
    readers, writers = zip(os.pipe(), os.pipe())
    sys.stdout, log = (os.fdopen(writer, "w") for writer in writers)
    handler = logging.StreamHandler(log)  # which no logger has, as those of a QueueListener
    if sys.argv[1] == "Fork":
        server = plugsocket.Server("tcp://127.0.0.1:0", handle, "fork")
        server.bind()
        address, close = server.addresses[0], server.stop
    else:
        server = socketserver.ForkingTCPServer(("127.0.0.1", 0), lambda connection, *_: handle(connection))
        address, close = server.server_address, server.server_close
    print(address[1], file=sys.__stdout__, flush=True)
    os.register_at_fork(before=begin)
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # where there is one, there may be more
    server.handle_request()
    files = [os.fdopen(reader) for reader in readers]
    texts = {}
    threads = [threading.Thread(target=lambda each: texts.update({each: each.read()}), args=(each,)) for each in files]
    for thread in threads:
        thread.start()
    close()
    for thread in printing:
        thread.join()
    for stream in (sys.stdout, log):
        stream.close()
    for thread in threads:
        thread.join()
    found = [(text.count("x"), text.count("from the child")) for text in map(texts.get, files)]
    print(*found, file=sys.__stdout__)
"""


@pytest.mark.parametrize("strategy", ["Fork", "ForkingTCPServer"])
def test_a_child_needs_nothing_of_threads_that_were_writing_when_it_was_forked(strategy: str) -> None:
    with program(WRITING_AT_THE_FORK, strategy) as process:
        with connect(line_of(process)) as sock:
            assert sock.recv(1) == b""
        assert end_of(process) == (0, f"{(2**20, 1)} {(2**20, 1)}\n", "")


# How children end


def exits(_connection: Connection) -> None:
    os._exit(3)


def exits_as_if_all_were_well(_connection: Connection) -> None:
    os._exit(0)


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
        (exits, "child {} exited with status 3 before its handler returned"),
        (exits_as_if_all_were_well, "child {} exited with status 0 before its handler returned"),
        (is_killed, "child {} was killed by SIGKILL before its handler returned"),
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
    with serving(forking(busy), recorder) as server:
        for data in (b"1", b"raise", b"3"):
            with client(server) as sock:
                keep_busy(sock)
                sock.sendall(data)
                assert sock.recv(100) == (b"" if data == b"raise" else data)
            assert server.wait(connections=0, timeout=TIMEOUT)
        with client(server) as sock:
            keep_busy(sock)
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


HOLDING = """
    import errno, fcntl, logging, logging.handlers, os, select, socket, sys, threading
    import plugsocket

    logging.basicConfig(filename=sys.argv[1])
    logging.getLogger("named").addHandler(logging.FileHandler(sys.argv[2]))
    buffered = logging.FileHandler(sys.argv[3])
    logging.getLogger("buffered").addHandler(logging.handlers.MemoryHandler(100, target=buffered))

    def fails(use):
        try:
            use()
        except OSError as error:
            return error.errno == errno.EBADF
        return False

    def flags_of(descriptor):
        try:
            return fcntl.fcntl(descriptor, fcntl.F_GETFL)
        except OSError:  # the folder's own, which is closed again
            return None

    def usable():
        flags = {number: flags_of(number) for number in map(int, os.listdir("/proc/self/fd"))}
        return {number for number, each in flags.items() if each is not None and not each & os.O_PATH}

    def streams_of(*loggers):
        return {handler.stream.fileno() for logger in loggers for handler in logger.handlers}

    def handle(connection):
        held = usable() - {0, 1, 2, connection.fileno(), connection.closing.fileno()}
        held -= streams_of(logging.getLogger(), logging.getLogger("named")) | {buffered.stream.fileno()}
        (report,) = held
        print(os.readlink(f"/proc/self/fd/{report}").split(":")[0], flags_of(report) & os.O_ACCMODE == os.O_WRONLY)
        print(all(map(fails, (
            lambda: os.read(secret.fileno(), 1),
            lambda: os.write(writer, b"x"),
            lambda: held_socket.send(b"x"),
            lambda: poll.poll(0),
            lambda: server._engine.endpoints[0].listener.accept(),
            lambda: server._engine.control.answer(),
        ))))
        logging.getLogger().warning("from the child")
        logging.getLogger("named").warning("from the child, by name")
        logging.getLogger("buffered").warning("from the child, at its end")
        connection.sendall(b"done")

    secret = open("/proc/self/stat", "rb")
    reader, writer = os.pipe()
    held_socket, other = socket.socketpair()
    poll = select.epoll()
    server = plugsocket.Server(["tcp://127.0.0.1:0", "udp://127.0.0.1:0"], handle, "fork")
    server.bind()
    print(server.addresses[0].port, flush=True)
    server.handle_request()
    print(server.stop().finished)
    logging.getLogger().warning("from the parent")
    for each in (secret, held_socket, other):
        each.close()
"""


def test_a_child_can_use_nothing_but_its_own_descriptors_and_the_log_s(tmp_path: Path) -> None:
    logs = [tmp_path / f"{name}.log" for name in ("root", "named", "buffered")]
    with program(HOLDING, *map(str, logs)) as process:
        with connect(line_of(process)) as sock:
            assert receive(sock, 100) == b"done"
        code, output, errors = end_of(process)
    assert (code, errors) == (0, "")
    assert output.splitlines() == ["pipe True", "True", "True"]
    assert logs[0].read_text().splitlines() == [
        "WARNING:root:from the child",
        "WARNING:named:from the child, by name",
        "WARNING:buffered:from the child, at its end",
        "WARNING:root:from the parent",
    ]
    assert logs[1].read_text() == "from the child, by name\n"
    assert logs[2].read_text() == "from the child, at its end\n"


# Children whose parent is killed

ORPHANED = """
    import os, sys
    import plugsocket
    from plugsocket.concurrency import orphans

    def answer(connection, request):
        connection.closing.wait()
        os.write(connection.fileno(), b"orphaned")
        connection.sendall(request + connection.recv(100))

    def handle(connection):
        os.write(connection.fileno(), b"ready")
        if request := connection.recv(1):
            answer(connection, request)
        print("ended by itself:", connection.recv(100))

    orphans.GRACE = int(sys.argv[1])
    server = plugsocket.Server("tcp://127.0.0.1:0", handle, "fork")
    server.bind()
    print(server.addresses[0].port, flush=True)
    server.serve_forever()
"""


@contextmanager
def orphan(grace: int, request: bytes) -> Iterator[tuple[subprocess.Popen[str], socket.socket, str]]:
    """The connection of a child whose parent was killed, while a request had begun or before; and the server's port."""
    with program(ORPHANED, str(grace)) as process:
        port = line_of(process)
        with connect(port) as sock:
            assert receive(sock, 5) == b"ready"
            sock.sendall(request)
            process.kill()
            process.wait(TIMEOUT)
            yield process, sock, port


def test_a_busy_child_that_outlives_the_server_knows_it_and_can_answer() -> None:
    with orphan(10, b"?") as (process, sock, port):
        assert receive(sock, 8) == b"orphaned"
        with serving(Server(f"tcp://127.0.0.1:{port}", function)) as successor, client(successor) as other:
            assert ask(other, b"hello") == b"hello"
        sock.sendall(b"!")
        assert receive(sock, 100) == b"?!"
        assert end_of(process) == (-signal.SIGKILL, "ended by itself: b''\n", "")


def test_an_idle_child_that_outlives_the_server_ends_at_once() -> None:
    with orphan(3600, b"") as (process, sock, _):
        assert sock.recv(1) == b""
        assert end_of(process) == (-signal.SIGKILL, "ended by itself: b''\n", "")


def test_a_busy_child_that_outlives_the_server_does_not_do_so_for_long() -> None:
    with orphan(1, b"?") as (process, sock, _):
        assert receive(sock, 8) == b"orphaned"
        assert sock.recv(1) == b""
        assert end_of(process) == (-signal.SIGKILL, "", "")


def test_children_get_as_long_as_a_server_does() -> None:
    assert orphans.GRACE == 10


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
    assert str(failure.error) == f"child {pid} was killed by SIGTERM before its handler returned"


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
    with serving(forking(busy, max_children=1)) as server, client(server) as sock, client(server) as waiting:
        keep_busy(sock)
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


CUT = """
    import os
    import plugsocket

    def handle(connection):
        received = connection.recv(1)
        os.write(connection.fileno(), b"begun")
        try:
            received += connection.recv(1)
        finally:
            print("in the child:", received)

    server = plugsocket.Server("tcp://127.0.0.1:0", handle, "fork")
    server.bind()
    print(server.addresses[0].port, flush=True)
    report = server.run(grace=0)
    print(report.completed, len(report.cut), report.finished, server.stats.failed)
"""


def test_a_busy_child_is_woken_before_it_is_killed() -> None:
    with program(CUT) as process:
        with connect(line_of(process)) as sock:
            keep_busy(sock)
            interrupt(process.pid, signal.SIGTERM)
            assert sock.recv(1) == b""
        assert end_of(process) == (0, "in the child: b'?'\n0 1 True 0\n", "")


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
