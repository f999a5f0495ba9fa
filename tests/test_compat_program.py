"""`python -m plugsocket.compat`: an unchanged program, with `socketserver` replaced before it imports anything."""

import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from urllib.request import ProxyHandler, build_opener

import pytest

from plugsocket.compat import replace
from tests.kit import TIMEOUT
from tests.programs import WARNINGS

SAID = "plugsocket: socketserver is plugsocket.compat.socketserver in this program\n"
RUNNER = ("-m", "plugsocket.compat")
OURS = str(Path(replace.__file__).with_name("socketserver.py"))

SHOW = """
import sys

spec, path = __spec__ and __spec__.name, [place for place in sys.path if "site-packages" not in place]
print(__name__, __file__, spec, __package__, type(__loader__).__name__, __cached__, __builtins__.__name__)
print(sys.argv, path, sys.modules["__main__"].__dict__ is globals(), __doc__)
"""


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *WARNINGS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, **options)  # type: ignore[call-overload, no-any-return]


def write(place: Path, source: str) -> str:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(dedent(source))
    return place.name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, in which the programs run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What a program sees of itself.


@pytest.fixture
def programs(here: Path) -> None:
    for name in ("show.py", "sub/show.py", "directory/__main__.py", "package/__main__.py", "package/module.py"):
        write(here / name, SHOW)
    write(here / "package/__init__.py", "import sys; print(sys.argv)")
    (here / "link.py").symlink_to(here / "sub" / "show.py")
    with zipfile.ZipFile(here / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", SHOW)


@pytest.mark.parametrize(
    "arguments",
    [
        ("show.py",),
        ("show.py", "--help", "-m", "x", "-"),
        ("sub/show.py",),
        ("./show.py",),
        ("link.py",),
        ("directory", "-x"),
        ("archive.zip", "x"),
        ("-m", "package", "--help"),
        ("-m", "package.module"),
        ("-mpackage.module", "-m"),
        ("-P", "sub/show.py"),
        ("-P", "directory"),
        ("-P", "-m", "package"),
    ],
    ids=" ".join,
)
def test_what_a_program_sees_of_itself(programs: None, arguments: tuple[str, ...]) -> None:
    options, arguments = arguments[: arguments[0] == "-P"], arguments[arguments[0] == "-P" :]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, "."]))}
    plain = python(*options, *arguments, env=environment)
    ours = python(*options, *RUNNER, *arguments, env=environment)
    assert plain.stdout
    assert (plain.returncode, plain.stderr) == (0, "")
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, plain.stdout, SAID)


def test_compiled_programs(programs: None, here: Path) -> None:
    python("-m", "compileall", "-b", "-q", "show.py")
    plain, ours = python("show.pyc"), python(*RUNNER, "show.pyc")
    assert plain.stdout
    assert (ours.stdout, ours.stderr) == (plain.stdout, SAID)


def test_nothing_is_stored_beside_a_program(programs: None, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    assert python(*RUNNER, "show.py").stdout
    assert not (here / "__pycache__").exists()


# How it ends.

ENDINGS = {
    "status": "import sys; sys.exit(3)",
    "text": "import sys; sys.exit('so long')",
    "at once": "import os; os._exit(7)",
    "error": """
        def inner():
            raise ValueError("wrong")

        def outer():
            try:
                inner()
            except ValueError:
                raise KeyError("because")

        outer()
        """,
    "imported": "import helper",
    "no Python": "this is no Python",
    "Ctrl-C": "raise KeyboardInterrupt",
    "hook": """
        import sys, traceback
        sys.excepthook = lambda kind, error, trace: print(traceback.format_exception(kind, error, trace))
        1 / 0
        """,
    "signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "warning": "import warnings; warnings.warn('careful')",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_as_it_always_did(here: Path, ending: str) -> None:
    write(here / "helper.py", "\n\nraise OSError('helper')")
    name = write(here / "ends.py", ENDINGS[ending])
    plain, ours = python(name), python(*RUNNER, name)
    said = "" if ending == "no Python" else SAID  # it does not begin
    assert plain.returncode != 0
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, said + plain.stderr)


def test_an_error_in_the_package_of_a_module(here: Path) -> None:
    write(here / "package/__init__.py", "import not_there")
    write(here / "package/module.py", "")
    ours = python(*RUNNER, "-m", "package.module")
    assert ours.returncode == 1
    assert ours.stderr.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{here}/package/__init__.py", line 1, in <module>',
        "    import not_there",
        "ModuleNotFoundError: No module named 'not_there'",
    ]


