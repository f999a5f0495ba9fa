"""What is done about errors of accept: the table, the pauses, and what becomes of the server."""

import errno
import os
import socket
from contextlib import ExitStack
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from plugsocket import TCP, Server, State, Thread, Trio, log_events
from plugsocket.core.accepting import BACK_OFF, LONGEST_PAUSE, RETRY, AcceptAction, AcceptPolicy, BackOff
from plugsocket.core.engine import BATCH
from plugsocket.core.events import AcceptFailed, AcceptRecovered, ServerFailed
from plugsocket.testing import EventRecorder as Recorder
from plugsocket.testing import FaultyTransport, low_descriptor_limit
from tests.kit import TIMEOUT, ask, async_function, client, function, serving, strategy_names


def faulty_tcp(errors: list[int]) -> FaultyTransport:
    return FaultyTransport(TCP("127.0.0.1", 0), errors)


every_strategy = pytest.mark.parametrize("strategy", strategy_names())


def test_the_table_is_disjoint_and_the_rest_is_fatal() -> None:
    classify = AcceptPolicy().classify
    assert not RETRY & BACK_OFF
    for number in errno.errorcode:
        action = classify(OSError(number, ""))
        expected = (
            AcceptAction.RETRY
            if number in RETRY
            else AcceptAction.BACK_OFF
            if number in BACK_OFF
            else AcceptAction.FATAL
        )
        assert action is expected
    for number in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
        assert classify(OSError(number, "")) is AcceptAction.FATAL
    assert {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR} <= RETRY
    assert {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM} == BACK_OFF


def test_pauses_double_up_to_the_longest() -> None:
    back_off = BackOff()
    pauses = [back_off.fail(now=100.0) for _ in range(8)]
    assert pauses[:3] == [0.01, 0.02, 0.04]
    assert pauses[-1] == LONGEST_PAUSE
    assert back_off.until == 100.0 + LONGEST_PAUSE
    assert len(pauses[:5]) + 1 / LONGEST_PAUSE < 20  # failing accepts in the first second
    back_off.recover()
    assert not back_off.failing
    assert back_off.until is None


@every_strategy
def test_errors_of_one_connection_are_passed_over(strategy: str, recorder: Recorder) -> None:
    transport = faulty_tcp(sorted(RETRY))
    with serving(Server(transport, function, strategy), recorder) as server, client(server) as sock:
        assert ask(sock, b"served all the same") == b"served all the same"
        assert server.stats.accept_errors == len(RETRY)
    assert recorder.events == []


@every_strategy
def test_running_out_is_waited_out_and_reported_once(strategy: str, recorder: Recorder) -> None:
    transport = faulty_tcp([errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
    with serving(Server(transport, function, strategy), recorder) as server, client(server) as sock:
        assert ask(sock, b"served at last") == b"served at last"
        assert server.stats.accept_errors == 3
    failed, recovered = recorder.events
    assert isinstance(failed, AcceptFailed)
    assert (failed.error.errno, failed.action) == (errno.EMFILE, AcceptAction.BACK_OFF)
    assert isinstance(recovered, AcceptRecovered)
    assert recovered.endpoint == failed.endpoint == server.urls[0]


@every_strategy
def test_running_out_for_real_is_waited_out_by_server_and_clients(strategy: str, recorder: Recorder) -> None:
    with serving(Server("tcp://127.0.0.1:0", function, strategy), recorder) as server, ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(3)]
        with low_descriptor_limit(0):
            for sock in socks:
                sock.settimeout(TIMEOUT)
                sock.connect(server.addresses[0])
            (failed,) = recorder.wait_for(AcceptFailed)
            assert server.stats.accepted == 0
        for sock in socks:
            with sock:
                assert ask(sock, b"served at last") == b"served at last"
    assert (failed.error.errno, failed.action) == (errno.EMFILE, AcceptAction.BACK_OFF)
    assert [type(event) for event in recorder.events] == [AcceptFailed, AcceptRecovered]


@every_strategy
def test_an_error_that_should_pass_but_does_not_is_no_spin(strategy: str, recorder: Recorder) -> None:
    transport = faulty_tcp([errno.EPERM] * (2 * BATCH))
    with serving(Server(transport, function, strategy), recorder) as server, client(server) as sock:
        assert ask(sock, b"served at last") == b"served at last"
    assert server.stats.accept_errors == 2 * BATCH
    assert [type(event) for event in recorder.events] == [AcceptFailed, AcceptRecovered]
    assert recorder.events[0].action is AcceptAction.RETRY


@every_strategy
def test_a_listener_that_is_broken_makes_the_server_fail(strategy: str, recorder: Recorder) -> None:
    transport = faulty_tcp([errno.EINVAL])
    server = Server(transport, function, strategy)
    with serving(server, recorder), socket.create_connection(server.addresses[0]):
        assert server.wait(state=State.FAILED, timeout=TIMEOUT)
        assert transport.listeners[0].fileno() == -1
        recorder.wait_for(ServerFailed)
    assert isinstance(server.cause, OSError)
    assert server.cause.errno == errno.EINVAL
    assert [type(event) for event in recorder.events] == [AcceptFailed, ServerFailed]
    assert server.stop() is server.report


@pytest.mark.parametrize("strategy", [Thread(), Trio()], ids=["thread", "trio"])
def test_serve_forever_raises_what_made_the_server_fail(strategy: Any) -> None:
    transport = faulty_tcp([errno.ENOTSOCK])
    server = Server(transport, function, strategy)
    server.unsubscribe(log_events)
    server.bind()
    with (
        socket.create_connection(server.addresses[0]),
        pytest.raises(OSError, match=os.strerror(errno.ENOTSOCK)) as caught,
    ):
        server.serve_forever()
    assert caught.value is server.cause
    assert server.state is State.FAILED


def test_a_second_out_of_descriptors_on_a_mock_clock() -> None:
    """Fewer than 20 attempts in a second of failing, and served once it is over, without a real second."""
    transport = faulty_tcp([errno.EMFILE] * 8)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(Server(transport, async_function, Trio()).serve)
            async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
            elapsed = trio.current_time() - began
            assert 1.0 <= elapsed < 1.6
            await server.stop_async()

    clock = MockClock(autojump_threshold=0)
    began = clock.current_time()
    trio.run(main, clock=clock)
    assert len(transport.attempts) < 20
