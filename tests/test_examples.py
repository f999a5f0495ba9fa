"""The programs in the folder `examples`, run as their readers run them, and the parts that they bring."""

import importlib.util
import re
import runpy
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock
from zope.interface.verify import verifyObject

import plugsocket
from plugsocket import Server, State, Trio
from plugsocket.core.errors import OptionError
from plugsocket.core.events import RequestRefused, StateChanged
from plugsocket.core.interfaces import IDatagramTransport, IManagedStrategy
from plugsocket.core.plugins import STRATEGIES, plugins
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.testing import MemoryTransport
from tests.kit import HANDLERS, TIMEOUT, ask, client, serving, until
from tests.test_docs import ROOT, blocks_of, process, stopped_once_serving
from tests.trio_kit import exchange, quiet, tls
from tests.trio_kit import run as run_in_trio

EXAMPLES = ROOT / "examples"
OWN_PARTS = ["executor_strategy.py", "netlink_transport.py"]
FOR_TRIO = ["chat.py", "inside_trio.py", "supervisor.py", "test_my_handler.py", "tls.py", "udp_time.py"]

linux_only = pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="netlink is a feature of Linux")


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, folder: Path) -> str:
    done = process(sys.executable, EXAMPLES / f"{name}.py", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@contextmanager
def running(name: str, *arguments: str, folder: Path, fails: bool = False) -> Iterator[list[str]]:
    """A server program, until it has been told to end; gives the URLs that it prints."""
    command = [sys.executable, "-u", str(EXAMPLES / f"{name}.py"), *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield re.findall(r"\w+://\S+", program.stdout.readline())
        finally:
            program.send_signal(signal.SIGTERM)
            _, errors = program.communicate(timeout=TIMEOUT)
        assert program.returncode == 0, errors
        assert ("Traceback" in errors) == fails


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_every_example_is_here() -> None:
    tested = {name for name in globals() if name.startswith("test_")}
    for path in EXAMPLES.glob("*.py"):
        assert f"test_{path.stem}" in tested


def test_first_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = plugsocket.Server.run

    def visit(server: Server) -> None:
        with socket.create_connection(server.addresses[0], TIMEOUT) as sock, sock.makefile("r") as lines:
            assert lines.readline() == "Who is there?\n"
            sock.sendall(b"Ada\n")
            assert lines.readline() == "Hello, Ada!\n"
            assert lines.readline() == ""

    def serve(endpoints: str, handler: Any, *, started: Any) -> None:
        assert endpoints == "tcp://127.0.0.1:9999"
        stopped_once_serving(real, Server("tcp://127.0.0.1:0", handler), started=started, visit=visit)

    monkeypatch.setattr(plugsocket, "run", serve)
    runpy.run_path(str(EXAMPLES / "first_server.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("<Server tcp://127.0.0.1:")


def test_several_endpoints(tmp_path: Path) -> None:
    endpoints = ("tcp://127.0.0.1:0", "udp://127.0.0.1:0", "unix://guests.sock")
    with running("several_endpoints", *endpoints, folder=tmp_path) as (tcp, udp, unix):
        assert unix == "unix://guests.sock"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(TIMEOUT)
            sock.sendto(b"Ada\n", ("127.0.0.1", port_of(udp)))
            assert sock.recv(100) == b"thank you\n"
        with socket.create_connection(("127.0.0.1", port_of(tcp)), TIMEOUT) as sock, sock.makefile("r") as visit:
            assert visit.readline() == "Ada\n"
            sock.sendall(b"Grace\n")
            assert visit.read() == "your entry: thank you\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(str(tmp_path / "guests.sock"))
            sock.sendall(b"Edsger\n")
            with sock.makefile("r") as visit:
                assert visit.read() == "Ada\nGrace\nyour entry: thank you\n"


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:0", "unix://files.sock"])
def test_http_files(endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("a page")
    with running("http_files", endpoint, str(tmp_path), folder=tmp_path) as (url,):
        connection = HTTPConnection("127.0.0.1", port_of(url) if url.startswith("tcp") else 80, timeout=TIMEOUT)
        if url.startswith("unix"):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(TIMEOUT)
            connection.sock.connect(str(tmp_path / "files.sock"))
        connection.request("GET", "/page.txt")
        with connection.getresponse() as response:
            assert response.status == 200
            assert response.read() == b"a page"
        connection.close()


@pytest.mark.parametrize("name", [plugin.name for plugin in plugins(STRATEGIES)])
def test_http_files_under_every_strategy(name: str, tmp_path: Path, recorder: Recorder) -> None:
    (tmp_path / "page.txt").write_text("a page")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with serving(Server("tcp://127.0.0.1:0", handler, name), recorder) as server:
        connection = HTTPConnection("127.0.0.1", server.addresses[0].port, timeout=TIMEOUT)
        connection.request("GET", "/page.txt")
        with connection.getresponse() as response:
            assert response.read() == b"a page"
        connection.close()
    assert recorder.events == []


def test_inside_trio(tmp_path: Path) -> None:
    where, answer, end = run("inside_trio", tmp_path).splitlines()
    assert where.startswith("serving at tcp://127.0.0.1:")
    assert answer == "b'IS ANYBODY THERE?'"
    assert end == "stopped, cutting 0 requests"


@pytest.mark.parametrize("name", OWN_PARTS)
def test_a_part_of_ones_own_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 40


@linux_only
def test_netlink_transport(tmp_path: Path) -> None:
    assert run("netlink_transport", tmp_path) == "HELLO\n"


@linux_only
def test_netlink_transport_is_a_transport() -> None:
    netlink = load("netlink_transport").Netlink(0)
    assert verifyObject(IDatagramTransport, netlink)
    with pytest.raises(OptionError, match="port must be a whole number from 0 to 4294967295, not -1"):
        load("netlink_transport").Netlink(-1)


@linux_only
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("name", [plugin.name for plugin in plugins(STRATEGIES)])
def test_netlink_transport_under_every_strategy(name: str, handler: str, recorder: Recorder) -> None:
    netlink = load("netlink_transport").Netlink(0)
    if plugsocket.explain(netlink, HANDLERS[handler], name).problem is not None:
        assert handler == "async"
        return
    with (
        serving(Server(netlink, HANDLERS[handler], name), recorder) as server,
        socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 2) as sock,
    ):
        sock.settimeout(TIMEOUT)
        for message in (b"hello", bytes(5000)):
            sock.sendto(message, server.addresses[0])
            assert sock.recvfrom(65_535) == (message, server.addresses[0])
    assert recorder.events == []


@linux_only
@pytest.mark.parametrize("name", ["sync", "thread", "trio"])
def test_a_reply_over_netlink_that_waits_for_room_is_cut(name: str) -> None:
    """Netlink sockets cannot be shut down, and the peer does not read."""
    sent = 0

    def handle(datagram: plugsocket.Datagram) -> None:
        nonlocal sent
        while True:
            datagram.reply(bytes(2000))
            sent += 1

    def stuck() -> bool:
        before = sent
        time.sleep(0.1)  # twice as long as a reply waits in the system
        return 0 < before == sent

    with (
        serving(Server(load("netlink_transport").Netlink(0), handle, name)) as server,
        socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 2) as sock,
    ):
        sock.sendto(b"go on", server.addresses[0])
        until(stuck)
        report = server.stop(grace=0)
        assert report.finished
        assert len(report.cut) == 1


@linux_only
def test_netlink_transport_reports_a_port_that_is_taken() -> None:
    cls = load("netlink_transport").Netlink
    with Server(cls(0), plugsocket.echo) as first:
        first.bind()
        port = first.addresses[0][0]
        second = Server(cls(port), plugsocket.echo)
        with pytest.raises(OSError, match=f"cannot listen on netlink://{port}"):
            second.bind()


@contextmanager
def visiting(url: str) -> Iterator[tuple[socket.socket, Any]]:
    """A client of a server of lines: a socket to send with, and lines to read."""
    with socket.create_connection(("127.0.0.1", port_of(url)), TIMEOUT) as sock, sock.makefile("rb") as lines:
        yield sock, lines


@pytest.mark.parametrize("name", FOR_TRIO)
def test_an_example_for_trio_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


def test_chat(tmp_path: Path) -> None:
    with ExitStack() as visits:
        with running("chat", "tcp://127.0.0.1:0", folder=tmp_path) as (url,):
            (ada, to_ada), (bob, to_bob) = (visits.enter_context(visiting(url)) for _ in range(2))
            bob.sendall(b"hello\nho")
            assert to_ada.readline() == b"2: hello\n"
            bob.sendall(b"w are you?\n")
            assert to_ada.readline() == b"2: how are you?\n"
            ada.sendall(b"well\n")
            assert to_bob.readline() == b"1: well\n"
            with visiting(url) as (eve, to_eve):
                eve.sendall(b"I cannot stay\n" + bytes(2000))  # and whoever writes such lines is not let to
                assert to_bob.readline() == to_ada.readline() == b"3: I cannot stay\n"
                assert to_eve.readline() == b""
        assert to_ada.read() == to_bob.read() == b"* the chat closes, goodbye\n"


def test_chat_waits_for_nobody(recorder: Recorder) -> None:
    """One guest does not read, and one left without a word; a third reads all lines."""

    async def main() -> None:
        transport = MemoryTransport()
        server = quiet(Server(transport, load("chat").Room().visit, Trio()), recorder)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with transport.open_stream() as slow, transport.open_stream() as reader:
                gone = transport.open_stream()
                async with transport.open_stream() as speaker:
                    for number in range(2000):
                        line = b"%d%s" % (number, bytes(900))
                        await speaker.send_all(line + b"\n")
                        assert await receive(reader, b"\n") == b"4: %s\n" % line
                        await gone.aclose()  # which resets the connection, since there was something to read
                report = await server.stop_async(grace=1.0)
                assert await receive(reader, b"\n") == b"* the chat closes, goodbye\n"
                assert (await slow.receive_some()).startswith(b"4: 0")
            assert report.finished

    run_in_trio(main, clock=MockClock(autojump_threshold=0))
    assert recorder.events == []


async def receive(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end) and (data := await stream.receive_some()):
        received += data
    return received


def test_supervisor(tmp_path: Path) -> None:
    with running("supervisor", "unix://shout.sock", folder=tmp_path, fails=True) as first:
        assert first == ["unix://shout.sock"]

        def answer_to(question: bytes) -> bytes:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(TIMEOUT)
                try:
                    sock.connect(str(tmp_path / "shout.sock"))
                    sock.sendall(question)
                    return sock.recv(100)
                except OSError:  # while there is no server
                    return b""

        assert answer_to(b"hello\n") == b"HELLO\n"
        opened = (tmp_path / "shout.sock").stat().st_ctime_ns
        assert answer_to(b"crash\n") == b""
        until(lambda: answer_to(b"again\n") == b"AGAIN\n")
        assert (tmp_path / "shout.sock").stat().st_ctime_ns > opened


def test_supervisor_pauses(capsys: pytest.CaptureFixture[str]) -> None:
    """Longer each time, and from the beginning again when a server worked for a while."""
    module = load("supervisor")
    transport = MemoryTransport()
    begun: list[float] = []

    async def crash(connection: plugsocket.AsyncConnection) -> None:
        raise RuntimeError(await connection.receive_some())

    async def main() -> None:
        ready, servers = trio.open_memory_channel[Server](1)

        def make_server() -> Server:
            begun.append(trio.current_time())
            server = quiet(Server(transport, crash, Trio(), on_failure="abort"))

            def notice(event: StateChanged) -> None:
                if event.state is State.SERVING:
                    ready.send_nowait(server)

            server.subscribe(notice, StateChanged)
            return server

        async with trio.open_nursery() as nursery:
            nursery.start_soon(module.supervise, make_server)
            for worked, pause in ((0, 0.1), (59, 0.2), (0, 0.4), (61, 0.1), (0, 0.2)):
                server = await servers.receive()
                await trio.sleep(worked)
                async with transport.open_stream() as stream:
                    await stream.send_all(b"now")
                    assert await stream.receive_some() == b""
                failed = trio.current_time()
                following = await servers.receive()
                ready.send_nowait(following)
                assert begun[-1] == pytest.approx(failed + pause)
                assert server.state is State.FAILED
            await following.stop_async()  # and then there is no other one

    run_in_trio(main, clock=MockClock(autojump_threshold=0))
    assert len(begun) == 6
    assert capsys.readouterr().out.startswith("failed with RuntimeError(b'now'), again in 0.1 s\n")


def test_supervisor_does_not_insist_on_what_cannot_be_opened(tmp_path: Path) -> None:
    make = partial(Server, f"unix://{tmp_path}/none/socket", plugsocket.echo, Trio())
    with pytest.raises(FileNotFoundError):
        trio.run(load("supervisor").supervise, make)


def test_udp_time(tmp_path: Path) -> None:
    with (
        running("udp_time", "udp://127.0.0.1:0", folder=tmp_path) as (url,),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(TIMEOUT)
        for question in (b"", b"what time is it?"):
            before = int(time.time())
            sock.sendto(question, ("127.0.0.1", port_of(url)))
            since_1900 = int.from_bytes(sock.recv(100), "big")
            # As datetime counts, which knows of the years that were leap years.
            epoch = datetime(1900, 1, 1, tzinfo=UTC) + timedelta(seconds=since_1900)
            assert before <= epoch.timestamp() <= time.time()


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with ExitStack() as visits:
        with running("tls", "certificate", "key", "tcp://127.0.0.1:0", folder=tmp_path) as (url,):
            visits.enter_context(visiting(url))  # says nothing, and nobody waits for it
            sock, _ = visits.enter_context(visiting(url))
            stream = visits.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
            stream.sendall(b"hello")
            assert stream.recv(100) == b"HELLO"
        assert stream.recv(100) == b""


def test_tls_and_those_who_do_not_speak_it(recorder: Recorder) -> None:
    """Nothing of them is an error of the server's, and they cannot keep it busy."""
    of_server, of_client = tls()
    transport = MemoryTransport()

    async def say(words: bytes, end: bool) -> float:
        """Return how long the server listens to that."""
        began = trio.current_time()
        async with transport.open_stream() as stream:
            await stream.send_all(words)
            if end:
                await stream.send_eof()
            async for _ in stream:
                pass  # such as an alert
        return trio.current_time() - began

    async def main() -> None:
        module = load("tls")
        async with trio.open_nursery() as nursery:
            server = quiet(Server(transport, module.OverTLS(module.shout, of_server, 10.0), Trio()), recorder)
            await nursery.start(server.serve)
            assert await say(b"\x16", end=False) == pytest.approx(10.0)
            assert await say(b"\x16", end=True) == 0
            assert await say(b"GET / HTTP/1.1\r\n\r\n", end=False) == 0
            for its_end in (trio.SocketStream.send_eof, lambda _: server.stop_async()):  # neither says so in TLS
                stream = trio.SSLStream(
                    transport.open_stream(), of_client, server_hostname="localhost", https_compatible=True
                )
                async with stream:
                    for _ in range(2):
                        assert await exchange(stream, b"HELLO") == b"HELLO"
                        await trio.sleep(100)
                    await its_end(stream.transport_stream)
                    assert await stream.receive_some() == b""

    run_in_trio(main, clock=MockClock(autojump_threshold=0))
    assert recorder.events == []


def test_test_my_handler(tmp_path: Path) -> None:
    path = EXAMPLES / "test_my_handler.py"
    done = process(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_executor_strategy(tmp_path: Path) -> None:
    assert run("executor_strategy", tmp_path) == "HELLO\n"


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"])
def test_executor_strategy_serves(endpoint: str, recorder: Recorder) -> None:
    in_executor = load("executor_strategy").InExecutor
    with (
        ThreadPoolExecutor(2) as executor,
        serving(Server(endpoint, plugsocket.echo, in_executor(executor)), recorder) as server,
    ):
        assert verifyObject(IManagedStrategy, server.strategy)
        clients = [client(server) for _ in range(8)]
        for sock in clients:
            with sock:
                assert ask(sock, b"hello") == b"hello"
        assert server.wait(connections=0, timeout=TIMEOUT)
    assert server.stats.accepted == 8
    assert recorder.events == []


def test_executor_strategy_whose_executor_is_gone(recorder: Recorder) -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with serving(
        Server("tcp://127.0.0.1:0", plugsocket.echo, load("executor_strategy").InExecutor(executor)), recorder
    ) as server:
        with client(server) as sock:
            assert sock.recv(1) == b""
        (refused,) = recorder.wait_for(RequestRefused)
        assert "shutdown" in str(refused.error)


@linux_only
def test_the_plug_in_of_the_how_to_is_found(tmp_path: Path) -> None:
    """Install it as pip would, as far as Python looks: a folder that says what there is, beside the module."""
    page = ROOT / "docs" / "how-to" / "add-an-address-family.md"
    (block,) = (block for block in blocks_of(page) if block.language == "toml")
    project = tomllib.loads(block.code)["project"]
    about = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    with (about / "entry_points.txt").open("w") as file:
        for group, entries in project["entry-points"].items():
            file.writelines([f"[{group}]\n", *(f"{name} = {value}\n" for name, value in entries.items())])
    done = process(sys.executable, "-c", USE_THE_PLUG_IN, folder=tmp_path, import_from=[tmp_path])
    assert done.returncode == 0, done.stderr


USE_THE_PLUG_IN = """
import plugsocket
from plugsocket.core.plugins import TRANSPORTS, plugins

assert ("netlink", "plugsocket-netlink 1.0") in [(plugin.name, plugin.distribution) for plugin in plugins(TRANSPORTS)]
transport = plugsocket.transport("netlink://7")
assert repr(transport) == "Netlink(port=7)"
with plugsocket.Server("netlink://0", plugsocket.echo).start() as server:
    assert server.addresses[0][0] > 0
try:
    plugsocket.transport("netlink://x")
except plugsocket.OptionError as error:
    assert str(error) == "Netlink: port must be a whole number from 0 to 4294967295, not 'x'"
"""