def test_what_a_program_leaves_behind_is_still_in_it(here: Path) -> None:
    name = write(
        here / "leaves.py",
        """
        import atexit, pickle, sys, threading

        class Thing: pass

        def look(when):
            print(when, pickle.loads(pickle.dumps(Thing)) is Thing, sys.argv, sys.modules["__main__"].Thing is Thing)

        def later():
            threading.main_thread().join()
            look("thread")

        threading.Thread(target=later).start()
        atexit.register(look, "atexit")
        """,
    )
    ours = python(*RUNNER, name, "x")
    assert ours.stdout.splitlines() == [f"{when} True ['leaves.py', 'x'] True" for when in ("thread", "atexit")]


# What is wrong is said.


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "no program to run"),
        (("",), 2, "no program to run"),
        (("-m",), 2, "-m needs a module"),
        (("-x", "y"), 2, "there is no option -x"),
        (("not_there.py",), 2, "can't open file '{here}/not_there.py': [Errno 2] No such file or directory"),
        (("empty",), 1, "can't find '__main__' module in '{here}/empty'"),
        (("-m", "not_there"), 1, "No module named not_there"),
        (("-m", "not_there.x"), 1, "No module named not_there.x (No module named 'not_there')"),
        (("-m", "json.not_there"), 1, "No module named json.not_there"),
        (("-m", "json"), 1, "No module named json.__main__; 'json' is a package and cannot be directly executed"),
        (("-m", ".json"), 1, "Relative module names not supported"),
        (("-m", "math"), 1, "No code object available for math"),
    ],
)
def test_what_is_wrong_is_said(here: Path, arguments: tuple[str, ...], status: int, message: str) -> None:
    (here / "empty").mkdir()
    ours = python(*RUNNER, *arguments)
    assert (ours.returncode, ours.stdout) == (status, "")
    first, *rest = ours.stderr.splitlines()
    assert first == f"plugsocket: error: {message.format(here=here)}"
    usage = status == 2 and "file" not in message
    assert [line.split(" (")[0] for line in rest] == ["usage: python -m plugsocket.compat [--help]"] * usage


def test_help() -> None:
    ours = python(*RUNNER, "--help")
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout.startswith("usage: python -m plugsocket.compat [--help] (PROGRAM | -m MODULE) [ARGUMENT ...]\n")
    assert python(*RUNNER, "-h").stdout == ours.stdout


def test_too_late(here: Path) -> None:
    write(here / "site/sitecustomize.py", "import http.server; from socketserver import TCPServer")
    name = write(here / "program.py", "print('it runs')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here / "site"), *filter(None, sys.path)])}
    ours = python(*RUNNER, name, env=environment)
    assert (ours.returncode, ours.stdout) == (1, "")
    assert ours.stderr == (
        "plugsocket: error: too late to replace socketserver: it is in use already, by http.server, sitecustomize\n"
    )


def test_without_standard_error(here: Path) -> None:
    name = write(here / "program.py", "import sys; print(sys.stderr)")
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, *RUNNER, name]
    ours = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False)
    assert (ours.returncode, ours.stdout) == (0, "None\n")


# Everything has the other module.


