"""What peers do: they reset, end, say nothing, or take their time; nobody else notices."""

import select
import socket
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

from plugsocket import Deadlines
from plugsocket.core.events import HandlerFailed
from plugsocket.testing import EventRecorder
from tests.faults import SHORT, Bench, Fault, Trial, name_of, over, try_out
from tests.kit import TIMEOUT, receive

RESET = struct.pack("ii", 1, 0)  # lingering for no time (SO_LINGER, socket(7)): closing resets, over TCP


class OfPeers(Fault):
    datagrams = False


class ResetBeforeAccept(OfPeers):
    """The client is gone when the server gets to see it."""

    def inject(self, bench: Bench) -> None:
        bench.server.pause()
        with bench.client() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            is_reset = sock.family != socket.AF_UNIX  # of which a peer sees nothing but the end, if nothing was sent
            name = name_of(sock)
        bench.server.resume()
        if is_reset:
            bench.expect(HandlerFailed, name, "disconnected")


class ResetInMidRequest(OfPeers):
    """The client goes without having read what it was sent, which resets also a Unix socket."""

    def inject(self, bench: Bench) -> None:
        with bench.client() as sock:
            sock.sendall(b"the beginning")
            assert select.select([sock], [], [], TIMEOUT)[0]
            bench.serve_beside()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            name = name_of(sock)
        bench.expect(HandlerFailed, name, "disconnected")


class HalfClose(OfPeers):
    """The client has said everything, and reads on."""

    def inject(self, bench: Bench) -> None:
        with bench.client() as sock:
            sock.sendall(b"all there is")
            sock.shutdown(socket.SHUT_WR)
            bench.serve_beside()
            assert receive(sock, 65_536) == b"all there is"  # and end of file


class Silent(OfPeers):
    """The client says nothing."""

    every_example = False

    def options(self, streams: bool) -> dict[str, Any]:
        return {"deadlines": Deadlines(first_byte=SHORT)}

    def inject(self, bench: Bench) -> None:
        began = time.monotonic()
        with bench.client() as sock:
            bench.serve_beside()
            assert sock.recv(1) == b""
            assert time.monotonic() - began >= SHORT / 2
            bench.expect(HandlerFailed, name_of(sock), "timed_out", f"no byte came within {SHORT} s")


class AByteNowAndThen(OfPeers):
    """The client is never silent for long, and never done.

    Args:
        pause: seconds between two bytes.
    """

    every_example = False
    lonely = True  # a connection of a friend would be as long

    def __init__(self, pause: float) -> None:
        self._pause = pause

    def options(self, streams: bool) -> dict[str, Any]:
        return {"deadlines": Deadlines(request=SHORT, idle=TIMEOUT)}

    def answer(self, data: bytes) -> bytes:
        return b"" if data.startswith(b"x") else data

    def inject(self, bench: Bench) -> None:
        with bench.client() as sock:
            bench.serve_beside()
            while not select.select([sock], [], [], self._pause)[0]:
                sock.sendall(b"x")
            assert sock.recv(1) == b""
            bench.expect(HandlerFailed, name_of(sock), "timed_out", f"the request took longer than {SHORT} s")


@over(
    {
        "reset_before_accept": ResetBeforeAccept,
        "reset_in_mid_request": ResetInMidRequest,
        "half_close": HalfClose,
        "silent": Silent,
        "a_byte_now_and_then": partial(AByteNowAndThen, SHORT / 10),
        "one_byte_after_the_other": partial(AByteNowAndThen, 0.001),
    }
)
def test_nobody_else_notices(trial: Trial, tmp_path: Path, recorder: EventRecorder) -> None:
    try_out(trial, tmp_path, recorder)
