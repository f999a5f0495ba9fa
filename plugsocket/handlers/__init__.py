"""What to do with a request: the handler classes, and connections and datagrams as handlers see them."""

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
from plugsocket.core.registry import default_registry
from plugsocket.handlers.async_datagram import AsyncDatagram as AsyncDatagram
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
from plugsocket.handlers.own_loop import own_loop as own_loop
from plugsocket.handlers.per_peer import Conversation as Conversation
from plugsocket.handlers.per_peer import no_peers
from plugsocket.handlers.per_peer import per_peer as per_peer
from plugsocket.handlers.stream import AsyncConnection as AsyncConnection
from plugsocket.handlers.trio_listener import TransportListener as TransportListener
from plugsocket.handlers.trio_listener import as_trio_listener as as_trio_listener
from plugsocket.handlers.trio_stream import StreamConnection as StreamConnection
from plugsocket.handlers.trio_stream import no_stream, stream_connection

# What each kind of handler is given by each kind of transport, and what it is not.
for _factory, _required, _provided in (
    (Connection, (IStreamTransport, ISyncHandler), IView),
    (AsyncConnection, (IStreamTransport, IAsyncHandler), IView),
    (stream_arguments, (IStreamTransport, IRequestHandlerClass), IView),
    (stream_connection, (IAsyncTransport, IAsyncHandler), IView),
    (no_stream, (IAsyncTransport, ISyncHandler), IRefusal),
    (Datagram, (IDatagramTransport, ISyncHandler), IView),
    (AsyncDatagram, (IDatagramTransport, IAsyncHandler), IView),
    (datagram_arguments, (IDatagramTransport, IRequestHandlerClass), IView),
    (AsyncDatagram, (IDatagramTransport, IPeerHandler), IView),
    (other_class, (IStreamTransport, IDatagramHandlerClass), IRefusal),
    (other_class, (IDatagramTransport, IStreamHandlerClass), IRefusal),
    (no_peers, (IStreamTransport, IPeerHandler), IRefusal),
    (no_peers, (IAsyncTransport, IPeerHandler), IRefusal),
):
    default_registry.register(_factory, _required, _provided)
