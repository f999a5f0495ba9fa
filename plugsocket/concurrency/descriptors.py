"""Descriptors that a forked child inherited and must not keep."""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from plugsocket.concurrency.streams import output_streams

FOLDERS = ("/proc/self/fd", "/dev/fd")  # proc(5) on Linux; fd(4) on macOS and the BSDs


def drop_descriptors(keep: Collection[int]) -> None:
    """Let go of every descriptor of this process but some, and but those that output goes to.

    They are replaced and not closed: objects that this process inherited still believe that the descriptors are theirs,
    and would close whatever took their numbers. What stands in their place cannot be read or written, so that using it
    is an error (`EBADF`) and not a silent loss.

    Args:
        keep: descriptors to leave alone.
    """
    folder = next((folder for folder in FOLDERS if os.path.isdir(folder)), None)
    if folder is None:
        return
    kept = {*keep, *_outputs()}
    descriptors = os.listdir(folder)
    # Opened after that, it takes the number that the folder had, so that no descriptor of the list is free.
    nothing = os.open(os.devnull, getattr(os, "O_PATH", os.O_RDONLY))
    for descriptor in map(int, descriptors):
        if descriptor not in kept and descriptor != nothing:
            try:
                os.dup2(nothing, descriptor, inheritable=False)
            except OSError:  # it is above the limit of descriptors, so that nothing takes its number
                os.close(descriptor)
    os.close(nothing)


def _outputs() -> Iterator[int]:
    """The standard streams, which service managers connect to the log, and what `logging` writes to."""
    # Where the program was started without one, its number is that of something else.
    yield from (number for number, stream in enumerate((sys.__stdin__, sys.__stdout__, sys.__stderr__)) if stream)
    for stream in output_streams():
        fileno = _fileno(stream)
        if fileno is not None:
            yield fileno


def _fileno(target: Any) -> int | None:
    with suppress(Exception):  # closed, or no file at all, such as `io.StringIO` or what a test puts there
        return int(target.fileno())
    return None
