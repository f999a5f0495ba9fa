"""What costs the tests most of their time and shows nothing: done once, or not at all."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from plugsocket.core import plugins as plugins_module
from plugsocket.core.plugins import Plugin

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h


def give_memory_back() -> None:
    """Have big blocks of memory go back to the system once they are free, since a fork costs as much as there is.

    Left to itself, glibc learns to keep them for reuse, in an arena of each thread (mallopt(3)): after the tests that
    send many megabytes, every fork would take four times as long. Other C libraries have other ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**18)
        mallopt(M_ARENA_MAX, 1)


def remember_plugins() -> None:
    """Look anew for the plug-ins only when something was installed, not with every server that names its strategy.

    To find one, the metadata of every installed package is read, which takes longer than most tests do.
    """
    find = plugins_module.plugins

    @cache
    def found(group: str, _installed: object) -> tuple[Plugin, ...]:
        return tuple(find(group))

    plugins_module.plugins = lambda group: iter(found(group, tuple(_folders())))


def _folders() -> Iterator[tuple[str, int]]:
    """Where packages are imported from, and when something was last installed there or removed."""
    for folder in sys.path:
        with suppress(OSError):
            yield folder, Path(folder).stat().st_mtime_ns
