"""What to do with a request: the handler classes, and connections and datagrams as handlers see them."""

from typing import TYPE_CHECKING, Any

from zope.interface.interface import InterfaceClass

from plugsocket.core.composition import IRefusal
from plugsocket.core.interfaces import (
    IAsyncHandler,
    IAsyncTransport,
    IDatagramHandlerClass,
    IDatagramTransport,
    IPeerHandler,
    IRequestHandlerClass,
    IStreamHandlerClass,
    IStreamTransport,
    ISyncHandler,
    IView,
)
from plugsocket.core.places import offer
from plugsocket.core.registry import Factory, default_registry
from plugsocket.handlers.blocking_socket import ConnectionSocket as ConnectionSocket
from plugsocket.handlers.builtin import discard as discard
from plugsocket.handlers.builtin import echo as echo
from plugsocket.handlers.builtin import upper as upper
from plugsocket.handlers.classes import BaseRequestHandler as BaseRequestHandler
from plugsocket.handlers.classes import DatagramRequestHandler as DatagramRequestHandler
from plugsocket.handlers.classes import StreamRequestHandler as StreamRequestHandler
from plugsocket.handlers.classes import datagram_arguments, other_class, stream_arguments
from plugsocket.handlers.connection import Connection as Connection
from plugsocket.handlers.datagram import Datagram as Datagram

if TYPE_CHECKING:
    from plugsocket.handlers.async_datagram import AsyncDatagram as AsyncDatagram
    from plugsocket.handlers.conversations import Conversation as Conversation
    from plugsocket.handlers.conversations import per_peer as per_peer
    from plugsocket.handlers.stream import AsyncConnection as AsyncConnection
    from plugsocket.handlers.trio_listener import TransportListener as TransportListener
    from plugsocket.handlers.trio_listener import as_trio_listener as as_trio_listener
    from plugsocket.handlers.trio_runs import own_loop as own_loop
    from plugsocket.handlers.trio_stream import StreamConnection as StreamConnection
else:  # what needs trio
    offer(
        globals(),
        "plugsocket.handlers.async_datagram:AsyncDatagram",
        "plugsocket.handlers.conversations:Conversation",
        "plugsocket.handlers.conversations:per_peer",
        "plugsocket.handlers.stream:AsyncConnection",
        "plugsocket.handlers.trio_listener:TransportListener",
        "plugsocket.handlers.trio_listener:as_trio_listener",
        "plugsocket.handlers.trio_runs:own_loop",
        "plugsocket.handlers.trio_stream:StreamConnection",
    )

# What each kind of handler is given by each kind of transport, and what it is not.
_TABLE: tuple[tuple[Factory, tuple[Any, ...], InterfaceClass], ...] = (
    (Connection, (IStreamTransport, ISyncHandler), IView),
    ("plugsocket.handlers.stream:AsyncConnection", (IStreamTransport, IAsyncHandler), IView),
    (stream_arguments, (IStreamTransport, IRequestHandlerClass), IView),
    ("plugsocket.handlers.trio_stream:stream_connection", (IAsyncTransport, IAsyncHandler), IView),
    ("plugsocket.handlers.trio_stream:no_stream", (IAsyncTransport, ISyncHandler), IRefusal),
    (Datagram, (IDatagramTransport, ISyncHandler), IView),
    ("plugsocket.handlers.async_datagram:AsyncDatagram", (IDatagramTransport, IAsyncHandler), IView),
    (datagram_arguments, (IDatagramTransport, IRequestHandlerClass), IView),
    ("plugsocket.handlers.async_datagram:AsyncDatagram", (IDatagramTransport, IPeerHandler), IView),
    (other_class, (IStreamTransport, IDatagramHandlerClass), IRefusal),
    (other_class, (IDatagramTransport, IStreamHandlerClass), IRefusal),
    ("plugsocket.handlers.conversations:no_peers", (IStreamTransport, IPeerHandler), IRefusal),
    ("plugsocket.handlers.conversations:no_peers", (IAsyncTransport, IPeerHandler), IRefusal),
)
for _factory, _required, _provided in _TABLE:
    default_registry.register(_factory, _required, _provided)
