"""TLS around a handler of streams; each handshake happens in its connection's task, so that nobody waits for another's.

Run it as `python tls.py CERTIFICATE KEY`, and visit it with `openssl s_client -connect 127.0.0.1:9999`.
"""

import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

import plugsocket
from plugsocket import AsyncConnection

Stream: TypeAlias = trio.SSLStream[AsyncConnection]


class OverTLS:
    """A handler of connections made of one of TLS streams, `handle`; a handshake has `patience` seconds."""

    def __init__(self, handle: Callable[[Stream], Awaitable[None]], context: ssl.SSLContext, patience: float) -> None:
        self._handle = handle
        self._context = context
        self._patience = patience

    async def __call__(self, connection: AsyncConnection) -> None:
        """Handle one connection."""
        # As with HTTPS, an end of file needs no words: that is what the handler sees of a server that stops.
        stream = trio.SSLStream(connection, self._context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self._patience):
                await stream.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # somebody who speaks no TLS, or says nothing
        async with stream:  # whose end TLS tells the client, too
            await self._handle(stream)


async def shout(stream: Stream) -> None:
    """Answer in upper case; the stream's `transport_stream` is the connection."""
    async for data in stream:
        await stream.send_all(data.upper())


if __name__ == "__main__":
    certificate, key, *endpoints = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    plugsocket.run(endpoints or "tcp://127.0.0.1:9999", OverTLS(shout, context, patience=10.0), started=print)
