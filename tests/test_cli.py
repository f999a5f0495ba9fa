"""The command line: serving in a process of its own, with signals; every error's text; explain and plugins."""

import io
import logging
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import pytest

import plugsocket
from plugsocket import TCP, Answer, Deadlines, Limits, Server, State, Stats, StopReport, Wait
from plugsocket.cli import arguments, counters, main, progress
from plugsocket.cli import serve as serving_module
from plugsocket.cli.arguments import make_parser
from plugsocket.cli.console import Console
from plugsocket.cli.handlers import load_handler
from plugsocket.cli.serve import describe, serve_until_stopped
from plugsocket.cli.terms import deadlines_of, limits_of
from plugsocket.core.options import option_fields
from tests.kit import TIMEOUT, strategy_names, transport_classes
from tests.programs import interrupt

PROGRAM = [sys.executable, "-m", "plugsocket"]
ENDPOINT = "tcp://127.0.0.1:0"

# A handler that owes an answer, so that a stop waits for it. It says on standard output when it does, and when the
# server stops, since an answer on the connection would be what it owes.
PATIENT = """
import os

def handle(connection):
    connection.recv(100)
    os.write(1, b"busy\\n")
    connection.closing.wait()
    os.write(1, b"closing\\n")
    connection.sendall(connection.recv(100).upper())

def leave(connection):
    raise ConnectionResetError(connection.recv(100).decode())
"""


