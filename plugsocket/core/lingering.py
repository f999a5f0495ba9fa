"""Closing that lingers: connections whose handlers are done, and whose peers are still sending.

A socket that is closed while input waits in it, or that gets some afterwards, resets the connection, and a reset takes
with it what the peer has not read yet: the reply (RFC 1122, section 4.2.2.13; RFC 2525, section 2.17). So the sending
side is closed first, and what still comes is thrown away until the peer closes its side, for a while.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import attrs

from plugsocket.core.protocols import StreamRequest, Watcher

MOST = 1024  # connections that linger at once, so that descriptors last; beyond, they are closed as they come
MOST_BYTES = 16 * 2**20  # thrown away of one connection; who sends more did not mean to stop
SCRATCH = 65_536  # bytes read in one go
AT_ONCE = 16  # reads from one connection before the others get their turn


@attrs.define(eq=False)
class _Late:
    request: StreamRequest
    patience: float  # seconds that it has from then on
    left: int  # bytes that may still come
    parked: float = attrs.field(factory=time.monotonic)  # when it was left without a loop to look after it
    until: float = math.inf  # by the loop's clock, while one does
    fileno: int = -1


class Lingering:
    """The connections that linger, of one server.

    Any thread hands them over; all else happens in the serving one.

    Args:
        seconds: for how long, at most.
        ring: wakes the driver's loop.

    Attributes:
        seconds: for how long.
    """

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        self.seconds = seconds
        self._ring = ring
        self._arrivals: deque[_Late] = deque()
        self._late: dict[int, _Late] = {}
        self._scratch = bytearray(SCRATCH)
        self._rung = False
        self._closed = False

    def take(self, request: StreamRequest) -> None:
        """Close a connection once its peer has, or when it has had enough time; callable from any thread."""
        if not request.hang_up():
            return
        if self._closed or not self.seconds or len(self._late) + len(self._arrivals) >= MOST:
            request.close()
            return
        self._arrivals.append(_Late(request, self.seconds, MOST_BYTES))
        if not self._rung:  # else the loop is about to look anyway
            self._rung = True
            self._ring()
        self._close_late_comers()

    def attend(self, now: float, watcher: Watcher) -> float:
        """Look after those that came, and those whose time is over.

        Args:
            now: the time, by the driver's clock.
            watcher: the driver's loop.

        Returns:
            When somebody's time is over, by the same clock; `inf` if nobody is here.
        """
        self._rung = False
        if not self._arrivals and not self._late:
            return math.inf
        while self._arrivals:
            late = self._arrivals.popleft()
            if self._is_over(late):
                late.request.close()
                continue
            late.until = now + late.patience - (time.monotonic() - late.parked)
            late.fileno = late.request.payload.fileno()
            self._watch(late, watcher)
        while self._late:
            eldest = next(iter(self._late.values()))  # who came first has the least time left
            if eldest.until > now:
                return eldest.until
            self._end(eldest, watcher)
        return math.inf

    def _watch(self, late: _Late, watcher: Watcher) -> None:
        stale = self._late.pop(late.fileno, None)
        if stale is not None:  # somebody closed its descriptor by the number, which was given out again
            watcher.unwatch(late.fileno)
            stale.request.payload.detach()
        self._late[late.fileno] = late
        watcher.watch(late.fileno, partial(self._read, late, watcher))

    def _read(self, late: _Late, watcher: Watcher) -> None:
        if self._late.get(late.fileno) is late and self._is_over(late):  # else it was ended since it became readable
            self._end(late, watcher)

    def _is_over(self, late: _Late) -> bool:
        """Throw away what came; return whether no more will, or too much did."""
        for _ in range(AT_ONCE):
            size = late.request.discard(self._scratch)
            if size is None:
                return False
            late.left -= size
            if not size or late.left <= 0:
                return True
        return False

    def _end(self, late: _Late, watcher: Watcher) -> None:
        del self._late[late.fileno]
        watcher.unwatch(late.fileno)
        late.request.close()

    def shed(self, watcher: Watcher) -> bool:
        """Close them all, since descriptors are wanting; return whether there were any."""
        had_some = bool(self._late)
        for late in list(self._late.values()):
            self._end(late, watcher)
        return had_some

    def suspend(self, watcher: Watcher, now: float) -> None:
        """Leave the loop, which ends or is about to; the next `attend()` goes on, in whatever loop."""
        for late in self._late.values():
            watcher.unwatch(late.fileno)
            late.patience, late.parked = late.until - now, time.monotonic()
            self._arrivals.append(late)
        self._late.clear()

    def close(self, watcher: Watcher | None) -> None:
        """Close them all, since the server does. Idempotent; what comes afterwards is closed as it comes."""
        self._closed = True
        if watcher is not None:
            self.suspend(watcher, now=0.0)
        self._close_late_comers()

    def _close_late_comers(self) -> None:
        """Close what comes when nobody looks any more."""
        while self._closed and self._arrivals:
            with suppress(IndexError):  # two threads may be at it
                late = self._arrivals.popleft()
                self._is_over(late)  # throws away what came: the least that can be done against a reset
                late.request.close()
