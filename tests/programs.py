"""Programs of their own process, for what only those can show: signals, output, and how a program ends."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

from tests.kit import TIMEOUT

# Fork() beside other threads is warned of from Python 3.12 on, as its docstring says.
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


@contextmanager
def program(source: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program that a test has as its text."""
    with python("-c", dedent(source), *arguments, **options) as process:
        yield process


@contextmanager
def python(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run Python with its three streams connected to the test; what still runs afterwards is killed."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # So that output is buffered as it is by default, whatever the tests themselves run under.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    whole = [sys.executable, *WARNINGS, *command]
    with subprocess.Popen(whole, text=True, env=environment, **{**streams, **options}) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def interrupt(pid: int, number: int) -> None:
    """Send a signal once the main thread waits in a system call, out of which the signal brings it."""
    wait_for_call(pid)
    os.kill(pid, number)


def interrupt_group(pid: int, number: int) -> None:
    """Send a signal to a process that leads a group, and to its children, as a terminal does."""
    for member in (str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        wait_for_call(int(member))
    os.killpg(pid, number)


def wait_for_call(pid: int) -> None:
    """Wait until the main thread waits in a system call.

    A signal that comes between Python's last look at its signals and the call, while the thread hands over the
    interpreter's lock, would be seen only when the call ends by itself.
    """
    place = Path(f"/proc/{pid}/task/{pid}/wchan")  # where it sleeps, or 0 (proc(5))
    while (where := place.read_text()) == "0" or "futex" in where:  # which is where it waits for locks
        pass


def connect(port: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(port)), timeout=TIMEOUT)


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end; return the exit status, and the rest of its output and of its errors, which are short."""
    assert process.stderr is not None
    # Not with communicate(), which leaves out what was read ahead for line_of().
    output = "" if process.stdout is None else process.stdout.read()
    errors = process.stderr.read()
    return process.wait(TIMEOUT), output, errors
