"""Waiting for descriptors, in blocking code."""

import math
import select
from collections.abc import Collection

LONGEST_WAIT = 86_400.0  # seconds; poll(2) and epoll(7) count milliseconds in an int; who waits looks again anyway


def wait_ready(reading: Collection[int], writing: Collection[int], timeout: float | None) -> Collection[int]:
    """Block until a descriptor is readable, or writable, or in error.

    Args:
        reading: descriptors that are waited for to become readable.
        writing: the same for writable.
        timeout: seconds; `None` or `inf` for as long as it takes.

    Returns:
        Those that are ready; none if the time is over.
    """
    wait = None if timeout is None or timeout == math.inf else min(timeout, LONGEST_WAIT)
    if not hasattr(select, "poll"):  # Windows
        readable, writable, _ = select.select(reading, writing, [], wait)
        return [*readable, *writable]
    poll = select.poll()  # select() itself fails for descriptors above 1023
    for descriptor in reading:
        poll.register(descriptor, select.POLLIN)
    for descriptor in writing:
        poll.register(descriptor, select.POLLOUT)
    return [descriptor for descriptor, _ in poll.poll(None if wait is None else math.ceil(wait * 1000))]


def wait_readable(fileno: int, timeout: float | None) -> bool:
    """Block until a descriptor is readable, at most `timeout` seconds; return whether it is."""
    return bool(wait_ready((fileno,), (), timeout))
