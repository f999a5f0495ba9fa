"""Descriptors that a forked child inherited and must not keep."""

import os
import stat
from collections.abc import Collection
from contextlib import suppress

STANDARD_STREAMS = frozenset({0, 1, 2})  # service managers make sockets of them, through which output goes to the log
FOLDERS = ("/proc/self/fd", "/dev/fd")  # proc(5) on Linux; fd(4) on macOS and the BSDs


def drop_sockets(keep: Collection[int]) -> None:
    """Let go of every socket of this process but some, and but the standard streams.

    They are replaced by `/dev/null` and not closed: objects that this process inherited still believe that the
    descriptors are theirs, and would close whatever took their numbers.

    Args:
        keep: descriptors to leave alone.
    """
    folder = next((folder for folder in FOLDERS if os.path.isdir(folder)), None)
    if folder is None:
        return
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir(folder)):
        if descriptor in keep or descriptor in STANDARD_STREAMS:
            continue
        with suppress(OSError):  # the folder's own descriptor, which is closed by now
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.dup2(null, descriptor, inheritable=False)
    os.close(null)
