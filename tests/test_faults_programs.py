"""What happens to a whole program: standard error goes away, it is told to end, it is killed, it runs out, it idles.

Each is a program of its own, which runs servers of the matrix.
"""

import os
import select
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest

import plugsocket
from plugsocket import Server
from tests.faults import COMBINATIONS
from tests.kit import TIMEOUT, ask, function, receive, strategy_names
from tests.programs import end_of, interrupt, line_of, program, wait_for_call

MEBIBYTE = 2**20
SMALL = 4096  # bytes; with a receive buffer of so many, no kernel takes in a mebibyte before the client does
PAIRS = sorted({(strategy, handler) for _, strategy, handler in COMBINATIONS})

every_strategy = pytest.mark.parametrize("strategy", strategy_names())

# What the programs begin with: a stream endpoint of every transport, in a folder that is their first argument.
MATRIX = """
    import os, signal, sys, time
    import plugsocket
    from plugsocket.core.interfaces import IStreamTransport
    from tests import kit

    def endpoints(name):
        folder = os.path.join(sys.argv[1], name)
        os.makedirs(folder, exist_ok=True)
        classes = {cls for cls, _ in kit.example_ids() if IStreamTransport.implementedBy(cls)}
        return [cls.examples(folder)[0] for cls in classes]
"""


