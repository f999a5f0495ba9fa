"""Thread(): how many threads there are, when they go, and what happens when one cannot start."""

import threading
from contextlib import ExitStack

import pytest

from plugsocket import Connection, Server, Thread
from plugsocket.core.events import HandlerFailed, RequestRefused
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.testing import failing_threads
from tests.kit import TIMEOUT, ask, client, function, receive, serving

ENDPOINT = "tcp://127.0.0.1:0"


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("plugsocket-")}


class Names:
    """A handler that remembers which threads it ran in."""

    def __init__(self) -> None:
        self.seen: list[threading.Thread] = []

    def __call__(self, connection: Connection) -> None:
        self.seen.append(threading.current_thread())
        function(connection)


def test_no_thread_before_the_first_request() -> None:
    with serving(Server(ENDPOINT, function, Thread())):
        assert workers() == set()


def test_idle_threads_are_used_again() -> None:
    """The next request may come in before the last one's thread is idle, so there can be a few."""
    handler = Names()
    with serving(Server(ENDPOINT, handler, Thread())) as server:
        for _ in range(100):
            with client(server) as sock:
                ask(sock, b"hello")
            assert server.wait(connections=0, timeout=TIMEOUT)
        assert 1 <= len(workers()) < 10
    assert len(handler.seen) == 100
    assert 1 <= len(set(handler.seen)) < 10


def test_the_pool_grows_on_demand_up_to_its_limit_and_then_the_next_waits() -> None:
    with serving(Server(ENDPOINT, function, Thread(max_workers=3))) as server, ExitStack() as stack:
        socks = []
        for count in (1, 2, 3):
            socks.append(stack.enter_context(client(server)))
            ask(socks[-1], b"hello")
            assert len(workers()) == count
        waiting = stack.enter_context(client(server))
        waiting.sendall(b"waits")
        ask(socks[0], b"so that the loop has had time")
        assert (server.stats.active, server.stats.accepted) == (3, 3)
        socks[0].close()
        assert receive(waiting, 5) == b"waits"
        assert len(workers()) == 3


def test_a_thread_that_was_idle_is_counted_on_once() -> None:
    with serving(Server(ENDPOINT, function, Thread())) as server:
        for count in range(1, 8):  # each time one more than there are idle threads
            with ExitStack() as stack:
                socks = [stack.enter_context(client(server)) for _ in range(count)]
                for sock in socks:
                    assert ask(sock, b"hello") == b"hello"
            assert server.wait(connections=0, timeout=TIMEOUT)


def test_idle_threads_go() -> None:
    handler = Names()
    with serving(Server(ENDPOINT, handler, Thread(idle_timeout=0.01))) as server:
        with ExitStack() as stack:
            for _ in range(3):
                ask(stack.enter_context(client(server)), b"hello")
        for thread in handler.seen:
            thread.join(TIMEOUT)
        assert workers() == set()
        with client(server) as sock:
            assert ask(sock, b"and come again") == b"and come again"
    assert len(set(handler.seen)) == 4


@pytest.mark.parametrize("idle_timeout", [0, 0.0001])
def test_threads_that_go_lose_no_request(idle_timeout: float) -> None:
    """A thread whose time is up may just have been counted on."""
    with serving(Server(ENDPOINT, function, Thread(2, idle_timeout=idle_timeout))) as server:
        for _ in range(300):
            with client(server) as sock:
                assert ask(sock, b"hello") == b"hello"


def test_a_thread_that_cannot_start(recorder: Recorder) -> None:
    with serving(Server(ENDPOINT, function, Thread(max_workers=1)), recorder) as server, failing_threads(1) as failures:
        with client(server) as sock:
            assert sock.recv(1) == b""
            (refusal,) = recorder.wait_for(RequestRefused)
            assert refusal.peer == sock.getsockname()
        with client(server) as sock:
            assert ask(sock, b"next") == b"next"  # its slot, the only one, was given back
        assert server.wait(connections=0, timeout=TIMEOUT)
        assert (server.stats.refused, server.stats.completed, server.stats.failed) == (1, 1, 0)
        assert server.stop().finished
    assert failures.delivered == 1
    assert str(refusal.error) == "can't start new thread"
    assert recorder.events == [refusal]


def test_a_handler_that_exits_ends_its_request_and_not_the_thread(recorder: Recorder) -> None:
    seen = []

    def handle(connection: Connection) -> None:
        seen.append(threading.current_thread())
        if connection.recv(100) == b"exit":
            raise SystemExit(1)
        connection.sendall(b"bye")

    with serving(Server(ENDPOINT, handle, Thread(max_workers=1)), recorder) as server:
        for data in (b"exit", b"stay"):
            with client(server) as sock:
                sock.sendall(data)
                assert sock.recv(100) == (b"" if data == b"exit" else b"bye")
    assert [repr(failure.error) for failure in recorder.of(HandlerFailed)] == ["SystemExit(1)"]
    assert len(recorder.events) == 1
    assert len(set(seen)) == 1


def test_an_instance_serves_one_server_after_the_other() -> None:
    strategy = Thread(max_workers=2)
    for _ in range(3):
        with serving(Server(ENDPOINT, function, strategy)) as server:
            with client(server) as sock:
                assert ask(sock, b"hello") == b"hello"
            assert server.stop().finished
        assert workers() == set()


def test_a_handler_that_cannot_be_woken_is_left_behind_and_the_instance_is_usable() -> None:
    release = threading.Event()
    began = threading.Event()

    def deaf(connection: Connection) -> None:
        began.set()
        release.wait(TIMEOUT)

    strategy = Thread()
    with serving(Server(ENDPOINT, deaf, strategy)) as server, client(server) as sock:
        assert began.wait(TIMEOUT)
        report = server.stop(grace=0)
        assert report.cut == (sock.getsockname(),)
        assert sock.recv(1) == b""
    left = workers()
    assert len(left) == 1
    with serving(Server(ENDPOINT, function, strategy)) as server:
        with client(server) as sock:
            assert ask(sock, b"hello") == b"hello"
        release.set()
        assert server.stop().finished
    for thread in left:
        thread.join(TIMEOUT)


def test_threads_are_daemons() -> None:
    handler = Names()
    with serving(Server(ENDPOINT, handler, Thread())) as server, client(server) as sock:
        ask(sock, b"hello")
        assert [thread.daemon for thread in handler.seen] == [True]


def test_without_idle_time_each_request_has_a_thread_of_its_own() -> None:
    handler = Names()
    with serving(Server(ENDPOINT, handler, Thread(idle_timeout=0))) as server:
        for _ in range(20):
            with client(server) as sock:
                ask(sock, b"hello")
            assert server.wait(connections=0, timeout=TIMEOUT)
    assert len(set(handler.seen)) == 20


@pytest.mark.parametrize("daemon", [True, False])
def test_threads_are_daemons_if_they_are_to_be(daemon: bool) -> None:
    strategy = Thread(daemon=daemon)
    with serving(Server(ENDPOINT, function, strategy)) as server, client(server) as sock:
        ask(sock, b"hello")
        assert [thread.daemon for thread in strategy.threads] == [daemon]
    assert not strategy.threads


def test_a_thread_that_joins_its_own_pool_does_not_wait_for_itself() -> None:
    ended: list[bool] = []
    strategy = Thread()
    server = Server(ENDPOINT, lambda _: ended.append(strategy.join(TIMEOUT)), strategy)
    with serving(server), client(server) as sock:
        assert receive(sock, 1) == b""
    assert ended == [False]
