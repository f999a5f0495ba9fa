"""One request on its way through a handler: run, reported, closed, and its slot given back, exactly once."""

import inspect
import threading
from collections.abc import Collection
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import trio
from zope.interface import implementer

from plugsocket.core.interfaces import IJob
from plugsocket.core.protocols import AsyncCloseSignal, CloseSignal, Request, View

if TYPE_CHECKING:
    from plugsocket.core.engine import Engine

current_job: "ContextVar[Job | None]" = ContextVar("plugsocket_current_job", default=None)
"""The job whose handler runs in this thread or task."""


@implementer(IJob)
class Job:
    """A request, what makes the handler's argument of it, and the engine that keeps the account."""

    __slots__ = ("_finished", "_make_view", "engine", "request")

    def __init__(self, request: Request, make_view: View, engine: "Engine") -> None:
        self.request = request
        self.engine = engine
        self._make_view = make_view
        self._finished = False

    @property
    def peer(self) -> Any:
        """The address of who sent the request."""
        return self.request.peer

    def __call__(self) -> bool:
        """Run the handler here and now; see `IJob`."""
        current_job.set(self)
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is reported
            failure, ending = split_ending(error)
            self.finish(failure)
            if ending is not None:
                raise ending from None
            return False
        self.finish()
        return True

    def run_in_child(self) -> BaseException | None:
        """Run the handler in a forked child; see `IJob`."""
        current_job.set(self)
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is reported
            return None if is_interrupt(error) else error
        finally:
            self.request.close()
        return None

    def _run(self) -> None:
        result = self.engine.call(self.view(self.engine.control.closing))
        if result is not None and inspect.iscoroutine(result):
            result.close()
            raise TypeError(
                f"{self.engine.handler_name} returned a coroutine: it is an async handler that does not look like one; "
                "declare it with zope.interface.directlyProvides(handler, IAsyncHandler)"
            )

    def view(self, closing: CloseSignal | AsyncCloseSignal) -> Any:
        """Make what the handler is called with, with a close signal of its colour."""
        return self._make_view(self.request, closing)

    def filenos(self) -> Collection[int]:
        """Return the descriptors that the job needs in another process."""
        return (*self.request.filenos(), self.engine.control.closing.fileno())

    def cut(self) -> None:
        """Wake the handler for good, unless it is done already: then its descriptor may be somebody else's."""
        with self.engine.closing_lock:
            if not self._finished:
                self.request.cut()

    def disown(self) -> None:
        """Release this process's copy of the request; another process runs the job."""
        self.request.disown()

    def finish(self, failure: BaseException | None = None) -> None:
        """Close the request, report a failure, give the slot back. Idempotent."""
        with self.engine.closing_lock:
            if self._finished:
                return
            self._finished = True
        try:
            try:
                self.request.close()
            except Exception as error:  # noqa: BLE001 - a handler that closed the descriptor itself, or a plug-in
                failure = failure or error
            if failure is not None:
                self.engine.report_failure(self, failure)
        finally:
            self.engine.ledger.close(self)


def split_ending(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Separate what a handler raised from what ends it from outside: cancellation, and Ctrl-C.

    Args:
        error: what came out of an async handler; a group may hold both.

    Returns:
        The failure to report, and what is to be raised on; each `None` where there is none.
    """
    if isinstance(error, BaseExceptionGroup):
        ending, failure = error.split((trio.Cancelled, KeyboardInterrupt))
        return failure, ending
    if isinstance(error, trio.Cancelled) or is_interrupt(error):
        return None, error
    return error, None


def is_interrupt(error: BaseException) -> bool:
    """Whether this is a Ctrl-C, which only the main thread gets, and not an exception that a handler made up."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
