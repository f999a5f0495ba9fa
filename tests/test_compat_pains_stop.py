"""Stopping under the old names: each of these hangs, spins or lags behind with `socketserver`, and not with ours."""

import os
import signal
import threading
import time
from contextlib import ExitStack, suppress
from types import ModuleType
from typing import Any

import pytest

from tests.compat_kit import (
    LOOPBACK,
    Loop,
    Pain,
    Pains,
    connected,
    echo,
    handler,
    serving,
    try_out,
    wait_until_idle,
    wake_ups,
)
from tests.kit import child_pids, until
from tests.programs import interrupt

WHILE = 0.2  # seconds, for what is seen only as time passes: that nothing happens, or too much

pains = Pains()


# shutdown() deadlocks


@pains.hangs_in("shutdown")
def shutdown_before_serving(module: Any) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        server.shutdown()
        server.serve_forever()  # it has been told to stop


@pains.hangs_in("shutdown")
def shutdown_from_a_handler(module: Any) -> None:
    stop = handler(module, lambda self: self.server.shutdown())
    with module.TCPServer(LOOPBACK, stop) as server, connected(server):
        server.serve_forever()


@pains.hangs_in("shutdown")
def shutdown_from_a_handler_of_datagrams(module: Any) -> None:
    class Stop(module.DatagramRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.server.shutdown()

    with module.UDPServer(LOOPBACK, Stop) as server, connected(server) as sock:
        sock.send(b"stop")
        server.serve_forever()


@pains.hangs_in("shutdown")
def shutdown_from_a_signal_handler(module: Any) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
        killer = threading.Thread(target=interrupt, args=(os.getpid(), signal.SIGTERM))
        killer.start()
        server.serve_forever()
        killer.join()


@pains.hangs_in("shutdown")
def shutdown_from_service_actions(module: Any) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def service_actions(self) -> None:
            self.shutdown()

    with Server(LOOPBACK, echo(module)) as server:
        server.serve_forever(0.01)


@pains.hangs_in("serve_forever")
def shutdown_from_a_forked_child(module: Any) -> None:
    stop = handler(module, lambda self: self.server.shutdown())
    with module.ForkingTCPServer(LOOPBACK, stop) as server, connected(server):
        server.serve_forever()


@pains.hangs_in("shutdown")
def shutdown_while_one_request_is_awaited(module: Any) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        awaiting = threading.Thread(target=server.handle_request, daemon=True)
        awaiting.start()
        wait_until_idle(awaiting)
        server.shutdown()
        with suppress(ConnectionError), connected(server):  # in case it is still awaited
            awaiting.join()


# shutdown() that takes effect late, or at the wrong time


@pains.hangs_in("shutdown")
def shutdown_waits_for_the_next_poll(module: Any) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server, serving(server, poll_interval=3600) as loop:
        assert loop.ask() == b"hello"
        wait_until_idle(loop)


@pains.symptom(r"\AAssertionError: the loop has ended, with None")
def shutdown_twice_ends_the_next_run(module: Any) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        with serving(server) as loop:
            assert loop.ask() == b"hello"
        server.shutdown()
        with serving(server) as loop:
            assert loop.ask() == b"hello"


@pains.hangs_in("join")
def the_flag_waits_for_the_next_poll(module: Any) -> None:
    """Which programs set that know of the deadlock."""
    with module.TCPServer(LOOPBACK, echo(module)) as server:
        loop = Loop(server, poll_interval=3600)
        assert loop.ask() == b"hello"
        wait_until_idle(loop)
        server._BaseServer__shutdown_request = True
        loop.join()


@pains.symptom(r"\AAssertionError: a loop woke up \d+ times")
def wakes_up_while_idle(module: Any) -> None:
    with ExitStack() as stack:
        loops = []
        for name in ("TCPServer", "ThreadingTCPServer", "ForkingTCPServer", "UDPServer"):
            server = stack.enter_context(getattr(module, name)(LOOPBACK, echo(module)))
            loops.append(stack.enter_context(serving(server)))
        for loop in loops:
            assert loop.ask() == b"hello"
        until(lambda: not child_pids() and {*threading.enumerate()} == {threading.main_thread(), *loops})
        for loop in loops:
            wait_until_idle(loop)
        before = [wake_ups(loop) for loop in loops]
        time.sleep(WHILE)
        for loop, count in zip(loops, before, strict=True):
            woke = wake_ups(loop) - count
            assert woke == 0, f"a loop woke up {woke} times"


# Two loops, and loops that are closed


@pains.hangs_in("serve_forever")
def a_second_loop_beside_the_first(module: Any) -> None:
    with module.TCPServer(LOOPBACK, echo(module)) as server, serving(server) as loop:
        assert loop.ask() == b"hello"
        with pytest.raises(RuntimeError):
            server.serve_forever()
        assert loop.ask() == b"hello"


# Or it waits in accept(), if the number of its descriptor was given out again before it looked.
SPINS = r"\AAssertionError: the loop (took 0\.\d+ s of processor time|goes on)"


def assert_ended(loop: Loop) -> None:
    """See that a loop that was closed under it is over."""
    if loop.is_alive():
        time.sleep(0.02)  # until its next poll, which is what finds the socket closed
        spent = time.process_time()
        time.sleep(WHILE)
        spent = time.process_time() - spent
        assert spent < WHILE / 10, f"the loop took {spent:.3f} s of processor time in {WHILE} s"
    loop.join(5.0)
    assert not loop.is_alive(), "the loop goes on"
    assert loop.error is None


@pains.symptom(SPINS)
def server_close_while_serving(module: Any) -> None:
    server = module.TCPServer(LOOPBACK, echo(module))
    loop = Loop(server)
    assert loop.ask() == b"hello"
    server.server_close()
    assert_ended(loop)


@pains.symptom(SPINS)
def server_close_while_serving_datagrams(module: Any) -> None:
    server = module.UDPServer(LOOPBACK, echo(module))
    loop = Loop(server)
    assert loop.ask() == b"hello"
    server.server_close()
    assert_ended(loop)


@pains.symptom(SPINS)
def leaving_with_while_serving(module: Any) -> None:
    with module.ThreadingTCPServer(LOOPBACK, echo(module)) as server:
        loop = Loop(server)
        assert loop.ask() == b"hello"
    assert_ended(loop)


@pains.on_both()
def test_pain(pain: Pain, module: ModuleType) -> None:
    try_out(pain, module)
