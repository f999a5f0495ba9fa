"""What the program does with which a server was composed: its handlers, hooks, subscribers and log raise, or die."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from plugsocket import Answer, Limits, Server, log_events
from plugsocket.core.events import HandlerFailed, HookFailed
from plugsocket.testing import EventRecorder
from tests.faults import Bench, Fault, Trial, name_of, over, try_out

FAULT = b"fault"  # at the sight of which handlers go wrong


class OddError(BaseException):
    """Derived from what nobody should derive from."""


def value_error() -> NoReturn:
    raise ValueError


def odd_error() -> NoReturn:
    raise OddError


def memory_error() -> NoReturn:
    bytearray(sys.maxsize)  # more than there is, on any machine
    raise AssertionError


def exit_with_status() -> NoReturn:
    os._exit(3)


def kill_itself() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class HandlerGoesWrong(Fault):
    """A handler raises, or ends its process: the request is over, and reported once.

    Args:
        go_wrong: what happens in it.
        saying: what reports say.
    """

    def __init__(self, go_wrong: Callable[[], NoReturn], saying: str) -> None:
        self._go_wrong = go_wrong
        self._saying = saying

    def answer(self, data: bytes) -> bytes:
        if data == FAULT:
            self._go_wrong()
        return data

    def inject(self, bench: Bench) -> None:
        with bench.client() as sock:
            bench.say(sock, FAULT)
            bench.expect(HandlerFailed, name_of(sock), "failed", self._saying)
            bench.serve_beside()
            if bench.streams:
                assert sock.recv(1) == b""


class ProcessGoesWrong(HandlerGoesWrong):
    """The same, where the process is the request's own."""

    def concerns(self, transport: Any, strategy: str, handler: str) -> bool:
        return strategy == "fork"


class SubscriberRaises(HandlerGoesWrong):
    """A subscriber raises at every event: the others are told, and the log says so.

    Args:
        error: what it raises.
    """

    every_example = False

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(value_error, "ValueError")
        self._error = error

    def raising(self, _event: object) -> None:
        raise self._error

    @contextmanager
    def around(self, server: Server) -> Iterator[None]:
        server.subscribe(self.raising)
        records: list[logging.LogRecord] = []
        with log_handler(records.append):
            yield
        said = [record.getMessage() for record in records if record.exc_info and record.exc_info[0] is self._error]
        assert any("failed for: handler failed for" in message for message in said)


class LogRaises(HandlerGoesWrong):
    """A handler of the log raises at every record.

    Args:
        error: what it raises.
    """

    every_example = False

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(value_error, "ValueError")
        self._error = error
        self._asked = 0

    def raising(self, _record: logging.LogRecord) -> None:
        self._asked += 1
        raise self._error

    @contextmanager
    def around(self, server: Server) -> Iterator[None]:
        server.subscribe(partial(log_events), HandlerFailed)  # log_events itself, the tests' servers do without
        with log_handler(self.raising):
            yield
        assert self._asked


@contextmanager
def log_handler(emit: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    """Have the records of the server passed to a function."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            emit(record)

    handler, logger = Handler(), logging.getLogger("plugsocket")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class VerifyRaises(Fault):
    """The hook that says who is welcome raises: who it was about is not.

    Args:
        error: what it raises.
    """

    every_example = False

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error
        self._armed = False

    def verify(self, _request: object) -> bool:
        if self._armed:
            raise self._error
        return True

    def options(self, streams: bool) -> dict[str, Any]:
        return {"verify": self.verify}

    def inject(self, bench: Bench) -> None:
        self._armed = True
        with bench.client() as sock:
            if bench.streams:
                assert sock.recv(1) == b""
            else:
                bench.say(sock, b"in vain")
            bench.expect(HookFailed, name_of(sock), "rejected" if bench.streams else "dropped", self._error.__name__)
        self._armed = False
        bench.serve_beside()


class FarewellRaises(Fault):
    """The function that says what a client gets which is one too many raises: it gets nothing.

    Args:
        error: what it raises.
    """

    datagrams = False
    every_example = False
    lonely = True

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def farewell(self, _peer: object) -> bytes:
        raise self._error

    def concerns(self, transport: Any, strategy: str, handler: str) -> bool:
        return strategy != "sync"  # whose loop has no time for those

    def options(self, streams: bool) -> dict[str, Any]:
        return {"limits": Limits(max_connections=1, overload=Answer(self.farewell))}

    def inject(self, bench: Bench) -> None:
        with bench.client() as only:
            bench.ask(only)
            with bench.client() as sock:
                assert sock.recv(1) == b""
                bench.expect(HookFailed, name_of(sock), "rejected", self._error.__name__)
            bench.ask(only)
        assert bench.server.wait(connections=0)


FAULTS: dict[str, Callable[[], Fault]] = {
    "exception": partial(HandlerGoesWrong, value_error, "ValueError"),
    "base_exception": partial(HandlerGoesWrong, odd_error, "OddError"),
    "system_exit": partial(HandlerGoesWrong, partial(sys.exit, 3), "SystemExit"),
    "memory_error": partial(HandlerGoesWrong, memory_error, "MemoryError"),
    "exit": partial(ProcessGoesWrong, exit_with_status, "exited with status 3"),
    "kill": partial(ProcessGoesWrong, kill_itself, "was killed by SIGKILL"),
    "subscriber": partial(SubscriberRaises, ValueError),
    "subscriber_exits": partial(SubscriberRaises, SystemExit),
    "log": partial(LogRaises, OSError),
    "log_exits": partial(LogRaises, SystemExit),
    "verify": partial(VerifyRaises, ValueError),
    "verify_exits": partial(VerifyRaises, SystemExit),
    "farewell": partial(FarewellRaises, ValueError),
    "farewell_exits": partial(FarewellRaises, SystemExit),
}


@over(FAULTS)
def test_the_others_are_served(trial: Trial, tmp_path: Path, recorder: EventRecorder) -> None:
    try_out(trial, tmp_path, recorder)
