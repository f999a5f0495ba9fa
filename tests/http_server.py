"""A small HTTP/1.1 server of h11 and a trio stream, as people write them: it knows nothing of plugsocket.

It answers `GET /hello` and `GET /long`, echoes `POST /echo` part by part as it comes, and answers everything else with
an error.
"""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import h11
import trio

RECEIVE_SIZE = 16_384
LONGER = 2**24  # more bytes than what the system keeps of a reply that nobody takes


class Exchange:
    """The server's side of one connection, on which requests follow one another."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER)

    async def next_event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            self.http.receive_data(await self.stream.receive_some(RECEIVE_SIZE))
        return event

    async def body(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self.next_event(), h11.Data):
            yield bytes(event.data)

    async def send(self, event: Any) -> None:
        await self.stream.send_all(self.http.send(event) or b"")

    async def reply(self, status: HTTPStatus, text: bytes, *headers: tuple[str, str]) -> None:
        length = ("Content-Length", str(len(text)))
        await self.send(h11.Response(status_code=status, headers=[length, *headers]))
        await self.send(h11.Data(data=text))
        await self.send(h11.EndOfMessage())

    async def refuse(self, status: int) -> None:
        """Answer what is no proper request, if no answer has begun; nothing can follow it."""
        if self.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.reply(HTTPStatus(status), b"", ("Connection", "close"))


async def answer(exchange: Exchange, request: h11.Request) -> None:
    match request.method, request.target:
        case b"GET", b"/hello":
            await exchange.reply(HTTPStatus.OK, b"hello")
        case b"GET", b"/long":
            await exchange.reply(HTTPStatus.OK, bytes(LONGER))
        case b"POST", b"/echo":
            parts = exchange.body()
            first = await anext(parts, b"")  # an error in the request can be answered until the reply begins
            await exchange.send(h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")]))
            await exchange.send(h11.Data(data=first))
            async for part in parts:
                await exchange.send(h11.Data(data=part))
            await exchange.send(h11.EndOfMessage())
        case _, b"/hello" | b"/long" | b"/echo":
            await exchange.reply(HTTPStatus.METHOD_NOT_ALLOWED, b"")
        case _:
            await exchange.reply(HTTPStatus.NOT_FOUND, b"")


async def serve_http(stream: trio.abc.Stream) -> None:
    """Handle a connection until the client closes it, asks for that, or sends what is not HTTP."""
    exchange = Exchange(stream)
    try:
        while isinstance(request := await exchange.next_event(), h11.Request):
            await answer(exchange, request)
            async for _ in exchange.body():
                pass  # what the answer had no use for
            if exchange.http.our_state is not h11.DONE:
                return
            exchange.http.start_next_cycle()
    except h11.RemoteProtocolError as error:
        await exchange.refuse(error.error_status_hint)
    except TimeoutError:
        await exchange.refuse(HTTPStatus.REQUEST_TIMEOUT)
