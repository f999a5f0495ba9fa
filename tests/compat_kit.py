"""A stage for what hurts users of `socketserver`: each pain is a check, which runs on its module and on ours.

A check is a function of the module. It returns on a module that does not hurt; on one that does it raises, dies or
hangs, so it runs in a process of its own, forked from the tests', where it may also lower limits, take signals and
close standard error. What goes wrong there is its symptom.
"""

import faulthandler
import gc
import logging
import os
import re
import select
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from types import ModuleType
from typing import IO, Any, NoReturn

import attrs
import pytest

from plugsocket.compat import socketserver as ours
from tests.kit import TIMEOUT, HandlerClass
from tests.leftovers import leaving_nothing

Check = Callable[[Any], None]

# Seconds after which a check hangs on the original, where ours, which has TIMEOUT, needs milliseconds. The longer ones
# are for machines so busy that it takes long to come to that.
HANGING = (0.5, 2.0, 8.0)
MODULES = {"original": socketserver, "ours": ours}


@attrs.frozen
class Pain:
    """What hurts.

    Attributes:
        check: shows it.
        symptom: a pattern for what the check shows on the original.
        gone: why this Python's module does not have it; empty where it does.
        hangs: whether the check does not end by itself on the original.
    """

    check: Check
    symptom: str
    gone: str = ""
    hangs: bool = False

    @property
    def name(self) -> str:
        return self.check.__name__


class Pains(list[Pain]):
    """The pains of one file."""

    def symptom(self, pattern: str, gone: str = "") -> Callable[[Check], Check]:
        """Add the check below, of which this is seen on the original."""
        return self._adding(lambda check: Pain(check, pattern, gone))

    def hangs_in(self, function: str) -> Callable[[Check], Check]:
        """Add the check below, which hangs on the original with a thread in this function."""
        pattern = rf"(?ms)\ATimeout .* line \d+ in {function}$"
        return self._adding(lambda check: Pain(check, pattern, hangs=True))

    def _adding(self, make: Callable[[Check], Pain]) -> Callable[[Check], Check]:
        def add(check: Check) -> Check:
            self.append(make(check))
            return check

        return add

    def on_both(self) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Parametrize a test with each pain, and each module to try it on."""
        modules = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
        pains = pytest.mark.parametrize("pain", self, ids=lambda pain: pain.name)
        return lambda test: modules(pains(test))


def try_out(pain: Pain, module: ModuleType) -> None:
    """Run a check in a process of its own, and see that it shows what the module should."""
    if module is not socketserver or pain.gone:
        seen = outcome(pain.check, module, TIMEOUT)
        assert not seen, seen
        return
    for limit in HANGING if pain.hangs else (TIMEOUT,):
        seen = outcome(pain.check, module, limit)
        if re.search(pain.symptom, seen):
            return
    where = f"{pain.name}: socketserver of Python {sys.version.split()[0]}"
    assert seen, f"{where} does not have this any more; say so, with the reason"
    raise AssertionError(f"{where} fails otherwise:\n{seen}")


# The process of a check


def outcome(check: Check, module: ModuleType, limit: float) -> str:
    """Run a check in a forked process that ends within `limit` seconds.

    Returns:
        What went wrong: an exception, the tracebacks of all threads if it hangs, or else what was printed to standard
        error. Empty when all is well.
    """
    with TemporaryFile("w+") as seen, TemporaryFile("w+") as errors, TemporaryDirectory() as folder:
        pid = os.fork()
        if pid == 0:
            _be_stage(check, module, folder, limit, seen, errors)
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        finally:
            with suppress(ProcessLookupError):  # it died before it had a group
                os.killpg(pid, signal.SIGKILL)  # the children that it left
            _, status = os.waitpid(pid, 0)
        for file in (seen, errors):
            file.seek(0)
        ended = "" if status == 0 else f"exit code {os.waitstatus_to_exitcode(status)}"
        # Of the main thread, which comes last, the frames of whoever runs the tests say nothing.
        return re.split(r"line \d+ in _be_stage\n", seen.read())[0] or errors.read() or ended


def _be_stage(check: Check, module: ModuleType, folder: str, limit: float, seen: IO[str], errors: IO[str]) -> NoReturn:
    """Run the check as if it were the whole program, and exit; does not return, whatever happens."""
    try:
        os.setpgid(0, 0)  # its children can be ended by its id
        os.chdir(folder)
        _be_plain(errors)
        faulthandler.dump_traceback_later(limit, exit=True, file=seen)
        try:
            with leaving_nothing(Path(folder)):
                check(module)
                gc.collect()  # what is left unclosed is warned of
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what was seen
            seen.write("".join(traceback.format_exception_only(error)))
            seen.write("".join(traceback.format_exception(error)))
        seen.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _be_plain(errors: IO[str]) -> None:
    """Undo what the tests' runner has set up: a program reports to standard error what nobody handles."""
    os.dup2(errors.fileno(), 2)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    threading.excepthook = threading.__excepthook__
    sys.unraisablehook = sys.__unraisablehook__
    logging.getLogger().handlers.clear()


