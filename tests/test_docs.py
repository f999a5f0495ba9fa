"""Every example in the README and in the documentation is run.

What a fence holds decides what happens to it, by its language: `python` is executed, `pycon` is a session that is
compared, `console` is commands of plugsocket whose output is compared. The blocks of a page run in their order in one
namespace, in a process and a folder of their own. A block that cannot be run stands below a comment that says why:
`<!-- not run: a conversation between two terminals -->`.

Run as a program, this module executes the page that it is given.
"""

import doctest
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Collection, Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import plugsocket
from plugsocket import testing
from plugsocket.compat import socketserver
from plugsocket.core.accepting import FIRST_PAUSE, LONGEST_PAUSE
from plugsocket.core.engine import BATCH
from plugsocket.core.plugins import STRATEGIES, TRANSPORTS, plugins
from plugsocket.core.server import DEFAULT_GRACE

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
TIMEOUT = 50  # seconds for a page, of which each takes less than two

DEMO = "python3 -m venv .venv && .venv/bin/pip install --quiet . && .venv/bin/plugsocket demo"
TESTS = (
    "python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[test]' && .venv/bin/python -m pytest -n auto"
)

FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
EXECUTED = {"python", "pycon"}
OTHERS = {"console", "sh", "toml", "text"}


class Block(NamedTuple):
    """A fence of a page."""

    language: str
    code: str
    line: int
    skipped: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text[: found.start("code")].count("\n")
        yield Block(found["language"], found["code"], line, found["reason"])


def run_page(page: Path) -> None:
    """Execute the blocks of a page; called in a process of its own."""
    run = plugsocket.Server.run
    setattr(plugsocket.Server, "run", partialmethod(_run, run))  # noqa: B010 - mypy knows that it is a method
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.skipped is None and block.language == "python":
            # The port that people type is not ours to take.
            code = block.code.replace('run("tcp://127.0.0.1:9999"', 'run("tcp://127.0.0.1:0"')
            exec(compile("\n" * block.line + code, str(page), "exec", dont_inherit=True), namespace)
        elif block.skipped is None and block.language == "pycon":
            session = doctest.DocTestParser().get_doctest(block.code, namespace, page.name, str(page), block.line)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            assert not runner.run(session, clear_globs=False).failed, f"{page}:{block.line}"


def _run(server: plugsocket.Server, run: Any, grace: float | None = None, *, started: Any = None) -> Any:
    return stopped_once_serving(run, server, grace, started=started or (lambda server: None))


def stopped_once_serving(
    run: Callable[..., plugsocket.StopReport],
    server: plugsocket.Server,
    grace: float | None = None,
    *,
    started: Callable[[plugsocket.Server], object] = lambda server: None,
    visit: Callable[[plugsocket.Server], None] = lambda server: None,
) -> plugsocket.StopReport:
    """Serve until a signal, as the code says, visit the server meanwhile, and send that signal."""
    errors: list[BaseException] = []

    def watch() -> None:
        try:
            visit(server)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread of the test
            errors.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def begin(server: plugsocket.Server) -> None:
        started(server)
        thread.start()

    thread = threading.Thread(target=watch)
    report = run(server, grace, started=begin)
    thread.join()
    if errors:
        raise errors[0]
    return report


