"""One request on its way through a handler: run, reported, closed, and its slot given back, exactly once."""

import inspect
import time
from collections.abc import Collection
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from zope.interface import implementer

from plugsocket.core.endings import is_cancellation, is_interrupt, split_ending
from plugsocket.core.interfaces import IConnectionRequest, IJob, IStreamRequest
from plugsocket.core.protocols import AsyncCloseSignal, CloseSignal, ConnectionRequest, Request, StreamRequest
from plugsocket.core.traffic import Traffic

if TYPE_CHECKING:
    from plugsocket.core.engine import Endpoint, Engine

current_job: "ContextVar[Job | None]" = ContextVar("plugsocket_current_job", default=None)
"""The job whose handler runs in this thread or task."""


@implementer(IJob)
class Job:
    """A request, the endpoint where it came in, and the engine that keeps the account.

    Attributes:
        began: when it was accepted, in nanoseconds of `time.monotonic_ns`.
    """

    __slots__ = ("_finished", "began", "endpoint", "engine", "request")

    def __init__(self, request: Request, endpoint: "Endpoint", engine: "Engine") -> None:
        self.request = request
        self.endpoint = endpoint
        self.engine = engine
        self.began = time.monotonic_ns()
        self._finished = False

    @property
    def peer(self) -> Any:
        """The address of who sent the request."""
        return self.request.peer

    @property
    def traffic(self) -> Traffic | None:
        """The account of the connection; `None` for a datagram, and for a request that keeps none."""
        return getattr(self.request, "traffic", None)

    @property
    def seconds(self) -> float:
        """How long it has been under way."""
        return (time.monotonic_ns() - self.began) / 1e9

    def __call__(self) -> bool:
        """Run the handler here and now; see `IJob`."""
        current_job.set(self)
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is reported
            failure, ending = split_ending(error, cancelled=self.engine.stopping)
            self.finish(failure)
            if ending is not None and not is_cancellation(ending):  # which is over with the handler
                raise ending from None
            return False
        self.finish()
        return True

    def run_in_child(self) -> BaseException | None:
        """Run the handler in a forked child; see `IJob`."""
        current_job.set(self)
        self.engine.control.enter_child()
        if IStreamRequest.providedBy(self.request):
            cast("StreamRequest", self.request).linger = None  # the parent's copy of the connection does
        failure: BaseException | None = None
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is reported
            failure = None if is_interrupt(error) else error
        try:
            self.request.close()
        except Exception as error:  # noqa: BLE001 - a handler that closed the descriptor itself, or a plug-in
            failure = failure or error
        return failure

    def _run(self) -> None:
        result = self.engine.call(self.view(self.engine.control.closing))
        if result is not None and inspect.iscoroutine(result):
            result.close()
            raise TypeError(
                f"{self.engine.handler_name} returned a coroutine: it is an async handler that does not look like one; "
                "write it as an async function, or declare it with zope.interface.directlyProvides(handler, "
                "plugsocket.core.interfaces.IAsyncHandler)"
            )

    def view(self, closing: CloseSignal | AsyncCloseSignal) -> Any:
        """Make what the handler is called with, with a close signal of its colour."""
        return self.endpoint.view(self.request, closing)

    def filenos(self) -> Collection[int]:
        """Return the descriptors that the job needs in another process."""
        return (*self.request.filenos(), self.engine.control.closing.fileno())

    def summary(self) -> tuple[int, int, bool]:
        """What the parent should know; see `IJob`."""
        traffic = self.traffic
        return traffic.summary() if traffic is not None else (0, 0, False)

    def adopt(self, summary: tuple[int, int, bool]) -> None:
        """Take over what the child told; see `IJob`."""
        if self.traffic is not None:
            self.traffic.adopt(summary)

    def end_if_idle(self) -> bool:
        """Have a handler that waits for a request to begin see end of file; return whether it does wait."""
        if not IConnectionRequest.providedBy(self.request):
            return False
        with self.engine.closing_lock:
            return not self._finished and cast("ConnectionRequest", self.request).end_if_idle()

    def cut(self) -> None:
        """Wake the handler for good, unless it is done already: then its descriptor may be somebody else's."""
        with self.engine.closing_lock:
            if not self._finished:
                self.request.cut()

    def finish(self, failure: BaseException | None = None) -> None:
        """Close the request, report a failure, give the slot back. Idempotent."""
        with self.engine.closing_lock:
            if self._finished:
                return
            self._finished = True
        try:
            try:
                if self.endpoint.datagrams:
                    self.request.close()
                else:
                    self.engine.dismiss(self.request)
            except Exception as error:  # noqa: BLE001 - a handler that closed the descriptor itself, or a plug-in
                failure = failure or error
            if failure is not None or not self.endpoint.datagrams:
                self.engine.report_end(self, failure)
        finally:
            self.engine.ledger.close(self)
