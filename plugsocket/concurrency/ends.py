"""The ends of child processes, as one descriptor."""

import select
import selectors
from collections.abc import Collection
from typing import Any


class Ends:
    """Descriptors of which each becomes readable when a child has ended; one to watch for all of them.

    A child that is forked costs what its parent touches between two forks, for each page of memory that it has to be
    given a copy of: so this does with as little as there is.
    """

    def __init__(self) -> None:
        # Any, since what is common to the two has no type: kqueue(2) has to be told in another way.
        self._epoll: Any = select.epoll() if hasattr(select, "epoll") else None
        self._selector: Any = self._epoll or selectors.DefaultSelector()

    def fileno(self) -> int:
        """Return a descriptor that is readable when a child has ended."""
        return int(self._selector.fileno())

    def add(self, fileno: int) -> None:
        """Watch for one more."""
        self._selector.register(fileno, selectors.EVENT_READ)  # which is EPOLLIN too

    def remove(self, fileno: int) -> None:
        """Watch for one less; to be called before it is closed."""
        self._selector.unregister(fileno)

    def ready(self) -> Collection[int]:
        """Return those that are readable now."""
        if self._epoll is not None:
            return [fileno for fileno, _ in self._epoll.poll(0)]
        return [key.fd for key, _ in self._selector.select(0)]

    def close(self) -> None:
        """Close the descriptor, and none of those that were added."""
        self._selector.close()
