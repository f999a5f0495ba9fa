"""The kit for tests: the recorder of events, and that its faults come as ordered, as often as ordered, and go away."""

import errno
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from zope.interface import Interface, alsoProvides, providedBy
from zope.interface.verify import verifyObject

from plugsocket import TCP, UDP, OptionError, Server, Thread, explain
from plugsocket.core.accepting import AcceptAction
from plugsocket.core.events import AcceptFailed, AcceptRecovered, CloseFailed, Event
from plugsocket.core.interfaces import IListener, ITransport
from plugsocket.testing import EventRecorder, FaultyTransport, failing_forks, failing_threads, low_descriptor_limit
from tests.kit import TIMEOUT, ask, client, example_ids, example_name, function, serving, strategy_names

RECOVERED = AcceptRecovered("tcp://127.0.0.1:1")
FAILED = AcceptFailed("tcp://127.0.0.1:1", OSError(errno.EMFILE, "too many"), AcceptAction.BACK_OFF)


# The recorder


def test_what_came_is_kept_in_order_and_by_kind() -> None:
    recorder = EventRecorder()
    came: list[Event] = [FAILED, RECOVERED, FAILED]
    for event in came:
        recorder(event)
    assert recorder.events == came
    assert recorder.of(AcceptFailed) == [FAILED, FAILED]
    assert recorder.of(CloseFailed) == []
    recorder.events.clear()
    assert recorder.of(AcceptFailed) == []


def test_waiting_ends_when_enough_came() -> None:
    recorder = EventRecorder()
    recorder(RECOVERED)
    assert recorder.wait_for(AcceptRecovered, timeout=0) == [RECOVERED]
    found: list[list[AcceptFailed]] = []
    waiter = threading.Thread(target=lambda: found.append(recorder.wait_for(AcceptFailed, 2, TIMEOUT)))
    waiter.start()
    for event in (FAILED, RECOVERED):
        recorder(event)
    assert waiter.is_alive()
    recorder(FAILED)
    waiter.join(TIMEOUT)
    assert found == [[FAILED, FAILED]]


def test_waiting_in_vain_says_what_came() -> None:
    recorder = EventRecorder()
    with pytest.raises(AssertionError, match=r"^0 of 1 AcceptFailed came in 0 s; what came:\n  nothing$"):
        recorder.wait_for(AcceptFailed, timeout=0)
    recorder(FAILED)
    recorder(RECOVERED)
    with pytest.raises(AssertionError) as caught:
        recorder.wait_for(AcceptFailed, 2, timeout=0.001)
    assert str(caught.value).splitlines() == [
        "1 of 2 AcceptFailed came in 0.001 s; what came:",
        f"  AcceptFailed: {FAILED}",
        f"  AcceptRecovered: {RECOVERED}",
    ]


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_a_wrong_count_to_wait_for(count: Any) -> None:
    with pytest.raises(OptionError, match=f"^count must be a whole number of at least 1, not {count!r}$"):
        EventRecorder().wait_for(AcceptFailed, count)


@pytest.mark.parametrize("timeout", [-1, "1", None, float("nan")])
def test_a_wrong_time_to_wait(timeout: Any) -> None:
    with pytest.raises(OptionError, match=f"^timeout must be a number of seconds, zero or more, not {timeout!r}$"):
        EventRecorder().wait_for(AcceptFailed, timeout=timeout)


# Errors of accept


@contextmanager
def listening(transport: FaultyTransport) -> Iterator[Any]:
    with closing(transport.listen()) as listener:
        yield listener


def knock(listener: Any) -> socket.socket:
    """Connect, and wait until the listener can tell."""
    sock = socket.create_connection(listener.address, TIMEOUT)
    assert select.select([listener], [], [], TIMEOUT)[0]
    return sock


def take(listener: Any) -> None:
    """Have a client connect, and accept it."""
    with knock(listener) as sock, closing(listener.accept()) as request:
        assert request.peer == sock.getsockname()


@pytest.mark.parametrize("example", list(example_ids()), ids=example_name)
def test_it_is_of_the_kind_of_what_it_wraps(example: tuple[Any, int], tmp_path: Path) -> None:
    cls, number = example
    wrapped = cls.examples(str(tmp_path))[number]
    transport = FaultyTransport(wrapped, [errno.EMFILE])
    assert list(providedBy(transport)) == list(providedBy(wrapped))
    assert verifyObject(ITransport, transport)
    assert transport.scheme == wrapped.scheme
    for strategy in strategy_names():
        assert explain(transport, function, strategy).problem is None
    with listening(transport) as listener:
        assert verifyObject(IListener, listener)
        assert os.fstat(listener.fileno())
        assert listener.address == listener._listener.address
    assert listener.fileno() == -1