@contextmanager
def program(*args: str, cwd: Path, stderr: int = subprocess.PIPE) -> Iterator["subprocess.Popen[str]"]:
    """Run the program; whatever the test did, it is over afterwards."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*PROGRAM, *args], cwd=cwd, stdout=pipe, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def connected(url: str) -> socket.socket:
    scheme, _, where = url.partition("://")
    if scheme == "tcp":
        host, _, port = where.rpartition(":")
        return socket.create_connection((host, int(port)), TIMEOUT)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(where)
    return sock


def logged(process: "subprocess.Popen[str]", text: str) -> str:
    """Read the log up to a record with this text; return its message."""
    assert process.stderr is not None
    line = next(line for line in process.stderr if text in line)
    return line.partition(" plugsocket: ")[2].rstrip("\n")


@contextmanager
def busy(process: "subprocess.Popen[str]") -> Iterator[socket.socket]:
    """Connect to the handler of `PATIENT`, which owes an answer in the block."""
    with connected(next_line(process)) as sock:
        sock.sendall(b"an answer, please")
        assert next_line(process) == "busy"
        yield sock


def end_of_reply(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as replies:
        return replies.read()


def test_serve_prints_where_and_serves_there(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with program("serve", ENDPOINT, f"unix://{path}", "--handler", "upper", cwd=tmp_path) as process:
        urls = [next_line(process), next_line(process)]
        assert urls[0].startswith("tcp://127.0.0.1:")
        assert not urls[0].endswith(":0")
        assert urls[1] == f"unix://{path}"
        for url in urls:
            with connected(url) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"HELLO"
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) == b""
        interrupt(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert out == ""
    serving, stopping, stopped = [line.partition("INFO plugsocket: ")[2] for line in err.splitlines()]
    assert serving == "serving with Thread(max_workers=64, idle_timeout=30.0, daemon=True); Ctrl-C or SIGTERM stops"
    assert re.fullmatch(r"stopping; requests under way: \d, which get 10 s", stopping)
    assert re.fullmatch(r"stopped after 0\.\d+ s; requests completed: \d, cut: 0", stopped)
    assert not path.exists()


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """A folder with the module `patient`."""
    (tmp_path / "patient.py").write_text(PATIENT)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("strategy", strategy_names())
def test_a_signal_lets_a_request_end(strategy: str, number: signal.Signals, patient: Path) -> None:
    with program("serve", ENDPOINT, "--handler", "patient:handle", "--strategy", strategy, cwd=patient) as process:
        with busy(process) as sock:
            interrupt(process.pid, number)
            assert next_line(process) == "closing"
            sock.sendall(b"the end")
            assert end_of_reply(sock) == b"THE END"
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert "INFO plugsocket: stopping; requests under way: 1, which get 10 s\n" in err
    assert err.endswith(" s; requests completed: 1, cut: 0\n")
    assert "Traceback" not in err


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
@pytest.mark.parametrize("strategy", strategy_names())
def test_the_second_signal_cuts(strategy: str, numbers: tuple[signal.Signals, ...], patient: Path) -> None:
    args = ("serve", ENDPOINT, "--handler", "patient:handle", "--strategy", strategy, "--grace", "3600")
    with program(*args, cwd=patient) as process:
        with busy(process) as sock:
            port = sock.getsockname()[1]
            interrupt(process.pid, numbers[0])
            assert next_line(process) == "closing"
            interrupt(process.pid, numbers[1])
            assert end_of_reply(sock) == b""
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert err.endswith(
        f" s; requests under way that ended by themselves: 0; that were cut: 1 (from 127.0.0.1:{port})\n"
    )
    assert "Traceback" not in err


def test_grace_is_how_long_requests_get(patient: Path) -> None:
    with program("serve", ENDPOINT, "--handler", "patient:handle", "--grace", "0", cwd=patient) as process:
        with busy(process) as sock:
            interrupt(process.pid, signal.SIGTERM)
            assert end_of_reply(sock) == b""
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert "that were cut: 1 (" in err


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_verbose_logs_more(verbose: list[str], patient: Path) -> None:
    with program("serve", ENDPOINT, "--handler", "patient:leave", *verbose, cwd=patient) as process:
        with connected(next_line(process)) as sock:
            sock.sendall(b"gone")
            assert sock.recv(100) == b""
        interrupt(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT)
    for text in ("handler failed for 127.0.0.1:", "connection 1 from 127.0.0.1:", "server was BOUND, is SERVING"):
        assert (f"DEBUG plugsocket: {text}" in err) == bool(verbose)
    assert len(re.findall(" closed after .* s; received 4 bytes, sent 0", err)) == len(verbose)


def test_verbose_logs_who_is_turned_away(patient: Path) -> None:
    args = ("--handler", "patient:handle", "--max-connections", "1", "--overload", "reject", "--verbose")
    with program("serve", ENDPOINT, "udp://127.0.0.1:0", *args, cwd=patient) as process:
        url, datagrams = next_line(process), next_line(process)
        with connected(url) as sock:
            sock.sendall(b"an answer, please")
            assert next_line(process) == "busy"
            with connected(url) as other:
                assert end_of_reply(other) == b""
            host, _, port = datagrams.removeprefix("udp://").rpartition(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"hello", (host, int(port)))
                assert logged(process, " dropped (max_connections)").startswith("datagram 3 from 127.0.0.1:")
        interrupt(process.pid, signal.SIGTERM)


def test_the_current_directory_is_searched_first_also_by_the_installed_script(
    patient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(patient)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(patient))])
    monkeypatch.delitem(sys.modules, "patient", raising=False)
    handler = load_handler("patient:handle")
    assert handler.__module__ == "patient"
    assert sys.path[0] == str(patient)


# Limits and deadlines


def terms(*args: str) -> tuple[Limits, Deadlines]:
    parsed = make_parser().parse_args(["serve", ENDPOINT, *args])
    return limits_of(parsed), deadlines_of(parsed)


def test_every_limit_and_deadline_has_an_option() -> None:
    assert terms() == (Limits(), Deadlines())
    every = [*option_fields(Limits), *option_fields(Deadlines)]
    values = {"overload": "wait?seconds=3"}
    limits, deadlines = terms(*(f"--{name.replace('_', '-')}={values.get(name, '7')}" for name in every))
    assert limits == Limits(max_connections=7, max_per_peer=7, overload=Wait(3))
    assert deadlines == Deadlines(first_byte=7, idle=7, request=7, linger=7)
    assert terms("--overload", "answer?reply=full%0A")[0].overload == Answer(b"full\n")


def test_serve_holds_limits(patient: Path) -> None:
    args = ("--handler", "patient:handle", "--max-connections", "1", "--overload", "answer?reply=full%0A")
    with program("serve", ENDPOINT, *args, cwd=patient) as process:
        with busy(process) as sock, connected(f"tcp://127.0.0.1:{sock.getpeername()[1]}") as other:
            assert end_of_reply(other) == b"full\n"
        interrupt(process.pid, signal.SIGTERM)


def test_serve_holds_deadlines(tmp_path: Path) -> None:
    with program("serve", ENDPOINT, "--first-byte", "0.05", cwd=tmp_path) as process:
        with connected(next_line(process)) as sock:
            assert end_of_reply(sock) == b""
        assert "DeadlineError('no byte came within 0.05 s')" in logged(process, "handler failed")
        interrupt(process.pid, signal.SIGTERM)


# The line that shows how a stop gets on.


@contextmanager
def on_terminal(*args: str, cwd: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run the program with a terminal as standard error; the test has the terminal's other end."""
    ours, theirs = os.openpty()
    try:
        try:
            with program(*args, cwd=cwd, stderr=theirs) as process:
                os.close(theirs)
                theirs = -1
                yield process, ours
        finally:
            if theirs >= 0:
                os.close(theirs)
    finally:
        os.close(ours)


