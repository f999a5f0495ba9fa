"""The account of one connection: what went over it, whether an answer is due, and how long the peer may take."""

import math
from collections.abc import Callable

from plugsocket.core.deadlines import Deadlines
from plugsocket.core.errors import DeadlineError, OptionError
from plugsocket.core.options import SECONDS, is_seconds

_MESSAGES = {
    "first_byte": "no byte came within {:g} s",
    "idle": "no byte went either way for {:g} s",
    "request": "the request took longer than {:g} s",
}
_NONE = Deadlines()


class Traffic:
    """What went over one connection, and how long it may take.

    One thread or task at a time writes it, the one in which the handler uses the connection; all may read.

    Attributes:
        received: bytes that the handler took.
        sent: bytes that it gave.
        unanswered: whether bytes came since it last sent some, so that it is busy with a request.
        waiting: whether it waits, or is about to, for a request to begin.
        over: whether nothing more can come: the peer sent end of file, or the connection was cut.
        limited: whether there is a deadline.
        watched: whether waiting for the peer takes care: there is a deadline, or nobody in this process can wake who
            waits, since another one serves.
    """

    __slots__ = (
        "_began", "_clock", "_deadlines", "_expires", "_request",
        "limited", "over", "received", "sent", "unanswered", "waiting", "watched",
    )  # fmt: skip

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.unanswered = False
        self.waiting = False
        self.over = False
        self.limited = False
        self.watched = False
        self._deadlines = _NONE
        self._clock: Callable[[], float] | None = None

    def limit(self, deadlines: Deadlines) -> None:
        """Hold these deadlines, from `start()` on."""
        self._deadlines = deadlines
        self.limited = self.watched = True

    def start(self, clock: Callable[[], float]) -> None:
        """Begin to measure, by this clock, in seconds; called again, go on by another one."""
        now = clock()
        if self._clock is None:
            self._began = now
            self._request = math.inf if self._deadlines.request is None else self._deadlines.request
            self._expires = now + self._request
        else:
            apart = now - self._clock()
            self._began += apart
            self._expires += apart
        self._clock = clock

    def expire_in(self, seconds: float | None, clock: Callable[[], float]) -> None:
        """Set when the request is over, in seconds from now, in place of `Deadlines.request`; `None` for never.

        Raises:
            OptionError: `seconds` is no duration.
        """
        if seconds is not None and not is_seconds(seconds):
            raise OptionError(f"seconds must be {SECONDS}, or None, not {seconds!r}")
        if not self.limited:
            self.limited = self.watched = True
            self.start(clock)
        self._request = math.inf if seconds is None else seconds
        self._expires = clock() + self._request

    def took(self, size: int) -> None:
        """Take note of bytes that came."""
        self.received += size
        self.unanswered = True

    def gave(self, size: int) -> None:
        """Take note of bytes that went."""
        self.sent += size
        self.unanswered = False

    def now(self) -> float:
        """Return the time by the clock that `start()` was given.

        Raises:
            DeadlineError: the request is over.
        """
        assert self._clock is not None, "whoever looks at the deadlines of a connection has started its clock"
        now = self._clock()
        if now >= self._expires:
            raise self._error("request")
        return now

    def time_left(self, since: float, receiving: bool) -> float:
        """Return the seconds that the peer has, at most, until the next byte; `inf` without a deadline.

        Args:
            since: when the operation began to wait, by the clock.
            receiving: whether it waits for input, and not for room.

        Raises:
            DeadlineError: the request is over, whatever the peer does.
        """
        return max(0.0, self._first(since, receiving)[0] - self.now())

    def expired(self, since: float, receiving: bool) -> DeadlineError:
        """Make the error of an operation that has waited for as long as `time_left()` said."""
        return self._error(self._first(since, receiving)[1])

    def _first(self, since: float, receiving: bool) -> tuple[float, str]:
        """The deadline that comes first: when, by the clock, and which."""
        wanted = self._deadlines
        first = (self._expires, "request")
        if wanted.idle is not None:
            first = min(first, (since + wanted.idle, "idle"))
        if wanted.first_byte is not None and receiving and not self.received:
            first = min(first, (self._began + wanted.first_byte, "first_byte"))
        return first

    def _error(self, deadline: str) -> DeadlineError:
        length = self._request if deadline == "request" else getattr(self._deadlines, deadline)
        return DeadlineError(_MESSAGES[deadline].format(length), deadline)

    def summary(self) -> tuple[int, int, bool]:
        """What a process that handled the connection tells the one that accepted it."""
        return self.received, self.sent, self.over

    def adopt(self, summary: tuple[int, int, bool]) -> None:
        """Take over what another process told."""
        self.received, self.sent, self.over = summary