# What checks share

LOOPBACK = ("127.0.0.1", 0)


def handler(module: Any, handle: Callable[[Any], object]) -> Any:
    """A handler class whose method is this."""
    return type("Handler", (module.StreamRequestHandler,), {"handle": handle})


def echo(module: Any) -> Any:
    """A handler class that answers what it is sent, and raises when told to."""
    return type("Echo", (module.BaseRequestHandler,), {"handle": HandlerClass.handle})


class Counted:
    """A mix-in that counts how often a request is asked for."""

    asked = 0

    def get_request(self) -> Any:
        self.asked += 1
        return super().get_request()  # type: ignore[misc]


class Loop(threading.Thread):
    """A thread in which a server serves.

    Args:
        server: the server.
        poll_interval: as for `serve_forever`; short, so that the original is held up by nothing but the pain.
    """

    def __init__(self, server: Any, poll_interval: float = 0.01) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.error: Exception | None = None
        self._poll_interval = poll_interval
        self.start()

    def run(self) -> None:
        try:
            self.server.serve_forever(self._poll_interval)
        except Exception as error:  # noqa: BLE001 - what ends the loop is told to who waits for an answer
            self.error = error

    def ask(self, data: bytes = b"hello") -> bytes:
        """Be served, and return the answer; it is an error if the loop ends meanwhile."""
        with connected(self.server) as sock:
            sock.sendall(data)
            if sock.type == socket.SOCK_STREAM:
                sock.shutdown(socket.SHUT_WR)  # a forked child has this socket too, so closing it would tell nobody
            return self.answer(sock)

    def turns_away(self) -> bool:
        """Be a client that the server closes, unless the loop ends meanwhile."""
        with connected(self.server) as sock:
            return self.answer(sock) == b""

    def answer(self, sock: socket.socket) -> bytes:
        while not select.select([sock], [], [], 0.01)[0]:
            assert self.is_alive(), f"the loop has ended, with {self.error!r}"
        return sock.recv(100)


@contextmanager
def serving(server: Any, poll_interval: float = 0.01) -> Iterator[Loop]:
    """Serve in a background thread, and shut down if all went well; the process ends with what did not."""
    loop = Loop(server, poll_interval)
    yield loop
    server.shutdown()
    loop.join()


def connected(server: Any) -> socket.socket:
    """A client of a server; the caller closes it."""
    sock = socket.socket(server.address_family, server.socket_type)
    try:
        if server.address_family == socket.AF_UNIX and server.socket_type == socket.SOCK_DGRAM:
            sock.bind("")  # so that replies can reach it
        sock.connect(server.server_address)
    except OSError:
        sock.close()
        raise
    return sock


def ask_in_tls(server: Any, context: ssl.SSLContext, data: bytes) -> bytes:
    """Send something to a server for "localhost" through TLS; return what comes back."""
    with connected(server) as sock, context.wrap_socket(sock, server_hostname="localhost") as stream:
        stream.settimeout(TIMEOUT)
        stream.sendall(data)
        return stream.recv(100)


def wait_until_idle(thread: threading.Thread) -> None:
    """Wait until a thread waits in a system call, and for no lock (proc(5))."""
    place = Path(f"/proc/self/task/{thread.native_id}/wchan")
    while "poll" not in place.read_text():
        time.sleep(0.001)


def wake_ups(thread: threading.Thread) -> int:
    """How often a thread has waited for something until now."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.split("voluntary_ctxt_switches:")[1].split()[0])
