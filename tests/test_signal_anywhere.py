"""A signal between any two lines that the serving thread runs: the server ends, soon and well."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import plugsocket
from plugsocket import TCP, Server, State
from tests.interruption import Interruption
from tests.kit import function, strategy_names

SOON = 5.0  # seconds; a server that waits for itself takes its grace, which is longer


def counts(frame: FrameType) -> bool:
    """Not a line of the signal handler itself: Python runs it for the second signal once more, not inside the first."""
    return frame.f_code.co_name != "on_signal"


@pytest.fixture
def harmless() -> Iterator[None]:
    """A signal that comes when the server is over, and its handlers are removed, does nothing."""
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, previous)


def run_interrupted(make_strategy: Callable[[], Any], number: int) -> tuple[str, str]:
    """Serve; interrupt at the n-th line, and once the server accepts. Return where, and what went wrong."""
    server = Server(TCP("127.0.0.1", 0), function, make_strategy(), grace=2 * SOON)
    interruption = Interruption(number, counts)
    before, began = sys.gettrace(), time.monotonic()
    sys.settrace(interruption)
    try:
        report = server.run(started=lambda _: signal.raise_signal(signal.SIGTERM))
        outcome = "" if report.finished and server.state is State.CLOSED else f"{server!r} {report}"
    except Exception as error:  # noqa: BLE001 - a finding, told with the line
        outcome = repr(error)
    finally:
        sys.settrace(before)
    if time.monotonic() - began > SOON:
        outcome += " took too long"
    return interruption.where, outcome


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("strategy", strategy_names())
def test_a_signal_at_any_line(strategy: str) -> None:
    make_strategy = type(plugsocket.strategy(strategy))  # named once: a name is looked up in what is installed
    wrong = {}
    number = 0
    while True:
        number += 1
        where, outcome = run_interrupted(make_strategy, number)
        if not where:
            break
        if outcome:
            wrong[where] = outcome
    assert number > 200  # so many lines there are at least, from binding to the end
    assert not wrong
