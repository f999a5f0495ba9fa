"""A bench for faults: a server of the matrix, something that goes wrong, and good clients before, beside and after it.

A fault is a class; the files of tests have them in tables. The bench runs each one with every transport, strategy and
kind of handler that it concerns, and afterwards settles the accounts: who was served, what was reported, what was
counted, and how the server stopped.
"""

import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import pytest

from plugsocket import Server, State, explain
from plugsocket import strategy as make_strategy
from plugsocket.core.events import ConnectionClosed, ConnectionOpened
from plugsocket.core.interfaces import IInlineStrategy, IStreamTransport
from plugsocket.testing import EventRecorder
from tests import kit
from tests.kit import HANDLERS, PROBLEMS, TIMEOUT, ask, client, example_ids, example_name, serving, strategy_names

SHORT = 0.4  # seconds; a deadline for bad clients, that good ones keep with ease, also on a busy machine
SOON = 5.0  # seconds; a stop that waits for something takes the grace, which is 10
OUTCOMES = ("failed", "disconnected", "timed_out", "refused", "rejected", "dropped")
"""The counters of requests that were not served as their clients wished."""
NOBODY = object()


@attrs.frozen
class Trial:
    """A fault, and the server that it happens to."""

    make_fault: "Callable[[], Fault]"
    example: tuple[Any, int]
    strategy: str
    handler: str


class Bench:
    """A server under trial, and what has happened to it that it should account for.

    Attributes:
        server: serves.
        strategy: the name of its strategy.
        handler: the name of its kind of handler in `kit.HANDLERS`.
        streams: whether its clients connect; else they send datagrams.
        recorder: is told of all its events.
        friend: a good client that is there before the fault, and stays; `None` if there can be none.
        later: what is left when the server has stopped.
    """

    def __init__(self, server: Server, trial: Trial, recorder: EventRecorder, later: ExitStack) -> None:
        self.server = server
        self.strategy = trial.strategy
        self.handler = trial.handler
        self.streams = IStreamTransport.providedBy(server.transports[0])
        self.recorder = recorder
        self.friend: socket.socket | None = None
        self.later = later
        # An inline strategy has no room for a second connection; a datagram is done before the next one comes.
        self._roomy = not (self.streams and IInlineStrategy.providedBy(server.strategy))
        self._accepted = 0
        self._outcomes: Counter[str] = Counter()
        self._due: list[Any] = []

    # Clients

    @contextmanager
    def client(self) -> Iterator[socket.socket]:
        """A client, which the server should accept if it connects."""
        with client(self.server) as sock:
            self._accepted += self.streams
            yield sock

    def say(self, sock: socket.socket, data: bytes) -> None:
        """Have a client send something, which the server should take as a request if it is a datagram."""
        sock.sendall(data)
        self._accepted += not self.streams

    def ask(self, sock: socket.socket) -> None:
        """Have a good client served."""
        assert ask(sock, b"good") == b"good"
        self._accepted += not self.streams

    def serve_one(self) -> None:
        """Have a good client come, be served, and go."""
        with self.client() as sock:
            self.ask(sock)

    def serve_beside(self) -> None:
        """Have good clients served while a bad one has the server's attention, if the server can."""
        if self._roomy:
            self.serve_one()
        self.ask_friend()

    def make_friend(self) -> None:
        """Have a good client come that stays until the end."""
        if self._roomy:
            self.friend = self.later.enter_context(self.client())
            self.ask_friend()

    def ask_friend(self) -> None:
        if self.friend is not None:
            self.ask(self.friend)

    # Accounts

    def expect(self, kind: type[Any], peer: Any = NOBODY, outcome: str = "", saying: str = "") -> None:
        """Wait for a report, one of those that are due.

        Args:
            kind: of which class.
            peer: the address of the client that it should be about.
            outcome: which counter should count it.
            saying: what should be found in its error.
        """
        known = sum(isinstance(event, kind) for event in self._due)
        event = self.recorder.wait_for(kind, known + 1, TIMEOUT)[known]
        assert getattr(event, "peer", NOBODY) == peer
        assert saying in repr(getattr(event, "error", None))
        self._due.append(event)
        self._outcomes.update([outcome] if outcome else [])

    def settle(self) -> None:
        """Stop the server, and see that it accounts for everything."""
        connected = int(self.friend is not None and self.streams)
        assert self.server.wait(connections=connected, timeout=TIMEOUT)
        report = self.server.stop()
        assert (report.completed, report.cut, report.finished) == (connected, (), True)
        assert report.seconds < SOON
        assert self.server.state is State.CLOSED
        if self.friend is not None and self.streams:
            assert self.friend.recv(1) == b""
        assert [event for event in self.recorder.events if isinstance(event, PROBLEMS)] == self._due
        stats = self.server.stats
        assert stats.accepted == self._accepted
        assert {name: getattr(stats, name) for name in OUTCOMES} == {name: self._outcomes[name] for name in OUTCOMES}
        assert (stats.active, stats.waiting) == (0, 0)
        opened = [event.id for event in self.recorder.of(ConnectionOpened)]
        assert len(opened) == (stats.accepted - stats.rejected if self.streams else 0)
        assert sorted(event.id for event in self.recorder.of(ConnectionClosed)) == opened


