"""The examples in the documentation of `socketserver`: what they print is what the documentation shows.

Each is a server and its clients in processes of their own, with the import line that the documentation has, and with
the one that takes plugsocket's module instead.
"""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.programs import end_of, interrupt, program

IMPORTS = {
    "original": "import socketserver",
    "plugsocket": "from plugsocket.compat import socketserver",
}
with_either = pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS)

SHOUT = """
import sys
{imports}


class Shout(socketserver.{base}):
    def handle(self):
{handle}

    def show(self, said):
        print(self.client_address[0], "wrote:")
        print(said)


with socketserver.{server}(("localhost", 0), Shout) as server:
    print(server.server_address[1], file=sys.stderr)
    server.serve_forever()
"""

FROM_THE_SOCKET = """
        said = self.request.recv(1024).strip()
        self.show(said)
        self.request.sendall(said.upper())
"""
FROM_A_FILE = """
        said = self.rfile.readline().strip()
        self.show(said)
        self.wfile.write(said.upper())
"""
FROM_THE_PAIR = """
        said, sock = self.request[0].strip(), self.request[1]
        self.show(said)
        sock.sendto(said.upper(), self.client_address)
"""
EXAMPLES = {
    "TCPServer": ("TCPServer", "BaseRequestHandler", FROM_THE_SOCKET),
    "streams": ("TCPServer", "StreamRequestHandler", FROM_A_FILE),
    "UDPServer": ("UDPServer", "BaseRequestHandler", FROM_THE_PAIR),
}

SAY = """
import socket
import sys

kind, port, *words = sys.argv[1:]
with socket.socket(socket.AF_INET, getattr(socket, kind)) as sock:
    sock.connect(("localhost", int(port)))
    sock.sendall(" ".join(words).encode() + b"\\n")
    heard = sock.recv(1024).decode()
print(f"Sent:     {' '.join(words)}")
print(f"Received: {heard}")
"""

OF_THE_SERVER = """\
127.0.0.1 wrote:
b'hello world with TCP'
127.0.0.1 wrote:
b'python is nice'
"""
OF_THE_CLIENTS = (
    """\
Sent:     hello world with TCP
Received: HELLO WORLD WITH TCP
""",
    """\
Sent:     python is nice
Received: PYTHON IS NICE
""",
)


@contextmanager
def serving(source: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server program; gives it, and the port that it tells."""
    with program(source) as server:
        assert server.stderr is not None
        yield server, server.stderr.readline().strip()


def output_of(source: str, *arguments: str) -> str:
    with program(source, *arguments) as client:
        status, output, errors = end_of(client)
    assert (status, errors) == (0, "")
    return output


@with_either
@pytest.mark.parametrize(("server", "base", "handle"), EXAMPLES.values(), ids=EXAMPLES)
def test_a_server_that_shouts(imports: str, server: str, base: str, handle: str) -> None:
    source = SHOUT.format(imports=imports, server=server, base=base, handle=handle)
    kind = "SOCK_DGRAM" if server == "UDPServer" else "SOCK_STREAM"
    with serving(source) as (process, port):
        for shown in OF_THE_CLIENTS:
            sentence = shown.splitlines()[0].removeprefix("Sent:").split()
            assert output_of(SAY, kind, port, *sentence) == shown
        interrupt(process.pid, signal.SIGINT)  # as Ctrl-C does
        status, output, errors = end_of(process)
    assert output == OF_THE_SERVER
    assert status == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


BESIDE_EACH_OTHER = """
import socket
import threading
{imports}


class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        said = self.request.recv(1024)
        self.request.sendall(threading.current_thread().name.encode() + b": " + said)


class Server(socketserver.{mix_in}, socketserver.TCPServer):
    pass


def greet(address, greeting):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect(address)
        sock.sendall(greeting)
        print("Received:", sock.recv(1024).decode())


with Server(("localhost", 0), Answer) as server:
    loop = threading.Thread(target=server.serve_forever, daemon=True)
    loop.start()
    print("Server loop running in thread:", loop.name)
    for number in (1, 2, 3):
        greet(server.server_address, b"Hello World %d" % number)
    server.shutdown()
"""

IN_THREADS = """\
Server loop running in thread: Thread-1
Received: Thread-2: Hello World 1
Received: Thread-3: Hello World 2
Received: Thread-4: Hello World 3
"""
IN_CHILDREN = re.sub("Thread-[234]", "Thread-1", IN_THREADS)  # each a copy of the thread that the loop runs in
TARGET = re.compile(r"(Thread-\d+) \((\w+)\)")  # the documentation is from before names of threads told their function


@with_either
@pytest.mark.parametrize(
    ("mix_in", "shown"), [("ThreadingMixIn", IN_THREADS), ("ForkingMixIn", IN_CHILDREN)], ids=["threads", "children"]
)
def test_servers_that_handle_requests_beside_each_other(imports: str, mix_in: str, shown: str) -> None:
    printed = output_of(BESIDE_EACH_OTHER.format(imports=imports, mix_in=mix_in))
    assert TARGET.sub(r"\1", printed) == shown
    beside = "process_request_thread" if mix_in == "ThreadingMixIn" else "serve_forever"
    assert [function for _, function in TARGET.findall(printed)] == ["serve_forever", *[beside] * 3]
