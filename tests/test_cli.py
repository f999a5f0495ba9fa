"""The command line: serving in a process of its own, with signals; every error's text; explain and plugins."""

import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import plugsocket
from plugsocket import TCP, Server, State, StopReport
from plugsocket.cli import arguments, main
from plugsocket.cli import serve as serving_module
from plugsocket.cli.arguments import make_parser
from plugsocket.cli.handlers import load_handler
from plugsocket.cli.serve import describe, serve_until_stopped
from tests.kit import TIMEOUT, strategy_names, transport_classes
from tests.programs import interrupt

PROGRAM = [sys.executable, "-m", "plugsocket"]
ENDPOINT = "tcp://127.0.0.1:0"

# A handler that says when it has begun and when the server stops, and ends once its peer has spoken.
PATIENT = """
def handle(connection):
    connection.sendall(b"started\\n")
    connection.closing.wait()
    connection.sendall(b"closing\\n")
    connection.sendall(connection.recv(100).upper())

def leave(connection):
    raise ConnectionResetError(connection.recv(100).decode())
"""


@contextmanager
def program(*args: str, cwd: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run the program; whatever the test did, it is over afterwards."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*PROGRAM, *args], cwd=cwd, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_url(process: "subprocess.Popen[str]") -> str:
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


def test_serve_prints_where_and_serves_there(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with program("serve", ENDPOINT, f"unix://{path}", "--handler", "upper", cwd=tmp_path) as process:
        urls = [next_url(process), next_url(process)]
        assert urls[0].startswith("tcp://127.0.0.1:")
        assert not urls[0].endswith(":0")
        assert urls[1] == f"unix://{path}"
        for url in urls:
            with connected(url) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"HELLO"
        interrupt(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert out == ""
    assert err.endswith(
        "INFO plugsocket: serving with Thread(max_workers=64, idle_timeout=30.0); Ctrl-C or SIGTERM stops\n"
    )
    assert len(err.splitlines()) == 1
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
        with connected(next_url(process)) as sock, sock.makefile("rb") as replies:
            assert replies.readline() == b"started\n"
            interrupt(process.pid, number)
            assert replies.readline() == b"closing\n"
            sock.sendall(b"the end")
            assert replies.read() == b"THE END"
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert "stopped after" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
@pytest.mark.parametrize("strategy", strategy_names())
def test_the_second_signal_cuts(strategy: str, numbers: tuple[signal.Signals, ...], patient: Path) -> None:
    args = ("serve", ENDPOINT, "--handler", "patient:handle", "--strategy", strategy, "--grace", "3600")
    with program(*args, cwd=patient) as process:
        with connected(next_url(process)) as sock, sock.makefile("rb") as replies:
            port = sock.getsockname()[1]
            assert replies.readline() == b"started\n"
            interrupt(process.pid, numbers[0])
            assert replies.readline() == b"closing\n"
            interrupt(process.pid, numbers[1])
            assert replies.read() == b""
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert err.endswith(
        f" s; requests under way that ended by themselves: 0; that were cut: 1 (from 127.0.0.1:{port})\n"
    )
    assert "Traceback" not in err


def test_grace_is_how_long_requests_get(patient: Path) -> None:
    with program("serve", ENDPOINT, "--handler", "patient:handle", "--grace", "0", cwd=patient) as process:
        with connected(next_url(process)) as sock, sock.makefile("rb") as replies:
            assert replies.readline() == b"started\n"
            interrupt(process.pid, signal.SIGTERM)
            assert b"" in (replies.readline(), replies.readline())  # it may still tell, but nobody waits for its answer
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert "that were cut: 1 (" in err


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_verbose_logs_more(verbose: list[str], patient: Path) -> None:
    with program("serve", ENDPOINT, "--handler", "patient:leave", *verbose, cwd=patient) as process:
        with connected(next_url(process)) as sock:
            sock.sendall(b"gone")
            assert sock.recv(100) == b""
        interrupt(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT)
    assert ("DEBUG plugsocket: handler failed for 127.0.0.1:" in err) == bool(verbose)


def test_the_current_directory_is_searched_first_also_by_the_installed_script(
    patient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(patient)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(patient))])
    monkeypatch.delitem(sys.modules, "patient", raising=False)
    handler = load_handler("patient:handle")
    assert handler.__module__ == "patient"
    assert sys.path[0] == str(patient)


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
    ],
)
def test_wrong_input(args: list[str], text: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "serve", *args) == (2, text)


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
    monkeypatch.setattr("plugsocket.cli.program.demo", lambda: os.stat("/nowhere/at/all"))
    assert error_of(capsys, "demo") == (1, "[Errno 2] No such file or directory: '/nowhere/at/all'")


def interrupted() -> bool:
    raise KeyboardInterrupt


def test_ctrl_c_where_no_server_takes_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("plugsocket.cli.program.demo", interrupted)
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
    "args", [["serve"], ["serve", ENDPOINT, "--grace", "long"], ["sevre"], ["explain"], ["--what"]]
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
