"""Threads and children that a program starts by itself, and has the server keep in attributes that are not documented.

The attributes show those of the server too. They are looked up rarely, and so made up to date when they are.
"""

import os
import threading
from collections.abc import Iterable
from typing import Any


class Threads(list[threading.Thread]):
    """Threads that somebody waits for some day."""

    def append(self, thread: threading.Thread) -> None:
        """Keep a thread, unless nobody waits for it, since it is a daemon."""
        self.reap()
        if not thread.daemon:
            super().append(thread)

    def reap(self) -> None:
        """Forget those that have ended."""
        self[:] = [thread for thread in self if thread.is_alive()]

    def pop_all(self) -> list[threading.Thread]:
        """Give them away."""
        threads = list(self)
        self.clear()
        return threads

    def join(self) -> None:
        """Wait for them all."""
        for thread in self.pop_all():
            thread.join()


class NoThreads:
    """Keeps nothing."""

    def append(self, thread: threading.Thread) -> None:
        """Forget the thread."""

    def join(self) -> None:
        """Have nobody to wait for."""


def threads_of(server: Any, own: Iterable[threading.Thread]) -> Any:
    """Return the threads that a server keeps, and those of its own."""
    kept = vars(server).setdefault("_threads", Threads())
    if isinstance(kept, Threads):
        kept.reap()
        kept.extend(thread for thread in own if thread not in kept)
    return kept


def join_threads(server: Any) -> None:
    """Wait for the threads that a server keeps."""
    kept = vars(server).get("_threads")
    if isinstance(kept, Threads):
        kept.join()


def children_of(server: Any, own: Iterable[int]) -> Any:
    """Return the process ids that a server keeps, and those of its own children."""
    kept = vars(server).setdefault("active_children", set())
    if isinstance(kept, set):
        kept -= vars(server).get("_plugsocket_shown", set())
        shown = vars(server)["_plugsocket_shown"] = set(own)
        kept |= shown
    return kept


def reap_children(server: Any, own: Iterable[int], *, blocking: bool) -> None:
    """Reap those that a server keeps which are not its own.

    Args:
        server: whose.
        own: its own, which others reap.
        blocking: whether to wait for them.
    """
    kept = children_of(server, own)
    for pid in set(kept or ()) - set(own):
        try:
            ended, _ = os.waitpid(pid, 0 if blocking else os.WNOHANG)
        except ChildProcessError:  # somebody else has
            ended = pid
        if ended:
            kept.discard(pid)
