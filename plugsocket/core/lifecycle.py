"""The states of a server and the moves between them, as a table and the small engine that obeys it."""

import enum
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

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
    **{(state, "fail"): State.FAILED for state in (State.SERVING, State.PAUSED, State.DRAINING)},
}

REQUESTS = {"bind", "serve", "pause", "resume", "stop"}
"""Those of the moves that somebody asks for; the others happen."""

FINAL = frozenset({State.CLOSED, State.FAILED})
"""The states from which no move leads on."""


class Lifecycle:
    """A state that moves only as `TRANSITIONS` allows, and that threads can wait on.

    A signal handler may interrupt a thread in the middle of a decision about the state, and want to decide as well. A
    lock cannot keep the two apart, since they are one thread; so what the handler wants is deferred until the decision
    is made (`deferred`).

    Args:
        on_move: called after each move with the states before and after, when nobody holds the state any more.
    """

    def __init__(self, on_move: Callable[[State, State], object]) -> None:
        self._on_move = on_move
        self._state = State.NEW
        self.entered: Counter[State] = Counter()  # how often each state was, for those who would miss a short one
        self._changed = threading.Condition(threading.RLock())
        self._decider: int | None = None
        self._later: deque[Callable[[], object]] = deque()

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the state as it is for the length of a block, for a decision that rests on it. Blocks may be nested."""
        outer: int | None = threading.get_ident()
        try:
            with self._changed:
                outer, self._decider = self._decider, threading.get_ident()
                try:
                    yield
                finally:
                    self._decider = outer
        finally:
            if outer is None:
                self._do_what_was_deferred()

    def is_held_elsewhere(self) -> bool:
        """Whether another thread holds the state now, such as one that binds; it may take its time."""
        if self._changed.acquire(blocking=False):
            self._changed.release()
            return False
        return True

    def wait_released(self) -> None:
        """Block until no other thread holds the state."""
        with self._changed:
            pass

    def _do_what_was_deferred(self) -> None:
        while True:
            try:
                call = self._later.popleft()
            except IndexError:  # another thread, or a signal handler, may have been faster
                return
            call()

    def deferred(self, call: Callable[[], object]) -> bool:
        """Have a call made later, if this thread was interrupted while it holds the state.

        Returns:
            Whether it will be; if not, the caller can go on.
        """
        if self._decider != threading.get_ident():
            return False
        self._later.append(call)
        return True

    def move(self, event: str) -> State:
        """Make a move.

        Returns:
            The new state.

        Raises:
            LifecycleError: the table has no such move from the present state; the state is unchanged.
        """
        with self.held():
            after = TRANSITIONS.get((self._state, event))
            if after is None:
                allowed = [name for state, name in TRANSITIONS if state is self._state and name in REQUESTS]
                possible = ", ".join(allowed) or "a new server"
                raise LifecycleError(f"cannot {event} a server that is {self._state.name}; possible: {possible}")
            self._later.append(partial(self._on_move, self._state, after))
            self._state = after
            self.entered[after] += 1
            self._changed.notify_all()
            return after

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
