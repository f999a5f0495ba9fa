"""The hook that says who is welcome."""

import itertools
import socket
from pathlib import Path
from typing import Any

import pytest

from plugsocket import Limits, OptionError, Server
from plugsocket.core.events import ConnectionRejected, DatagramDropped, HookFailed, LimitReached
from plugsocket.testing import EventRecorder as Recorder
from tests.kit import HANDLERS, ask, client, function
from tests.limiting import ENDPOINT, PEERS, from_host, limited
from tests.test_matrix import COMPOSING, EXAMPLES, endpoint_of, over


def refuses(request: Any) -> bool:
    return False


def fails(request: Any) -> bool:
    raise RuntimeError("no idea")


def exits(request: Any) -> bool:
    raise SystemExit(3)


@pytest.mark.parametrize("verify", [refuses, fails, exits])
@over(EXAMPLES, [pair for pair in COMPOSING if pair[1] in {"function", "async"}])
def test_verify(
    example: Any, strategy_name: str, handler_name: str, verify: Any, tmp_path: Path, recorder: Recorder
) -> None:
    """The first request meets the hook; those that come later do not."""
    numbers = itertools.count()

    def hook(request: Any) -> bool:
        return bool(next(numbers)) or verify(request)

    endpoint = endpoint_of(example, tmp_path)
    with limited(endpoint, HANDLERS[handler_name], strategy_name, Limits(), verify=hook, recorder=recorder) as server:
        with client(server) as first:
            if first.type == socket.SOCK_STREAM:
                assert first.recv(1) == b""
                (turned_away,) = recorder.wait_for(ConnectionRejected)
            else:
                first.send(b"nobody hears it")
                (turned_away,) = recorder.wait_for(DatagramDropped)
            assert (turned_away.id, turned_away.reason) == (1, "verify")
        with client(server) as second:
            assert ask(second, b"hello") == b"hello"
    assert server.stats.rejected + server.stats.dropped == 1
    failures = recorder.of(HookFailed)
    assert [failure.hook for failure in failures] == ["verify"] * (verify is not refuses)
    assert len(recorder.of(LimitReached)) == 0


def test_verify_sees_the_peer() -> None:
    with (
        limited(ENDPOINT, function, "thread", Limits(), verify=lambda request: request.peer.host == PEERS[1]) as server,
        from_host(server, PEERS[0]) as stranger,
        from_host(server, PEERS[1]) as friend,
    ):
        assert stranger.recv(1) == b""
        assert ask(friend, b"hello") == b"hello"


def test_an_async_hook_lets_nobody_in_by_accident() -> None:
    async def verify(request: Any) -> bool:
        return False

    with pytest.raises(OptionError, match="verify"):
        Server(ENDPOINT, function, verify=verify)


def test_the_hook_cannot_be_set_afterwards_by_accident() -> None:
    server: Any = Server(ENDPOINT, function)
    with pytest.raises(AttributeError, match="verify"):
        server.verify = bool
    assert server.verify is None
