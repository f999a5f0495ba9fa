"""Servers that others wrote on `socketserver`, unchanged on ours.

Each is a program of its own, in the folder `third_parties`, in which `socketserver` is replaced before anything imports
it. To see what a program does on the interpreter's own module, set SOCKETSERVER=original: all of this holds there too.
"""

import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from xmlrpc.client import Fault, MultiCall, ServerProxy

import httpx
import pytest
import trustme
from dnslib import RCODE, RR, DNSRecord

from tests.kit import TIMEOUT
from tests.programs import connect, end_of, interrupt, interrupt_group, line_of, python

PROGRAMS = Path(__file__).parent / "third_parties"
ORIGINAL = os.environ.get("SOCKETSERVER") == "original"
RUNNER = () if ORIGINAL else ("-m", "plugsocket.compat")
MODULE = "socketserver" if ORIGINAL else "plugsocket.compat.socketserver"

ACCESS = re.compile(r'\S+ - - \[.*\] "[A-Z]+ \S+ HTTP/1.1" 200 (-|\d+) *')
BODY = bytes(range(256)) * 4096
HOST = "127.0.0.1"
TOGETHER = 4
BUILT_ON_IT = {
    "django.core.servers.basehttp": ["ThreadedWSGIServer", "WSGIServer"],
    "dnslib.server": ["TCPServer", "UDPServer"],
    "http.server": ["HTTPServer", "ThreadingHTTPServer"],
    "prometheus_client.exposition": ["ThreadingWSGIServer"],
    "werkzeug.serving": ["BaseWSGIServer", "ForkingWSGIServer", "ThreadedWSGIServer"],
    "wsgiref.simple_server": ["WSGIServer"],
    "xmlrpc.server": ["DocXMLRPCServer", "SimpleXMLRPCServer"],
}


# Programs


@contextmanager
def running(*command: str, flags: tuple[str, ...] = (), **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program, of the folder or of a package, with `socketserver` replaced; flags are Python's own."""
    with python(*flags, *RUNNER, *command, cwd=PROGRAMS, stdin=subprocess.PIPE, **options) as process:
        replaced(process)
        yield process


def replaced(process: subprocess.Popen[str]) -> None:
    """Read what is said on standard error about `socketserver` being replaced."""
    if not ORIGINAL:
        assert "plugsocket" in error_of(process)


def error_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().rstrip("\n")


def errors_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Read standard error up to a line; return what the pattern has found in it."""
    assert process.stderr is not None
    return _until(process.stderr, pattern)


def output_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stdout is not None
    return _until(process.stdout, pattern)


def _until(stream: Iterable[str], pattern: str) -> re.Match[str]:
    passed = []
    for line in stream:
        if found := re.search(pattern, line):
            return found
        passed.append(line)
    raise AssertionError(f"it ended before it said {pattern!r}: {''.join(passed)}")


def release(process: subprocess.Popen[str], number: int = 1) -> None:
    """Let so many of the requests go on that are met (see third_parties/common.py)."""
    assert process.stdin is not None
    process.stdin.write("." * number)
    process.stdin.flush()


def end_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def started(process: subprocess.Popen[str]) -> int:
    """Read what the program says of its server: what it is made of, which is checked, and the port."""
    modules, port = line_of(process).split()
    assert modules == MODULE
    return int(port)


def all_at_once(
    process: subprocess.Popen[str], number: int, ask: Callable[[int], Any], *, beyond: int = 0
) -> list[Any]:
    """Have so many clients ask at once; return the replies. Of those beyond, each is served when another is done."""
    with ThreadPoolExecutor(number + beyond) as clients:
        try:
            replies = [clients.submit(ask, which) for which in range(number + beyond)]
            for _ in range(number):
                assert line_of(process) == "met"
            for _ in range(beyond):
                release(process)
                assert line_of(process) == "met"
            release(process, number)
            return [reply.result(TIMEOUT) for reply in replies]
        except BaseException:
            process.kill()  # for the clients to end
            raise


def assert_nothing_but_access(errors: str, requests: int | None = None) -> None:
    """Check that standard error has told of so many requests, or of any number, and of nothing else."""
    lines = errors.splitlines()
    assert all(ACCESS.fullmatch(line) for line in lines), errors
    assert requests in (None, len(lines)), errors


def silent(port: int) -> socket.socket:
    """A client that connects and says nothing."""
    return connect(str(port))


def reset(port: int, data: bytes) -> None:
    """Be a client that breaks off in the middle."""
    with silent(port) as sock:
        sock.sendall(data)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The files of the certificate and of the key."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert(HOST)
    issued.private_key_pem.write_to_path(folder / "key")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "certificate", append=True)
    return str(folder / "certificate"), str(folder / "key")


@pytest.fixture
def browse(authority: trustme.CA) -> Iterator[Callable[..., httpx.Client]]:
    """A client for HTTP, given the URL of the server, and its path if that is a Unix socket."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with ExitStack() as clients:

        def new(url: str, path: str | None = None) -> httpx.Client:
            verify = context if url.startswith("https") else False
            transport = httpx.HTTPTransport(verify=verify, uds=path)
            return clients.enter_context(httpx.Client(transport=transport, base_url=url, timeout=TIMEOUT))

        yield new


def test_what_they_are_made_of() -> None:
    """Also of those that below are run as the programs that they are, which does not show it."""
    names = [f"{module}.{cls}" for module, classes in BUILT_ON_IT.items() for cls in classes]
    with running("composition.py", *names) as process:
        assert end_of(process) == (0, "".join(f"{name} {MODULE}\n" for name in names), "")


# Werkzeug

RUNNING = r"Running on (https?://127\.0\.0\.1:(\d+)|unix://.*)$"


@contextmanager
def werkzeug(
    where: str = HOST, *, start_new_session: bool = False, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], re.Match[str]]]:
    """Run it; the options are its own."""
    command = ("werkzeug_server.py", where, json.dumps(options))
    with running(*command, start_new_session=start_new_session) as process:
        found = errors_until(process, RUNNING)
        assert "Press CTRL+C to quit" in error_of(process)
        yield process, found


