"""A count of what a piece of work leaves behind."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.kit import child_pids


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the folder's own
            found[entry] = os.readlink(f"/proc/self/fd/{entry}")
    return found


def _threads() -> set[threading.Thread]:
    # trio keeps idle worker threads for ten seconds, under this name.
    return {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}


def _socket_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_socket()}


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """Count descriptors, threads, children and the folder's socket files before and after a block."""
    descriptors, threads, children = _descriptors(), _threads(), child_pids()
    yield
    assert not _threads() - threads
    assert not child_pids() - children
    assert not _socket_files(folder)
    left = {number: what for number, what in _descriptors().items() if number not in descriptors}
    assert not left
