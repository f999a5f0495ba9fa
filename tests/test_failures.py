"""What the failure of a handler means for the server: nothing, or its end."""

import os
import threading
from typing import Any

import pytest
import trio
from zope.interface import implementer

from plugsocket import Abort, ChildError, Deadlines, Isolate, OptionError, Server, State
from plugsocket.core.events import HandlerFailed, HookFailed
from plugsocket.core.interfaces import IFailurePolicy
from plugsocket.testing import EventRecorder
from tests.kit import HANDLERS, TIMEOUT, ask, client, receive, serving, strategy_names
from tests.test_matrix import COMPOSING
from tests.trio_kit import echo, quiet, run

ENDPOINT = "tcp://127.0.0.1:0"

REFUSED = "on_failure must be a failure policy, which provides IFailurePolicy, or its string, such as 'abort', not"

everywhere = pytest.mark.parametrize(("strategy", "handler"), COMPOSING)
BESIDE = [name for name in strategy_names() if name != "sync"]


def fate(server: Server) -> BaseException | None:
    """Serve in a thread until the server ends; return what serving raised."""
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever()
        except BaseException as error:  # noqa: BLE001 - it is what is asked for
            raised.append(error)

    server.bind()
    thread = threading.Thread(target=serve)
    thread.start()
    with client(server) as sock:
        sock.sendall(b"raise")
        assert sock.recv(1) == b""
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    return raised[0] if raised else None


@everywhere
def test_by_default_nothing_else_ends(strategy: str, handler: str, recorder: EventRecorder) -> None:
    with serving(Server(ENDPOINT, HANDLERS[handler], strategy), recorder) as server:
        with client(server) as sock:
            sock.sendall(b"raise")
            assert sock.recv(1) == b""
        recorder.wait_for(HandlerFailed)
        with client(server) as sock:
            assert ask(sock, b"next") == b"next"


@everywhere
def test_abort_ends_the_server(strategy: str, handler: str, recorder: EventRecorder) -> None:
    server = quiet(Server(ENDPOINT, HANDLERS[handler], strategy, on_failure="abort"), recorder)
    error = fate(server)
    assert "raise" in str(error)
    assert isinstance(error, ChildError if strategy == "fork" else RuntimeError)
    assert server.state is State.FAILED
    assert server.cause is error
    assert server.stats.failed == 1
    assert len(recorder.of(HandlerFailed)) == 1  # reported once, all the same


@pytest.mark.parametrize("strategy", BESIDE)
def test_who_else_is_served_is_cut(strategy: str) -> None:
    server = quiet(Server(ENDPOINT, HANDLERS["function"], strategy, on_failure=Abort()))
    server.start()
    with client(server) as other, client(server) as sock:
        assert ask(other, b"hello") == b"hello"
        sock.sendall(b"raise")
        assert server.wait(state=State.FAILED, timeout=TIMEOUT) or server.state is State.FAILED
        assert other.recv(1) == b""
    server.stop()


def test_a_datagram_counts_as_well() -> None:
    server = quiet(Server("udp://127.0.0.1:0", HANDLERS["function"], "sync", on_failure="abort"))
    server.start()
    with client(server) as sock:
        sock.sendall(b"raise")
        assert server.wait(state=State.FAILED, timeout=TIMEOUT) or server.state is State.FAILED
    assert str(server.cause) == "raise"
    server.stop()


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        (Abort(RuntimeError), State.FAILED),
        (Abort((ValueError, RuntimeError)), State.FAILED),
        (Abort(Exception), State.FAILED),
        (Abort(ValueError), State.SERVING),
        (Isolate(), State.SERVING),
    ],
    ids=str,
)
def test_abort_can_be_for_some_kinds(policy: Any, state: State, recorder: EventRecorder) -> None:
    server = quiet(Server(ENDPOINT, HANDLERS["function"], on_failure=policy), recorder)
    with server.start(), client(server) as sock:
        sock.sendall(b"raise")
        recorder.wait_for(HandlerFailed)
        assert server.wait(state=state, timeout=0 if state is State.SERVING else TIMEOUT) or server.state is state


def test_of_a_group_one_is_enough() -> None:
    async def fail(_stream: Any) -> None:
        raise ExceptionGroup("several", [KeyError(), ExceptionGroup("more", [ValueError()])])

    for kind, state in ((ValueError, State.FAILED), (IndexError, State.CLOSED)):
        server = quiet(Server(ENDPOINT, fail, on_failure=Abort(kind)))
        with server.start(), client(server) as sock:
            assert sock.recv(1) == b""
            assert server.wait(connections=0, timeout=TIMEOUT) or server.state is state
        assert server.state is state


def test_a_peer_that_is_gone_and_a_deadline_end_no_server(recorder: EventRecorder) -> None:
    def handle(connection: Any) -> None:
        if connection.recv(10) == b"gone":
            raise ConnectionResetError
        connection.recv(1)

    server = quiet(Server(ENDPOINT, handle, on_failure="abort", deadlines=Deadlines(idle=0.01)), recorder)
    with server.start():
        for word in (b"gone", b"wait"):
            with client(server) as sock:
                sock.sendall(word)
                assert sock.recv(1) == b""
        recorder.wait_for(HandlerFailed, 2)
        assert server.state is State.SERVING


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        (Abort(ConnectionRefusedError), State.FAILED),
        (Abort(OSError), State.SERVING),
        (Abort([ConnectionError, OSError]), State.FAILED),
    ],
    ids=str,
)
def test_it_can_be_told_that_a_peer_that_is_gone_is_a_failure(
    policy: Abort, state: State, recorder: EventRecorder
) -> None:
    """Such as that of a connection of the handler's own."""

    def handle(_connection: Any) -> None:
        raise ConnectionRefusedError("the database is gone")

    server = quiet(Server(ENDPOINT, handle, on_failure=policy), recorder)
    with server.start(), client(server) as sock:
        assert sock.recv(1) == b""
        recorder.wait_for(HandlerFailed)
        assert server.wait(state=state, timeout=0 if state is State.SERVING else TIMEOUT) or server.state is state


