"""What the mix-ins stand for: a thread or a child process per request, as programs know them."""

import os
import threading
from collections.abc import Callable
from typing import cast

import attrs

from plugsocket.compat.workers import RequestJob
from plugsocket.concurrency.children import Child, exit_code, has_pidfds
from plugsocket.concurrency.fork import Fork
from plugsocket.concurrency.thread import Thread
from plugsocket.core.errors import ChildError
from plugsocket.core.protocols import Job, Watcher
from plugsocket.core.signals import signals_held


@attrs.define(eq=False, on_setattr=attrs.setters.frozen)
class ThreadPerRequest(Thread):
    """A new thread per request, with the name that programs know from `ThreadingMixIn`."""

    def make_thread(self, work: Callable[[], object], number: int) -> threading.Thread:  # noqa: ARG002 - the system counts
        """Make a thread; see `Thread`."""

        def process_request_thread() -> None:
            work()

        return threading.Thread(target=process_request_thread, daemon=self.daemon)


@attrs.define(eq=False, on_setattr=attrs.setters.frozen)
class ChildPerRequest(Fork):
    """A child per request as plain `os.fork` makes it.

    It keeps what the program has open, and its ways with signals. It does not hear of its parent's end, and tells
    nothing of its own failures.
    """

    def open(self, watcher: Watcher) -> None:
        """Have the loop look after the children; see `Fork`."""
        self._children.open(watcher, self.reap)

    def spawn(self, job: Job) -> None:
        """Fork; see `Fork`. No descriptor is needed but the connection's, which is closed here."""
        if not has_pidfds():
            super().spawn(job)
            return
        self._prepare()
        with signals_held() as before:
            pid = self._fork(job, None, before)
            try:
                cast(RequestJob, job).close()
            finally:
                is_watched = self._watch(pid, job)
        if not is_watched:  # better one request at a time than a child that nobody reaps
            job.finish(self._death(pid, exit_code(pid)))

    def _watch(self, pid: int, job: Job) -> bool:
        try:
            end = os.pidfd_open(pid)
        except OSError:  # there is no room for one
            return False
        self._children.add(Child(pid, job, end, end))
        return True

    def run_in_child(self, job: Job, pipe: tuple[int, int] | None, parent: int) -> int:  # noqa: ARG002 - as in `Fork`
        """Run a job, which says itself what goes wrong; see `Fork`."""
        job.run_in_child()
        return 0

    def failure_of(self, child: Child, code: int | None) -> ChildError | None:
        """Say how a child died; see `Fork`."""
        return self._death(child.pid, code)

    def _death(self, pid: int, code: int | None) -> ChildError | None:
        return self.death_of(pid, code) if code is not None and code < 0 else None
