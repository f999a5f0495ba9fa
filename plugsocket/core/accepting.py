"""What to do when `accept` fails: a table of errors, and the pause after those that would come again at once."""

import enum
import errno

import attrs
from zope.interface import implementer

from plugsocket.core.interfaces import IAcceptPolicy


class AcceptAction(enum.Enum):
    """What a driver does about an error of `accept`."""

    RETRY = "retry"
    BACK_OFF = "back off"
    FATAL = "fatal"


def _numbers(*names: str) -> frozenset[int]:
    """The error numbers of these names, without those that the platform does not have."""
    return frozenset(number for name in names if (number := getattr(errno, name, None)) is not None)


# The connection died while it was waiting, or the kernel passes on an error of the network that belongs to it:
# accept(2), "Error handling", asks to treat these like EAGAIN. EPERM: a firewall rule refused it (accept(2)).
RETRY = _numbers(
    "ECONNABORTED", "EPROTO", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENOPROTOOPT", "EOPNOTSUPP",
    "ENONET", "ETIMEDOUT", "EPERM", "EINTR", "ECONNRESET", "ECONNREFUSED",
)  # fmt: skip

# Out of descriptors or memory: the request stays in the queue and the listener stays readable, so that trying
# again at once would only burn the processor.
BACK_OFF = _numbers("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")


# What a strategy that cannot start a request says when it is for want of the same, or of processes (fork(2)).
SCARCE = BACK_OFF | {errno.EAGAIN}


@implementer(IAcceptPolicy)
class AcceptPolicy:
    """The table above: what it does not list, `EBADF`, `EINVAL` and `ENOTSOCK` first of all, is fatal."""

    def classify(self, error: OSError) -> AcceptAction:
        """Look the error up."""
        if error.errno in RETRY:
            return AcceptAction.RETRY
        return AcceptAction.BACK_OFF if error.errno in BACK_OFF else AcceptAction.FATAL


FIRST_PAUSE = 0.01
REST = 0.1
LONGEST_PAUSE = 0.25  # at most four failing accepts a second, and nobody waits longer once descriptors come free


@attrs.define
class BackOff:
    """The pauses of one listener: doubling from `FIRST_PAUSE` to `LONGEST_PAUSE`, in seconds."""

    until: float | None = None
    failing: bool = False  # whether the listener has failed since it last gave a request
    _pause: float = FIRST_PAUSE

    def fail(self, now: float) -> float:
        """Start a pause, each twice as long as the one before; return its length."""
        length, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        self.until, self.failing = now + length, True
        return length

    def rest(self, now: float) -> None:
        """Start a pause of `REST`, which is no failure of accepting."""
        self.until = now + REST

    def recover(self) -> None:
        """Start afresh, since a request came through."""
        self.until, self.failing, self._pause = None, False, FIRST_PAUSE
