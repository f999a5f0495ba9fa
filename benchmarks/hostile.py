"""Clients of every temper, for the soak: good ones, and those that a server on the open internet meets.

Raw sockets and one `poll`, as in `load.py`: the clients have to cost less than what they wear out.
"""

import random
import select
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import attrs
from load import AT_ONCE, CLOSED, HOST, PATIENCE, RESET

SEED = 5  # any number; a fixed one, so that every strategy meets the same clients in the same order
NUMBER = b"#"  # where the number of the client stands in what it says
FLOOD = bytes(262_144)  # more than the kernel keeps for a peer that does not read, so that the handler has to wait
SMALL_BUFFER = 4096  # bytes; the receive buffer of such a peer
SMALL_SEGMENT = 1400  # bytes, as over Ethernet; with loopback's 64 KiB the kernel would keep megabytes
HELD = 8  # clients that keep their connections for no purpose; the oldest goes when another one comes
QUIET = 2  # milliseconds without any answer after which all of these go: a strategy may have no slot but theirs


@attrs.frozen
class Kind:
    """How a client behaves.

    Attributes:
        name: what it does.
        share: how many of a hundred clients do it.
        says: what it sends; `NUMBER` in it becomes its own.
        half_closes: whether it sends end of file after that, and goes on receiving.
        waits_for: the event of `poll` that it waits for; `None` for none.
        answer: what has to have come until end of file, as `says`; `None` where nobody looks.
        held: whether it keeps the connection for a while, neither sending nor receiving.
        resets: whether it closes with a reset.
    """

    name: str
    share: int
    says: bytes = b""
    half_closes: bool = False
    waits_for: int | None = None
    answer: bytes | None = None
    held: bool = False
    resets: bool = True


LINE, PART = b"request #\n", b"request #"
GOOD = Kind("sends a line and reads it back", 60, LINE, waits_for=CLOSED, answer=LINE)
RAISES = Kind("makes the handler raise", 7, b"raise #\n", waits_for=CLOSED, answer=b"")
SILENT = Kind("says nothing", 6, held=True, resets=False)
KINDS = (
    GOOD,
    RAISES,
    SILENT,
    Kind("sends end of file and reads on", 7, PART, half_closes=True, waits_for=CLOSED, answer=PART),
    Kind("resets at once", 7),
    Kind("resets in mid request", 7, PART, waits_for=select.POLLIN),
    Kind("sends and never reads", 6, FLOOD, held=True),
)


def mixture(count: int) -> list[Kind]:
    """Draw so many clients; the same ones every time."""
    return random.Random(SEED).choices(KINDS, [kind.share for kind in KINDS], k=count)  # noqa: S311 - no secret


@attrs.frozen
class _Client:
    """One that waits for the server."""

    sock: socket.socket
    kind: Kind
    number: bytes

    def was_served(self) -> bool:
        """Whether the answer is what it has to be, and nothing but end of file after it."""
        assert self.kind.answer is not None, "it wants an answer"
        expected = self.kind.answer.replace(NUMBER, self.number)
        try:
            return self.sock.recv(len(expected) + 1, socket.MSG_WAITALL) == expected
        except ConnectionError:
            return False


class Crowd:
    """Clients of one server.

    Args:
        port: where it listens.

    Attributes:
        connected: how many connections were made.
        served: how many clients that wanted an answer got the right one.
        wrong: how many got another one, or none.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._poll = select.poll()
        self._waiting: dict[int, _Client] = {}
        self._held: deque[socket.socket] = deque()
        self.connected = self.served = self.wrong = 0

    def run(self, kinds: Iterable[Kind]) -> None:
        """Send a client of each kind, `AT_ONCE` of them at the same time, and wait for the last one.

        Raises:
            OSError: a connection failed.
            TimeoutError: nothing came back any more.
        """
        for kind in kinds:
            self._begin(kind)
            while len(self._waiting) + len(self._held) >= AT_ONCE:
                self._turn()
        while self._waiting or self._held:
            self._turn()

    @contextmanager
    def silent_ones(self) -> Iterator[None]:
        """Have `AT_ONCE` silent clients connected for the length of a block."""
        with ExitStack() as socks:
            for _ in range(AT_ONCE):
                socks.enter_context(self._connect(SILENT))
            yield

    def _connect(self, kind: Kind) -> socket.socket:
        self.connected += 1
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if kind.says is FLOOD:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)  # both before connecting: tcp(7)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
        if kind.resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.connect((HOST, self._port))
        return sock

    def _begin(self, kind: Kind) -> None:
        sock = self._connect(kind)
        number = b"%d" % self.connected
        if kind.says:
            _send_what_fits(sock, kind.says.replace(NUMBER, number))
        if kind.half_closes:
            sock.shutdown(socket.SHUT_WR)
        if kind.waits_for is not None:
            self._poll.register(sock, kind.waits_for)
            self._waiting[sock.fileno()] = _Client(sock, kind, number)
        elif kind.held:
            self._held.append(sock)
            if len(self._held) > HELD:
                self._held.popleft().close()
        else:
            sock.close()

    def _turn(self) -> None:
        ready = self._poll.poll(QUIET if self._held else PATIENCE)
        if not ready and not self._held:
            raise TimeoutError(f"{len(self._waiting)} connections got no answer")
        if not ready:
            while self._held:
                self._held.popleft().close()
        for fileno, _ in ready:
            self._end(self._waiting.pop(fileno))

    def _end(self, client: _Client) -> None:
        if client.kind.answer is not None:
            if client.was_served():
                self.served += 1
            else:
                self.wrong += 1
        self._poll.unregister(client.sock)
        client.sock.close()


def _send_what_fits(sock: socket.socket, message: bytes) -> None:
    """Send until the kernel takes no more: who sends and never reads would wait for ever."""
    try:
        with memoryview(message) as view:
            sent = 0
            while sent < len(view):
                sent += sock.send(view[sent:], socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
