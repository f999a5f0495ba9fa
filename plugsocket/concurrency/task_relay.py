"""Jobs one after the other in one task, as long as none of them waits: to hand one to a task takes a while, too."""

import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any

import trio

from plugsocket.concurrency.task_pool import TaskPool, innermost_scope
from plugsocket.core.job import Job


class TaskRelay:
    """Runs jobs in tasks of a nursery: one task takes them as they come, and when one waits, another takes over.

    To a job it looks like a task of its own: it begins in a copy of the context in which the relay was made, whatever
    the job before has set. One that does not wait costs no turn of trio's loop.

    Args:
        nursery: where the tasks run.
        run: takes a job to its end.
    """

    def __init__(self, nursery: trio.Nursery, run: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        self._run = run
        self._jobs: deque[Job] = deque()
        self._manned = False  # whether there is a task that will take the next job before it waits
        self._context = copy_context()
        self._tasks = TaskPool(nursery, self._take_jobs)

    def spawn(self, job: Job) -> None:
        """Have a job run, after those that were spawned before it and have not begun."""
        self._jobs.append(job)
        self._man()

    def close(self) -> None:
        """Let idle tasks end, and those that become idle."""
        self._tasks.close()

    def _man(self) -> None:
        if self._jobs and not self._manned:
            self._manned = True
            self._tasks.spawn(self)

    def _hand_over(self) -> None:
        self._manned = False
        self._man()

    async def _take_jobs(self, _: object) -> None:
        task = trio.lowlevel.current_task()
        scope = innermost_scope(task)
        try:
            while self._jobs and innermost_scope(task) is scope:  # else a handler left one open, for its task
                job = self._run(self._jobs.popleft())
                await _in_context(job, self._context.copy(), self._hand_over)
        finally:
            self._hand_over()


@types.coroutine
def _in_context(
    coroutine: Coroutine[Any, Any, None], context: Context, on_wait: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Do what a coroutine does, in a context of its own.

    Args:
        coroutine: what is to be awaited.
        context: where it runs.
        on_wait: called when it waits for the first time.
    """
    run = context.run
    try:
        wanted = run(coroutine.send, None)
        on_wait()
        while True:
            try:
                given = yield wanted
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                wanted = run(coroutine.throw, error)
            else:
                wanted = run(coroutine.send, given)
    except StopIteration:
        return
