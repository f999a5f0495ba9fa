"""Trio: a task per request, in a trio program, and how requests reach handlers there."""

import math
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, cast

import attrs
import trio
from zope.interface import implementer

from plugsocket.concurrency.task_pool import innermost_scope
from plugsocket.core.endings import split_ending
from plugsocket.core.interfaces import ITrioRunner, ITrioStrategy
from plugsocket.core.job import Job, current_job
from plugsocket.core.kinds import HandlerSpec
from plugsocket.core.options import Options, integer
from plugsocket.core.protocols import AsyncRequest
from plugsocket.core.trio_closing import AsyncCloseSignal


@implementer(ITrioStrategy)
@attrs.frozen(eq=False)
class Trio(Options):
    """A trio task per request.

    Async handlers run as tasks, blocking ones in worker threads, of which the server has its own number: trio's default
    ones stay free for name resolution and files.

    Attributes:
        max_tasks: how many requests with async handlers run at once; then requests wait in the kernel's queue.
        max_threads: the same for blocking handlers.
    """

    max_tasks: int = attrs.field(default=10_000, validator=integer(1))  # picked, not measured
    max_threads: int = attrs.field(default=64, kw_only=True, validator=integer(1))

    name = "trio"


@implementer(ITrioRunner)
class TaskRunner:
    """Runs async handlers, each in its request's task.

    Args:
        handler: the handler.
        strategy: says how many run at once.
    """

    def __init__(self, handler: HandlerSpec, strategy: Trio) -> None:
        self.capacity = strategy.max_tasks
        self._handle = handler.function
        self._closing: AsyncCloseSignal | None = None

    async def run(self, job: Job) -> None:
        """Take a job to its end; see `ITrioRunner`."""
        current_job.set(job)
        scope = innermost_scope(trio.lowlevel.current_task())
        try:
            await self.handle(job)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is reported
            failure, ending = split_ending(error, cancelled=_is_cancelled(scope))
            job.finish(failure)
            if ending is not None:
                raise ending from None
        else:
            job.finish()

    def handle(self, job: Job) -> Awaitable[object]:
        """Call the handler; what it returns is yet to be awaited."""
        view = job.view(self._closing or self.closing_of(job))
        return self._handle_and_close(job, view) if job.endpoint.awaited else self._handle(view)

    async def _handle_and_close(self, job: Job, view: Any) -> None:
        try:
            await self._handle(view)
        except BaseException:
            with suppress(Exception):  # what the handler raised says more than what closing raises
                await cast("AsyncRequest", job.request).aclose()
            raise
        await cast("AsyncRequest", job.request).aclose()

    def closing_of(self, job: Job) -> AsyncCloseSignal:
        """The close signal, which all tasks of the server share."""
        if self._closing is None:
            self._closing = AsyncCloseSignal(job.engine.control.closing)
        return self._closing


def _is_cancelled(scope: object) -> bool:
    """Whether the task is cancelled from outside the handler, which began in this scope.

    It may have left a scope of its own open, as an async generator does that yields in one and is not exhausted.
    """
    task = trio.lowlevel.current_task()
    if innermost_scope(task) is scope:
        return trio.current_effective_deadline() == -math.inf
    return task.parent_nursery is not None and task.parent_nursery.cancel_scope.cancel_called


@implementer(ITrioRunner)
class ThreadRunner:
    """Runs blocking handlers, each in a worker thread.

    Args:
        handler: the handler; the job calls it.
        strategy: says how many run at once.
    """

    def __init__(self, handler: HandlerSpec, strategy: Trio) -> None:  # noqa: ARG002 - the form of every runner
        self.capacity = strategy.max_threads
        self._limiter = trio.CapacityLimiter(strategy.max_threads)

    async def run(self, job: Job) -> None:
        """Take a job to its end; see `ITrioRunner`. Cancelled, it wakes the handler by cutting its request."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cut_when_cancelled, job)
                try:
                    await trio.to_thread.run_sync(job, limiter=self._limiter)
                except Exception as error:  # noqa: BLE001 - no thread could be started; a job raises none
                    job.engine.refuse(job, error)
                nursery.cancel_scope.cancel()
        finally:
            job.finish()  # for one that was cancelled before its thread began


async def _cut_when_cancelled(job: Job) -> None:
    try:
        await trio.sleep_forever()
    finally:
        job.cut()
