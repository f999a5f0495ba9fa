"""A signal before any line that a thread runs of plugsocket."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import plugsocket

PACKAGE = str(Path(plugsocket.__file__).parent)


class Interruption:
    """Raises SIGTERM before the n-th line of plugsocket that this thread runs, once given to `sys.settrace`.

    Args:
        number: n, from 1.
        counts: says whether the line that a frame is about to run is one of those.

    Attributes:
        where: the file and the line; empty while the signal has not come.
    """

    def __init__(self, number: int, counts: Callable[[FrameType], bool]) -> None:
        self._left = number
        self._counts = counts
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "call":
            return self if frame.f_code.co_filename.startswith(PACKAGE) else None
        if event == "line" and self._counts(frame):
            self._left -= 1
            if self._left == 0:
                sys.settrace(None)  # the rest need not be watched, which takes longer than to run it
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGTERM)
        return self