def connected(url: str, buffer: int | None = None) -> socket.socket:
    """A client of a server in another process; its receive buffer may be small."""
    made: Any = plugsocket.transport(url)
    if hasattr(made, "path"):
        family, address = socket.AF_UNIX, made.path
    else:
        family, address = socket.AF_INET6 if ":" in made.host else socket.AF_INET, (made.host, made.port)
    sock = socket.socket(family)
    try:
        sock.settimeout(TIMEOUT)
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)  # before connecting (tcp(7))
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def tell(process: subprocess.Popen[str], line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


# Standard error

COMPLAINING = (
    MATRIX
    + """
    from contextlib import ExitStack

    with ExitStack() as servers:
        started = []
        for pair in sys.argv[2:]:
            strategy, handler = pair.split(":")
            server = plugsocket.Server(endpoints(pair), kit.HANDLERS[handler], strategy)
            started.append(servers.enter_context(server).start())
            print(*server.urls, flush=True)
            sys.stdin.readline()
            server.wait(connections=0)  # for the next one not to fork while a thread of this one writes
        for server in started:
            print(server.state.name, server.stats.accepted, server.stats.failed, server.stop().cut)
"""
)


@contextmanager
def without_reader() -> Iterator[dict[str, Any]]:
    """Standard error is a pipe whose other end is closed: writing to it fails."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield {"stderr": writer}
    finally:
        os.close(writer)


@contextmanager
def without_descriptor() -> Iterator[dict[str, Any]]:
    """There is none: its number is the next that is given out."""
    yield {"stderr": None, "preexec_fn": lambda: os.close(2)}


@pytest.mark.parametrize("standard_error", [without_reader, without_descriptor], ids=lambda value: value.__name__)
def test_nobody_hears_the_complaints(standard_error: Any, tmp_path: Path) -> None:
    pairs = [":".join(pair) for pair in PAIRS]
    with (
        standard_error() as options,
        program(COMPLAINING, str(tmp_path), *pairs, stdin=subprocess.PIPE, **options) as process,
    ):
        expected = []
        for _ in pairs:
            urls = line_of(process).split()
            for url in urls:
                with connected(url) as bad:
                    bad.sendall(b"raise")
                    assert bad.recv(100) == b""
                with connected(url) as good:
                    assert ask(good, b"good") == b"good"
            expected.append(f"SERVING {2 * len(urls)} {len(urls)} ()")
            tell(process)
        assert process.stdout is not None
        assert process.stdout.read().splitlines() == expected
        # 120 is Python's own when it cannot bring out at the end what is left to be written there.
        assert process.wait(TIMEOUT) in {0, 120}


TELLS_ITS_SOCKETS = """
    import os, stat
    import plugsocket

    def is_socket(descriptor):
        try:
            return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            return False

    def handle(connection):
        own = {connection.fileno(), connection.closing.fileno()}
        others = [descriptor for descriptor in range(256) if is_socket(descriptor) and descriptor not in own]
        connection.sendall(str(others).encode())

    with plugsocket.Server("tcp://127.0.0.1:0", handle, "fork") as server:
        server.bind()
        print(*server.urls, flush=True)
        server.handle_request()
"""


def test_a_child_keeps_no_socket_that_has_the_number_of_standard_error() -> None:
    with without_descriptor() as options, program(TELLS_ITS_SOCKETS, **options) as process:
        with connected(line_of(process)) as sock:
            assert receive(sock, 100) == b"[]"
        assert process.wait(TIMEOUT) == 0


# Signals

REPLYING = (
    MATRIX
    + """
    from plugsocket.core.events import DrainBegan

    def started(server):
        server.subscribe(lambda _: print("draining", flush=True), DrainBegan)
        print(*server.urls, flush=True)

    strategy, handler = sys.argv[2:]
    kit.answer = lambda data: bytes(2**20)
    report = plugsocket.run(endpoints("."), kit.HANDLERS[handler], strategy, grace=30, started=started)
    print(report.completed, len(report.cut))
"""
)


@pytest.mark.parametrize(("strategy", "handler"), PAIRS)
def test_a_reply_under_way_is_completed(strategy: str, handler: str, tmp_path: Path) -> None:
    with program(REPLYING, str(tmp_path), strategy, handler) as process, ExitStack() as stack:
        urls = line_of(process).split()
        socks = [stack.enter_context(connected(url, SMALL)) for url in (urls[:1] if strategy == "sync" else urls)]
        for sock in socks:
            sock.sendall(b"a mebibyte, please")
            assert sock.recv(1) == b"\0"
        interrupt(process.pid, signal.SIGTERM)
        assert line_of(process) == "draining"
        for url in urls:
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                connected(url)
        for sock in socks:
            assert receive(sock, 2 * MEBIBYTE) == bytes(MEBIBYTE - 1)  # and end of file
        assert end_of(process) == (0, f"{len(socks)} 0\n", "")


ORPHANING = (
    MATRIX
    + """
    from plugsocket.concurrency import orphans

    orphans.GRACE = 1  # of ten seconds

    def answer(data):
        if data == b"busy":
            print("busy", flush=True)
            time.sleep(600)
        return str(os.getpid()).encode()

    kit.answer = answer
    for handler in sys.argv[2:]:
        server = plugsocket.Server(endpoints(handler), kit.HANDLERS[handler], "fork").start()
        print(*server.urls, flush=True)
    signal.pause()
"""
)


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    handlers = [handler for strategy, handler in PAIRS if strategy == "fork"]
    with program(ORPHANING, str(tmp_path), *handlers) as process, ExitStack() as stack:
        urls = [url for _ in handlers for url in line_of(process).split()]
        idle, busy = ([stack.enter_context(connected(url)) for url in urls] for _ in range(2))
        children = {sock: child_of(sock) for sock in (*idle, *busy)}
        ends = {sock: stack.enter_context(end_of_child(pid)) for sock, pid in children.items()}
        for sock in busy:
            sock.sendall(b"busy")
        for _ in busy:
            assert line_of(process) == "busy"
        for sock in busy:
            wait_for_call(children[sock])
        assert not is_readable(*ends.values(), timeout=0)
        process.kill()
        for sock in idle:  # which have no reason to wait
            assert sock.recv(1) == b""
        for sock in (*idle, *busy):
            assert is_readable(ends[sock])
        for sock in busy:
            assert sock.recv(1) == b""
        for url in urls:
            with pytest.raises(ConnectionRefusedError):
                connected(url)
        assert process.wait(TIMEOUT) == -signal.SIGKILL
    for path in tmp_path.rglob("*.sock"):
        path.unlink()  # which nobody else could


def child_of(sock: socket.socket) -> int:
    """The process id of the child that serves a client."""
    sock.sendall(b"who?")
    return int(sock.recv(100))


@contextmanager
def end_of_child(pid: int) -> Iterator[int]:
    """A descriptor that is readable when a child has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_readable(*descriptors: int, timeout: float = TIMEOUT) -> bool:
    """Whether one of them is, or becomes so."""
    return bool(select.select(descriptors, [], [], timeout)[0])


# Figures

RUNNING_OUT = """
    import sys, time
    import plugsocket
    from plugsocket.testing import FaultyTransport, low_descriptor_limit
    from tests import kit

    transport = FaultyTransport("tcp://127.0.0.1:0")  # without any faults: it counts
    with plugsocket.Server(transport, kit.HANDLERS[sys.argv[2]], sys.argv[1]) as server:
        server.unsubscribe(plugsocket.log_events)
        server.start()
        print(*server.urls, flush=True)
        while sys.stdin.readline():
            server.wait(connections=0)  # what those before took is free again, and does not come free later
            with low_descriptor_limit(0):
                print("out of descriptors", flush=True)
                sys.stdin.readline()
                attempts, used = len(transport.attempts), time.process_time()
                time.sleep(1)  # the second in which it is counted
                print(len(transport.attempts) - attempts, time.process_time() - used, flush=True)
                sys.stdin.readline()
            print("descriptors again", flush=True)
"""
WAITING = 20
WAITING_FOR_TASKS = 50  # which cost less than children
Pair: TypeAlias = tuple[str, str]
Programs: TypeAlias = dict[Pair, subprocess.Popen[str]]


def test_running_out_costs_little_and_ends_soon() -> None:
    """Fewer than 20 attempts and under 5 % of the processor in a second; 0.5 s after it is over somebody is served.

    The others follow as fast as the machine serves them, without a pause that long. Of five times one is enough, since
    the machine has other things to do as well.
    """
    with ExitStack() as stack:
        programs = {
            pair: stack.enter_context(program(RUNNING_OUT, *pair, stdin=subprocess.PIPE))
            for pair in PAIRS
            if pair[1] in {"function", "async"}
        }
        urls = {name: line_of(process) for name, process in programs.items()}
        for url in urls.values():
            with connected(url) as sock:
                assert ask(sock, b"it has worked before") == b"it has worked before"
        for _ in range(5):
            figures = run_out(programs, urls)
            if all(map(costs_little_and_ends_soon, figures.values())):
                break
        else:
            pytest.fail(str(figures))
        for process in programs.values():
            assert process.stdin is not None
            process.stdin.close()
            assert end_of(process) == (0, "", "")


@attrs.frozen
class Figures:
    """What running out of descriptors came to.

    Attributes:
        attempts: to accept, in a second without descriptors.
        used: seconds of the processor, in the same second.
        pause: seconds, the longest in which nobody was served when there were descriptors again.
        seconds: until all were served.
    """

    attempts: int
    used: float
    pause: float
    seconds: float


def costs_little_and_ends_soon(figures: Figures) -> bool:
    return 0 < figures.attempts < 20 and figures.used < 0.05 and figures.pause < 0.5 and figures.seconds < 3


def run_out(programs: Programs, urls: dict[Pair, str]) -> dict[Pair, Figures]:
    """Have programs run out of descriptors while clients come."""
    costs, figures = {}, {}
    with ExitStack() as stack:
        clients = {}
        for name, process in programs.items():
            tell(process)
            assert line_of(process) == "out of descriptors"
            waiting = WAITING_FOR_TASKS if name[0] == "trio" else WAITING
            clients[name] = [stack.enter_context(connected(urls[name])) for _ in range(waiting)]
            for sock in clients[name]:
                sock.sendall(b"still there")
        for process in programs.values():
            tell(process)
        for name, process in programs.items():
            attempts, used = line_of(process).split()
            costs[name] = int(attempts), float(used)
        for name, process in programs.items():
            figures[name] = Figures(*costs[name], *let_serve(process, clients[name]))
    return figures


def let_serve(process: subprocess.Popen[str], clients: list[socket.socket]) -> tuple[float, float]:
    """Let a program have descriptors again.

    Returns:
        How long nobody was served, at most, and how long it took until all were; each client goes when it is.
    """
    tell(process)
    assert line_of(process) == "descriptors again"
    times = [time.monotonic()]
    waiting = set(clients)
    while waiting:
        ready = select.select(waiting, [], [], TIMEOUT)[0]
        assert ready, f"{len(waiting)} were not served"
        times.append(time.monotonic())
        for sock in ready:
            assert receive(sock, 11) == b"still there"
            sock.close()
            waiting.discard(sock)
    return max(after - before for before, after in pairwise(times)), times[-1] - times[0]


IDLE = """
    import sys
    import plugsocket

    plugsocket.run("tcp://127.0.0.1:0", plugsocket.echo, sys.argv[1], started=lambda s: print(*s.urls, flush=True))
"""


def test_idle_servers_do_not_wake_up_at_all() -> None:
    """The kernel counts how often each thread went to sleep: in five seconds, not once.

    At first they may still be on their way to sleep, and a thread of trio for which there is no work ends after ten.
    """
    with ExitStack() as stack:
        programs = {name: stack.enter_context(program(IDLE, name)) for name in strategy_names()}
        for process in programs.values():
            with connected(line_of(process)) as sock:
                assert ask(sock, b"it has worked before") == b"it has worked before"
        time.sleep(0.5)  # so that they are done with that
        restless = set(programs)
        for _ in range(4):
            before = {name: sleeps(programs[name].pid) for name in restless}
            time.sleep(5)  # in which nothing happens
            restless = {name for name in restless if sleeps(programs[name].pid) != before[name]}
            if not restless:
                break
        for process in programs.values():
            interrupt(process.pid, signal.SIGTERM)
            assert end_of(process) == (0, "", "")
    assert not restless


def sleeps(pid: int) -> dict[str, int]:
    """How often each thread of a process went to sleep, having nothing to do (proc(5))."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # it has just ended
            lines = (task / "status").read_text().splitlines()
            found[task.name] = int(next(line for line in lines if line.startswith("voluntary")).split()[1])
    return found


@every_strategy
def test_an_idle_server_stops_in_less_than_a_millisecond(strategy: str) -> None:
    """The median of 20; of ten such one is enough, since the machine has other things to do as well."""
    assert any(median_of_stops(strategy, 20) < 0.001 for _ in range(10))


def median_of_stops(strategy: str, count: int) -> float:
    seconds = []
    for _ in range(count):
        server = Server("tcp://127.0.0.1:0", function, strategy).start()
        began = time.perf_counter()
        server.stop()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
