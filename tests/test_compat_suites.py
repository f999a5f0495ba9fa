"""The interpreter's own suites, for `socketserver` and for what it builds on it, with this module in its place.

Each runs twice, with the original and with ours, and is compared test by test: what fails with the original, or is not
run, for a reason that lies in the machine, says nothing about ours.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from textwrap import dedent
from xml.etree import ElementTree

import attrs
import pytest

import plugsocket

# With the resources that each may use: some wait long, and test_imaplib would take "network" for leave to go out.
SUITES = {
    "test_socketserver": "network",
    "test_httpservers": "walltime",
    "test_xmlrpc": "walltime",
    "test_docxmlrpc": "walltime",
    "test_wsgiref": "walltime",
    "test_logging": "walltime",
    "test_urllib2_localnet": "walltime",
    "test_imaplib": "walltime",
}
STANDARD = Path(json.__file__).parent.parent
OURS = Path(plugsocket.__file__).parent / "compat"
LONGEST = 240.0  # seconds that a suite may take; by itself, the longest takes a quarter of a minute

# Runs `python -m test`, and tells in a file where all servers of the process came from.
PROGRAM = dedent(
    """
    import atexit, gc, json, runpy, socketserver, sys
    from pathlib import Path

    def tell(place):
        classes = [each for each in gc.get_objects() if isinstance(each, type) and each.__name__ == "BaseServer"]
        codes = [each.serve_forever.__code__.co_filename for each in classes]
        Path(place).write_text(json.dumps([socketserver.__file__, sys.modules["socketserver"].__file__, *codes]))

    atexit.register(tell, sys.argv.pop(1))
    runpy.run_module("test", run_name="__main__", alter_sys=True)
    """
)


@attrs.frozen
class Outcome:
    """What a run of a suite came to: the ids of tests, by what became of them, and the files that servers came from."""

    status: int
    passed: frozenset[str]
    failed: frozenset[str]
    sources: tuple[Path, ...]
    output: str


@attrs.frozen
class Run:
    """A suite that is running."""

    place: Path
    process: Popen[str]

    def outcome(self) -> Outcome:
        output, _ = self.process.communicate(timeout=LONGEST)
        results = self.place / "results.xml"
        cases = list(ElementTree.parse(results).iter("testcase")) if results.exists() else []
        failed = {name_of(case) for case in cases if case.find("failure") is not None or case.find("error") is not None}
        passed = {name_of(case) for case in cases if case.get("result") == "completed"} - failed
        sources = json.loads((self.place / "sources.json").read_text())
        return Outcome(self.process.returncode, frozenset(passed), frozenset(failed), tuple(map(Path, sources)), output)


def name_of(case: ElementTree.Element) -> str:
    return case.get("name", "")


def start(suite: str, place: Path, *before: str) -> Run:
    """Start a suite, in a process and a directory of its own."""
    place.mkdir()
    program = place / "suite.py"
    program.write_text(PROGRAM)
    command = [sys.executable, *before, str(program), str(place / "sources.json"), "--verbose", "--fail-env-changed"]
    command += ["--use", SUITES[suite], "--junit-xml", str(place / "results.xml"), "--tempdir", str(place), suite]
    return Run(
        place,
        Popen(
            command, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ),
    )


@pytest.fixture(params=SUITES)
def outcomes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Outcome, Outcome]]:
    """One suite, with the original and with ours."""
    suite = request.param
    if find_spec("test") is None or find_spec(f"test.{suite}") is None:
        pytest.skip(f"this interpreter comes without its suite test.{suite}")
    runs = start(suite, tmp_path / "original"), start(suite, tmp_path / "ours", "-m", "plugsocket.compat")
    try:
        original, ours = (run.outcome() for run in runs)
        yield original, ours
    finally:
        for run in runs:
            run.process.kill()
            run.process.wait()
            assert run.process.stdout is not None
            run.process.stdout.close()


@pytest.mark.timeout(LONGEST + 60)
def test_no_test_fewer_passes(outcomes: tuple[Outcome, Outcome]) -> None:
    original, ours = outcomes
    assert original.passed, original.output
    assert {source.is_relative_to(STANDARD) for source in original.sources} == {True}
    assert {source.is_relative_to(OURS) for source in ours.sources} == {True}
    lost = sorted(original.passed - ours.passed)
    assert not lost, f"{lost}\n{ours.output}"
    # It also fails when threads, children, files or settings of the process are left behind.
    assert ours.status == 0 or original.status != 0, ours.output
