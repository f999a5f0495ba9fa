"""The hooks of `plugsocket.compat.socketserver` are called when the documentation of `socketserver` has them called.

Whatever is checked is checked on both modules, the standard library's as the control.
"""

import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.compat_hooks import HOOKS, SERVERS, STEPS, Calls, address_for, class_of, on_both, running, say, telling
from tests.compat_kit import LOOPBACK, connected, echo
from tests.kit import TIMEOUT, until

# The documented order

AT_FIRST = ["server_bind", "server_activate"]
TAKEN = ["_handle_request_noblock", "get_request", "verify_request"]
CLOSED = ["shutdown_request", "close_request"]
TO_A_HANDLER = ["finish_request", *STEPS]

OUTCOMES: dict[bytes, list[str]] = {
    b"handle": [*TO_A_HANDLER, *CLOSED],
    b"raise": [*TO_A_HANDLER, "handle_error", *CLOSED],
    b"refuse": CLOSED,
}
# Where a subclass has these, the loop calls hooks after each look at the socket, or else as long as something comes.
SLOW = {"_handle_request_noblock", "get_request", "service_actions"}


def expected(name: str, outcome: bytes) -> dict[str, list[str]]:
    """What is called where for one request."""
    rest = OUTCOMES[outcome]
    if outcome == b"refuse":
        return {"loop": [*TAKEN, *rest]}
    if name.startswith("Threading"):
        return {"loop": [*TAKEN, "process_request"], "beside": ["process_request_thread", *rest]}
    if name.startswith("Forking"):
        return {"loop": [*TAKEN, "process_request", "close_request"], "beside": rest}
    return {"loop": [*TAKEN, "process_request", *rest]}


@contextmanager
def making(module: Any, name: str, calls: Calls, outcome: bytes, hooks: Collection[str]) -> Iterator[Any]:
    """A server that tells which hooks are called, for clients of which this will become."""

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            data = self.request[0] if isinstance(self.request, tuple) else self.request.recv(100)
            assert data == outcome
            if data == b"raise":
                raise ValueError("as told")

    class Server(class_of(module, name)):  # type: ignore[misc]
        def verify_request(self, *arguments: Any) -> bool:
            return bool(super().verify_request(*arguments)) and outcome != b"refuse"

    with (
        address_for(name, calls.folder) as address,
        telling(Server, calls, *hooks)(address, telling(Handler, calls, *STEPS)) as server,
    ):
        yield server


@on_both
@pytest.mark.parametrize("outcome", OUTCOMES, ids=bytes.decode)
@pytest.mark.parametrize("name", SERVERS)
def test_the_order_in_a_loop(module: ModuleType, name: str, outcome: bytes, tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    with making(module, name, calls, outcome, HOOKS) as server, running(server) as loop:
        say(server, outcome)
        until(lambda: "close_request" in calls)
    called = calls.by_place(loop=loop.native_id or 0)
    while called["loop"][0] == "service_actions":  # which were called while the loop waited
        called["loop"].pop(0)
    before = len([each for each in called["loop"] if each != "service_actions"])
    assert called["loop"][before:]  # once per turn, after the request
    assert set(called["loop"][before:]) == {"service_actions"}
    del called["loop"][before:]
    assert called.pop("caller") == [*AT_FIRST, "server_close"]
    assert called == expected(name, outcome)


@on_both
@pytest.mark.parametrize("outcome", OUTCOMES, ids=bytes.decode)
@pytest.mark.parametrize("name", SERVERS)
def test_the_order_in_a_loop_of_a_server_with_fewer_hooks(
    module: ModuleType, name: str, outcome: bytes, tmp_path: Path
) -> None:
    """That the others are called several times without a look at the socket changes nothing about the order."""
    calls = Calls(tmp_path)
    hooks = [hook for hook in HOOKS if hook not in SLOW]
    with making(module, name, calls, outcome, hooks) as server, running(server) as loop:
        say(server, outcome)
        until(lambda: "close_request" in calls)
    called = calls.by_place(loop=loop.native_id or 0)
    assert called.pop("caller") == [*AT_FIRST, "server_close"]
    wanted = expected(name, outcome)
    assert called == {place: [each for each in names if each not in SLOW] for place, names in wanted.items()}


@on_both
@pytest.mark.parametrize("outcome", OUTCOMES, ids=bytes.decode)
@pytest.mark.parametrize("name", SERVERS)
def test_the_order_of_one_request(module: ModuleType, name: str, outcome: bytes, tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    with making(module, name, calls, outcome, HOOKS) as server:
        client = threading.Thread(target=say, args=(server, outcome))
        client.start()
        server.handle_request()
        client.join(TIMEOUT)
    called = calls.by_place(loop=threading.get_native_id())
    wanted = expected(name, outcome)
    assert called.pop("loop") == [*AT_FIRST, *wanted.pop("loop"), "server_close"]
    assert called == wanted


@on_both
@pytest.mark.parametrize("name", ["TCPServer", "UDPServer", "ThreadingTCPServer", "ForkingTCPServer"])
@pytest.mark.parametrize("limits", [(0.01, None), (None, 0.01), (0.01, TIMEOUT), (TIMEOUT, 0.01)])
def test_nobody_came(module: ModuleType, name: str, limits: tuple[float | None, float | None], tmp_path: Path) -> None:
    """The shorter one of the server's own time-out and its socket's counts, both of which may be set late."""
    calls = Calls(tmp_path)
    cls = telling(getattr(module, name), calls, *HOOKS)
    with cls(LOOPBACK, echo(module)) as server:
        server.timeout, of_the_socket = limits
        server.socket.settimeout(of_the_socket)
        server.handle_request()
    assert calls.by_place(loop=0) == {"caller": [*AT_FIRST, "handle_timeout", "server_close"]}


@on_both
def test_somebody_came_in_time(module: ModuleType, tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    with telling(module.TCPServer, calls, "handle_timeout", "handle")(LOOPBACK, echo(module)) as server:
        server.timeout = TIMEOUT
        with connected(server) as sock:
            sock.shutdown(socket.SHUT_WR)
            server.handle_request()
    assert "handle_timeout" not in calls


@on_both
def test_a_server_that_is_not_to_be_activated_at_once(module: ModuleType, tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    with telling(module.TCPServer, calls, *HOOKS)(LOOPBACK, echo(module), bind_and_activate=False) as server:
        assert calls.by_place(loop=0) == {}
        server.server_bind()
        server.server_activate()
        with running(server) as loop:
            assert loop.ask() == b"hello"
