"""Tasks that take one job after the other: starting a task takes longer than many a request."""

from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any

import attrs
import trio

KEPT = 64  # idle tasks, at most: as many as one batch of requests can use
_NOTHING = Context()


@attrs.define(eq=False)
class _Worker:
    """A task that has been idle; others do without, since connections may be many and last."""

    task: trio.lowlevel.Task
    idle: "list[_Worker]"
    job: Any = None

    def leave(self, _raise_cancel: Any) -> trio.lowlevel.Abort:
        """Be idle no more, being cancelled."""
        self.idle.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED


class TaskPool:
    """Runs jobs in tasks of a nursery, one job at a time in each; idle tasks are used again.

    To a job it looks like a task of its own: it begins in a copy of the context of who spawned it, whatever the job
    before has set, and a task whose job left a cancel scope open takes no other one.

    Args:
        nursery: where the tasks run; cancelling it ends those that are idle, too.
        run: takes a job to its end.
    """

    def __init__(self, nursery: trio.Nursery, run: Callable[[Any], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._run = run
        self._idle: list[_Worker] = []
        self._closed = False

    def spawn(self, job: object) -> None:
        """Have a job run, in an idle task or a new one."""
        if not self._idle:
            self._nursery.start_soon(self._work, job)
            return
        worker = self._idle.pop()
        worker.job = job
        worker.task.context = copy_context()
        trio.lowlevel.reschedule(worker.task)

    def close(self) -> None:
        """Let idle tasks end, and those that become idle."""
        self._closed = True
        while self._idle:
            trio.lowlevel.reschedule(self._idle.pop().task)

    async def _work(self, job: Any) -> None:
        scope = innermost_scope(trio.lowlevel.current_task())
        worker: _Worker | None = None
        while job is not None:
            await self._run(job)
            job = None
            if worker is None:
                worker = _Worker(trio.lowlevel.current_task(), self._idle)
            if self._closed or len(self._idle) >= KEPT or innermost_scope(worker.task) is not scope:
                return
            self._idle.append(worker)
            worker.task.context = _NOTHING  # holds nothing of the job
            await trio.lowlevel.wait_task_rescheduled(worker.leave)
            job, worker.job = worker.job, None


def innermost_scope(task: trio.lowlevel.Task) -> object:
    """What stands for the cancel scope that a task is in; trio has no public name for it."""
    return getattr(task, "_cancel_status", None)
