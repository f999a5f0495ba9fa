"""The account of a server's requests: those under way, which is also the limit, and counters for the rest."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from plugsocket.core.job import Job


@attrs.frozen
class Stats:
    """Counters of a server, taken at one moment.

    Attributes:
        accepted: requests taken from listeners since the server was made.
        active: requests under way.
        failed: requests whose handler raised or died.
        refused: requests closed again since the strategy could not start them.
        accept_errors: errors of `accept`, each attempt counted.
    """

    accepted: int
    active: int
    failed: int
    refused: int
    accept_errors: int

    @property
    def completed(self) -> int:
        """Requests that ran to their end, well or not."""
        return self.accepted - self.active - self.refused


class Ledger:
    """Which jobs are under way, and how many there were.

    Only the serving thread opens jobs, any thread closes them; adding to and taking from a set is atomic, so that
    the path of a request needs no lock.

    Args:
        on_free: called, in whatever thread, after a job was closed while `wanted` was set.
        on_change: called, in whatever thread, after a job was opened or closed while `watched` was set.
    """

    def __init__(self, on_free: Callable[[], None], on_change: Callable[[], None]) -> None:
        self.active: set[Job] = set()
        self.wanted = False
        self.watched = 0  # by how many who wait for a number of requests
        self.accepted = 0
        self.accept_errors = 0
        self._failed = 0
        self._refused = 0
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

    def open(self, job: "Job") -> None:
        """Enter a job; it takes a slot."""
        self.accepted += 1
        self.active.add(job)
        if self.watched:
            self._on_change()

    def close(self, job: "Job") -> None:
        """Strike a job out; its slot is free. Idempotent."""
        self.active.discard(job)
        if self.wanted:
            self.wanted = False
            self._on_free()
        if self.watched:
            self._on_change()

    def count_failure(self) -> None:
        """Count a handler that failed."""
        with self._rare:
            self._failed += 1

    def count_refusal(self) -> None:
        """Count a request that was closed without a handler."""
        with self._rare:
            self._refused += 1

    def stats(self) -> Stats:
        """Take the counters."""
        return Stats(self.accepted, len(self.active), self._failed, self._refused, self.accept_errors)
