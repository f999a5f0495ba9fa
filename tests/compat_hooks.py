"""Servers of `socketserver` whose hooks tell that they were called, and in which order, in the loop and beside it."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.compat_kit import LOOPBACK, MODULES, Loop
from tests.kit import TIMEOUT

on_both = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)

BASES = ("TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer")
SERVERS = [f"{mix_in}{base}" for mix_in in ("", "Threading", "Forking") for base in BASES]
POLL = 0.01  # seconds; the original is told to stop no sooner than that


@contextmanager
def running(server: Any) -> Iterator[Loop]:
    """Serve in a background thread, and shut down, whatever happens."""
    loop = Loop(server, POLL)
    try:
        yield loop
    finally:
        server.shutdown()
        loop.join(TIMEOUT)
        assert not loop.is_alive()


def class_of(module: Any, name: str) -> Any:
    """A class of servers, or one made of the same bases where this Python's module has none of that name."""
    if not hasattr(module, name):
        return type(name, (module.ForkingMixIn, getattr(module, name.removeprefix("Forking"))), {})
    return getattr(module, name)


@contextmanager
def address_for(name: str, folder: Path) -> Iterator[Any]:
    """Where a server of a class can serve; its file is left by whoever serves, and removed here."""
    if "Unix" not in name:
        yield LOOPBACK
        return
    path = folder / "socket"
    yield str(path)
    path.unlink(missing_ok=True)


# What was called

HOOKS = (
    "server_bind",
    "server_activate",
    "_handle_request_noblock",
    "get_request",
    "verify_request",
    "process_request",
    "process_request_thread",
    "finish_request",
    "shutdown_request",
    "close_request",
    "handle_error",
    "handle_timeout",
    "service_actions",
    "server_close",
)
STEPS = ("setup", "handle", "finish")  # of a handler


class Calls:
    """What was called in which process and thread; children write to the same file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "calls"
        self._path.touch()

    def note(self, name: str) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(file, f"{os.getpid()} {threading.get_native_id()} {name}\n".encode())
        os.close(file)

    def __contains__(self, name: str) -> bool:
        return any(called == name for _, _, called in self._lines())

    def by_place(self, loop: int) -> dict[str, list[str]]:
        """What was called by the caller, in the loop of this thread, and beside it."""
        called: dict[str, list[str]] = {}
        for process, thread, name in self._lines():
            place = "beside"
            if (process, thread) == (os.getpid(), loop):
                place = "loop"
            elif (process, thread) == (os.getpid(), threading.get_native_id()):
                place = "caller"
            called.setdefault(place, []).append(name)
        return called

    def _lines(self) -> Iterator[tuple[int, int, str]]:
        for line in self._path.read_text().splitlines():
            process, thread, name = line.split()
            yield int(process), int(thread), name


def telling(cls: Any, calls: Calls, *names: str) -> Any:
    """A subclass whose methods of these names, where there are any, tell that they are called."""

    def method(name: str) -> Callable[..., Any]:
        def tell(self: Any, *arguments: Any, **options: Any) -> Any:
            calls.note(name)
            return getattr(super(subclass, self), name)(*arguments, **options)

        return tell

    subclass = type(cls.__name__, (cls,), {name: method(name) for name in names if hasattr(cls, name)})
    return subclass


def say(server: Any, data: bytes) -> None:
    """Be a client that says something, and is gone once the server, too, has nothing to say any more."""
    with socket.socket(server.address_family, server.socket_type) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(server.server_address)
        with suppress(ConnectionError):  # it is refused
            sock.sendall(data)
            if server.socket_type == socket.SOCK_STREAM:
                sock.recv(1)