def test_it_has_what_was_declared_of_one_instance() -> None:
    class IMine(Interface):
        pass

    wrapped = FaultyTransport("tcp://127.0.0.1:0")
    alsoProvides(wrapped, IMine)
    assert IMine.providedBy(FaultyTransport(wrapped))


def test_errors_come_in_their_order_and_then_it_works() -> None:
    last = OSError(errno.EPROTO, "of my own")
    transport = FaultyTransport("tcp://127.0.0.1:0", [errno.ECONNABORTED, None, errno.EMFILE, last])
    with listening(transport) as listener:
        with pytest.raises(ConnectionAbortedError, match=os.strerror(errno.ECONNABORTED)):
            listener.accept()
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                listener.accept()  # nobody is there, so that nobody was let through
        take(listener)
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)) as caught:
            listener.accept()
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(OSError, match="of my own") as caught:
            listener.accept()
        assert caught.value is last
        for _ in range(2):
            take(listener)


def test_every_listener_goes_through_the_list() -> None:
    transport = FaultyTransport(TCP("127.0.0.1", 0), iter([errno.EMFILE]))
    for count in (1, 2):
        with listening(transport) as listener:
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                listener.accept()
            take(listener)
            assert transport.listeners[-1] is listener
        assert len(transport.attempts) == 2 * count


def test_attempts_are_told_with_their_times() -> None:
    transport = FaultyTransport(TCP("127.0.0.1", 0), [errno.EMFILE] * 4)
    with serving(Server(transport, function, "sync")) as server:
        before = time.monotonic()
        with client(server) as sock:
            assert ask(sock, b"served at last") == b"served at last"
    after = time.monotonic()  # until the server was stopped, it looked whether others came
    attempts = transport.attempts
    assert len(attempts) >= 5
    assert before <= attempts[0]
    assert attempts[-1] <= after
    pauses = [later - earlier for earlier, later in pairwise(attempts)]
    assert [pause >= least for pause, least in zip(pauses, (0.01, 0.02, 0.04, 0.08), strict=False)] == [True] * 4


def test_datagrams() -> None:
    transport = FaultyTransport(UDP("127.0.0.1", 0), [errno.ENOBUFS])
    with serving(Server(transport, function, "sync")) as server, client(server) as sock:
        assert ask(sock, b"hello") == b"hello"
        assert server.stats.accept_errors == 1


def test_a_transport_to_wrap_that_is_none() -> None:
    with pytest.raises(OptionError, match=r"^FaultyTransport: transport must be a transport or its string, not <class"):
        FaultyTransport(TCP)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", ["EMFILE", 0, -1, 99_999, True, [], 24.5, ValueError()])
def test_errors_that_accept_does_not_raise(number: Any) -> None:
    with pytest.raises(OptionError) as caught:
        FaultyTransport("tcp://127.0.0.1:0", [None, number])
    assert str(caught.value) == f"each of errors must be an error number such as errno.EMFILE, not {number!r}"


def test_errors_that_are_no_list() -> None:
    with pytest.raises(OptionError, match=r"^FaultyTransport: errors must be a list of error numbers.* not 24$"):
        FaultyTransport("tcp://127.0.0.1:0", 24)  # type: ignore[arg-type]


def test_how_it_is_shown() -> None:
    shown = repr(FaultyTransport("tcp://127.0.0.1:0", [errno.EMFILE, None]))
    assert shown == f"FaultyTransport({TCP('127.0.0.1', 0)!r}, [{OSError(24, os.strerror(24))!r}, None])"


# What cannot be started


def start(name: str) -> None:
    thread = threading.Thread(target=lambda: None, name=name)
    thread.start()
    thread.join(TIMEOUT)


def test_threads_fail_as_often_as_ordered() -> None:
    original = threading.Thread.start
    with failing_threads(2) as failures:
        assert failures.delivered == 0
        start("another")
        for count in (1, 2):
            with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
                start("plugsocket-1")
            assert failures.delivered == count
        start("plugsocket-1")
    assert failures.delivered == 2
    assert threading.Thread.start is original