def werkzeug_end(process: subprocess.Popen[str], requests: int) -> None:
    """Press Ctrl-C; it says nothing but what it has served."""
    interrupt(process.pid, signal.SIGINT)
    status, output, errors = end_of(process)
    assert (status, output) == (0, "")
    assert_nothing_but_access(errors, requests)


def werkzeug_use(client: httpx.Client) -> dict[str, Any]:
    """Ask for two things; return what the server says of itself."""
    assert client.post("/echo", content=BODY).content == BODY
    said: dict[str, Any] = client.get("/").json()
    assert said["server"] == MODULE
    return said


def test_werkzeug(browse: Any) -> None:
    with werkzeug() as (process, found):
        client = browse(found[1])
        for _ in range(2):
            said = werkzeug_use(client)
            assert (said["process"], said["thread"], said["scheme"]) == (process.pid, False, "http")
        werkzeug_end(process, 4)


def test_werkzeug_with_threads(browse: Any) -> None:
    with werkzeug(threaded=True) as (process, found), silent(int(found[2])) as idle:
        client = browse(found[1])
        assert werkzeug_use(client)["thread"]
        replies = all_at_once(process, 2 * TOGETHER, lambda _: client.get("/meet").json())
        assert {(reply["process"], reply["thread"]) for reply in replies} == {(process.pid, True)}
        reset(int(found[2]), b"GET /me")
        werkzeug_end(process, 2 + 2 * TOGETHER)  # which does not wait for the idle client
        assert idle.recv(1) == b""


def test_werkzeug_with_processes(browse: Any) -> None:
    with werkzeug(processes=TOGETHER) as (process, found):
        client = browse(found[1])
        assert werkzeug_use(client)["process"] != process.pid
        replies = all_at_once(process, TOGETHER, lambda _: client.get("/meet").json(), beyond=2)
        assert len({reply["process"] for reply in replies} - {process.pid}) == TOGETHER + 2
        assert max(reply["siblings"] for reply in replies) == TOGETHER
        werkzeug_end(process, 2 + TOGETHER + 2)


