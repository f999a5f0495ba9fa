"""The children of the old classes: what they keep, what their parent hears of them, and what they cost it."""

import os
import signal
import socket
from contextlib import ExitStack

import pytest

from plugsocket.compat import socketserver
from tests.compat_kit import LOOPBACK, serving
from tests.kit import child_pids, receive, until
from tests.programs import connect, end_of, line_of, program

KEEPING = """
    import os, signal, sys
    from plugsocket.compat import socketserver

    def handle(connection, *_):
        kept = os.read(inherited, 100).decode()
        ways = [signal.getsignal(number) is mine for number in (signal.SIGTERM, signal.SIGINT)]
        connection.sendall(f"{kept} {ways}".encode())
        print("printed")

    def mine(*_):
        server.shutdown()

    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGINT, mine)
    inherited, writer = os.pipe()
    os.write(writer, b"kept")
    with socketserver.ForkingTCPServer(("127.0.0.1", 0), handle) as server:
        print(server.server_address[1], flush=True)
        server.handle_request()
"""


def test_a_child_is_what_plain_fork_makes() -> None:
    with program(KEEPING) as process:
        with connect(line_of(process)) as sock:
            assert receive(sock, 100) == b"kept [True, True]"
        assert end_of(process) == (0, "printed\n", "")


class Deadly(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("pidfds", [True, False])
def test_the_death_of_a_child_is_logged(
    pidfds: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("plugsocket.compat.per_request.has_pidfds", lambda: pidfds)
    with socketserver.ForkingTCPServer(LOOPBACK, Deadly) as server, serving(server):
        with socket.create_connection(server.server_address) as sock:
            assert receive(sock, 1) == b""
        until(lambda: "was killed by SIGKILL" in caplog.text)
        until(lambda: not child_pids())


# The descriptors that are left for a server, besides those that it has before the first request, and what it does.
LIMITED = """
    import os, resource, socket, sys
    from plugsocket.compat import socketserver

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            if isinstance(self.request, tuple):
                data, sock = self.request
                sock.sendto(data + b"%d" % os.getpid(), self.client_address)
            else:
                while data := self.request.recv(100):
                    self.request.sendall(data)

    def limit(number):
        most = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most + 1 + number, most + 1 + number))

    cls = getattr(socketserver, sys.argv[1])
    with cls(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        for _ in range(int(sys.argv[2])):
            server.handle_request()
            if sys.argv[3]:
                limit(int(sys.argv[3]))
                sys.argv[3] = ""
        print("served", flush=True)
"""
AT_ONCE = 20


def test_a_child_takes_no_descriptor_but_that_of_its_connection() -> None:
    with program(LIMITED, "ForkingTCPServer", str(AT_ONCE), str(AT_ONCE)) as process, ExitStack() as stack:
        port = line_of(process)
        for _ in range(AT_ONCE):
            sock = stack.enter_context(connect(port))
            sock.sendall(b"here")
            assert receive(sock, 4) == b"here"
        assert line_of(process) == "served"
        stack.close()
        assert end_of(process) == (0, "", "")


def test_datagrams_are_answered_without_a_descriptor_for_a_child() -> None:
    with program(LIMITED, "ForkingUDPServer", "4", "0") as process:
        address = ("127.0.0.1", int(line_of(process)))
        answers = set()
        for _ in range(4):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(20)
                sock.sendto(b"", address)
                answers.add(sock.recv(100))
        assert len(answers) == 4  # children
        assert end_of(process) == (0, "served\n", "")
