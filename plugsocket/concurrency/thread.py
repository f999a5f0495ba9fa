"""Thread: a bounded pool of threads that grows on demand and shrinks when idle."""

import queue
import threading
import time
from collections.abc import Callable, Collection
from functools import partial

import attrs

from plugsocket.concurrency.base import BlockingStrategy
from plugsocket.core.options import integer, seconds
from plugsocket.core.protocols import Job, Watcher


@attrs.define(eq=False)
class _Pool:
    """The threads of one strategy. `lock` guards the counts; a job never waits behind another one's handler."""

    jobs: "queue.SimpleQueue[Job | None]" = attrs.field(factory=queue.SimpleQueue)
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    threads: set[threading.Thread] = attrs.field(factory=set)
    idle: int = 0  # threads that wait for a job, less the jobs that wait for a thread
    started: int = 0
    ending: bool = False


@attrs.define(eq=False, on_setattr=attrs.setters.frozen)
class Thread(BlockingStrategy):
    """A thread per request, out of a pool.

    A thread is started when a request finds none idle, up to `max_workers`; then requests wait in the kernel's queue.

    Attributes:
        max_workers: how many requests run at once, and so how many threads there are at most.
        idle_timeout: seconds after which a thread without work ends; with 0 each request has a thread of its own.
        daemon: whether the threads are daemons: a program that ends without stopping the server does not hang then.
    """

    max_workers: int = attrs.field(default=64, validator=integer(1))
    idle_timeout: float = attrs.field(default=30.0, kw_only=True, validator=seconds)
    daemon: bool = attrs.field(default=True, kw_only=True, validator=attrs.validators.instance_of(bool))
    capacity: int = attrs.field(
        default=attrs.Factory(lambda self: self.max_workers, takes_self=True), init=False, repr=False
    )
    _pool: _Pool = attrs.field(factory=_Pool, init=False, repr=False, on_setattr=attrs.setters.NO_OP)

    name = "thread"

    def open(self, watcher: Watcher) -> None:  # noqa: ARG002 - there is nothing to watch
        """Get ready to spawn: the first thread starts with the first request."""
        self._pool = _Pool()  # a handler that did not return has its thread still, in the pool before

    def spawn(self, job: Job) -> None:
        """Give the job to an idle thread, or to a new one.

        Raises:
            RuntimeError: no thread could be started.
        """
        pool = self._pool
        with pool.lock:
            # At the cap without an idle thread, one has just given its slot back, and is about to look for a job.
            if pool.idle > 0 or len(pool.threads) == self.max_workers:
                pool.idle -= 1
                pool.jobs.put(job)
                return
            pool.started += 1
            thread = self.make_thread(partial(self._work, pool, job), pool.started)
            pool.threads.add(thread)
        try:
            thread.start()
        except BaseException:
            with pool.lock:
                pool.threads.discard(thread)
            raise

    def make_thread(self, work: Callable[[], object], number: int) -> threading.Thread:
        """Make a thread, without starting it; a subclass may want others.

        Args:
            work: what it does.
            number: how many there were before it, and one.
        """
        return threading.Thread(target=work, name=f"plugsocket-{number}", daemon=self.daemon)

    def _work(self, pool: _Pool, job: Job | None) -> None:
        try:
            while job is not None:
                job()
                job = self._next(pool)
        finally:
            with pool.lock:
                pool.threads.discard(threading.current_thread())

    def _next(self, pool: _Pool) -> Job | None:
        """Wait for a job; `None`, and out of the pool, when there was none for `idle_timeout` seconds, or it ends."""
        with pool.lock:
            if pool.idle >= 0 and (pool.ending or not self.idle_timeout):
                pool.threads.discard(threading.current_thread())
                return None
            pool.idle += 1
        while True:
            try:
                return pool.jobs.get(timeout=self.idle_timeout)
            except queue.Empty:
                with pool.lock:
                    if pool.idle > 0:
                        pool.idle -= 1
                        pool.threads.discard(threading.current_thread())
                        return None
                # Somebody has just counted on this thread: its job is on the way.

    @property
    def threads(self) -> Collection[threading.Thread]:
        """The threads that there are."""
        return tuple(self._pool.threads)

    def join(self, timeout: float) -> bool:
        """End the idle threads, and wait for all but this; one whose handler does not return is left behind."""
        pool = self._pool
        with pool.lock:
            threads = pool.threads - {threading.current_thread()}
            pool.ending = True
            while pool.idle > 0:
                pool.idle -= 1
                pool.jobs.put(None)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with pool.lock:
            return not pool.threads