def name_of(sock: socket.socket) -> Any:
    """The client's address, as reports have it."""
    name = sock.getsockname()
    return name.decode() if isinstance(name, bytes) else name


class Fault:
    """Something that goes wrong. Each instance happens to one server."""

    streams = True
    datagrams = True
    every_example = True  # or the first one of each transport, for what takes its time
    lonely = False  # whether nobody can be connected before it
    reachable = True  # whether the server can be reached after it

    def concerns(self, transport: Any, strategy: str, handler: str) -> bool:
        """Return whether it can happen to a server of these."""
        return True

    def transport(self, transport: Any) -> Any:
        """Return what is to be served in place of a transport."""
        return transport

    def options(self, streams: bool) -> dict[str, Any]:
        """Return further arguments of the server."""
        return {}

    def answer(self, data: bytes) -> bytes:
        """What the handlers answer, in place of `kit.answer`."""
        return data

    def around(self, server: Server) -> AbstractContextManager[object]:
        """Return what is to be in force from before the server starts until after it has stopped."""
        return nullcontext()

    def inject(self, bench: Bench) -> None:
        """Let it happen, and have good clients served beside it."""
        raise NotImplementedError

    def afterwards(self, bench: Bench) -> None:
        """Look at what the stopped server left."""

    def try_out(self, trial: Trial, folder: Path, recorder: EventRecorder) -> None:
        """Have it happen to a server, with good clients before, beside and after."""
        transport = self.transport(example_of(trial.example, str(folder)))
        streams = IStreamTransport.providedBy(transport)
        server = Server(transport, HANDLERS[trial.handler], trial.strategy, **self.options(streams))
        with ExitStack() as later, patch.object(kit, "answer", self.answer), self.around(server):
            server.subscribe(recorder)
            bench = Bench(server, trial, recorder, later)
            with serving(server):
                if not self.lonely:
                    bench.make_friend()
                self.inject(bench)
                bench.ask_friend()
                if self.reachable:
                    bench.serve_one()
                bench.settle()
            self.afterwards(bench)


def example_of(example: tuple[Any, int], folder: str) -> Any:
    cls, number = example
    return cls.examples(folder)[number]


def over(faults: Mapping[str, Callable[[], Fault]]) -> pytest.MarkDecorator:
    """Parametrize a test with `trial`: each fault of a table with everything that it concerns."""
    cases = [
        pytest.param(
            Trial(make_fault, *combination), id=f"{name}-{example_name(combination[0])}-{'-'.join(combination[1:])}"
        )
        for name, make_fault in faults.items()
        for combination in COMBINATIONS
        if _concerns(make_fault(), *combination)
    ]
    return pytest.mark.parametrize("trial", cases)


def try_out(trial: Trial, folder: Path, recorder: EventRecorder) -> None:
    """Have a fault happen to a server, and settle the accounts."""
    trial.make_fault().try_out(trial, folder, recorder)


def _concerns(fault: Fault, example: tuple[Any, int], strategy: str, handler: str) -> bool:
    transport = example_of(example, "/")
    return (
        (fault.streams if IStreamTransport.providedBy(transport) else fault.datagrams)
        and (fault.every_example or example[1] == 0)
        and fault.concerns(transport, strategy, handler)
    )


def _combinations() -> Iterator[tuple[tuple[Any, int], str, str]]:
    """Whatever is installed and composes."""
    for example in example_ids():
        for strategy in strategy_names():
            for name, handler in HANDLERS.items():
                if explain(example_of(example, "/"), handler, make_strategy(strategy)).composition is not None:
                    yield example, strategy, name


COMBINATIONS = list(_combinations())
