"""Random sequences of calls: from several threads at once, and from one thread, where the table says what each does.

The ordinary run tries the same few sequences each time; `tests/profiles.py` says how to try many more, at random.
"""

import faulthandler
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from plugsocket import LifecycleError, Server, State, StopReport
from plugsocket.core import server as server_module
from plugsocket.core.endings import is_disconnection
from plugsocket.core.events import HandlerFailed
from plugsocket.core.interfaces import ITrioStrategy
from plugsocket.core.lifecycle import FINAL, TRANSITIONS, Lifecycle
from plugsocket.testing import EventRecorder
from tests.kit import TIMEOUT, ask, client, strategy_names
from tests.leftovers import leaving_nothing
from tests.profiles import examples, time_limit

MOVES = {(before, after) for (before, _), after in TRANSITIONS.items()}
GRACE = 0.05  # seconds, where a call says nothing else
BRIEF = 0.02  # seconds that a client waits for an answer: the server may be paused, busy or over
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 seconds; closing resets the connection (socket(7))
STOP = b"stop"

pytestmark = time_limit

# What is served


class Remembered(Lifecycle):
    """A lifecycle that remembers every state that it was ever given, on whatever road.

    Attributes:
        path: the states.
        server: whose lifecycle it is.
        reports: what its server had for a report when it was over.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.path: list[State] = []
        self.server: Server | None = None
        self.reports: list[StopReport | None] = []
        super().__init__(*arguments, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_state":
            self.path.append(value)
            if self.server is not None and value in FINAL:
                self.reports.append(self.server.report)
        super().__setattr__(name, value)


def stopping_handler(server: "list[Server]") -> Any:
    """A handler that echoes, and that stops its server when it is told to."""

    def handle(connection: Any) -> None:
        while data := connection.recv(100):
            if data == STOP:
                assert not server[0].stop(grace=0).finished
            connection.sendall(data)

    return handle


def stopping_async_handler(server: "list[Server]") -> Any:
    async def handle(stream: Any) -> None:
        async for data in stream:
            if data == STOP:
                assert not (await server[0].stop_async(grace=0)).finished
            await stream.send_all(data)

    return handle


SERVERS = [
    *(pytest.param(name, stopping_handler, id=name) for name in strategy_names()),
    pytest.param("trio", stopping_async_handler, id="trio-async"),
]
every_strategy = pytest.mark.parametrize(("strategy", "handler"), SERVERS)
every_endpoint = pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:0", "unix://{folder}/random.sock"])


@contextmanager
def server_that_leaves_nothing(endpoint: str, strategy: str, make_handler: Any) -> Iterator[Server]:
    """A server that remembers its states; when the block ends it must be over, unharmed, and without a trace."""
    recorder = EventRecorder()
    itself: list[Server] = []
    with tempfile.TemporaryDirectory(prefix="plugsocket-") as folder, leaving_nothing(Path(folder)):
        with mock.patch.object(server_module, "Lifecycle", Remembered):
            server = Server(endpoint.format(folder=folder), make_handler(itself), strategy, grace=GRACE)
        lifecycle: Any = server._lifecycle
        lifecycle.server = server
        itself.append(server)
        server.subscribe(recorder)
        yield server
        assert server.state is State.CLOSED
        assert server.cause is None
        assert server.report is not None
        assert server.report.finished
        assert server.stats.active == 0
        assert lifecycle.reports == [server.report], "it was there as soon as anybody could ask for it"
        path = path_of(server)
        assert path[0] is State.NEW
        assert set(pairwise(path)) <= MOVES, path
        assert all(is_disconnection(event.error) for event in recorder.of(HandlerFailed)), recorder.events


def path_of(server: Server) -> list[State]:
    lifecycle: Any = server._lifecycle
    return list(lifecycle.path)


def join(thread: threading.Thread) -> None:
    """Wait for a thread's end; if it does not come, say what every thread is at."""
    thread.join(TIMEOUT)
    if thread.is_alive():
        raise AssertionError(f"{thread.name} does not return\n{stacks()}")


def stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:  # faulthandler writes to nothing but a descriptor
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


# From several threads at once

Call = tuple[Any, ...]
"""The name of a method of `Play`, and its arguments."""


def call(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    return st.tuples(st.just(name), *arguments)


SOON = st.sampled_from([0.0, 0.01])  # seconds
STARTING = st.one_of(call("bind"), call("start"), call("serve", st.booleans()), call("handle_request", SOON))
LIVELY = st.one_of(
    STARTING,
    call("pause"),
    call("resume"),
    call("wait_for_state", st.sampled_from(State), SOON),
    call("wait_for_connections", st.integers(0, 2), SOON),
    call("look"),
    call("ask", st.just(b"hello")),
    call("stay_silent"),
    call("reset"),
)
ENDING = st.one_of(call("stop", SOON), call("stop_async", SOON), call("leave"), call("ask", st.just(STOP)))
PLANS = st.tuples(
    st.lists(STARTING, max_size=2),  # before everything else, so that most servers serve
    st.lists(
        st.builds(
            lambda lively, last: lively + last,
            st.lists(LIVELY, max_size=6),
            st.lists(st.one_of(LIVELY, ENDING), max_size=4),
        ),
        min_size=2,
        max_size=4,
    ),
)


class Play:
    """Threads that make the calls of their plans, in whatever order the system has them run."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._failures: list[BaseException] = []
        self._clients: list[socket.socket] = []
        self._serving: list[threading.Thread] = []
        self._before = set(threading.enumerate())

    def run(self, opening: list[Call], plans: list[list[Call]]) -> None:
        join(self._spawn("opening", self._follow, opening))
        for player in [self._spawn(f"player {number}", self._follow, plan) for number, plan in enumerate(plans)]:
            join(player)
        join(self._spawn("the last stop()", self.stop, 0.0))
        self._raise_failure()  # after which nothing else need end
        for thread in self._serving:
            join(thread)
        for thread in set(threading.enumerate()) - self._before:
            if not thread.name.startswith("Trio thread"):
                join(thread)  # one that was started by a call, and whose work is done
        for sock in self._clients:
            sock.close()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures[0]

    def _spawn(self, name: str, function: Callable[..., object], *arguments: Any) -> threading.Thread:
        def work() -> None:
            try:
                function(*arguments)
            except BaseException as failure:  # noqa: BLE001 - it is raised when all threads have ended
                self._failures.append(failure)

        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def _follow(self, plan: list[Call]) -> None:
        thread = threading.current_thread()
        for name, *arguments in plan:
            thread.name = f"{thread.name.partition(':')[0]}: {name}{tuple(arguments)}"  # to be named if it hangs
            try:
                getattr(self, name)(*arguments)
            except LifecycleError:
                pass  # what the state allows is for the other test to say: here it may change at any moment

    # The calls

    def bind(self) -> None:
        self.server.bind()

    def start(self) -> None:
        assert self.server.start() is self.server

    def serve(self, inside_trio: bool) -> None:
        """Serve in a thread of its own, since it ends with the server only."""
        if inside_trio and ITrioStrategy.providedBy(self.server.strategy):
            self._serving.append(self._spawn("serve()", self._tolerate, trio.run, self.server.serve))
        else:
            self._serving.append(self._spawn("serve_forever()", self._tolerate, self.server.serve_forever))

    def handle_request(self, timeout: float) -> None:
        """The same, since the handler may wait for a client that stays silent."""
        self._serving.append(self._spawn("handle_request()", self._tolerate, self.server.handle_request, timeout))

    def _tolerate(self, function: Callable[..., object], *arguments: Any) -> None:
        with suppress(LifecycleError):
            function(*arguments)

    def pause(self) -> None:
        self.server.pause()

    def resume(self) -> None:
        self.server.resume()

    def stop(self, grace: float) -> None:
        report = self.server.stop(grace)
        assert report.finished, report
        assert self.server.report is report
        assert self.server.state is State.CLOSED

    def stop_async(self, grace: float) -> None:
        assert trio.run(self.server.stop_async, grace).finished
        assert self.server.state is State.CLOSED

    def leave(self) -> None:
        with self.server:
            pass
        assert self.server.state is State.CLOSED

    def wait_for_state(self, state: State, timeout: float) -> None:
        reached = self.server.wait(state=state, timeout=timeout)
        assert reached is False or state in path_of(self.server)

    def wait_for_connections(self, number: int, timeout: float) -> None:
        self.server.wait(connections=number, timeout=timeout)

    def look(self) -> None:
        state = self.server.state
        if state in FINAL:
            assert self.server.report is not None
        if state not in (State.NEW, State.CLOSED):
            assert len(self.server.addresses) == len(self.server.urls) == 1
        assert self.server.stats.completed >= 0
        assert repr(self.server).startswith("<Server ")

    def ask(self, data: bytes) -> None:
        with suppress(OSError), self._client() as sock:
            assert data.startswith(ask(sock, data))

    def stay_silent(self) -> None:
        with suppress(OSError):
            self._clients.append(self._client())

    def reset(self) -> None:
        with suppress(OSError), self._client() as sock:
            sock.sendall(b"and gone")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _client(self) -> socket.socket:
        """A client; whether it is served depends on everybody else."""
        if not self.server.addresses:
            raise ConnectionRefusedError("nothing is bound")
        sock = client(self.server)
        sock.settimeout(BRIEF)
        return sock


@pytest.fixture
def threads_alternate() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can, so that more of their orders are tried."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@every_endpoint
@every_strategy
@pytest.mark.usefixtures("threads_alternate")
@settings(
    examples(30), phases=[Phase.generate]
)  # shorter plans need not fail again: the order of threads is not theirs
@given(calls=PLANS)
def test_threads_that_call_in_any_order(
    endpoint: str, strategy: str, handler: Any, calls: tuple[list[Call], list[list[Call]]]
) -> None:
    with server_that_leaves_nothing(endpoint, strategy, handler) as server:
        Play(server).run(*calls)


# From one thread, where each call has one right outcome


class Machine(RuleBasedStateMachine):
    """A server, and what the table says about it: each call is legal and has its moves, or is refused and has none."""

    def __init__(self, endpoint: str, strategy: str, handler: Any) -> None:
        super().__init__()
        self._exit = ExitStack()
        self.server = self._exit.enter_context(server_that_leaves_nothing(endpoint, strategy, handler))
        self.path = [State.NEW]
        self.waiting: list[socket.socket] = []  # clients that have sent all they say, in their order
        self.answered = 0
        self.serving: threading.Thread | None = None

    @property
    def state(self) -> State:
        return self.path[-1]

    @property
    def may_end(self) -> bool:
        """Whether there were enough moves; or else most sequences would end before much has happened."""
        return len(self.path) > 8

    def follow(self, function: Callable[[], object], *events: str) -> bool:
        """Make a call that should have these moves, or be refused if the table has not all of them."""
        path = [self.state]
        for event in events:
            if (path[-1], event) not in TRANSITIONS:
                before = self.picture()
                with pytest.raises(LifecycleError, match=f" a server that is {path[-1].name}; possible: "):
                    function()
                assert self.picture() == before
                return False
            path.append(TRANSITIONS[path[-1], event])
        function()
        self.path += path[1:]
        return True

    def picture(self) -> list[object]:
        """Everything that a refused call leaves as it is."""
        server = self.server
        return [path_of(server), server.addresses, server.urls, server.report, server.cause]

    def serve(self, function: Callable[[], object], *events: str) -> bool:
        """Make a call that binds if need be, and then serves."""
        return self.follow(function, *(["bind"] if self.state is State.NEW else []), *events)

    def close(self, function: Callable[[], object]) -> None:
        """Make a call that ends the server, which is legal always and changes nothing the second time."""
        before = self.server.report
        moves = {State.NEW: ["stop"], State.CLOSED: []}
        self.follow(function, *moves.get(self.state, ["stop", "drained"]))
        assert before is None or self.server.report is before
        if self.serving is not None:
            join(self.serving)
        for sock in self.waiting:
            sock.close()
        self.waiting.clear()

    def check_answer(self, sock: socket.socket) -> None:
        with sock:
            assert sock.recv(100) == b"hello"
            assert sock.recv(100) == b""
        self.answered += 1

    def check_answers(self) -> None:
        """Everybody who waited is served once the server accepts."""
        while self.waiting:
            self.check_answer(self.waiting.pop(0))

    @rule()
    def bind(self) -> None:
        self.follow(self.server.bind, "bind")

    @rule()
    def start(self) -> None:
        if self.serve(self.server.start, "serve"):
            self.check_answers()

    @rule()
    def serve_forever(self) -> None:
        if self.serve(self._serve_forever, "serve"):
            self.check_answers()

    def _serve_forever(self) -> None:
        if self.state not in (State.NEW, State.BOUND):
            self.server.serve_forever()
            return
        self.serving = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.serving.start()
        assert self.server.wait(state=State.SERVING, timeout=TIMEOUT)

    @rule()
    def handle_request(self) -> None:
        outcomes: list[bool] = []
        timeout = TIMEOUT if self.waiting else 0.0
        if self.serve(lambda: outcomes.append(self.server.handle_request(timeout)), "serve", "handled one"):
            assert outcomes == [bool(self.waiting)]
            if self.waiting:
                self.check_answer(self.waiting.pop(0))

    @rule()
    def pause(self) -> None:
        self.follow(self.server.pause, "pause")

    @rule()
    def resume(self) -> None:
        if self.follow(self.server.resume, "resume"):
            self.check_answers()

    @precondition(lambda self: self.state in (State.BOUND, State.SERVING, State.PAUSED))
    @rule()
    def connect(self) -> None:
        sock = client(self.server)
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        self.waiting.append(sock)
        if self.state is State.SERVING:
            self.check_answers()

    @precondition(lambda self: self.may_end)
    @rule(grace=st.sampled_from([None, 0.0]))
    def stop(self, grace: float | None) -> None:
        self.close(lambda: self.server.stop(grace))

    @precondition(lambda self: self.may_end)
    @rule()
    def stop_inside_trio(self) -> None:
        self.close(lambda: trio.run(self.server.stop_async))

    @precondition(lambda self: self.may_end)
    @rule()
    def leave(self) -> None:
        self.close(lambda: self.server.__exit__(None, None, None))

    @precondition(lambda self: self.may_end and self.state is State.SERVING)
    @rule()
    def stop_in_a_handler(self) -> None:
        with client(self.server) as sock:
            sock.sendall(STOP)
            self.answered += 1
            self.close(lambda: self.server.wait(state=State.CLOSED, timeout=TIMEOUT))

    @rule(state=st.sampled_from(State))
    def wait_for_a_state(self, state: State) -> None:
        assert self.server.wait(state=state, timeout=0) is (state is self.state)

    @precondition(lambda self: self.state is not State.BOUND)  # in which nobody reaps children
    @rule()
    def wait_for_no_connections(self) -> None:
        assert self.server.wait(connections=0, timeout=TIMEOUT)

    @invariant()
    def is_what_it_should_be(self) -> None:
        server = self.server
        assert server.state is self.state
        assert path_of(server) == self.path
        assert len(server.addresses) == (1 if State.BOUND in self.path else 0)
        assert (server.report is not None) is (self.state is State.CLOSED)
        assert server.stats.accepted == self.answered
        assert server.stats.refused == server.stats.accept_errors == 0

    def teardown(self) -> None:
        self.close(self.server.stop)
        self._exit.close()


@every_endpoint
@every_strategy
def test_each_call_does_what_the_table_says(endpoint: str, strategy: str, handler: Any) -> None:
    make: Any = partial(Machine, endpoint, strategy, handler)  # annotated as a class, documented as what makes one
    run_state_machine_as_test(make, settings=examples(20))
