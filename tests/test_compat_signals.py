"""A signal handler that raises, as Ctrl-C does, wherever it interrupts a loop of the old classes: nothing is stuck."""

import gc
import linecache
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from plugsocket.compat import serving, socketserver
from tests.interruption import Interruption
from tests.kit import TIMEOUT

SOURCE = str(Path(serving.__file__))
# Python runs no signal handler where these begin, or where a block of theirs ends, whatever `sys.settrace` says.
UNINTERRUPTED = ("with ", "try:")


class Interrupted(BaseException):
    """What the signal handler raises."""


class Handler(socketserver.BaseRequestHandler):
    """Sends back what came, and has the server stop if it is to serve one request only."""

    def handle(self) -> None:
        self.request.sendall(self.request.recv(100))
        with self.server.turn:
            if self.server.once:
                self.server.shutdown()


PARENT = os.getpid()


def counts(frame: FrameType) -> bool:
    if os.getpid() != PARENT:
        return False
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
    return frame.f_code.co_filename == SOURCE and not line.startswith(UNINTERRUPTED)


@pytest.fixture(autouse=True)
def raising() -> Iterator[None]:
    def on_signal(*_: object) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGTERM, on_signal)
    gc.disable()  # else a line may be one of a finalizer, where nothing can be raised
    yield
    gc.enable()
    signal.signal(signal.SIGTERM, previous)


def asking(server: Any) -> socket.socket:
    sock = socket.create_connection(server.server_address, TIMEOUT)
    sock.sendall(b"echo")
    return sock


def serve_interrupted(server: Any, number: int) -> str:
    """Serve one request, with the n-th line interrupted; return where that was, empty for nowhere."""
    interruption = Interruption(number, counts)
    before = sys.gettrace()
    sys.settrace(interruption)
    try:
        server.serve_forever()
    except Interrupted:
        assert interruption.where
    finally:
        sys.settrace(before)
    return interruption.where


def serve_again(server: Any) -> None:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with asking(server) as sock:
        assert sock.recv(100) == b"echo"
    server.shutdown()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def run(name: str, number: int) -> str:
    with getattr(socketserver, name)(("127.0.0.1", 0), Handler) as server, asking(server):
        server.once, server.turn = True, threading.Lock()
        where = serve_interrupted(server, number)
        with server.turn:  # since the handler may run on in a thread
            server.once = False
        serve_again(server)
        server.shutdown()  # which nobody is there to hear
    return where


@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_an_interrupted_loop_serves_again_and_ends(name: str) -> None:
    places = []
    while not places or places[-1]:
        try:
            places.append(run(name, len(places) + 1))
        except Exception as error:
            raise AssertionError(f"{name}, interrupted after {places[-1:]}") from error
    assert len(set(places)) > 40  # so many lines there are at least, from the beginning to the end