def test_threads_of_one_s_own_with_an_error_of_one_s_own() -> None:
    error = MemoryError("no stack")
    with failing_threads(1, error, prefix="mine") as failures:
        start("plugsocket-1")
        with pytest.raises(MemoryError) as caught:
            start("mine-1")
    assert caught.value is error
    assert failures.delivered == 1


def test_the_servers_own_threads_start() -> None:
    with failing_threads(1) as failures, serving(Server("tcp://127.0.0.1:0", function, Thread())):
        pass
    assert failures.delivered == 0


def test_forks_fail_as_often_as_ordered() -> None:
    original = os.fork
    with failing_forks(1) as first:
        with pytest.raises(BlockingIOError, match=os.strerror(errno.EAGAIN)):
            os.fork()
        with failing_forks(2, errno=errno.ENOMEM) as second:
            for _ in range(2):
                with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
                    os.fork()
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert (first.delivered, second.delivered) == (1, 2)
    assert os.fork is original


@pytest.mark.parametrize("fails", [failing_threads, failing_forks])
def test_everything_is_restored_when_the_block_raises(fails: Callable[[int], Any]) -> None:
    originals = (threading.Thread.start, os.fork)
    with suppress(KeyError), fails(5):
        assert (threading.Thread.start, os.fork) != originals
        raise KeyError
    assert (threading.Thread.start, os.fork) == originals


def test_starts_that_race_fail_as_often_as_ordered() -> None:
    racers, starts, times = 4, 100, 200
    ready = threading.Barrier(racers)
    raised: list[RuntimeError] = []

    def race() -> None:
        ready.wait(TIMEOUT)
        for _ in range(starts):
            try:
                start("plugsocket-1")
            except RuntimeError as error:
                raised.append(error)

    threads = [threading.Thread(target=race) for _ in range(racers)]
    with failing_threads(times) as failures:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
    assert len(raised) == failures.delivered == times


@pytest.mark.parametrize("fails", [failing_threads, failing_forks])
@pytest.mark.parametrize("times", [0, -1, True, 1.5, None])
def test_a_wrong_number_of_failures(fails: Callable[[Any], Any], times: Any) -> None:
    with pytest.raises(OptionError, match=f"^times must be a whole number of at least 1, not {times!r}$"), fails(times):
        pass


def test_failures_of_a_wrong_kind() -> None:
    with pytest.raises(OptionError, match=r"^errno must be an error number such as errno\.EMFILE, not 99999$"):
        failing_forks(1, errno=99_999).__enter__()
    with pytest.raises(OptionError, match=r"^error must be an exception or None, not 'none'$"):
        failing_threads(1, "none").__enter__()  # type: ignore[arg-type]


# Descriptors


@pytest.mark.parametrize("spare", [0, 1, 5])
def test_so_many_descriptors_can_be_opened_and_no_more(spare: int) -> None:
    """Holes among those that are open count as spare, as the system fills them first."""
    with ExitStack() as opened:
        pairs = [socket.socketpair() for _ in range(3)]
        for pair in pairs:
            pair[0].close()
            opened.enter_context(pair[1])
        with low_descriptor_limit(spare):
            for _ in range(spare):
                opened.enter_context(socket.socket())
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)) as caught:
                opened.enter_context(socket.socket())
            assert caught.value.errno == errno.EMFILE
        opened.enter_context(socket.socket())


def test_the_limit_is_restored_when_the_block_raises() -> None:
    with socket.socket() as above, suppress(KeyError), low_descriptor_limit(1), low_descriptor_limit(0):
        assert above.fileno() > 0
        raise KeyError
    with ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(socket.socket())


@pytest.mark.parametrize(
    ("spare", "message"),
    [
        (-1, "spare must be a whole number of at least 0, not -1"),
        ("1", "spare must be a whole number of at least 0, not '1'"),
        (10, "spare must be at most what the limit of {} descriptors leaves, not 10"),
    ],
)
def test_wrong_numbers_of_descriptors(spare: Any, message: str) -> None:
    with low_descriptor_limit(9):
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        with pytest.raises(OptionError) as caught, low_descriptor_limit(spare):
            pass
        with low_descriptor_limit(9):  # which is what there is
            pass
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit
    assert str(caught.value) == message.format(limit)
