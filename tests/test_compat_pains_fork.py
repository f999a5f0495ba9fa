"""Children under the old names: each of these goes wrong with `socketserver`, and not with ours."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

from tests.compat_kit import LOOPBACK, Loop, Pain, Pains, connected, echo, handler, serving, try_out, wait_until_idle
from tests.kit import child_pids, until

pains = Pains()


def zombies() -> int:
    """How many children have ended, and nobody has asked how (proc(5))."""
    states = []
    for pid in child_pids():
        with suppress(FileNotFoundError):  # it is reaped at this moment
            states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return states.count("Z")


@contextmanager
def being_served(loop: Loop) -> Iterator[None]:
    """Have a child that serves a client for the length of a block."""
    with connected(loop.server) as sock:
        sock.sendall(b"stay")
        assert loop.answer(sock) == b"stay"
        yield
        sock.shutdown(socket.SHUT_WR)


# Zombies


def until_reaped() -> None:
    until(lambda: not child_pids())


@pains.hangs_in("until_reaped")
def zombies_while_idle(module: Any) -> None:
    with module.ForkingTCPServer(LOOPBACK, echo(module)) as server, serving(server, poll_interval=3600) as loop:
        with being_served(loop):
            wait_until_idle(loop)
        until_reaped()


@pains.symptom(r"\AAssertionError: there are 4 zombies")
def zombies_of_single_requests(module: Any) -> None:
    with module.ForkingTCPServer(LOOPBACK, echo(module)) as server:
        for _ in range(4):
            with connected(server) as sock:
                sock.shutdown(socket.SHUT_WR)
                server.handle_request()
                assert sock.recv(1) == b""
            until(lambda: len(child_pids()) == zombies())  # it has ended
        assert zombies() <= 1, f"there are {zombies()} zombies"


# The most children at once


@pains.hangs_in("collect_children")
def shutdown_with_the_most_children(module: Any) -> None:
    class Server(module.ForkingTCPServer):  # type: ignore[misc]
        max_children = 1

    with Server(LOOPBACK, echo(module)) as server, ExitStack() as later, serving(server) as loop:
        later.enter_context(being_served(loop))


@pains.symptom(r"\AChildProcessError")
def children_of_others(module: Any) -> None:
    class Server(module.ForkingTCPServer):  # type: ignore[misc]
        max_children = 1

    other = os.fork()
    if other == 0:
        os._exit(7)
    os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    with Server(LOOPBACK, echo(module)) as server, serving(server) as loop:
        with being_served(loop):
            pass
        assert loop.ask() == b"hello"
    _, status = os.waitpid(other, 0)
    assert os.waitstatus_to_exitcode(status) == 7


# What children hold


def assert_closed(module: Any, base: str, address: Any) -> None:
    """See that nobody listens after a server is closed that leaves a child behind."""

    class Server(module.ForkingMixIn, getattr(module, base)):  # type: ignore[misc]
        block_on_close = False

    server = Server(address, echo(module))
    with ExitStack() as later:
        with serving(server) as loop:
            later.enter_context(being_served(loop))
        server.server_close()
        with pytest.raises(ConnectionRefusedError):
            connected(server)
    server.collect_children(blocking=True)


@pains.symptom(r"\AFailed: DID NOT RAISE")
def children_keep_the_port(module: Any) -> None:
    assert_closed(module, "TCPServer", LOOPBACK)


@pains.symptom(r"\AFailed: DID NOT RAISE")
def children_keep_the_unix_socket(module: Any) -> None:
    assert_closed(module, "UnixStreamServer", "socket")
    os.unlink("socket")


@pains.symptom(r"\AAssertionError: a child was not waited for")
def closing_while_a_child_begins(module: Any) -> None:
    """Which may have answered before its parent knows of it."""
    fork = os.fork

    def fork_and_lag() -> int:
        if pid := fork():
            time.sleep(0.05)  # as if it did not get the processor
        return pid

    with module.ForkingTCPServer(LOOPBACK, echo(module)) as server, patch.object(os, "fork", fork_and_lag):
        loop = Loop(server)
        assert loop.ask() == b"hello"
        server.server_close()
        assert not child_pids(), "a child was not waited for"
        loop.join()
        assert loop.error is None


@pains.symptom(r"\AAssertionError: 0 of 3 children were heard")
def output_of_children(module: Any) -> None:
    with open("output", "w") as output, redirect_stdout(output):
        sys.stdout.write("the parent, once\n")
        with module.ForkingTCPServer(LOOPBACK, handler(module, lambda _: sys.stdout.write("a child\n"))) as server:
            for _ in range(3):
                with connected(server):
                    server.handle_request()
    lines = Path("output").read_text().splitlines()
    assert lines.count("a child") == 3, f"{lines.count('a child')} of 3 children were heard"
    assert lines.count("the parent, once") == 1


@pains.on_both()
def test_pain(pain: Pain, module: ModuleType) -> None:
    try_out(pain, module)