def process(
    *arguments: str | Path, folder: Path, import_from: Collection[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program with the examples importable, the commands of this environment, and warnings as errors."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, (*import_from, ROOT / "examples"))),
        "PYTHONWARNINGS": "error,ignore:This process",  # the second as in pyproject.toml
    }
    return subprocess.run(
        arguments, cwd=folder, env=environment, timeout=TIMEOUT, capture_output=True, text=True, check=False
    )


def over_pages(wanted: set[str]) -> Any:
    pages = [page for page in PAGES if any(b.skipped is None and b.language in wanted for b in blocks_of(page))]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@over_pages(EXECUTED)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    done = process(sys.executable, __file__, page, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr  # which a handler that failed leaves there
    assert not list(tmp_path.iterdir())


@over_pages({"console"})
def test_the_commands_of_a_page_print_what_it_says(page: Path, tmp_path: Path) -> None:
    for block in blocks_of(page):
        if block.skipped is None and block.language == "console":
            for command, expected in commands_of(block.code):
                done = process(*shlex.split(command), folder=tmp_path)
                same = doctest.OutputChecker().check_output(expected, done.stdout + done.stderr, doctest.ELLIPSIS)
                assert same, f"{page}:{block.line}: {command}\n{done.stdout}{done.stderr}"


def commands_of(code: str) -> Iterator[tuple[str, str]]:
    """The commands of a console, each with what it prints."""
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        assert command.startswith("plugsocket "), f"only plugsocket is run: {command}"
        yield command, output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_is_skipped_silently(page: Path) -> None:
    for block in blocks_of(page):
        directive = block.language.startswith("{")
        assert directive or block.language in EXECUTED | OTHERS, f"{page}:{block.line}: {block.language!r}"
        if block.language == "sh" and block.skipped is None:
            assert block.code.strip() in {DEMO, TESTS}, f"{page}:{block.line}: say why it is not run"
        if block.language == "toml":
            tomllib.loads(block.code)
    assert len(list(blocks_of(page))) * 2 == len(re.findall(r"^```", page.read_text(), re.MULTILINE))


def test_the_two_commands_of_the_readme() -> None:
    commands = [block.code.strip() for block in blocks_of(README) if block.language == "sh"]
    assert commands == [DEMO, TESTS]
    _, _, after = README.read_text().partition("\n## Run the tests\n")
    assert TESTS in after.partition("\n## ")[0]


def test_the_readme_has_the_first_server_as_it_is_run() -> None:
    assert (ROOT / "examples" / "first_server.py").read_text() in [block.code for block in blocks_of(README)]


def test_the_table_of_the_readme_is_what_composes() -> None:
    def function(request: Any) -> None: ...
    async def coroutine(request: Any) -> None: ...

    handlers: dict[str, Callable[..., object]] = {
        "function": function,
        "request handler class": plugsocket.StreamRequestHandler,
        "async function": coroutine,
        "`own_loop(async function)`": plugsocket.own_loop(coroutine),
    }
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in README.read_text().splitlines()
        if "|" in line
    ]
    heads = next(row for row in rows if row[0] == "handler")
    table = {row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in rows if row[0] in handlers}
    assert set(table) == set(handlers)
    assert {head.strip("`") for head in heads[1:]} == {plugin.name for plugin in plugins(STRATEGIES)}
    for kind, cells in table.items():
        for strategy, cell in cells.items():
            explanation = plugsocket.explain("tcp://127.0.0.1:0", handlers[kind], strategy.strip("`"))
            assert (cell == "refused") == (explanation.problem is not None), (kind, strategy)
    for plugin in plugins(TRANSPORTS):
        assert f"`{plugin.name}://" in README.read_text()


def test_the_numbers_in_the_explanations() -> None:
    text = " ".join((ROOT / "docs" / "explanation" / "requests.md").read_text().split())
    assert f"at most {BATCH} in a row" in text
    assert (
        f"rests for {FIRST_PAUSE * 1000:g} ms, then twice as long each time up to {LONGEST_PAUSE * 1000:g} ms" in text
    )
    assert f"grace={DEFAULT_GRACE}" in (ROOT / "docs" / "how-to" / "stop-and-drain.md").read_text()


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: plugsocket\.(\w+)$", reference, re.MULTILINE))
    modules = {"cli", "compat", "concurrency", "core", "handlers", "testing", "transports"}
    public = {name for name in dir(plugsocket) if not name.startswith("_")} - modules
    assert public == documented
    documented = set(re.findall(r"^\.\. auto\w+:: plugsocket\.testing\.(\w+)$", reference, re.MULTILINE))
    files = {path.stem for path in Path(testing.__file__).parent.glob("*.py")}
    assert {name for name in vars(testing) if not name.startswith("_")} - files == documented
    documented = set(re.findall(r"^\.\. auto\w+:: plugsocket\.compat\.socketserver\.(\w+)$", reference, re.MULTILINE))
    assert set(socketserver.__all__) == documented


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