@pytest.mark.parametrize("options", [{"threaded": True}, {"processes": TOGETHER}], ids=str)
def test_werkzeug_is_interrupted_with_its_children(options: dict[str, Any]) -> None:
    """Ctrl-C in a terminal goes to all of its processes, and those who are answered at that time get no answer."""
    with werkzeug(start_new_session=True, **options) as (process, found), ExitStack() as clients:
        socks = [clients.enter_context(silent(int(found[2]))) for _ in range(TOGETHER)]
        for sock in socks:
            sock.sendall(b"GET /meet HTTP/1.0\r\n\r\n")
            assert line_of(process) == "met"
        interrupt_group(process.pid, signal.SIGINT)
        assert end_of(process) == (0, "", "")
        assert [sock.recv(1) for sock in socks] == [b""] * TOGETHER


@pytest.mark.parametrize("options", [{}, {"threaded": True}, {"processes": TOGETHER}], ids=str)
def test_werkzeug_over_a_unix_socket(options: dict[str, Any], browse: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with werkzeug(f"unix://{path}", **options) as (process, _):
        assert werkzeug_use(browse("http://here", path))["scheme"] == "http"
        werkzeug_end(process, 2)
    Path(path).unlink()  # which `socketserver` leaves to its users


@pytest.mark.parametrize("options", [{}, {"threaded": True}, {"processes": TOGETHER}], ids=str)
def test_werkzeug_over_tls(options: dict[str, Any], certificate: tuple[str, str], browse: Any) -> None:
    with werkzeug(ssl_context=certificate, **options) as (process, found):
        assert found[1].startswith("https")
        client = browse(found[1])
        for _ in range(2):
            assert werkzeug_use(client)["scheme"] == "https"
        werkzeug_end(process, 4)


@pytest.mark.parametrize("options", [{"threaded": True}, {"processes": TOGETHER}], ids=str)
def test_werkzeug_reloads(options: dict[str, Any], browse: Any, tmp_path: Path) -> None:
    """The process that listens starts another that serves; and a third one when a file changes."""
    watched = tmp_path / "watched"
    watched.touch()
    reloading = {
        "use_reloader": True,
        "reloader_type": "stat",
        "reloader_interval": 0.1,
        "extra_files": [str(watched)],
        "exclude_patterns": ["*.py", "*.pyc"],  # or else it would watch all of this project
    }
    command = ("werkzeug_server.py", HOST, json.dumps({**reloading, **options}))
    # After Ctrl-C it waits for the other one no longer than a quarter of a second.
    unawaited = ("-W", "ignore:subprocess:ResourceWarning")
    # In a session of its own, as in a terminal, so that Ctrl-C reaches both processes.
    with running(*command, flags=unawaited, start_new_session=True) as process:
        client = browse(errors_until(process, RUNNING)[1])
        errors_until(process, "Restarting with stat")
        replaced(process)
        served_by = [client.get("/").json()]
        os.utime(watched, (2**31, 2**31))
        errors_until(process, "Detected change in .*watched', reloading")
        errors_until(process, "Restarting with stat")
        replaced(process)
        served_by.append(client.get("/").json())
        assert {said["server"] for said in served_by} == {MODULE}
        if "threaded" in options:
            assert len({said["process"] for said in served_by} - {process.pid}) == 2
        interrupt_group(process.pid, signal.SIGINT)
        status, output, errors = end_of(process)
        assert (status, output) == (0, "")
        assert_nothing_but_access(errors)


# Django

SETTINGS = ("--settings", "live.settings")


@pytest.mark.parametrize("parallel", ["1", "2"])
def test_django_live_servers(parallel: str) -> None:
    """Under Django's own runner, in its process or in children of it; its tests are third_parties/live/tests.py."""
    command = ("-m", "django", "test", "live", *SETTINGS, "--parallel", parallel)
    with running(*command, flags=("-u",)) as process:
        status, output, errors = end_of(process)
    assert status == 0, errors
    lines = [line for line in errors.splitlines() if " test database for alias" not in line]
    assert lines == ["." * 5, "-" * 70, ANY, "", "OK"], errors  # and how long it took
    assert "\nRan 5 tests in " in errors
    assert output.splitlines()[-2:] == [f"server {MODULE}", "ended 1"]


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "plain"])
def test_django_development_server(threads: bool, browse: Any) -> None:
    # It never closes its listening socket, but leaves that to the end of the process.
    unclosed = ("-W", "ignore:unclosed <socket:ResourceWarning")
    command = ["-m", "django", "runserver", "--noreload", *SETTINGS, f"{HOST}:0"]
    if not threads:
        command.append("--nothreading")
    with running(*command, flags=("-u", *unclosed)) as process:
        client = browse(output_until(process, r"Starting .*development server at (http://\S+)/$")[1])
        output_until(process, "For more information on production servers see")
        assert client.get("/static/poem.txt").text.startswith("A line")
        assert client.post("/echo", content=BODY).content == BODY
        assert client.get("/made").text == MODULE
        requests = 3
        if threads:
            assert all_at_once(process, TOGETHER, lambda _: client.get("/meet").text) == ["met"] * TOGETHER
            requests += TOGETHER
        interrupt(process.pid, signal.SIGINT)
        status, output, errors = end_of(process)
    assert (status, output.strip()) == (0, "")
    access = r'\[.*\] "[A-Z]+ \S+ HTTP/1.1" 200 \d+\n'
    assert re.fullmatch(f"({access}){{{requests}}}", errors)


