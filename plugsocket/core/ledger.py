"""The account of a server's requests: those under way, which is also the limit, and counters for the rest."""

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from plugsocket.core.endings import deadline_of, is_disconnection

if TYPE_CHECKING:
    from plugsocket.core.job import Job


@attrs.frozen
class Stats:
    """Counters of a server, taken at one moment.

    Attributes:
        accepted: requests taken from listeners since the server was made.
        active: requests under way.
        completed: requests whose handler is over, well or not; a conversation is one.
        waiting: requests accepted that wait until there is room, as `Wait` has them do.
        failed: requests whose handler raised or died.
        disconnected: requests whose handler found the peer gone.
        timed_out: requests that a deadline ended; one whose handler catches the error ends well.
        refused: requests closed again since the strategy could not start them.
        rejected: connections accepted and closed without a handler, as the limits or the `verify` hook would have it.
        dropped: datagrams dropped without a handler, likewise; and those that a conversation had no room for, or that
            its handler did not read.
        lost: datagrams that the kernel dropped for want of room, where it says so (SO_MEMINFO on Linux, since 4.12).
        accept_errors: errors of `accept`, each attempt counted.
    """

    accepted: int
    active: int
    completed: int
    waiting: int
    failed: int
    disconnected: int
    timed_out: int
    refused: int
    rejected: int
    dropped: int
    lost: int
    accept_errors: int


class Peers:
    """How many requests each peer has under way. Any thread may call."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()
        self._origins: dict[Job, Hashable] = {}
        self._lock = threading.Lock()

    def enter(self, job: "Job") -> None:
        """Count a job."""
        origin = job.request.origin
        with self._lock:
            if job not in self._origins:
                self._origins[job] = origin
                self._counts[origin] += 1

    def leave(self, job: "Job") -> None:
        """Count a job no more. Idempotent."""
        with self._lock:
            if job not in self._origins:
                return
            origin = self._origins.pop(job)
            self._counts[origin] -= 1
            if not self._counts[origin]:
                del self._counts[origin]

    def of(self, origin: Hashable) -> int:
        """How many requests this peer has under way."""
        return self._counts[origin]


class Ledger:
    """Which jobs are under way, and how many there were.

    Only the serving thread opens jobs, any thread closes them; adding to and taking from a set is atomic, so that
    the path of a request needs no lock.

    Args:
        on_free: called, in whatever thread, after a job was closed while `wanted` was set.
        on_change: called, in whatever thread, after a job was opened or closed while `watched` was set.

    Attributes:
        active: the jobs under way.
        wanted: whether somebody waits for a slot, or for the end of all jobs.
        watched: by how many who wait for a number of requests.
        accepted: as in `Stats`, as the others are that are written by the serving thread alone.
        opened: how many jobs there were.
        peers: who has how many, while anybody wants to know.
    """

    def __init__(self, on_free: Callable[[], None], on_change: Callable[[], None]) -> None:
        self.active: set[Job] = set()
        self.wanted = False
        self.watched = 0
        self.accepted = 0
        self.opened = 0
        self.accept_errors = 0
        self.refused = 0
        self.rejected = 0
        self.dropped = 0
        self.peers: Peers | None = None
        self._endings: Counter[str] = Counter()
        self._rare = threading.Lock()
        self._on_free = on_free
        self._on_change = on_change

    @contextmanager
    def watched_by_one(self) -> Iterator[None]:
        """Tell of every change, for the length of a block."""
        with self._rare:
            self.watched += 1
        try:
            yield
        finally:
            with self._rare:
                self.watched -= 1

    def count_peers(self, wanted: bool) -> None:
        """Begin, or cease, to count the requests of each peer; those under way are counted as well."""
        if wanted and self.peers is None:
            self.peers = Peers()
            for job in list(self.active):
                self.peers.enter(job)
                if job not in self.active:  # closed meanwhile, perhaps before anybody looked at `peers`
                    self.peers.leave(job)
        elif not wanted:
            self.peers = None

    def number(self) -> int:
        """Count a request that was accepted; return its number."""
        self.accepted += 1
        return self.accepted

    def open(self, job: "Job") -> None:
        """Enter a job; it takes a slot."""
        self.active.add(job)
        self.opened += 1
        peers = self.peers  # looked at after that: who begins to count, counts those that are active
        if peers is not None:
            peers.enter(job)
        if self.watched:
            self._on_change()

    def close(self, job: "Job") -> None:
        """Strike a job out; its slot is free. Idempotent."""
        self.active.discard(job)
        peers = self.peers
        if peers is not None:
            peers.leave(job)
        if self.wanted:
            self.wanted = False
            self._on_free()
        if self.watched:
            self._on_change()

    def count_ending(self, error: BaseException) -> None:
        """Count a request that did not end well, by what was the matter."""
        with self._rare:
            self._endings[_ending(error)] += 1

    def stats(self, waiting: int, lost: int) -> Stats:
        """Take the counters; those who wait, and what the kernel dropped, others count."""
        counted = ("failed", "disconnected", "timed_out")
        endings: dict[str, Any] = {name: self._endings[name] for name in counted}
        opened, active = self.opened, len(self.active)
        return Stats(
            accepted=self.accepted,
            active=active,
            completed=max(0, opened - active - self.refused),  # one may just have been opened
            waiting=waiting,
            refused=self.refused,
            rejected=self.rejected,
            dropped=self.dropped,
            lost=lost,
            accept_errors=self.accept_errors,
            **endings,
        )


def _ending(error: BaseException) -> str:
    if deadline_of(error) is not None:
        return "timed_out"
    return "disconnected" if is_disconnection(error) else "failed"
