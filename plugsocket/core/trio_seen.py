"""What is asked about trio where it need not be imported: without it there are no tasks, and no errors of its own.

Importing it for the question would cost time and memory in every program without trio, and in each of its forks.
"""

import sys
from typing import Any


def in_trio_task() -> bool:
    """Whether this is called in a task of trio."""
    return any(ask() for ask in _found("trio.lowlevel", "in_trio_task"))


def cancelled_errors() -> tuple[type[BaseException], ...]:
    """What tasks that are cancelled raise, for `isinstance`: `trio.Cancelled`, or nothing."""
    return _found("trio", "Cancelled")


def broken_errors() -> tuple[type[BaseException], ...]:
    """What streams raise whose peer is gone, for `isinstance`: `trio.BrokenResourceError`, or nothing."""
    return _found("trio", "BrokenResourceError")


def _found(module: str, name: str) -> tuple[Any, ...]:
    """What a module has by that name; nothing where it is not imported, or is about to be, by another thread."""
    there = sys.modules.get(module)
    return (getattr(there, name),) if hasattr(there, name) else ()