# dnslib


def ask_dns(port: int, tcp: bool, name: str, kind: str = "A") -> DNSRecord:
    asked = DNSRecord.question(name, kind)
    reply = DNSRecord.parse(asked.send(HOST, port, tcp=tcp, timeout=TIMEOUT))
    assert reply.header.id == asked.header.id
    return reply


def data_of(records: list[RR]) -> list[str]:
    return [str(record.rdata) for record in records]


def test_dnslib() -> None:
    with running("dnslib_server.py", HOST) as process, ExitStack() as sockets:
        ports = {tcp: started(process) for tcp in (False, True)}
        idle = sockets.enter_context(silent(ports[True]))
        for tcp, port in ports.items():
            ask = partial(ask_dns, port, tcp)
            assert data_of(ask("here.test").rr) == [HOST]
            assert data_of(ask("here.test", "AAAA").rr) == ["::1"]
            mail = ask("here.test", "MX")
            assert (data_of(mail.rr), data_of(mail.ar)) == (["10 mail.here.test."], ["127.0.0.2"])
            assert ask("nowhere.test").header.rcode == RCODE.NXDOMAIN
            long = ask("long.here.test", "TXT")
            assert (long.header.tc, len(long.rr)) == ((0, 1) if tcp else (1, 0))
            replies = all_at_once(process, TOGETHER, lambda _, ask=ask: data_of(ask("meet.here.test").rr))
            assert replies == [["127.0.0.3"]] * TOGETHER

        # What is no question is reported, and nothing comes of it.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"what?", (HOST, ports[False]))
            assert "Invalid Request" in line_of(process)
        with silent(ports[True]) as sock:
            sock.sendall(b"?")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
            assert "Request Truncated" in line_of(process)

        interrupt(process.pid, signal.SIGINT)
        assert end_of(process) == (0, "False -1\nFalse -1\n", "")
        assert idle.recv(1) == b""


# The exporter of Prometheus


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_prometheus(scheme: str, certificate: tuple[str, str], browse: Any) -> None:
    with running("prometheus_exporter.py", HOST, *(certificate if scheme == "https" else ("", ""))) as process:
        client = browse(f"{scheme}://{HOST}:{started(process)}")
        only = {"name[]": "requests_total"}
        assert client.get("/metrics", params=only).text.splitlines()[-1] == 'requests_total{path="/here"} 3.0'
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert client.get("/metrics", params=only, headers=accept).text.splitlines()[-1] == "# EOF"
        assert client.put("/metrics").status_code == 405
        for reply in all_at_once(process, TOGETHER, lambda _: client.get("/metrics")):
            assert reply.status_code == 200
            assert "slow 1.0" in reply.text.splitlines()
        interrupt(process.pid, signal.SIGINT)
        assert end_of(process) == (0, "False -1\n", "")


# What the standard library builds on it


