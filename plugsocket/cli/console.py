"""Standard error as a terminal: log records, and beneath them one line that is rewritten in place."""

import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

COLUMNS = 80  # of a terminal that does not say how wide it is


class Console(logging.StreamHandler[TextIO]):
    """Writes log records to standard error, and beneath them a line about what goes on, if it is a terminal.

    The lock of the handler is what keeps the two apart.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._line = ""

    @property
    def is_terminal(self) -> bool:
        """Whether there is somebody to see the line; a program may also have been started without standard error."""
        return self.stream is not None and self.stream.isatty()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, in place of the line, which comes back when it is shown again."""
        self.show("")
        super().emit(record)

    def show(self, line: str) -> None:
        """Show a line in place of the one that is shown; an empty one for none."""
        self.acquire()
        try:
            if line or self._line:
                line = line[: self._columns() - 1]  # one that is wrapped could not be gone back over
                blank = " " * len(self._line)
                self._line = line
                with suppress(OSError, ValueError):  # the terminal is gone, and whoever looked at it
                    self.stream.write(f"\r{blank}\r{line}")
                    self.stream.flush()
        finally:
            self.release()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or COLUMNS
        except (OSError, ValueError):
            return COLUMNS
