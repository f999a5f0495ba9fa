"""The soak of the folder `benchmarks`, in its short form: that it holds, and that it sees what does not."""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.kit import strategy_names
from tests.test_docs import ROOT, process

LEAKY = """
    import os
    import threading

    from plugsocket import Sync

    kept = []

    class Leaky(Sync):
        name = "leaky"

        def spawn(self, job):
            kept.append(b"x" * 32_768)
            if len(kept) % 50:
                job()
                return
            job.finish()
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            os.dup(0)
            if not os.fork():
                os._exit(0)
"""


def soak(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return process(
        sys.executable, ROOT / "benchmarks" / "soak.py", *arguments, folder=folder, import_from=[ROOT, folder]
    )


def servers_in(report: str) -> list[str]:
    """What the rows of the table are called, such as `trio, async`; lines behind it tell what was wrong."""
    return [row[: row.index("  ")] for row in report.splitlines()[1:] if "  " in row]


@pytest.mark.parametrize("name", strategy_names())
def test_a_strategy_holds_what_it_held(name: str, tmp_path: Path) -> None:
    for _ in range(3):  # what is not given back grows each time, and what the allocator does need not
        done = soak("--short", "--check", "--strategy", name, folder=tmp_path)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = ("async", "blocking") if name == "trio" else ("blocking",)
    assert servers_in(done.stdout) == [f"{name}, {kind}" for kind in kinds]


def test_by_default_every_installed_strategy_has_its_turn(tmp_path: Path) -> None:
    done = soak("--connections", "320", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {server.partition(",")[0] for server in servers_in(done.stdout)} == set(strategy_names())


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """A folder with a strategy, installed for who imports from there, that leaves something of everything behind."""
    about = tmp_path / "leaky-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[plugsocket.strategies]\nleaky = leaky:Leaky\n")
    (tmp_path / "leaky.py").write_text(dedent(LEAKY))
    return tmp_path


def test_what_is_left_behind_is_told(leaky: Path) -> None:
    arguments = ("--strategy", "leaky", "--connections", "500")
    done = soak(*arguments, "--check", folder=leaky)
    assert done.returncode == 1, done.stdout + done.stderr
    for fault in ("memory grew", "descriptors grew", "threads grew", "children grew", r"\d+ clients were not served"):
        assert re.search(f"^leaky, blocking: {fault} ", done.stdout, re.MULTILINE), done.stdout
    assert soak(*arguments, folder=leaky).returncode == 0  # without --check it only tells


def test_a_server_that_ends_is_told(leaky: Path) -> None:
    (leaky / "leaky.py").write_text(dedent(LEAKY).replace("job.finish()", "os._exit(3)"))
    done = soak("--strategy", "leaky", "--connections", "500", folder=leaky)
    assert done.returncode == 1
    assert "failed: leaky, blocking: after " in done.stderr or "failed: the server ended, status 3" in done.stderr


def test_too_few_connections_for_a_tenth_are_refused(tmp_path: Path) -> None:
    done = soak("--connections", "5", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--connections must be at least 32, not 5" in done.stderr
