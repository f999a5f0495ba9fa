"""What the system refuses when it has no more: threads, processes, descriptors; each for the length of a block."""

import errno as error_numbers
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from plugsocket.core.errors import OptionError
from plugsocket.testing.checks import check_whole, os_error

if sys.platform != "win32":
    import resource


class Failures:
    """How often something is made to fail, and how often it was.

    Args:
        times: so often; then it works.
    """

    def __init__(self, times: int) -> None:
        check_whole("times", times, minimum=1)
        self.times = times
        # Taking from a list is atomic; a lock might be held by another thread when a process forks.
        self._left = [None] * times

    @property
    def delivered(self) -> int:
        """How often it failed until now; in a forked child, what happened there is the child's to know."""
        return self.times - len(self._left)

    def take(self) -> bool:
        """Return whether to fail now, and count it."""
        try:
            self._left.pop()
        except IndexError:
            return False
        return True


@contextmanager
def failing_threads(times: int, error: Exception | None = None, *, prefix: str = "plugsocket-") -> Iterator[Failures]:
    """Make the next worker threads fail to start, in whatever thread they are started.

    These are the threads of `Thread()`. Those of the program, of the server itself, and of trio are left alone.

    Args:
        times: how many.
        error: what `threading.Thread.start` raises; `None` is for what Python raises when the system has no more.
        prefix: how the names of the threads begin that are to fail: another one for a strategy of your own.

    Yields:
        How often it happened.

    Raises:
        OptionError: an argument cannot work.
    """
    if error is not None and not isinstance(error, Exception):
        raise OptionError(f"error must be an exception or None, not {error!r}")
    failures = Failures(times)
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix) and failures.take():
            raise RuntimeError("can't start new thread") if error is None else error
        original(thread)

    with _replaced(threading.Thread, "start", start):
        yield failures


@contextmanager
def failing_forks(times: int, errno: int = error_numbers.EAGAIN) -> Iterator[Failures]:
    """Make the next calls of `os.fork` fail, in whatever thread they are.

    Args:
        times: how many.
        errno: the number of the `OSError` that they raise; those of the system are `EAGAIN` and `ENOMEM` (fork(2)).

    Yields:
        How often it happened.

    Raises:
        OptionError: an argument cannot work.
    """
    os_error("errno", errno)
    failures = Failures(times)
    original = os.fork

    def fork() -> int:
        if failures.take():
            raise os_error("errno", errno)
        return original()

    with _replaced(os, "fork", fork):
        yield failures


@contextmanager
def _replaced(owner: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def low_descriptor_limit(spare: int) -> Iterator[None]:
    """Lower this process's limit of descriptors (RLIMIT_NOFILE, getrlimit(2)), so that few more can be opened.

    What is open stays open, also above the limit. The limit is the whole process's: clients in the same process need
    their sockets before, and what other threads open counts as well. Processes that are started meanwhile inherit it.

    Args:
        spare: how many more can be opened; the next one fails with `EMFILE`.

    Raises:
        OptionError: the limit is too low already for so many, or it is no number of them.
    """
    check_whole("spare", spare, minimum=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system gives out the lowest number that is free, and none that is not below the limit.
    numbers = itertools.count() if soft == resource.RLIM_INFINITY else range(soft + 1)
    free = (number for number in numbers if not _is_open(number))
    limit = next(itertools.islice(free, spare, None), None)
    if limit is None:
        raise OptionError(f"spare must be at most what the limit of {soft} descriptors leaves, not {spare}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