def shown_until(terminal: int, text: str | None) -> str:
    """Read what the terminal is given, up to and with a text, or up to the end of the program."""
    shown = ""
    while text is None or text not in shown:
        try:
            shown += os.read(terminal, 4096).decode()
        except OSError:  # EIO: nobody has the terminal open any more
            assert text is None, shown
            break
    return shown


def seen(shown: str) -> list[str]:
    """The lines that are to be seen on a terminal, which goes back to the first column for a carriage return."""
    lines = []
    for line in shown.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize(("grace", "left"), [("3600", ", 3600 s left"), ("inf", "")])
def test_a_terminal_shows_how_a_stop_gets_on(strategy: str, grace: str, left: str, patient: Path) -> None:
    args = ("serve", ENDPOINT, "--handler", "patient:handle", "--strategy", strategy, "--grace", grace)
    with on_terminal(*args, cwd=patient) as (process, terminal):
        with busy(process) as sock:
            interrupt(process.pid, signal.SIGTERM)
            line = f"stopping: 1 request under way{left}; Ctrl-C again cuts them"
            shown = shown_until(terminal, line)
            assert seen(shown)[-1] == line
            sock.sendall(b"the end")
            assert end_of_reply(sock) == b"THE END"
        shown += shown_until(terminal, None)
        assert process.wait(TIMEOUT) == 0
    serving, stopping, stopped, after = seen(shown)
    for each in (serving, stopping, stopped):
        assert re.match("[0-9-]{10} [0-9:,]{12} INFO plugsocket: ", each)
    assert "stopping; requests under way: 1" in stopping
    assert "stopped after " in stopped
    assert after == ""


def test_the_second_signal_erases_it_too(patient: Path) -> None:
    args = ("serve", ENDPOINT, "--handler", "patient:handle", "--grace", "3600")
    with on_terminal(*args, cwd=patient) as (process, terminal):
        with busy(process):
            interrupt(process.pid, signal.SIGINT)
            shown = shown_until(terminal, "Ctrl-C again cuts them")
            interrupt(process.pid, signal.SIGINT)
            shown += shown_until(terminal, None)
        assert process.wait(TIMEOUT) == 0
    *_, stopped, remark, after = seen(shown)
    assert re.match(r"[0-9-]{10} .* stopped after .* cut: 1$", stopped)
    assert remark.startswith("plugsocket: stopped after ")
    assert after == ""


def test_nothing_runs_for_it_before(tmp_path: Path) -> None:
    with on_terminal("serve", ENDPOINT, "--strategy", "sync", cwd=tmp_path) as (process, terminal):
        with connected(next_line(process)) as sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            assert len(os.listdir(f"/proc/{process.pid}/task")) == 1
        interrupt(process.pid, signal.SIGTERM)
        assert "stopped after" in shown_until(terminal, None)


