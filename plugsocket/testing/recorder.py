"""A subscriber that keeps what it is told."""

import threading
from typing import TypeVar

from plugsocket.core.errors import OptionError
from plugsocket.core.events import Event
from plugsocket.core.options import SECONDS, is_seconds
from plugsocket.testing.checks import check_whole

Kind = TypeVar("Kind")


class EventRecorder:
    """Keeps the events of the servers that it is subscribed to: `server.subscribe(EventRecorder())`.

    It may be called and asked in any thread. In a forked child it is a copy: what happens there, the parent's does not
    see.

    Attributes:
        events: what came until now, in its order; clear the list to begin afresh.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._came = threading.Condition()

    def __call__(self, event: Event) -> None:
        """Keep an event."""
        with self._came:
            self.events.append(event)
            self._came.notify_all()

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the events of one class, in their order."""
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[Kind], count: int = 1, timeout: float = 20.0) -> list[Kind]:
        """Block until so many events of one class have come, those that came before included.

        In a trio program call it in a thread: `await trio.to_thread.run_sync(recorder.wait_for, HandlerFailed)`.

        Args:
            kind: the class.
            count: how many.
            timeout: seconds after which to give up.

        Returns:
            All of that class, at least `count`.

        Raises:
            AssertionError: they did not come; the message lists every event that did.
            OptionError: the count or the time-out is none.
        """
        check_whole("count", count, minimum=1)
        if not is_seconds(timeout):
            raise OptionError(f"timeout must be {SECONDS}, not {timeout!r}")
        with self._came:
            if self._came.wait_for(lambda: len(self.of(kind)) >= count, timeout):
                return self.of(kind)
            came = "\n  ".join(f"{type(event).__name__}: {event}" for event in self.events) or "nothing"
            raise AssertionError(
                f"{len(self.of(kind))} of {count} {kind.__name__} came in {timeout:g} s; what came:\n  {came}"
            )
