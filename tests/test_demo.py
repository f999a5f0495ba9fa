"""The demonstration: what it shows when all is well, and that it notices when something is not."""

import errno
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import plugsocket
from plugsocket import TCP, UDP, CompositionError, Connection, Server
from plugsocket.cli import demo, main, matrix
from plugsocket.cli.matrix import ANSWER, HANDLERS, Outcome, Verdict, async_upper, attempt
from plugsocket.core.interfaces import IBlockingStrategy
from tests.kit import example_ids, strategy_names

HERE = TCP("127.0.0.1", 0)


def cells(out: str, label: str) -> list[str]:
    """What the table says about an endpoint."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"{label}  ")]
    return [cell.strip() for cell in line.split("  ") if cell.strip()][1:]


def blocking() -> list[bool]:
    return [IBlockingStrategy.providedBy(plugsocket.strategy(name)) for name in sorted(strategy_names())]


def test_every_pair_does_as_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/bin/plugsocket", "demo"])
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert list(tmp_path.iterdir()) == []
    assert next(line for line in out.splitlines() if line.startswith("   ")).split() == sorted(strategy_names())
    expected = ["3 + 1 refused" if is_blocking else "4" for is_blocking in blocking()]
    for label in ("tcp://127.0.0.1:0", "tcp://[::1]:0", "udp://127.0.0.1:0", "udp://[::1]:0", "unix://unix.sock"):
        assert cells(out, label) in (expected, ["not on this machine"] if "::1" in label else expected)
    assert cells(out, "unixgram://unixgram.sock") == expected
    rows = len(list(example_ids())) - out.count("not on this machine")
    refused = rows * sum(blocking())
    pairs = rows * len(strategy_names()) * len(HANDLERS)
    assert out.endswith(
        f"\n{pairs} pairs: {pairs - refused} answered right, {refused} were refused as they should be, 0 did wrong.\n"
        f"Try next: .venv/bin/plugsocket {demo.NEXT}\n"
    )


def test_a_wrong_answer_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(HANDLERS, "a function", plugsocket.echo)
    assert main(["demo"]) == 1
    out = capsys.readouterr().out
    assert cells(out, "udp://127.0.0.1:0") == [
        "2 + 1 refused + 1 WRONG" if is_blocking else "3 + 1 WRONG" for is_blocking in blocking()
    ]
    assert "\nunix://unix.sock under fork with a function: answered b'hello, plugsocket'\n" in out
    assert f" {out.count(': answered ')} did wrong.\n" in out


def test_an_address_family_that_the_machine_does_not_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listen = TCP.listen

    def without_ipv6(transport: TCP) -> Any:
        if ":" in transport.host:
            raise OSError(errno.EADDRNOTAVAIL, "no IPv6")
        return listen(transport)

    monkeypatch.setattr(TCP, "listen", without_ipv6)
    assert main(["demo"]) == 0
    assert cells(capsys.readouterr().out, "tcp://[::1]:0") == ["not on this machine"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EAFNOSUPPORT, "no such family"), "not on this machine"),
        (socket.gaierror(socket.EAI_FAMILY, "no such family"), "not on this machine"),
        (socket.gaierror(socket.EAI_NONAME, "no such host"), ""),
        (OSError(errno.EADDRINUSE, "in use"), ""),
        (RuntimeError("a plug-in's own"), ""),
    ],
)
def test_what_excuses_an_endpoint(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(transport: TCP) -> Any:
        raise error

    monkeypatch.setattr(TCP, "listen", fails)
    row = next(row for row in matrix.rows(str(tmp_path)) if row.label == "tcp://127.0.0.1:0")
    assert row.reason == reason
    assert (row.transport is None) == bool(reason)


def test_another_error_is_no_excuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(transport: TCP) -> Any:
        raise OSError(errno.EACCES, "not allowed")

    monkeypatch.setattr(TCP, "listen", fails)
    assert main(["demo"]) == 1
    out = capsys.readouterr().out
    assert "\ntcp://127.0.0.1:0 under sync with a function: PermissionError(13, 'not allowed')\n" in out


def test_a_demonstration_of_nothing_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "rows", lambda folder: [matrix.Row("tcp://", None, "no example")])
    assert main(["demo"]) == 1
    assert "\n0 pairs: " in capsys.readouterr().out


def test_plug_ins_that_cannot_be_tried_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[plugsocket.transports]\n"
        "bare = builtins:object\n"
        "crash = nowhere:Crash\n"
        "[plugsocket.strategies]\n"
        "choosy = functools:partial\n"
    )
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert cells(out, "bare://") == ["no example"]
    assert cells(out, "crash://") == [
        "plug-in 'crash' of other 1.0 (nowhere:Crash) does not load: ModuleNotFoundError(\"No module named 'nowhere'\")"
    ]
    assert "\nthe strategy choosy could not be tried: " in out


# One pair


def test_a_pair_that_is_refused_and_should_not_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> Server:
        raise CompositionError("out of spite")

    monkeypatch.setattr(matrix, "Server", refuse)
    outcome = attempt(HERE, plugsocket.Sync(), plugsocket.upper, str(tmp_path))
    assert outcome == Outcome(Verdict.WRONG, "refused: out of spite")


def test_a_pair_that_is_not_refused_and_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(matrix, "Server", lambda *_, **__: Server(HERE, plugsocket.upper))
    assert attempt(HERE, plugsocket.Sync(), async_upper, str(tmp_path)) == Outcome(Verdict.WRONG, "not refused")


def test_a_handler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(matrix, "PATIENCE", 0.05)
    outcome = attempt(UDP("127.0.0.1", 0), plugsocket.Sync(), plugsocket.discard, str(tmp_path))
    assert outcome == Outcome(Verdict.WRONG, "TimeoutError('timed out')")


def reluctant(connection: Connection) -> None:
    connection.sendall(ANSWER)
    connection.send_eof()
    threading.Event().wait()


def test_a_handler_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(matrix, "GRACE", 0.0)
    outcome = attempt(HERE, plugsocket.Fork(), reluctant, str(tmp_path))
    assert outcome.verdict is Verdict.WRONG
    assert outcome.reason.startswith("did not stop well: <Server tcp://127.0.0.1:")
    assert "cut=(InetAddress(" in outcome.reason
