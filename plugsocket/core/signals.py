"""Signal handlers for the length of a block."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals_handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT with `handler`, and afterwards as before; only the main thread can."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None: it was not Python that set it, and what did is not known.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
