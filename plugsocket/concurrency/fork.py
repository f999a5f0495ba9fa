"""Fork: a child process per request."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import attrs

from plugsocket.concurrency.base import BlockingStrategy
from plugsocket.concurrency.descriptors import drop_descriptors
from plugsocket.concurrency.ends import Ends
from plugsocket.concurrency.orphans import end_with_parent, find_prctl
from plugsocket.concurrency.reports import LONGEST_REPORT, describe, told
from plugsocket.concurrency.streams import flush_standard_streams, release_streams
from plugsocket.core.errors import ChildError, CompositionError
from plugsocket.core.options import integer
from plugsocket.core.protocols import Job, Watcher
from plugsocket.core.readiness import wait_readable
from plugsocket.core.signals import signals_held


@attrs.frozen
class _Child:
    pid: int
    job: Job
    report: int  # what the child writes when its handler fails; end of file once it has ended
    watched: int  # readable once the child has ended


@attrs.define(eq=False)
class _Family:
    """The children of one strategy."""

    children: dict[int, _Child] = attrs.field(factory=dict)  # by the descriptor that tells of their end
    ends: Ends | None = None
    lock: threading.RLock = attrs.field(factory=threading.RLock)  # of the two above
    watcher: Watcher | None = None
    cut: bool = False
    prctl: Callable[[int, int], Any] | None = None


@attrs.define(eq=False, on_setattr=attrs.setters.frozen)
class Fork(BlockingStrategy):
    """A child process per request.

    Of what the program has open, the child keeps its own connection, the close signal, and what output goes to: the
    standard streams, and the files of `logging`. An inherited socket would keep other peers from seeing end of file,
    and the port from being bound again; using another descriptor is an error (`EBADF`), so that a handler opens the
    files that it needs. Output is flushed before the child exits; `atexit` functions do not run. An exception of the
    handler is reported in the parent. Children are reaped by their process ids, at once and without polling; other
    children of the program are left alone. If the program is killed, its children get ten seconds (Linux).

    From Python 3.12 on, `os.fork` warns in a program with several threads, since a lock that another thread holds stays
    locked in the child. `serve_forever()` and `run()` in a program without threads avoid it; `start()` cannot.
    On Python 3.13.0 there is another reason: a child of a thread other than the main one runs its signal handlers only
    when a signal interrupts a call that waits. If it computes, it does not notice that the program was killed.

    Attributes:
        max_children: how many requests run at once; then requests wait in the kernel's queue.
        inherit: whether a child is what plain `os.fork` makes: it keeps what the program has open, and its ways with
            signals, is not told of its end, and tells nothing of its own failures.
    """

    max_children: int = attrs.field(default=40, validator=integer(1))
    inherit: bool = attrs.field(default=False, kw_only=True, validator=attrs.validators.instance_of(bool))
    capacity: int = attrs.field(
        default=attrs.Factory(lambda self: self.max_children, takes_self=True), init=False, repr=False
    )
    _family: _Family = attrs.field(factory=_Family, init=False, repr=False)

    name = "fork"

    def __attrs_post_init__(self) -> None:
        if not hasattr(os, "fork"):
            raise CompositionError("Fork() needs os.fork, which this platform does not have; use Thread()")

    def open(self, watcher: Watcher) -> None:
        """Remember who watches the children."""
        self._family.watcher = watcher
        self._family.cut = False
        self._family.prctl = find_prctl()

    def spawn(self, job: Job) -> None:
        """Fork, and have the child run the job.

        Raises:
            OSError: the system has no more processes, memory or descriptors (fork(2), pipe(2)).
        """
        flush_standard_streams()  # what the child inherits of it, it would bring out a second time
        self._ends()  # so that it cannot fail once there is a child
        report, writer = os.pipe()
        parent = os.getpid()
        shared = threading.active_count() > 1  # and so a stream's lock may be another thread's at the fork
        with signals_held() as before:  # a Ctrl-C would else leave a child that nobody knows
            try:
                pid = os.fork()
            except BaseException:
                os.close(report)
                os.close(writer)
                raise
            if pid == 0:
                os.close(report)  # which also leaves a descriptor for what comes
                self._be_child(job, writer, parent, before, shared=shared)
            os.close(writer)
            self._take_in(_Child(pid, job, report, _end_of(pid, report)))

    def _take_in(self, child: _Child) -> None:
        with self._family.lock:
            self._family.children[child.watched] = child
            self._ends().add(child.watched)

    def _ends(self) -> Ends:
        family = self._family
        with family.lock:
            if family.ends is None:
                family.ends = Ends()
                if family.watcher is not None:
                    family.watcher.watch(family.ends.fileno(), self.reap)
            return family.ends

    def _be_child(self, job: Job, writer: int, parent: int, signals: Collection[int], *, shared: bool) -> None:
        """Run the job and exit; does not return, whatever happens."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)  # which would wake the parent
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            if shared:
                release_streams()
            failure = (None if self.inherit else self._leave_parent(job, writer, parent)) or job.run_in_child()
            if not self.inherit:
                os.set_blocking(writer, False)
                os.write(writer, describe(failure, job.summary()))
            code = 0 if failure is None else 1
        finally:
            try:
                if not self.inherit:
                    logging.shutdown()  # which may write to the streams
            finally:
                flush_standard_streams()
                os._exit(code)

    def _leave_parent(self, job: Job, writer: int, parent: int) -> OSError | None:
        """Let go of what is the parent's; return why that failed."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's, which lets its children finish
        end_with_parent(parent, self._family.prctl)
        try:
            drop_descriptors(keep=(*job.filenos(), writer))
        except OSError as error:
            return error
        return None

    @property
    def children(self) -> Collection[int]:
        """The process ids of the children that there are."""
        return tuple(child.pid for child in self._family.children.values())

    def reap(self) -> None:
        """Take note of the children that have ended, which the driver's loop does by itself. Callable in any thread."""
        family = self._family
        with family.lock:
            ended = [] if family.ends is None else [family.children[watched] for watched in family.ends.ready()]
        for child in ended:
            self._reap(child)

    def _reap(self, child: _Child) -> None:
        family = self._family
        with family.lock:
            if family.children.get(child.watched) is not child or family.ends is None:
                return  # another thread does
            del family.children[child.watched]
            family.ends.remove(child.watched)
        failure = self._failure(child)
        for descriptor in {child.report, child.watched}:
            os.close(descriptor)
        child.job.finish(failure)

    def _failure(self, child: _Child) -> ChildError | None:
        """Collect how a child ended; `None` when it ended well, or was made to end."""
        status: int | None = None
        with suppress(ChildProcessError):  # the program ignores SIGCHLD, or reaps any child
            _, status = os.waitpid(child.pid, 0)
        os.set_blocking(child.report, False)
        with suppress(BlockingIOError):  # a process that the handler left behind may hold the pipe open
            if written := os.read(child.report, LONGEST_REPORT):
                return told(written, child.job)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        killed = code is not None and code < 0
        if (killed and self._family.cut) or (self.inherit and not killed):
            return None
        return ChildError(f"child {child.pid} {_manner(code)} before its handler returned")

    def cut(self, force: bool) -> bool:
        """Send every child SIGTERM, or with `force` SIGKILL."""
        self._family.cut = True
        for child in self._family.children.values():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL if force else signal.SIGTERM)
        return bool(self._family.children)

    def join(self, timeout: float) -> bool:
        """Wait for the children that are left, and reap them."""
        deadline = time.monotonic() + timeout
        for child in list(self._family.children.values()):
            if wait_readable(child.watched, max(0.0, deadline - time.monotonic())):
                self._reap(child)
        return self._close_ends()

    def _close_ends(self) -> bool:
        """Watch for nothing any more, if nobody is left; return whether that is so."""
        family = self._family
        with family.lock:
            if family.children:
                return False
            ends, family.ends = family.ends, None
            if ends is not None:
                if family.watcher is not None:
                    family.watcher.unwatch(ends.fileno())
                ends.close()
            return True


def _manner(code: int | None) -> str:
    """Say how a child ended, by its exit code, which is negative for a signal, and `None` if others reaped it."""
    if code is None:
        return "ended"
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # most of the real-time signals (signal(7)) have no name
        return f"was killed by signal {-code}"


def _end_of(pid: int, report: int) -> int:
    """Return a descriptor that is readable once the child has ended.

    That is a pidfd (pidfd_open(2)) where there are any, else the child's pipe, which other processes that the handler
    leaves behind can hold open.
    """
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            return os.pidfd_open(pid)
    return report