def test_no_terminal_no_line(patient: Path) -> None:
    args = ("serve", ENDPOINT, "--handler", "patient:handle", "--grace", "0.5")  # longer than it takes to be shown
    with program(*args, cwd=patient) as process:
        with busy(process) as sock:
            interrupt(process.pid, signal.SIGTERM)
            assert end_of_reply(sock) == b""
        _, err = process.communicate(timeout=TIMEOUT)
    assert "INFO plugsocket: stopping; requests under way: 1, which get 0.5 s\n" in err
    assert "\r" not in err
    assert "stopping: " not in err


def test_how_a_stop_gets_on_in_words() -> None:
    assert progress.describe(3, 6.2) == "stopping: 3 requests under way, 7 s left; Ctrl-C again cuts them"
    assert progress.describe(1, math.inf) == "stopping: 1 request under way; Ctrl-C again cuts them"
    assert progress.describe(2, 0.0) == "stopping: 2 requests cut, not over yet"
    assert progress.describe(0, 5.0) == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_is_gone_in_the_end_whatever_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    console, shown, busy, done = Console(), threading.Event(), threading.Event(), threading.Event()

    def handle(connection: plugsocket.Connection) -> None:
        connection.recv(100)
        busy.set()
        done.wait(TIMEOUT)

    def show(line: str) -> None:
        Console.show(console, line)
        shown.set()

    monkeypatch.setattr(console, "show", show)
    server = Server(ENDPOINT, handle, "thread")
    server.unsubscribe(plugsocket.log_events)
    progress.Progress(server, console)
    server.start()
    with connected(server.urls[0]) as sock:
        sock.sendall(b"an answer, please")
        assert busy.wait(TIMEOUT)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert shown.wait(TIMEOUT)
        assert seen(console.stream.getvalue())[0].startswith("stopping: 1 request under way, ")
        done.set()
        stopping.join(TIMEOUT)
    assert seen(console.stream.getvalue()) == [""]


def test_a_line_is_no_longer_than_the_terminal_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    console = Console()
    console.show("x" * 200)
    console.show("short")
    assert console.stream.getvalue() == "\r\r" + "x" * 79 + "\r" + " " * 79 + "\rshort"