def test_the_names_that_programs_know(here: Path) -> None:
    name = write(
        here / "program.py",
        """
        import pickle, sys
        before = "socketserver" in sys.modules, [name for name in sys.modules if name.startswith(("http", "xmlrpc"))]
        import socketserver
        from socketserver import StreamRequestHandler, TCPServer
        import http.server, importlib, logging.config, plugsocket, wsgiref.simple_server, xmlrpc.server

        print(before)
        print(socketserver.__file__, socketserver.__name__)
        print(TCPServer, {getattr(socketserver, name).__module__ for name in socketserver.__all__})
        print(http.server.HTTPServer.__mro__[1] is xmlrpc.server.SimpleXMLRPCServer.__mro__[1] is TCPServer)
        print(logging.config.StreamRequestHandler is StreamRequestHandler)
        print(pickle.loads(pickle.dumps(TCPServer)) is TCPServer)
        print(importlib.import_module("socketserver") is importlib.reload(socketserver) is socketserver)
        """,
    )
    ours = python(*RUNNER, name)
    assert ours.stdout.splitlines() == [
        "(True, [])",
        f"{OURS} plugsocket.compat.socketserver",
        "<class 'socketserver.TCPServer'> {'socketserver'}",
        *["True"] * 4,
    ], ours.stderr


CHILDREN = """
import multiprocessing, os, subprocess, sys

def where():
    import http.server, socketserver
    own = http.server.HTTPServer.__mro__[1] is socketserver.TCPServer
    return socketserver.__file__, own, [place for place in sys.path if "children" in place]

class Handler:
    pass

def same(cls):
    import socketserver
    return cls is socketserver.TCPServer

if __name__ == "__main__":
    import socketserver
    for method in ("spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(*pool.apply(where), pool.apply(same, (socketserver.TCPServer,)))
    command = "import program, sys; print('plugsocket' in sys.modules, *program.where())"
    subprocess.run([sys.executable, "-c", command])
"""


def test_interpreters_that_a_program_starts(here: Path) -> None:
    name = write(here / "program.py", CHILDREN)
    ours = python(*RUNNER, name)
    assert ours.stdout.splitlines() == [f"{OURS} True [] True"] * 2 + [f"False {OURS} True []"], ours.stderr
    assert ours.stderr == SAID  # by the program alone


def test_a_program_that_runs_itself_again(here: Path) -> None:
    name = write(
        here / "program.py",
        """
        import os, sys
        print(os.environ["PYTHONPATH"].count("children"), flush=True)
        if "again" not in sys.argv:
            os.execv(sys.executable, [sys.executable, "-m", "plugsocket.compat", *sys.argv, "again"])
        """,
    )
    ours = python(*RUNNER, name)
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, "1\n1\n", SAID * 2)


START_ONE = (
    "import os, subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', os.environ['CHILD']]).returncode)"
)


def child_of_a_program(here: Path, source: str, *path: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter that a program starts."""
    name = write(here / "program.py", START_ONE)
    path = tuple(filter(None, [*path, *sys.path]))
    return python(*RUNNER, name, env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "CHILD": dedent(source)})


def test_the_sitecustomize_of_others_still_runs(here: Path) -> None:
    write(here / "site/sitecustomize.py", "mark = 'here'")
    source = (
        "import sitecustomize, socketserver; print(sitecustomize.mark, sitecustomize.__file__, socketserver.__file__)"
    )
    ours = child_of_a_program(here, source, str(here / "site"))
    assert (ours.stdout, ours.stderr) == (f"here {here}/site/sitecustomize.py {OURS}\n", SAID)


def test_an_interpreter_without_plugsocket(here: Path) -> None:
    source = """
        import os, sys
        standard = os.path.dirname(os.__file__)
        sys.path[:] = [place for place in sys.path if place.startswith(standard) and "site-packages" not in place]
        import socketserver
        print(socketserver.__file__ == os.path.join(standard, "socketserver.py"))
        """
    ours = child_of_a_program(here, source)
    assert (ours.stdout, ours.stderr) == ("True\n", SAID)


# A server of the standard library.


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-u", *WARNINGS, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_http_server(here: Path) -> None:
    write(here / "page.txt", "served")
    with running(*RUNNER, "-m", "http.server", "0", "--bind", "127.0.0.1") as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found is not None
        opener = build_opener(ProxyHandler({}))
        with opener.open(f"{found[0]}page.txt", timeout=TIMEOUT) as response:
            assert response.read() == b"served"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (0, "\nKeyboard interrupt received, exiting.\n")
    assert re.fullmatch(re.escape(SAID) + r'127\.0\.0\.1 - - \[.*\] "GET /page.txt HTTP/1.1" 200 -\n', errors)
