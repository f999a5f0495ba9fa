"""Limits and policies that cannot work are refused when they are made; strings mean what objects do."""

from collections.abc import Callable
from typing import Any

import pytest

from plugsocket import Answer, Limits, OptionError, Reject, Server, Wait
from plugsocket.core.errors import UnknownOptionError
from tests.kit import ask, client, function
from tests.limiting import ENDPOINT, FAREWELL, limited


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_connections": 0}, "max_connections must be a whole number of at least 1 or None, not 0"),
        ({"max_connections": 1.5}, "not 1.5"),
        ({"max_connections": True}, "not True"),
        ({"max_connections": "5"}, "not '5'"),
        ({"max_per_peer": -1}, "max_per_peer must be a whole number of at least 1 or None, not -1"),
        ({"overload": "rejekt"}, "there is no overload policy 'rejekt'; did you mean 'reject'"),
        ({"overload": "drop"}, "known: answer, queue, reject, wait"),
        ({"overload": 5}, "overload must be an overload policy or its string, such as 'reject', not 5"),
        ({"overload": None}, "not None"),
        ({"overload": Reject}, "overload must be an overload policy"),
        ({"overload": "wait"}, "Wait needs the option 'seconds', which the string does not give"),
        ({"overload": "wait?seconds=soon"}, "seconds must be a number, not 'soon'"),
        ({"overload": "wait?seconds=-1"}, "seconds must be a number of seconds, zero or more, not -1"),
        ({"overload": "wait?seconds=nan"}, "seconds must be a number of seconds, zero or more, not nan"),
        ({"overload": "wait?seconds=1&rooms=3"}, "Wait has no option 'rooms'; did you mean 'room'"),
        ({"overload": "wait?seconds=1&room=0"}, "room must be a whole number of at least 1, not 0"),
        ({"overload": "wait?seconds=1&then=nothing"}, "'nothing'"),
        ({"overload": "answer"}, "Answer needs the option 'reply'"),
        ({"overload": "reject?seconds=1"}, "Reject has no option 'seconds'"),
        ({"max_connection": 5}, "Limits has no option 'max_connection'; did you mean 'max_connections'"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, UnknownOptionError)) as caught:
        Limits(**options)
    assert message in str(caught.value)


async def is_async(peer: Any) -> bytes:
    return FAREWELL


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: Answer("text"),
            "reply must be bytes, or a plain function from the peer's address to bytes, not 'text'",
        ),  # type: ignore[arg-type]
        (lambda: Answer(is_async), "a plain function from the peer's address to bytes, not <function is_async"),  # type: ignore[arg-type]
        (lambda: Wait("1"), "seconds must be a number of seconds, zero or more, not '1'"),  # type: ignore[arg-type]
        (lambda: Server(ENDPOINT, function, limits=5), "limits must be Limits(...), not 5"),  # type: ignore[arg-type]
        (lambda: Server(ENDPOINT, function, verify="no"), "verify must be a plain function that takes a request"),  # type: ignore[arg-type]
        (lambda: Server(ENDPOINT, function, deadlines=3), "deadlines must be Deadlines(...), not 3"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused_elsewhere(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        wrong()
    assert message in str(caught.value)


def test_limits_that_are_none_leave_the_server_as_it_was() -> None:
    with limited(ENDPOINT, function, "thread", Limits(max_connections=5)) as server, client(server) as sock:
        with pytest.raises(OptionError, match=r"limits must be Limits"):
            server.limits = 7  # type: ignore[assignment]
        assert server.limits == Limits(max_connections=5)
        assert ask(sock, b"hello") == b"hello"


def test_policies_and_their_strings_are_the_same() -> None:
    assert Limits(overload="queue") == Limits()
    assert Limits(overload="reject").overload == Reject()
    assert Limits(overload="wait?seconds=2&room=7&then=reject").overload == Wait(2.0, room=7)
    assert Limits(overload="answer?reply=b%C3%BCsy").overload == Answer("büsy".encode())
