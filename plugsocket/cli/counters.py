"""`plugsocket serve --stats`: the server's counters, a line every so many seconds."""

import logging
import threading
import time

import attrs

from plugsocket.core.errors import OptionError
from plugsocket.core.ledger import Stats
from plugsocket.core.options import is_seconds
from plugsocket.core.server import Server
from plugsocket.core.signals import signals_left_alone

TICK = 0.02  # seconds; a clock may go no finer, and the last line may come right after another

logger = logging.getLogger("plugsocket")


class Counters:
    """Logs the counters of a server, from a thread of its own.

    Args:
        server: whose.
        interval: seconds from one line to the next.

    Raises:
        OptionError: `interval` is no duration, or none at all.
    """

    def __init__(self, server: Server, interval: float) -> None:
        if not is_seconds(interval) or not interval:
            raise OptionError(f"stats must be a number of seconds, more than zero, not {interval!r}")
        self._server = server
        self._interval = interval
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._before = 0
        self._at = 0.0

    def begin(self) -> None:
        """Begin to log; the server serves now."""
        self._at = time.monotonic()
        self._thread = threading.Thread(target=self._log_lines, name="plugsocket counters", daemon=True)
        with signals_left_alone():
            self._thread.start()

    def end(self) -> None:
        """Log a last line, if there was to be any."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()

    def _log_lines(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self._interval)
            stats, now = self._server.stats, time.monotonic()
            seconds = max(TICK, now - self._at)
            logger.info("%s", describe(stats, (stats.accepted - self._before) / seconds))
            self._before, self._at = stats.accepted, now


def describe(stats: Stats, rate: float) -> str:
    """Say in one line what the counters are, those excepted that are zero, and how many requests come in a second."""
    counted = {name.replace("_", " "): count for name, count in attrs.asdict(stats).items() if count}
    accepted = counted.pop("accepted", 0)
    counted.pop("completed", None)  # which the others tell
    return ", ".join([f"accepted {accepted} ({rate:.1f}/s)", *(f"{name} {count}" for name, count in counted.items())])
