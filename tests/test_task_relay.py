"""The tasks that take datagrams one after the other, and hand over when a handler waits."""

import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from plugsocket import AsyncDatagram, Server, Trio
from plugsocket.concurrency.task_relay import TaskRelay
from tests.kit import TIMEOUT, client, serving
from tests.trio_kit import run as run_in_trio

who: ContextVar[str] = ContextVar("who", default="nobody")

Run = Callable[[Any], Any]
Test = Callable[[trio.Nursery, Callable[[Run], TaskRelay]], Awaitable[None]]


def in_a_nursery(test: Test) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await test(nursery, lambda run: TaskRelay(nursery, run))
            nursery.cancel_scope.cancel()

    run_in_trio(main)


def spawn(relay: TaskRelay, *jobs: Any) -> None:
    for job in jobs:
        relay.spawn(job)


def test_jobs_that_do_not_wait_are_run_in_order_in_one_step_of_one_task() -> None:
    steps: list[tuple[str, object]] = []

    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    counting = Steps()

    async def run(job: str) -> None:
        steps.append((job, (trio.lowlevel.current_task(), counting.count)))

    async def test(_: trio.Nursery, make: Callable[[Run], TaskRelay]) -> None:
        relay = make(run)
        trio.lowlevel.add_instrument(counting)
        spawn(relay, "one", "two", "three")
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(counting)
        assert [job for job, _ in steps] == ["one", "two", "three"]
        assert len({where for _, where in steps}) == 1

    in_a_nursery(test)


def test_one_that_waits_holds_up_nobody() -> None:
    gate = trio.Event()
    began: list[int] = []
    ended: list[int] = []

    async def run(job: int) -> None:
        began.append(job)
        if job % 2 == 0:
            await gate.wait()
        ended.append(job)

    async def test(nursery: trio.Nursery, make: Callable[[Run], TaskRelay]) -> None:
        relay = make(run)
        spawn(relay, *range(10))
        await wait_all_tasks_blocked()
        assert began == [*range(10)]
        assert ended == [1, 3, 5, 7, 9]
        spawn(relay, 11)
        await wait_all_tasks_blocked()
        assert ended == [1, 3, 5, 7, 9, 11]
        gate.set()
        await wait_all_tasks_blocked()
        assert sorted(ended) == sorted([*range(10), 11])

    in_a_nursery(test)


def test_each_begins_in_the_context_in_which_the_relay_was_made() -> None:
    seen: list[str] = []

    async def run(job: str) -> None:
        seen.append(who.get())
        who.set(job)
        if job == "waits":
            await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)

    async def look() -> None:
        seen.append(f"a child of {who.get()}")

    async def test(_: trio.Nursery, make: Callable[[Run], TaskRelay]) -> None:
        who.set("the maker")
        relay = make(run)
        who.set("somebody else")
        spawn(relay, "one", "waits", "three")
        await wait_all_tasks_blocked()
        assert sorted(seen) == ["a child of waits", "the maker", "the maker", "the maker"]
        assert who.get() == "somebody else"

    in_a_nursery(test)


def test_what_is_raised_into_a_job_and_out_of_it_is_raised_on() -> None:
    """In the task that runs it; another one goes on with the rest."""
    ended: list[str] = []

    async def run(job: str) -> None:
        try:
            if job == "sleeps":
                await trio.sleep_forever()
            if job == "fails":
                raise ValueError(job)
        finally:
            ended.append(job)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            spawn(TaskRelay(nursery, run), "sleeps", "fails", "last")

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="fails")):
        run_in_trio(main)
    assert sorted(ended) == ["fails", "last", "sleeps"]


def test_those_that_have_not_begun_are_run_when_all_is_cancelled() -> None:
    """So that each comes to its end, as a task that is cancelled before its first step does."""
    ended: list[int] = []

    async def run(job: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(job)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            spawn(TaskRelay(nursery, run), *range(5))
            nursery.cancel_scope.cancel()

    run_in_trio(main)
    assert sorted(ended) == [*range(5)]


def test_a_cancel_scope_that_a_job_left_open_harms_no_other_one() -> None:
    scope = trio.CancelScope()
    ended: list[str] = []

    async def run(job: str) -> None:
        if job == "leaves":
            scope.__enter__()
            return
        await trio.lowlevel.checkpoint()
        ended.append(job)

    async def test(_: trio.Nursery, make: Callable[[Run], TaskRelay]) -> None:
        scope.cancel()
        relay = make(run)
        spawn(relay, "one", "leaves", "three", "four")
        await wait_all_tasks_blocked()
        spawn(relay, "five")
        await wait_all_tasks_blocked()
        assert sorted(ended) == ["five", "four", "one", "three"]

    in_a_nursery(test)


def test_closed_its_tasks_end() -> None:
    async def run(job: str) -> None:
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            relay = TaskRelay(nursery, run)
            spawn(relay, "one", "two")
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            relay.close()

    run_in_trio(main)


# In a server


def test_datagrams_that_wait_hold_up_no_others() -> None:
    release = threading.Event()

    async def handle(datagram: AsyncDatagram) -> None:
        if datagram.data == b"wait":
            await trio.to_thread.run_sync(release.wait)
        await datagram.reply(datagram.data)

    with serving(Server("udp://127.0.0.1:0", handle, Trio())) as server, client(server) as sock:
        for word in (b"wait", b"one", b"wait", b"two"):
            sock.send(word)
        assert [sock.recv(100), sock.recv(100)] == [b"one", b"two"]
        assert server.wait(connections=2, timeout=TIMEOUT)
        release.set()
        assert [sock.recv(100), sock.recv(100)] == [b"wait", b"wait"]
        assert server.wait(connections=0, timeout=TIMEOUT)
