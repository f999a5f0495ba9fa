"""How a stop went."""

from typing import Any

import attrs


@attrs.frozen
class StopReport:
    """How a stop went.

    Attributes:
        completed: how many of the requests that were under way ended by themselves.
        cut: the peers of those that did not, whose handlers were ended.
        seconds: how long it took, by `time.monotonic`, also in a trio program whose clock is another one.
        finished: whether the server is closed; not yet, if the stop came from a handler or a signal handler, which it
            does not block.
    """

    completed: int
    cut: tuple[Any, ...]
    seconds: float
    finished: bool = True
