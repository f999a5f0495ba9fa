"""Fork: a child process per request."""

import os
import signal
import threading
from collections.abc import Collection
from contextlib import suppress

import attrs

from plugsocket.concurrency.base import BlockingStrategy
from plugsocket.concurrency.children import Child, Children, end_of, exit_code
from plugsocket.concurrency.descriptors import drop_descriptors
from plugsocket.concurrency.orphans import end_with_parent, find_prctl
from plugsocket.concurrency.reports import LONGEST_REPORT, describe, told
from plugsocket.concurrency.streams import flush_standard_streams, release_streams, shut_log_down
from plugsocket.core.errors import ChildError, CompositionError
from plugsocket.core.options import integer
from plugsocket.core.protocols import Job, Watcher
from plugsocket.core.signals import signals_held


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
    """

    max_children: int = attrs.field(default=40, validator=integer(1))
    capacity: int = attrs.field(
        default=attrs.Factory(lambda self: self.max_children, takes_self=True), init=False, repr=False
    )
    _children: Children = attrs.field(factory=Children, init=False, repr=False)

    name = "fork"

    def __attrs_post_init__(self) -> None:
        if not hasattr(os, "fork"):
            raise CompositionError("Fork() needs os.fork, which this platform does not have; use Thread()")

    def open(self, watcher: Watcher) -> None:
        """Have the driver's loop look after the children."""
        self._children.open(watcher, self.reap)
        find_prctl()  # so that no child has to

    def spawn(self, job: Job) -> None:
        """Fork, and have the child run the job.

        Raises:
            OSError: the system has no more processes, memory or descriptors (fork(2), pipe(2)).
        """
        self._prepare()
        report, writer = os.pipe()
        with signals_held() as before:  # a Ctrl-C would else leave a child that nobody knows
            try:
                pid = self._fork(job, (report, writer), before)
            except BaseException:
                os.close(report)
                raise
            finally:
                os.close(writer)
            self._children.add(Child(pid, job, report, end_of(pid, report)))

    def _prepare(self) -> None:
        """Do what may fail, or take its time, before signals are held and there is a child."""
        flush_standard_streams()  # what the child inherits of it, it would bring out a second time
        self._children.prepare()

    def _fork(self, job: Job, pipe: tuple[int, int] | None, signals: Collection[int]) -> int:
        """Have a child run the job; return its process id.

        Args:
            job: what to run.
            pipe: by which it tells how it ended, if it does.
            signals: those that the child is to hold.
        """
        parent = os.getpid()
        shared = threading.active_count() > 1  # and so a stream's lock may be another thread's at the fork
        pid = os.fork()
        if pid == 0:
            self._be_child(job, pipe, parent, signals, shared=shared)
        return pid

    def _be_child(
        self, job: Job, pipe: tuple[int, int] | None, parent: int, signals: Collection[int], *, shared: bool
    ) -> None:
        """Run the job and exit; does not return, whatever happens."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)  # which would wake the parent
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            if shared:
                release_streams()
            code = self.run_in_child(job, pipe, parent)
        finally:
            flush_standard_streams()
            os._exit(code)

    def run_in_child(self, job: Job, pipe: tuple[int, int] | None, parent: int) -> int:
        """Run a job in the process that was forked for it.

        Args:
            job: what to run.
            pipe: to tell the parent with how it ended.
            parent: its process id.

        Returns:
            The exit status.
        """
        assert pipe is not None, "there is one, unless a subclass forks without"
        report, writer = pipe
        os.close(report)  # which also leaves a descriptor for what comes
        try:
            failure = self._leave_parent(job, writer, parent) or job.run_in_child()
            os.set_blocking(writer, False)
            os.write(writer, describe(failure, job.summary()))
            return 0 if failure is None else 1
        finally:
            shut_log_down()  # which may write to the streams

    def _leave_parent(self, job: Job, writer: int, parent: int) -> OSError | None:
        """Let go of what is the parent's; return why that failed."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's, which lets its children finish
        end_with_parent(parent)
        try:
            drop_descriptors(keep=(*job.filenos(), writer))
        except OSError as error:
            return error
        return None

    @property
    def children(self) -> Collection[int]:
        """The process ids of the children that there are."""
        return self._children.pids

    def reap(self) -> None:
        """Take note of the children that have ended, which the driver's loop does by itself. Callable in any thread."""
        for child in self._children.ended():
            self._collect(child)

    def _collect(self, child: Child) -> None:
        failure = self.failure_of(child, exit_code(child.pid))
        child.close()
        child.job.finish(failure)

    def failure_of(self, child: Child, code: int | None) -> ChildError | None:
        """Say what went wrong in a child.

        Args:
            child: it has ended.
            code: its exit code, negative for a signal; `None` if others reaped it.

        Returns:
            What it told, or that it died; `None` when it ended well, or was made to end.
        """
        os.set_blocking(child.report, False)
        with suppress(BlockingIOError):  # a process that the handler left behind may hold the pipe open
            if written := os.read(child.report, LONGEST_REPORT):
                return told(written, child.job)
        return self.death_of(child.pid, code)

    def death_of(self, pid: int, code: int | None) -> ChildError | None:
        """Say how a child died that told nothing; `None` when it was made to."""
        if code is not None and code < 0 and self._children.killed:
            return None
        return ChildError(f"child {pid} {_manner(code)} before its handler returned")

    def cut(self, force: bool) -> bool:
        """Send every child SIGTERM, or with `force` SIGKILL."""
        return self._children.kill(signal.SIGKILL if force else signal.SIGTERM)

    def join(self, timeout: float) -> bool:
        """Wait for the children that are left, and reap them."""
        for child in self._children.awaited(timeout):
            self._collect(child)
        return self._children.close()


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