def test_a_program_without_standard_error_serves(tmp_path: Path) -> None:
    closed = "import os, sys; os.close(2); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", closed, *PROGRAM, "serve", ENDPOINT, "--stats", "0.05"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            with connected(next_line(process)) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"
            interrupt(process.pid, signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()


# Counters


@pytest.mark.parametrize("strategy", strategy_names())
def test_stats_are_logged(strategy: str, tmp_path: Path) -> None:
    with program("serve", ENDPOINT, "--strategy", strategy, "--stats", "0.05", cwd=tmp_path) as process:
        with connected(next_line(process)) as sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            assert re.fullmatch(r"accepted 1 \([\d.]+/s\), active 1", logged(process, "accepted 1 "))
        interrupt(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert re.search(r" INFO plugsocket: accepted 1 \(\d+\.\d/s\)$", err.splitlines()[-1])


def test_a_last_line_of_stats_comes_at_once(tmp_path: Path) -> None:
    with program("serve", ENDPOINT, "--stats", "3600", cwd=tmp_path) as process:
        assert next_line(process)
        interrupt(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT)
    assert [line.partition(" plugsocket: ")[2] for line in err.splitlines() if "accepted" in line] == [
        "accepted 0 (0.0/s)"
    ]


def test_no_stats_of_a_server_that_could_not_open(tmp_path: Path) -> None:
    endpoint = f"unix://{tmp_path}/nowhere/app.sock"
    with program("serve", endpoint, "--stats", "3600", cwd=tmp_path) as process:
        _, err = process.communicate(timeout=TIMEOUT)
    assert err == f"plugsocket: error: cannot listen on {endpoint}: No such file or directory\n"


def test_stats_in_words() -> None:
    zero = dict.fromkeys((each.name for each in attrs.fields(Stats)), 0)
    assert counters.describe(Stats(**zero), 0.0) == "accepted 0 (0.0/s)"
    some = Stats(**{**zero, "accepted": 1234, "active": 3, "timed_out": 2, "accept_errors": 1})
    assert counters.describe(some, 56.78) == "accepted 1234 (56.8/s), active 3, timed out 2, accept errors 1"


# Signals that come before the server serves.


def test_a_signal_that_comes_with_the_address_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "tell", lambda *_: signal.raise_signal(signal.SIGTERM))
    server = Server(ENDPOINT, plugsocket.echo)
    serve_until_stopped(server)
    assert server.state is State.CLOSED


def test_a_signal_that_comes_while_binding_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    listen = TCP.listen

    def interrupted(transport: TCP) -> Any:
        signal.raise_signal(signal.SIGINT)
        return listen(transport)

    monkeypatch.setattr(TCP, "listen", interrupted)
    server = Server(ENDPOINT, plugsocket.echo)
    serve_until_stopped(server)
    assert server.state is State.CLOSED


def test_a_long_list_of_those_who_were_cut_is_cut_itself() -> None:
    cut = tuple(plugsocket.InetAddress("127.0.0.1", number) for number in range(1, 13))
    assert describe(StopReport(3, cut, 1.26)) == (
        "stopped after 1.3 s; requests under way that ended by themselves: 3; that were cut: 12 (from "
        + ", ".join(f"127.0.0.1:{number}" for number in range(1, 11))
        + " and 2 more)"
    )


# Errors: one line each, and the exit status.


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory, searched for modules; those that the test imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    level = logging.getLogger("plugsocket").level
    yield tmp_path
    logging.getLogger("plugsocket").setLevel(level)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Run the program, which says nothing but one line of error; return its exit status and the line."""
    status = main(args)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("plugsocket: error: ")
    assert err.count("\n") == 1
    return status, err.removeprefix("plugsocket: error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["tpc://127.0.0.1:0"], "unknown transport scheme 'tpc'; did you mean 'tcp'?"),
        (["tcp://127.0.0.1:99999"], "TCP: port must be a whole number from 0 to 65535, not 99999"),
        (["host"], "'host' is no endpoint; one looks like 'tcp://127.0.0.1:9999' or 'unix:///run/app.sock'"),
        ([f"{ENDPOINT}?baklog=5"], "TCP has no option 'baklog'; did you mean 'backlog'?"),
        ([ENDPOINT, "--strategy", "threads"], "unknown strategy 'threads'; did you mean 'thread'?"),
        (
            [ENDPOINT, "--strategy", "fork?max_children=0"],
            "Fork: max_children must be a whole number of at least 1, not 0",
        ),
        ([ENDPOINT, "--grace", "-1"], "grace must be a number of seconds, zero or more, not -1.0"),
        (
            [ENDPOINT, "--max-connections", "0"],
            "Limits: max_connections must be a whole number of at least 1 or None, not 0",
        ),
        ([ENDPOINT, "--max-per-peer", "many"], "Limits: max_per_peer must be a whole number, not 'many'"),
        ([ENDPOINT, "--idle", "-1"], "Deadlines: idle must be a number of seconds, zero or more, not -1.0"),
        ([ENDPOINT, "--linger", "long"], "Deadlines: linger must be a number, not 'long'"),
        ([ENDPOINT, "--stats", "0"], "stats must be a number of seconds, more than zero, not 0.0"),
        ([ENDPOINT, "--stats", "inf"], "stats must be a number of seconds, more than zero, not inf"),
    ],
)
def test_wrong_input(args: list[str], text: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "serve", *args) == (2, text)


def test_an_overload_policy_that_is_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = error_of(capsys, "serve", ENDPOINT, "--overload", "rejct")
    assert status == 2
    assert "overload" in text
    assert "'rejct'" in text


FORM = "MODULE:ATTRIBUTE, such as mypackage.handlers:Upper"
CALLABLE = "a function, an async function, or a class derived from BaseRequestHandler"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ecko", f"unknown handler 'ecko'; built in are echo, upper, discard; one of your own is {FORM}"),
        ("", f"unknown handler ''; built in are echo, upper, discard; one of your own is {FORM}"),
        ("a/b.py:Upper", f"the handler 'a/b.py:Upper' is not of the form {FORM}"),
        ("socket:", f"the handler 'socket:' is not of the form {FORM}"),
        ("nowhere:handle", "there is no module 'nowhere', neither in the current directory nor installed"),
        ("nowhere.at.all:handle", "there is no module 'nowhere', neither in the current directory nor installed"),
        ("email.nope:handle", "there is no module 'email.nope', neither in the current directory nor installed"),
        ("socket.nope:handle", "there is no module 'socket.nope', neither in the current directory nor installed"),
        ("plugsocket:ecko", "the module 'plugsocket' has no attribute 'ecko'; did you mean 'echo'?"),
        ("plugsocket:Server.sotp", "the class 'Server' has no attribute 'sotp'; did you mean 'stop'?"),
        ("string:digits.encoed", "the str '0123456789' has no attribute 'encoed'; did you mean 'encode'?"),
        ("string:digits", "the handler must be callable, not '0123456789': " + CALLABLE),
    ],
)
def test_a_handler_that_is_none(name: str, text: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "serve", ENDPOINT, "--handler", name) == (2, text)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def f():\n    return 1 / 0\nf()\n", "ZeroDivisionError: division by zero ({path}, line 2)"),
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere' ({path}, line 1)"),
        ("raise SystemExit(3)\n", "SystemExit: 3 ({path}, line 1)"),
        ("raise RuntimeError('one\\ntwo')\n", "RuntimeError: one two ({path}, line 1)"),
        ("handle = \n", "SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
def test_a_module_that_does_not_import(code: str, problem: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "broken.py"
    path.write_text(code)
    expected = f"the module 'broken' does not import: {problem.format(path=path)}"
    assert error_of(capsys, "serve", ENDPOINT, "--handler", "broken:handle") == (2, expected)
    assert error_of(capsys, "explain", ENDPOINT, "--handler", "broken:handle") == (2, expected)


def test_an_address_in_use(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(ENDPOINT, plugsocket.echo) as server:
        server.bind()
        expected = f"cannot listen on {server.urls[0]}: Address already in use"
        assert error_of(capsys, "serve", ENDPOINT, server.urls[0]) == (1, expected)


def test_a_directory_that_is_not_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = "cannot listen on unix://nowhere/app.sock: No such file or directory"
    assert error_of(capsys, "serve", "unix://nowhere/app.sock") == (1, expected)


def test_an_error_of_the_system_that_is_about_a_file_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("plugsocket.cli.demo.demo", lambda: os.stat("/nowhere/at/all"))
    assert error_of(capsys, "demo") == (1, "[Errno 2] No such file or directory: '/nowhere/at/all'")


def interrupted() -> bool:
    raise KeyboardInterrupt


def test_ctrl_c_where_no_server_takes_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("plugsocket.cli.demo.demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_goes_away_is_no_news(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [*PROGRAM, "plugins"], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
        )
    finally:
        os.close(writer)
    assert ended.stderr == b""
    assert ended.returncode == 1


# Arguments and help


@pytest.mark.parametrize(
    "args",
    [
        ["serve"],
        ["serve", ENDPOINT, "--grace", "long"],
        ["serve", ENDPOINT, "--stats", "x"],
        ["sevre"],
        ["explain"],
        ["--what"],
    ],
)
def test_wrong_arguments(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert arguments.EXAMPLES in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"plugsocket {version('plugsocket')}\n"


@pytest.mark.parametrize("command", [[], ["serve"], ["explain"], ["demo"], ["plugins"]])
def test_help_comes_with_examples_that_parse(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    _, _, examples = out.partition("examples:\n")
    lines = [line for line in examples.splitlines() if line.startswith("  plugsocket ")]
    assert len(lines) >= (2 if command in ([], ["serve"], ["explain"]) else 0)
    for line in lines:
        parsed = make_parser().parse_args(shlex.split(line)[1:])
        assert parsed.command in (command or ["demo", "serve", "explain", "plugins"])


# explain


def test_explain_what_composes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mymodule.py").write_text("async def handle(datagram): ...\n")
    assert main(["explain", "udp://127.0.0.1:9999", "--strategy", "trio", "--handler", "mymodule:handle"]) == 0
    handler = load_handler("mymodule:handle")
    expected = plugsocket.explain("udp://127.0.0.1:9999", handler, "trio")
    assert capsys.readouterr() == (f"{expected}\n", "")
    assert "AsyncDatagram" in str(expected)


def test_explain_what_does_not(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mymodule.py").write_text("async def handle(datagram): ...\n")
    assert main(["explain", ENDPOINT, "udp://127.0.0.1:0", "--strategy", "sync", "--handler", "mymodule:handle"]) == 1
    assert capsys.readouterr().out == (
        "does not compose: handle is an async handler, and Sync() runs blocking ones: use Trio(), or wrap it to give "
        "each request a trio.run of its own: own_loop(handle)\n"
    )


def test_explain_explains_echo_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", ENDPOINT]) == 0
    assert "\nhandler    echo: ISyncHandler\nstrategy   Thread(" in capsys.readouterr().out


# plugins


@pytest.fixture
def install(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that installs a distribution: its name, and its entry points."""
    monkeypatch.syspath_prepend(str(here))

    def installing(name: str, entry_points: str) -> None:
        folder = here / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(entry_points)

    return installing


def table(text: str) -> list[list[str]]:
    """Read a table back, by the places where its columns begin."""
    head, *lines = text.splitlines()
    starts = [head.index(word) for word in ("KIND", "NAME", "SOURCE", "DISTRIBUTION", "STATUS")]
    ends = [*starts[1:], None]
    return [[line[start:end].rstrip() for start, end in zip(starts, ends, strict=True)] for line in lines]


def test_plugins_lists_what_is_built_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    rows = table(capsys.readouterr().out)
    ours = f"plugsocket {version('plugsocket')}"
    for cls in transport_classes():
        assert ["transport", cls.scheme, f"{cls.__module__}:{cls.__name__}", ours, "ok"] in rows
    assert ["strategy", "fork", "plugsocket.concurrency.fork:Fork", ours, "ok"] in rows
    assert [row[1] for row in rows if row[0] == "strategy"] == list(strategy_names())


def test_plugins_lists_the_broken_and_the_conflicting(
    install: Callable[[str, str], None], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "parts.py").write_text("from plugsocket import Sync\nNAME = 'parts'\nclass Odd: ...\n")
    (here / "crash.py").write_text("1 / 0\n")
    install("some", "[plugsocket.transports]\nodd = parts:Odd\n[plugsocket.strategies]\ncrash = crash:Crash\n")
    install("other", "[plugsocket.strategies]\nname = parts:NAME\nmine = parts:Sync\nsync = parts:Sync\n")
    assert main(["plugins"]) == 0
    rows = table(capsys.readouterr().out)
    assert ["transport", "odd", "parts:Odd", "some 1.0", "broken: Odd does not implement ITransport"] in rows
    assert ["strategy", "crash", "crash:Crash", "some 1.0", "broken: ZeroDivisionError('division by zero')"] in rows
    assert ["strategy", "name", "parts:NAME", "other 1.0", "broken: str is not callable"] in rows
    assert ["strategy", "mine", "parts:Sync", "other 1.0", "ok"] in rows
    conflicting = "conflicting: several claim the name"
    assert ["strategy", "sync", "parts:Sync", "other 1.0", conflicting] in rows
    ours = f"plugsocket {version('plugsocket')}"
    assert ["strategy", "sync", "plugsocket.concurrency.sync:Sync", ours, conflicting] in rows


def test_only_who_asks_for_a_broken_or_conflicting_plug_in_gets_an_error(
    install: Callable[[str, str], None], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("other", "[plugsocket.strategies]\nsync = parts:Sync\ncrash = nowhere:Crash\n")
    assert main(["explain", ENDPOINT, "--strategy", "thread"]) == 0
    capsys.readouterr()
    assert main(["explain", ENDPOINT, "--strategy", "crash"]) == 1
    assert capsys.readouterr().out == (
        "does not compose: plug-in 'crash' of other 1.0 (nowhere:Crash) does not load: "
        "ModuleNotFoundError(\"No module named 'nowhere'\")\n"
    )
    status, text = error_of(capsys, "serve", ENDPOINT, "--strategy", "sync")
    assert status == 2
    assert text == (
        "strategy 'sync' is claimed by other 1.0 (parts:Sync) and "
        f"plugsocket {version('plugsocket')} (plugsocket.concurrency.sync:Sync); uninstall all but one"
    )
