"""The states of a server and the moves between them, as a table and the small engine that obeys it."""

import enum
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from plugsocket.core.errors import LifecycleError


class State(enum.Enum):
    """Where in its life a server is."""

    NEW = "new"
    BOUND = "bound"
    SERVING = "serving"
    PAUSED = "paused"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"


# Every legal move: (state, what happens) -> next state. The pictures in the documentation are drawn from this table.
TRANSITIONS: dict[tuple[State, str], State] = {
    (State.NEW, "bind"): State.BOUND,
    (State.NEW, "stop"): State.CLOSED,
    (State.BOUND, "serve"): State.SERVING,
    (State.BOUND, "stop"): State.DRAINING,
    (State.SERVING, "pause"): State.PAUSED,
    (State.SERVING, "handled one"): State.BOUND,
    (State.SERVING, "stop"): State.DRAINING,
    (State.PAUSED, "resume"): State.SERVING,
    (State.PAUSED, "handled one"): State.BOUND,
    (State.PAUSED, "stop"): State.DRAINING,
    (State.DRAINING, "drained"): State.CLOSED,
    **{(state, "fail"): State.FAILED for state in (State.BOUND, State.SERVING, State.PAUSED, State.DRAINING)},
}

FINAL = frozenset({State.CLOSED, State.FAILED})
"""The states from which no move leads on."""


class Lifecycle:
    """A state that moves only as `TRANSITIONS` allows, and that threads can wait on.

    The lock is re-entrant, so that a signal handler may ask and move while it interrupts code that does.
    """

    def __init__(self) -> None:
        self._state = State.NEW
        self._changed = threading.Condition(threading.RLock())

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    def move(self, event: str) -> State:
        """Make a move.

        Returns:
            The new state.

        Raises:
            LifecycleError: the table has no such move from the present state; the state is unchanged.
        """
        with self._changed:
            after = TRANSITIONS.get((self._state, event))
            if after is None:
                allowed = [name for state, name in TRANSITIONS if state is self._state]
                raise LifecycleError(
                    f"cannot {event} a server that is {self._state.name}; possible: {', '.join(allowed) or 'nothing'}"
                )
            self._state = after
            self._changed.notify_all()
            return after

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the state as it is for the length of a block, for a decision that rests on it."""
        with self._changed:
            yield

    def touch(self) -> None:
        """Have everybody who waits look again: something beside the state that they may wait for has changed."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Block until the condition holds, at most `timeout` seconds; it is looked at when something changed.

        Returns:
            Whether it holds.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout)
