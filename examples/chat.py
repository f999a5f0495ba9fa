"""A chat: what one guest writes, all the others read. Run it, and visit it twice with `nc 127.0.0.1 9999`."""

import sys
from contextlib import suppress

import trio

import plugsocket
from plugsocket import AsyncConnection

BEHIND = 100  # lines that wait for a guest who reads slowly; those beyond it pass that guest by
LONGEST = 1000  # bytes in a line


class Room:
    """What the connections share; they are tasks of one thread, so that it takes no lock."""

    def __init__(self) -> None:
        self._outboxes: dict[AsyncConnection, trio.MemorySendChannel[bytes]] = {}

    async def visit(self, connection: AsyncConnection) -> None:
        """Handle one connection, until its guest leaves or the server stops."""
        self._outboxes[connection], lines = trio.open_memory_channel[bytes](BEHIND)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, connection, lines)
                nursery.start_soon(self._read, connection, nursery.cancel_scope)
                await connection.closing.wait()
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            pass  # the guest is gone
        finally:
            del self._outboxes[connection]
        if connection.closing.is_set():
            await connection.send_all(b"* the chat closes, goodbye\n")

    async def _write(self, connection: AsyncConnection, lines: trio.MemoryReceiveChannel[bytes]) -> None:
        async for line in lines:
            await connection.send_all(line)

    async def _read(self, connection: AsyncConnection, visit: trio.CancelScope) -> None:
        rest = b""
        async for data in connection:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._say(b"%d: %s\n" % (connection.id, line), connection)
            if len(rest) > LONGEST:
                break
        visit.cancel()

    def _say(self, line: bytes, speaker: AsyncConnection) -> None:
        for guest in self._outboxes.keys() - {speaker}:
            with suppress(trio.WouldBlock):  # nobody waits for the slow
                self._outboxes[guest].send_nowait(line)


if __name__ == "__main__":
    (endpoint,) = sys.argv[1:] or ("tcp://127.0.0.1:9999",)
    plugsocket.run(endpoint, Room().visit, started=print)
