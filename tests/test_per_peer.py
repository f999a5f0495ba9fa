"""per_peer(): one task for each peer that sends datagrams."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import plugsocket
from plugsocket import CompositionError, Conversation, Limits, OptionError, Server, explain, per_peer
from plugsocket.core.events import DatagramDropped, DatagramTruncated, HandlerFailed, LimitCleared
from plugsocket.core.interfaces import IDatagramTransport
from plugsocket.testing import EventRecorder
from tests.kit import client, example_ids, example_name
from tests.trio_kit import quiet, run, until

ENDPOINT = "udp://127.0.0.1:0"
DATAGRAMS = [example for example in example_ids() if IDatagramTransport.implementedBy(example[0])]


async def count(conversation: Conversation) -> None:
    """Answer each datagram with its number in the conversation."""
    number = 0
    async for datagram in conversation:
        number += 1
        await conversation.send(b"%d %s" % (number, datagram.data))
    await conversation.send(b"bye")


class Peer:
    """A client of a server for datagrams."""

    def __init__(self, server: Server) -> None:
        self.socket = trio.socket.from_stdlib_socket(client(server))

    async def say(self, data: bytes) -> None:
        await self.socket.send(data)

    async def hear(self) -> bytes:
        return await self.socket.recv(100)

    async def ask(self, data: bytes) -> bytes:
        await self.say(data)
        return await self.hear()


Make = Callable[[], Peer]


def dropped(recorder: EventRecorder) -> list[tuple[int, str]]:
    return [(event.id, event.reason) for event in recorder.of(DatagramDropped)]


@asynccontextmanager
async def served(
    handler: Any, *subscribers: Any, endpoint: Any = ENDPOINT, **options: Any
) -> AsyncIterator[tuple[Server, Make]]:
    """A server, and how to become one of its peers."""
    peers: list[Peer] = []

    def make() -> Peer:
        peers.append(Peer(server))
        return peers[-1]

    async with trio.open_nursery() as nursery:
        server = quiet(Server(endpoint, handler, **options))
        for subscriber in subscribers:
            server.subscribe(subscriber)
        await nursery.start(server.serve)
        try:
            yield server, make
        finally:
            for peer in peers:
                peer.socket.close()
        await server.stop_async(grace=0)


@pytest.mark.parametrize("example", DATAGRAMS, ids=example_name)
def test_each_peer_has_a_conversation_of_its_own(example: tuple[Any, int], tmp_path: Path) -> None:
    cls, number = example

    async def main() -> None:
        async with served(per_peer(count), endpoint=cls.examples(str(tmp_path))[number]) as (server, peer):
            one, two = peer(), peer()
            assert await one.ask(b"a") == b"1 a"
            assert await two.ask(b"b") == b"1 b"
            assert await one.ask(b"c") == b"2 c"
            assert await two.ask(b"d") == b"2 d"
            assert (server.stats.accepted, server.stats.active) == (4, 2)

    run(main)


def test_what_comes_at_once_is_one_conversation() -> None:
    async def main() -> None:
        async with served(per_peer(count)) as (server, peer):
            one = peer()
            server.pause()
            for word in (b"a", b"b", b"c"):
                await one.say(word)
            server.resume()
            assert [await one.hear() for _ in range(3)] == [b"1 a", b"2 b", b"3 c"]

    run(main)


def test_silence_ends_a_conversation_and_a_word_begins_another() -> None:
    async def main() -> None:
        async with served(per_peer(count, idle=60)) as (server, peer):
            one = peer()
            began = trio.current_time()
            assert await one.ask(b"a") == b"1 a"
            await trio.sleep(59)
            assert await one.ask(b"b") == b"2 b"
            assert await one.hear() == b"bye"
            assert trio.current_time() == began + 119
            assert await one.ask(b"c") == b"1 c"
            assert server.stats.active == 1

    run(main, clock=MockClock(autojump_threshold=0))


def test_without_an_idle_time_it_never_ends() -> None:
    async def main() -> None:
        async with served(per_peer(count, idle=None)) as (_, peer):
            one = peer()
            assert await one.ask(b"a") == b"1 a"
            await trio.sleep(80_000)
            assert await one.ask(b"b") == b"2 b"

    run(main, clock=MockClock(autojump_threshold=0))


def test_who_waits_for_more_is_told_of_a_stop() -> None:
    async def main() -> None:
        async with served(per_peer(count)) as (server, peer):
            one = peer()
            assert await one.ask(b"a") == b"1 a"
            report = await server.stop_async(grace=100)
            assert await one.hear() == b"bye"
            assert (report.completed, report.cut) == (1, ())
            assert report.seconds < 50

    run(main)


def test_who_is_busy_gets_the_grace_and_what_came_before() -> None:
    heard: list[bytes] = []
    begun = trio.Event()

    async def slow(conversation: Conversation) -> None:
        begun.set()
        await conversation.closing.wait()
        async for datagram in conversation:
            heard.append(datagram.data)
            await datagram.reply(datagram.data.upper())

    async def main() -> None:
        async with served(per_peer(slow)) as (server, peer):
            one = peer()
            for word in (b"a", b"b"):
                await one.say(word)
            await begun.wait()
            await wait_all_tasks_blocked(0.01)
            report = await server.stop_async(grace=100)
            assert (report.completed, report.cut) == (1, ())
            assert [await one.hear(), await one.hear()] == [b"A", b"B"]

    run(main)
    assert heard == [b"a", b"b"]


def test_who_does_not_come_to_an_end_is_cut() -> None:
    async def stay(_conversation: Conversation) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with served(per_peer(stay)) as (server, peer):
            one = peer()
            await one.say(b"a")
            await wait_all_tasks_blocked(0.01)
            began = trio.current_time()
            report = await server.stop_async(grace=7)
            assert trio.current_time() == began + 7
            assert report.cut == (one.socket.getsockname(),)

    run(main, clock=MockClock(autojump_threshold=0))


def test_more_than_there_is_room_for_is_dropped_and_counted() -> None:
    recorder = EventRecorder()
    go_on = trio.Event()

    async def slow(conversation: Conversation) -> None:
        await go_on.wait()
        await count(conversation)

    async def main() -> None:
        async with served(per_peer(slow, buffer=3), recorder) as (server, peer):
            one = peer()
            for word in b"abcde":
                await one.say(bytes([word]))
            await wait_all_tasks_blocked(0.01)
            await until(lambda: server.stats.dropped == 2)
            go_on.set()
            assert [await one.hear() for _ in range(3)] == [b"1 a", b"2 b", b"3 c"]
            assert await one.ask(b"f") == b"4 f"
            assert [(event.id, event.reason) for event in recorder.of(DatagramDropped)] == [
                (4, "buffer"),
                (5, "buffer"),
            ]

    run(main)


def test_a_conversation_without_a_word_is_complete() -> None:
    async def ignore(_conversation: Conversation) -> None:
        pass

    async def main() -> None:
        async with served(per_peer(ignore)) as (server, peer):
            await peer().say(b"a")
            await wait_all_tasks_blocked(0.01)
            await until(lambda: (server.stats.completed, server.stats.dropped) == (1, 1))

    run(main)


def test_what_a_handler_did_not_read_is_dropped_and_counted() -> None:
    recorder = EventRecorder()
    go_on = trio.Event()

    async def leave(conversation: Conversation) -> None:
        assert (await conversation.receive()).data == b"a"
        await go_on.wait()

    async def main() -> None:
        async with served(per_peer(leave), recorder) as (server, peer):
            one = peer()
            for word in b"abc":
                await one.say(bytes([word]))
            await wait_all_tasks_blocked(0.01)
            go_on.set()
            await wait_all_tasks_blocked(0.01)
            await until(lambda: (server.stats.active, server.stats.dropped, server.stats.failed) == (0, 2, 0))
            assert [(event.id, event.reason) for event in recorder.of(DatagramDropped)] == [
                (2, "unread"),
                (3, "unread"),
            ]

    run(main)


@pytest.mark.parametrize("closes", [False, True])
def test_conversations_are_counted_apart_from_their_datagrams(closes: bool) -> None:
    recorder = EventRecorder()
    go_on = trio.Event()

    async def ignore(conversation: Conversation) -> None:
        await go_on.wait()
        if closes:
            await conversation.aclose()
            await conversation.aclose()

    async def main() -> None:
        async with served(per_peer(ignore), recorder) as (server, peer):
            one = peer()
            for word in b"abc":
                await one.say(bytes([word]))
            await wait_all_tasks_blocked(0.01)
            await until(lambda: (server.stats.active, server.stats.completed) == (1, 0))
            go_on.set()
            await wait_all_tasks_blocked(0.01)
            await until(lambda: (server.stats.active, server.stats.completed, server.stats.dropped) == (0, 1, 3))
            assert dropped(recorder) == [(1, "unread"), (2, "unread"), (3, "unread")]

    run(main)


def test_closing_it_is_told_to_who_waits() -> None:
    async def handle(conversation: Conversation) -> None:
        await conversation.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, conversation)
            await wait_all_tasks_blocked()
            await conversation.aclose()

    async def wait(conversation: Conversation) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await conversation.receive()
        await conversation.send(b"closed")

    async def main() -> None:
        async with served(per_peer(handle)) as (_, peer):
            assert await peer().ask(b"a") == b"closed"

    run(main)


def test_without_patience_what_came_is_received() -> None:
    async def main() -> None:
        async with served(per_peer(count, idle=0)) as (_, peer):
            one = peer()
            assert [await one.ask(b"a"), await one.hear()] == [b"1 a", b"bye"]

    run(main)


@pytest.mark.parametrize("overload", ["queue", "reject"])
def test_the_limit_is_one_of_conversations(overload: str) -> None:
    recorder = EventRecorder()

    async def main() -> None:
        limits = Limits(max_connections=2, overload=overload)
        async with served(per_peer(count, idle=10), recorder, limits=limits) as (server, peer):
            one, two, three = peer(), peer(), peer()
            assert await one.ask(b"a") == b"1 a"
            assert await two.ask(b"b") == b"1 b"
            await three.say(b"too many")
            for number in range(2, 20):
                assert await one.ask(b"a") == b"%d a" % number
            assert server.stats.dropped == 1
            (event,) = recorder.of(DatagramDropped)
            assert (event.peer, event.reason) == (three.socket.getsockname(), "max_connections")
            await trio.sleep(11)
            assert await three.ask(b"c") == b"1 c"

    run(main, clock=MockClock(autojump_threshold=0))


def test_those_who_wait_for_room_are_one_conversation() -> None:
    async def main() -> None:
        limits = Limits(max_connections=1, overload="wait?seconds=100")
        async with served(per_peer(count, idle=10), limits=limits) as (_, peer):
            one, two = peer(), peer()
            assert await one.ask(b"a") == b"1 a"
            for word in (b"b", b"c"):
                await two.say(word)
            assert [await two.hear(), await two.hear()] == [b"1 b", b"2 c"]

    run(main, clock=MockClock(autojump_threshold=0))


def test_who_waited_and_what_comes_as_they_get_in_are_one_conversation() -> None:
    async def hold(conversation: Conversation) -> None:
        began.append(conversation.peer)
        async for datagram in conversation:
            if datagram.data == b"hold":
                await go_on.wait()
                return

    async def main() -> None:
        limits = Limits(max_connections=2, overload="wait?seconds=100")
        async with served(per_peer(hold), limits=limits) as (server, peer):
            for word in (b"hold", b"hold", b"c"):
                last = peer()
                await last.say(word)
            await wait_all_tasks_blocked(0.01)
            await until(lambda: server.stats.waiting == 1)
            go_on.set()
            await last.say(b"d")  # while both slots come free
            await wait_all_tasks_blocked(0.01)
            await until(lambda: len(began) == 3)
            assert len(set(began)) == 3

    for _ in range(20):  # whether it comes before the loop looks is up to trio
        go_on, began = trio.Event(), list[Any]()
        run(main)


def test_it_is_told_when_there_is_room_again() -> None:
    recorder = EventRecorder()

    async def until_bye(conversation: Conversation) -> None:
        async for datagram in conversation:
            if datagram.data == b"bye":
                return

    async def main() -> None:
        async with served(per_peer(until_bye), recorder, limits=Limits(max_connections=1)) as (_, peer):
            one, two = peer(), peer()
            await one.say(b"a")
            await wait_all_tasks_blocked(0.01)
            await two.say(b"b")
            await wait_all_tasks_blocked(0.01)
            await one.say(b"bye")
            await trio.to_thread.run_sync(recorder.wait_for, LimitCleared)

    run(main)


def test_a_failure_is_one_conversations(recorder: EventRecorder) -> None:
    async def fail(conversation: Conversation) -> None:
        async for datagram in conversation:
            if datagram.data == b"fail":
                raise ValueError("this one")
            await datagram.reply(b"fine")

    async def main() -> None:
        async with served(per_peer(fail), recorder) as (server, peer):
            one, two = peer(), peer()
            assert await one.ask(b"a") == b"fine"
            assert await two.ask(b"a") == b"fine"
            await one.say(b"fail")
            assert await two.ask(b"a") == b"fine"
            assert await one.ask(b"again") == b"fine"
            (failure,) = recorder.of(HandlerFailed)
            assert (str(failure.error), failure.peer) == ("this one", one.socket.getsockname())
            assert server.stats.failed == 1

    run(main)


def test_truncated_ones_say_so(recorder: EventRecorder) -> None:
    seen: list[tuple[bytes, bool]] = []

    async def look(conversation: Conversation) -> None:
        async for datagram in conversation:
            seen.append((datagram.data, datagram.truncated))
            await datagram.reply(b"")

    async def main() -> None:
        async with served(per_peer(look), recorder, endpoint="udp://127.0.0.1:0?max_datagram=4") as (_, peer):
            one = peer()
            for word in (b"long one", b"fits", b"longer one"):
                await one.ask(word)

    run(main)
    assert seen == [(b"long", True), (b"fits", False), (b"long", True)]
    assert [event.id for event in recorder.of(DatagramTruncated)] == [1, 3]


def test_several_endpoints_keep_their_peers_apart() -> None:
    """One socket that speaks to two endpoints has two conversations."""

    async def main() -> None:
        async with served(per_peer(count), endpoint=[ENDPOINT, ENDPOINT]) as (server, _):
            with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
                for number in (1, 2):
                    for address in server.addresses:
                        await sock.sendto(b"a", address)
                        data, sender = await sock.recvfrom(100)
                        assert (data, sender) == (b"%d a" % number, address)

    run(main)


def test_two_addresses_of_a_wildcard_are_two_conversations() -> None:
    async def main() -> None:
        async with served(per_peer(count), endpoint="udp://0.0.0.0:0") as (server, _):
            port = server.addresses[0].port
            with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
                for number in (1, 2):
                    for host in ("127.0.0.1", "127.0.0.2"):
                        await sock.sendto(b"a", (host, port))
                        data, sender = await sock.recvfrom(100)
                        assert (data, sender) == (b"%d a" % number, (host, port))

    run(main)


def test_a_handler_can_end_it_first() -> None:
    closed: list[bool] = []

    async def leave(conversation: Conversation) -> None:
        await conversation.send(b"once " + (await conversation.receive()).data)
        await conversation.aclose()
        await conversation.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await conversation.receive()
        closed.append(True)
        await trio.sleep(1)

    async def main() -> None:
        async with served(per_peer(leave)) as (_, peer):
            one = peer()
            assert await one.ask(b"a") == b"once a"
            await wait_all_tasks_blocked(0.01)
            assert await one.ask(b"b") == b"once b"

    run(main, clock=MockClock(autojump_threshold=0.01))
    assert closed == [True, True]


def test_many_peers() -> None:
    async def converse(peer: Make) -> None:
        one = peer()
        for number in range(1, 6):
            assert await one.ask(b"x") == b"%d x" % number

    async def main() -> None:
        async with served(per_peer(count)) as (server, peer):
            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(converse, peer)
            assert (server.stats.accepted, server.stats.active, server.stats.dropped) == (1000, 200, 0)

    run(main)


def test_it_says_who_it_is() -> None:
    async def look(conversation: Conversation) -> None:
        datagram = await conversation.receive()
        words = (conversation.peer == datagram.peer, conversation.id, datagram.id, conversation.local == datagram.local)
        await conversation.send(repr(words).encode())

    async def main() -> None:
        async with served(per_peer(look)) as (_, peer):
            assert await peer().ask(b"a") == b"(True, 1, 1, True)"

    run(main)


@pytest.mark.parametrize("strategy", ["sync", "thread", "fork"])
def test_blocking_strategies_are_refused(strategy: str) -> None:
    with pytest.raises(CompositionError, match=r"per_peer\(count\) needs a task for each peer, and .* use Trio\(\)"):
        Server(ENDPOINT, per_peer(count), strategy)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CompositionError, match=r"per_peer\(count\) is for datagrams, and TCP\(.*\) gives connections"):
        Server("tcp://127.0.0.1:0", per_peer(count))
    with pytest.raises(CompositionError, match=r"per_peer\(\) takes an async function of a conversation, and echo"):
        per_peer(plugsocket.echo)  # type: ignore[arg-type]
    with pytest.raises(CompositionError, match="the handler must be callable, not 42"):
        per_peer(42)  # type: ignore[arg-type]
    for idle in (-1, "long", True):
        with pytest.raises(OptionError, match=r"PerPeer: idle must be a number of seconds, .* or None, not "):
            per_peer(count, idle=idle)  # type: ignore[arg-type]
    for buffer in (0, 1.5, None):
        with pytest.raises(OptionError, match="buffer must be a whole number of at least 1, not "):
            per_peer(count, buffer=buffer)  # type: ignore[arg-type]
    assert "Trio(" in str(explain(ENDPOINT, per_peer(partial(count))))
