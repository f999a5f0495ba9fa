"""Child processes that were forked, each with the job that it runs, until they are reaped."""

import errno
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cache

import attrs

from plugsocket.concurrency.ends import Ends
from plugsocket.core.protocols import Job, Watcher
from plugsocket.core.readiness import wait_readable


@attrs.define(eq=False)
class Child:
    """A forked child.

    Attributes:
        pid: its process id.
        job: what it runs.
        report: a descriptor of what it tells; at end of file once it has ended, and all that it left behind.
        watched: a descriptor that is readable once it has ended; it may be the same.
    """

    pid: int
    job: Job
    report: int
    watched: int

    def close(self) -> None:
        """Close its descriptors."""
        for descriptor in {self.report, self.watched}:
            os.close(descriptor)


class Children:
    """The children of one strategy. Every method can be called in any thread.

    Attributes:
        killed: whether they were told to end.
    """

    def __init__(self) -> None:
        self.killed = False
        self._here: dict[int, Child] = {}  # by the descriptor that tells of their end
        self._ends: Ends | None = None
        self._lock = threading.RLock()  # of the two above
        self._watcher: Watcher | None = None
        self._on_end: Callable[[], None] | None = None

    @property
    def pids(self) -> Collection[int]:
        """The process ids of those that are here."""
        return tuple(child.pid for child in self._here.values())

    def open(self, watcher: Watcher, on_end: Callable[[], None]) -> None:
        """Have a function called from now on when some have ended."""
        self.killed = False
        self._watcher = watcher
        self._on_end = on_end

    def prepare(self) -> None:
        """Open what `add()` needs, so that it cannot fail once there is a child."""
        with self._lock:
            if self._ends is None:
                self._ends = Ends()
                if self._watcher is not None and self._on_end is not None:
                    self._watcher.watch(self._ends.fileno(), self._on_end)

    def add(self, child: Child) -> None:
        """Take in a child that was just forked."""
        with self._lock:
            self.prepare()
            self._here[child.watched] = child
            if self._ends is not None:
                self._ends.add(child.watched)

    def ended(self) -> Iterator[Child]:
        """Take out those that have ended, and give each to one caller."""
        with self._lock:
            ended = [] if self._ends is None else [self._here[watched] for watched in self._ends.ready()]
        yield from filter(self._take, ended)

    def awaited(self, timeout: float) -> Iterator[Child]:
        """Wait for those that are here, all together for so many seconds, and take out those that have ended."""
        deadline = time.monotonic() + timeout
        for child in list(self._here.values()):
            if wait_readable(child.watched, max(0.0, deadline - time.monotonic())) and self._take(child):
                yield child

    def _take(self, child: Child) -> bool:
        with self._lock:
            if self._here.get(child.watched) is not child or self._ends is None:
                return False  # another thread has
            del self._here[child.watched]
            self._ends.remove(child.watched)
            return True

    def kill(self, number: int) -> bool:
        """Send each a signal; return whether there are any."""
        self.killed = True
        for child in self._here.values():
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)
        return bool(self._here)

    def close(self) -> bool:
        """Watch for nothing any more, if nobody is left; return whether that is so."""
        with self._lock:
            if self._here:
                return False
            ends, self._ends = self._ends, None
            if ends is not None:
                if self._watcher is not None:
                    self._watcher.unwatch(ends.fileno())
                ends.close()
            return True


def exit_code(pid: int) -> int | None:
    """Wait for the end of a child; return its exit status, or a signal, negative; `None` if others reaped it."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # the program ignores SIGCHLD, or reaps any child
        return None
    return os.waitstatus_to_exitcode(status)


@cache
def has_pidfds() -> bool:
    """Whether a descriptor can tell of the end of a process (pidfd_open(2)): the system may have none, or forbid it."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)  # there is just no room for one
    return True


def end_of(pid: int, report: int) -> int:
    """Return a descriptor that is readable once a child has ended.

    That is a pidfd where there are any, else the child's pipe, which other processes that the handler leaves behind can
    hold open.
    """
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):  # the kernel has none, or there is no room for more descriptors
            return os.pidfd_open(pid)
    return report