@pytest.mark.parametrize("policy", [Abort(), Abort(BaseException)], ids=str)
def test_a_cancellation_that_a_handler_made_up_ends_no_server(policy: Abort, recorder: EventRecorder) -> None:
    async def fail(_stream: Any) -> None:
        kept: list[BaseException] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                kept.append(error)
                raise
        raise kept[0]

    server = quiet(Server(ENDPOINT, fail, on_failure=policy), recorder)
    with server.start(), client(server) as sock:
        assert sock.recv(1) == b""
        recorder.wait_for(HandlerFailed)
        assert server.state is State.SERVING


def test_serve_raises_it_plainly_and_takes_the_nursery_down() -> None:
    """As trio.serve_tcp would, but for its groups around groups."""

    async def fail(_stream: Any) -> None:
        raise ValueError("enough")

    async def main() -> None:
        server = quiet(Server(ENDPOINT, fail, on_failure="abort"))
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="enough")):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve)
                async with await trio.open_tcp_stream(*server.addresses[0]):
                    await trio.sleep_forever()
        assert server.state is State.FAILED

    run(main)


def test_handle_request_raises_it() -> None:
    server = quiet(Server(ENDPOINT, HANDLERS["function"], "sync", on_failure="abort"))
    server.bind()
    with client(server) as sock:
        sock.sendall(b"raise")
        with pytest.raises(RuntimeError, match="raise"):
            server.handle_request(TIMEOUT)
    assert server.state is State.FAILED


@implementer(IFailurePolicy)
class Broken:
    def aborts(self, failure: HandlerFailed) -> bool:
        raise KeyError(failure.peer)


def test_a_policy_that_raises_is_reported_and_ends_nothing(recorder: EventRecorder) -> None:
    with serving(Server(ENDPOINT, HANDLERS["function"], on_failure=Broken()), recorder) as server:
        with client(server) as sock:
            sock.sendall(b"raise")
            assert sock.recv(1) == b""
            (failure,) = recorder.wait_for(HookFailed)
            assert (failure.hook, failure.peer) == ("on_failure", sock.getsockname())
        with client(server) as sock:
            assert ask(sock, b"next") == b"next"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("abrot", "there is no failure policy 'abrot'; did you mean 'abort'?"),
        ("abort?kinds=ValueError", "Abort: kinds cannot be given as text, only as an argument"),
        (Abort, f"{REFUSED} <class"),
        (42, f"{REFUSED} 42"),
    ],
)
def test_what_is_no_policy_is_refused(policy: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Server(ENDPOINT, echo, on_failure=policy)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kinds", [(), ValueError("an instance"), int, "ValueError"])
def test_what_is_no_kind_of_exception_is_refused(kinds: Any) -> None:
    with pytest.raises(OptionError, match="Abort: kinds must be classes of exceptions, not "):
        Abort(kinds)


@pytest.mark.parametrize("strategy", BESIDE)
@pytest.mark.parametrize("words", [b"", b"three"], ids=["idle", "busy"])
def test_who_fails_for_a_stop_fails_no_server(words: bytes, strategy: str, recorder: EventRecorder) -> None:
    """An idle one sees end of file at once, a busy one when it is cut."""

    def read_ten(connection: Any) -> None:
        os.write(connection.fileno(), b"ready")
        data = b""
        while len(data) < 10:
            if not (more := connection.socket.recv(10)):
                raise ValueError(f"{len(data)} bytes are no request")
            data += more

    server = quiet(Server(ENDPOINT, read_ten, strategy, on_failure="abort"), recorder)
    with server.start(), client(server) as sock:
        sock.sendall(words)
        assert receive(sock, 5) == b"ready"
        server.stop(grace=0.2)
    recorder.wait_for(HandlerFailed)
    assert server.state is State.CLOSED
    assert server.cause is None


@pytest.mark.parametrize("strategy", ["thread", "trio"])
def test_an_interrupt_that_a_worker_made_up_is_a_cause(strategy: str) -> None:
    def handle(_connection: Any) -> None:
        raise KeyboardInterrupt("made up")

    server = quiet(Server(ENDPOINT, handle, strategy, on_failure=Abort(BaseException)))
    server.bind()
    with client(server), pytest.raises(KeyboardInterrupt, match="made up"):
        server.serve_forever()
    assert server.state is State.FAILED
    assert str(server.cause) == "made up"


def test_a_failure_after_one_request_is_the_cause_when_it_stops(recorder: EventRecorder) -> None:
    go_on = threading.Event()

    def handle(_connection: Any) -> None:
        go_on.wait(TIMEOUT)
        raise ValueError("late")

    server = quiet(Server(ENDPOINT, handle, "thread", on_failure="abort"), recorder)
    server.bind()
    with client(server):
        assert server.handle_request(TIMEOUT)
        go_on.set()
        recorder.wait_for(HandlerFailed)
    server.stop()
    assert (server.state, str(server.cause)) == (State.FAILED, "late")
