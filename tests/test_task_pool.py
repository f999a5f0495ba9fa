"""The tasks that take one job after the other: to a job they are tasks of its own."""

import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio
import trio.testing

from plugsocket import UDP, AsyncDatagram, Server, Trio
from plugsocket.concurrency.task_pool import KEPT, TaskPool
from tests.kit import TIMEOUT, ask, client, serving

who: ContextVar[str] = ContextVar("who", default="nobody")


class Job:
    pass


def in_a_pool(test: Callable[[trio.Nursery, Callable[..., TaskPool]], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                await test(nursery, lambda run: TaskPool(nursery, run))
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_task_takes_one_job_after_the_other() -> None:
    tasks = []

    async def run(job: Any) -> None:
        tasks.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()

    async def test(nursery: trio.Nursery, make: Callable[..., TaskPool]) -> None:
        pool = make(run)
        for _ in range(3):
            pool.spawn(Job())  # type: ignore[arg-type]
            await trio.testing.wait_all_tasks_blocked()
        assert len(tasks) == 3
        assert len(set(tasks)) == 1

    in_a_pool(test)


def test_jobs_run_beside_each_other() -> None:
    gate = trio.Event()
    began = []

    async def run(job: Any) -> None:
        began.append(job)
        await gate.wait()

    async def test(nursery: trio.Nursery, make: Callable[..., TaskPool]) -> None:
        pool = make(run)
        for _ in range(3):
            pool.spawn(Job())  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        assert len(began) == 3
        gate.set()

    in_a_pool(test)


def test_a_job_begins_in_the_context_of_who_spawned_it() -> None:
    seen = []

    async def run(job: Any) -> None:
        seen.append(who.get())
        who.set("an earlier job")
        await trio.lowlevel.checkpoint()
        seen.append(who.get())

    async def test(nursery: trio.Nursery, make: Callable[..., TaskPool]) -> None:
        pool = make(run)
        for name in ("first", "second"):
            who.set(name)
            pool.spawn(Job())  # type: ignore[arg-type]
            await trio.testing.wait_all_tasks_blocked()
        assert seen == ["first", "an earlier job", "second", "an earlier job"]
        assert who.get() == "second"

    in_a_pool(test)


def test_an_idle_task_holds_nothing_of_its_job() -> None:
    async def run(job: Any) -> None:
        held.set(job)
        await trio.lowlevel.checkpoint()

    held: ContextVar[Any] = ContextVar("held")

    async def test(nursery: trio.Nursery, make: Callable[..., TaskPool]) -> None:
        pool = make(run)
        job = Job()
        gone = weakref.ref(job)
        pool.spawn(job)  # type: ignore[arg-type]
        del job
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        assert gone() is None

    in_a_pool(test)


def test_a_task_whose_job_left_a_cancel_scope_open_takes_no_other_one() -> None:
    scope = trio.CancelScope()
    gate = trio.Event()
    ended = []

    async def run(job: Any) -> None:
        if job == "leaves":
            scope.__enter__()
            return
        await gate.wait()
        ended.append(job)

    async def test(nursery: trio.Nursery, make: Callable[..., TaskPool]) -> None:
        pool = make(run)
        for job in ("leaves", "next"):
            pool.spawn(job)  # type: ignore[arg-type]
            await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()

    in_a_pool(test)
    assert ended == ["next"]


def test_a_task_that_was_cancelled_takes_no_job() -> None:
    began = []

    async def run(job: Any) -> None:
        began.append(job)

    async def test(nursery: trio.Nursery, make: Callable[..., TaskPool]) -> None:
        pool = make(run)
        pool.spawn("first")  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope(shield=True):
            nursery.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            pool.spawn("late")  # type: ignore[arg-type]
            await trio.testing.wait_all_tasks_blocked()
        assert began == ["first", "late"]

    in_a_pool(test)


def test_no_more_idle_tasks_than_a_batch_needs() -> None:
    async def run(job: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def test(nursery: trio.Nursery, make: Callable[..., TaskPool]) -> None:
        pool = make(run)
        for _ in range(KEPT + 10):
            pool.spawn(Job())  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == KEPT

    in_a_pool(test)


@pytest.mark.parametrize("busy", [False, True])
def test_closed_its_tasks_end(busy: bool) -> None:
    gate = trio.Event()

    async def run(job: Any) -> None:
        await gate.wait()

    async def main() -> None:
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                pool = TaskPool(nursery, run)
                pool.spawn(Job())  # type: ignore[arg-type]
                if not busy:
                    gate.set()
                await trio.testing.wait_all_tasks_blocked()
                pool.close()
                gate.set()

    trio.run(main)


def test_what_a_run_raises_is_raised_in_the_nursery() -> None:
    async def run(job: Any) -> None:
        if job == "second":
            raise RuntimeError("that ends all")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pool = TaskPool(nursery, run)
            for job in ("first", "second"):
                pool.spawn(job)  # type: ignore[arg-type]
                await trio.testing.wait_all_tasks_blocked()

    with pytest.raises(ExceptionGroup) as caught:
        trio.run(main)
    assert caught.group_contains(RuntimeError, match="that ends all")


# In a server


def test_datagrams_share_tasks_and_no_context() -> None:
    async def handle(datagram: AsyncDatagram) -> None:
        before = who.get()
        who.set("an earlier handler")
        await datagram.reply(f"{before} {id(trio.lowlevel.current_task())}".encode())

    answers = []
    with serving(Server(UDP("127.0.0.1", 0), handle, Trio())) as server, client(server) as sock:
        for _ in range(3):
            answers.append(ask(sock, b"who").decode())
            assert server.wait(connections=0, timeout=TIMEOUT)
    assert len({answer.split()[-1] for answer in answers}) == 1, "one task took them all"
    assert len(set(answers)) == 1, "and what the first one set, no other one sees"


def test_single_requests_leave_no_task_behind() -> None:
    async def handle(datagram: AsyncDatagram) -> None:
        await datagram.reply(datagram.data)

    with Server(UDP("127.0.0.1", 0), handle, Trio()) as server:
        server.bind()
        with client(server) as sock:
            for data in (b"one", b"two"):
                sock.send(data)
                assert server.handle_request(timeout=TIMEOUT)
                assert sock.recv(100) == data