@pytest.mark.parametrize("host", [HOST, "::1"])
def test_http_server(host: str, browse: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    command = ("-m", "http.server", "0", "--bind", host, "--directory", str(tmp_path), "--protocol", "HTTP/1.1")
    with running(*command, flags=("-u",)) as process:
        url = output_until(process, r"Serving HTTP on .* \((.*)/\) \.\.\.$")[1]
        first, second = browse(url), browse(url)
        for client in (first, second, first):  # on connections that stay open
            assert client.get("/file").content == BODY
        assert 'href="file"' in second.get("/").text
        interrupt(process.pid, signal.SIGINT)
        status, output, errors = end_of(process)
    assert (status, output) == (0, "\nKeyboard interrupt received, exiting.\n")
    assert_nothing_but_access(errors, 4)


def test_pydoc(browse: Any) -> None:
    """It waits for its listening socket by itself, and has one request handled at a time."""
    with running("-m", "pydoc", "-n", HOST, "-p", "0", flags=("-u",)) as process:
        client = browse(output_until(process, r"Server ready at (.*)/$")[1])
        for _ in range(2):
            assert f'href="{MODULE}.html#TCPServer"' in client.get("/http.server.html").text
        assert process.stdin is not None
        process.stdin.write("q\n")
        end_input(process)
        assert end_of(process) == (0, "Server commands: [b]rowser, [q]uit\nserver> Server stopped\n", "")


@pytest.mark.parametrize("kind", ["plain", "thread", "fork"])
def test_xmlrpc(kind: str) -> None:
    with running("xmlrpc_server.py", kind) as process:
        url = f"http://{HOST}:{started(process)}"
        with ServerProxy(url) as proxy:
            assert proxy.add(1, 2) == 3
            assert "meeting" in proxy.system.listMethods()
            calls = MultiCall(proxy)
            for number in range(3):
                calls.add(number, number)
            assert list(calls()) == [0, 2, 4]
            with pytest.raises(Fault, match="is not supported"):
                proxy.subtract(1, 2)

        def meet(_: int) -> Any:
            with ServerProxy(url) as proxy:
                return proxy.meeting()

        together = 1 if kind == "plain" else TOGETHER
        assert all_at_once(process, together, meet) == ["met"] * together
        interrupt(process.pid, signal.SIGINT)
        assert end_of(process) == (0, "interrupted\n", "")


def test_wsgiref(browse: Any) -> None:
    with running("wsgiref_server.py") as process:
        client = browse(f"http://{HOST}:{started(process)}")
        for number in range(4):
            assert client.post(f"/{number}", content=BODY).content == b"/%d" % number + BODY
            if number == 1:
                assert line_of(process) == "two"
        end_input(process)
        status, output, errors = end_of(process)
    assert (status, output) == (0, "stopped\n")
    assert_nothing_but_access(errors, 4)


def configure_log(port: int, form: str) -> None:
    """Have what the program logs printed in that form."""
    handler = {"class": "logging.StreamHandler", "formatter": "said", "stream": "ext://sys.stdout"}
    configuration = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"said": {"format": form}},
        "handlers": {"said": handler},
        "root": {"handlers": ["said"], "level": "INFO"},
    }
    text = json.dumps(configuration).encode()
    with silent(port) as sock:
        sock.sendall(struct.pack(">L", len(text)) + text)
        assert sock.recv(1) == b""  # when it has been put to use


def test_logging_listen() -> None:
    with running("logging_listener.py") as process:
        port = started(process)
        assert process.stdin is not None
        with silent(port):
            for form in ("first: %(message)s", "%(levelname)s, %(message)s"):
                configure_log(port, form)
                process.stdin.write("hello\n")
                process.stdin.flush()
                assert line_of(process) == form % {"message": "hello", "levelname": "INFO"}
        end_input(process)
        assert end_of(process) == (0, "stopped\n", "")


def test_idle() -> None:
    """It overrides `server_bind`, `server_activate` and `get_request`: it connects to its only client."""
    rpc = pytest.importorskip("idlelib.rpc", reason="some distributions leave IDLE out of Python's own library")

    class Client(rpc.RPCClient):
        def handle_EOF(self) -> None:  # noqa: N802 - the name is IDLE's
            """Do not end this process, as its own does."""
            raise EOFError

    client = Client((HOST, 0))
    with client.listening_sock as listener, running("idle_server.py", str(listener.getsockname()[1])) as process:
        listener.settimeout(TIMEOUT)
        assert line_of(process) == MODULE
        client.accept()
        with client.sock:
            assert client.remotecall("calculator", "add", (1, 2), {}) == 3
            with pytest.raises(EOFError):
                client.remotecall("calculator", "leave", (), {})
        assert end_of(process) == (0, "leaving\n", "")
