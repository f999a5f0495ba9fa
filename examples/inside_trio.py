"""A server as one part of a trio program: it is started, used, and stopped, while other tasks run beside it."""

import trio

from plugsocket import AsyncConnection, Server, Trio


async def shout(connection: AsyncConnection) -> None:
    """Answer in upper case; a connection is a trio stream, so that code written for `trio.serve_tcp` works on it."""
    async for data in connection:
        await connection.send_all(data.upper())


async def ask(server: Server, question: bytes) -> bytes:
    """Be a client: send a question and receive all of the answer."""
    host, port = server.addresses[0]
    answer = b""
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(question)
        await stream.send_eof()
        async for data in stream:
            answer += data
    return answer


async def main() -> None:
    """Serve, ask, stop."""
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(Server("tcp://127.0.0.1:0", shout, Trio(max_tasks=1000)).serve)
        print("serving at", *server.urls)
        print(await ask(server, b"is anybody there?"))
        report = await server.stop_async(grace=1)
        print("stopped, cutting", len(report.cut), "requests")


if __name__ == "__main__":
    trio.run(main)
