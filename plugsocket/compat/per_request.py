"""What the mix-ins stand for: a thread or a child process per request, as programs know them."""

import threading
from collections.abc import Callable

import attrs

from plugsocket.concurrency.children import Child
from plugsocket.concurrency.fork import Fork
from plugsocket.concurrency.thread import Thread
from plugsocket.core.errors import ChildError
from plugsocket.core.protocols import Job, Watcher


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

    It keeps what the program has open, and its ways with signals. Of its end and its failures its parent is not told.
    """

    def open(self, watcher: Watcher) -> None:
        """Have the loop look after the children; see `Fork`."""
        self._children.open(watcher, self.reap)

    def run_in_child(self, job: Job, writer: int, parent: int) -> int:  # noqa: ARG002 - the form of `Fork`'s
        """Run a job, which says itself what goes wrong; see `Fork`."""
        job.run_in_child()
        return 0

    def failure_of(self, child: Child, code: int | None) -> ChildError | None:
        """Say how a child died; see `Fork`."""
        return self.death_of(child, code) if code is not None and code < 0 else None
