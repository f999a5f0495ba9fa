"""Fork: a child process per request."""

import logging
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from functools import partial

import attrs

from plugsocket.concurrency.base import BlockingStrategy
from plugsocket.concurrency.descriptors import drop_sockets
from plugsocket.core.closing import wait_readable
from plugsocket.core.errors import ChildDisconnectedError, ChildError, CompositionError
from plugsocket.core.events import is_disconnection
from plugsocket.core.options import integer
from plugsocket.core.protocols import Job, Watcher

LONGEST_REPORT = 4096  # bytes; what fits into a pipe at once on every system (PIPE_BUF and more, pipe(7))


@attrs.frozen
class _Child:
    pid: int
    job: Job
    report: int  # what the child writes when its handler fails; end of file once it has ended
    watched: int  # readable once the child has ended


@attrs.define(eq=False)
class _Family:
    """The children of one strategy."""

    children: dict[int, _Child] = attrs.field(factory=dict)
    watcher: Watcher | None = None
    cut: bool = False


@attrs.define(eq=False, on_setattr=attrs.setters.frozen)
class Fork(BlockingStrategy):
    """A child process per request.

    The child keeps its own connection and no other socket: an inherited one would keep other peers from seeing end of
    file, and the port from being bound again. Output is flushed before it exits; `atexit` functions do not run. An
    exception of the handler is reported in the parent. Children are reaped by their process ids, at once and without
    polling; other children of the program are left alone.

    From Python 3.12 on, `os.fork` warns in a program with several threads, since a lock that another thread holds stays
    locked in the child. `serve_forever()` and `run()` in a program without threads avoid it; `start()` cannot.

    Attributes:
        max_children: how many requests run at once; then requests wait in the kernel's queue.
    """

    max_children: int = attrs.field(default=40, validator=integer(1))
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

    def spawn(self, job: Job) -> None:
        """Fork, and have the child run the job.

        Raises:
            OSError: the system has no more processes, memory or descriptors (fork(2), pipe(2)).
        """
        _flush_streams()  # what the child inherits of it, it would bring out a second time
        report, writer = os.pipe()
        try:
            pid = os.fork()
        except BaseException:
            os.close(report)
            os.close(writer)
            raise
        if pid == 0:
            self._be_child(job, writer)
        os.close(writer)
        child = _Child(pid, job, report, _end_of(pid, report))
        self._family.children[pid] = child
        job.disown()
        if self._family.watcher is not None:
            self._family.watcher.watch(child.watched, partial(self._reap, child))

    def _be_child(self, job: Job, writer: int) -> None:
        """Run the job and exit; does not return, whatever happens."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)  # which would wake the parent
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's, which lets its children finish
            drop_sockets(keep=job.filenos())
            failure = job.run_in_child()
            if failure is None:
                code = 0
            else:
                os.set_blocking(writer, False)
                os.write(writer, _describe(failure))
        finally:
            try:
                logging.shutdown()  # which may write to the streams
            finally:
                _flush_streams()
                os._exit(code)

    def _reap(self, child: _Child) -> None:
        del self._family.children[child.pid]
        if self._family.watcher is not None:
            self._family.watcher.unwatch(child.watched)
        failure = self._failure(child)
        for descriptor in {child.report, child.watched}:
            os.close(descriptor)
        child.job.finish(failure)

    def _failure(self, child: _Child) -> ChildError | None:
        """Collect how a child ended; `None` when it ended well, or was made to end."""
        try:
            _, status = os.waitpid(child.pid, 0)
        except ChildProcessError:
            status = 0  # the program ignores SIGCHLD, or reaps any child: what remains is what the child wrote
        os.set_blocking(child.report, False)
        with suppress(BlockingIOError):  # a process that the handler left behind may hold the pipe open
            if written := os.read(child.report, LONGEST_REPORT):
                return _told(written)
        code = os.waitstatus_to_exitcode(status)
        if code == 0 or (code < 0 and self._family.cut):
            return None
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
        return ChildError(f"child {child.pid} {how}")

    def cut(self, force: bool) -> None:
        """Send every child SIGTERM, or with `force` SIGKILL."""
        self._family.cut = True
        for child in self._family.children.values():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL if force else signal.SIGTERM)

    def join(self, timeout: float) -> bool:
        """Wait for the children that are left, and reap them."""
        deadline = time.monotonic() + timeout
        for child in list(self._family.children.values()):
            if wait_readable(child.watched, max(0.0, deadline - time.monotonic())):
                self._reap(child)
        return not self._family.children


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals (signal(7)) have no name
        return f"signal {number}"


def _end_of(pid: int, report: int) -> int:
    """Return a descriptor that is readable once the child has ended.

    That is a pidfd (pidfd_open(2)) where there are any, else the child's pipe, which other processes that the handler
    leaves behind can hold open.
    """
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            return os.pidfd_open(pid)
    return report


def _describe(failure: BaseException) -> bytes:
    """Write a failure down for the parent: whether it is a disconnection, a summary, and the traceback's end."""
    kind = b"disconnected" if is_disconnection(failure) else b"failed"
    summary = _summary(failure).encode(errors="backslashreplace")[: LONGEST_REPORT // 2]
    head = kind + b"\n" + summary + b"\n"
    trace = "".join(traceback.format_exception(failure)).encode(errors="backslashreplace")
    return head + trace[-(LONGEST_REPORT - len(head)) :]


def _summary(failure: BaseException) -> str:
    """Write an exception's class and the first line of its text; notes and further lines are in the traceback."""
    try:
        text = str(failure)
    except Exception:  # noqa: BLE001 - a class of the handler's own may fail in any way
        text = "<its __str__ failed>"
    name, line = type(failure).__qualname__, text.partition("\n")[0]
    return f"{name}: {line}" if line else name


def _told(written: bytes) -> ChildError:
    """Read what `_describe` wrote."""
    kind, summary, trace = (*written.decode(errors="replace").split("\n", 2), "", "")[:3]
    error = ChildDisconnectedError(summary) if kind == "disconnected" else ChildError(summary)
    error.__cause__ = ChildError(f"\n\n{trace}") if trace else None
    return error


def _flush_streams() -> None:
    """Bring out what was printed, as the end of an ordinary process does."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, None, or its reader is gone: nobody is left to tell
            stream.flush()
