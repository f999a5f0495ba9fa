"""Where requests come from: one file a transport."""

from typing import TYPE_CHECKING

from plugsocket.core.places import offer
from plugsocket.core.registry import default_registry
from plugsocket.transports.base import DatagramListener as DatagramListener
from plugsocket.transports.base import DatagramTransport as DatagramTransport
from plugsocket.transports.base import StreamListener as StreamListener
from plugsocket.transports.base import StreamTransport as StreamTransport
from plugsocket.transports.base import bind_to as bind_to
from plugsocket.transports.base import open_socket as open_socket
from plugsocket.transports.tcp import TCP as TCP
from plugsocket.transports.udp import UDP as UDP
from plugsocket.transports.unix_datagram import UnixDatagram as UnixDatagram
from plugsocket.transports.unix_stream import UnixStream as UnixStream

if TYPE_CHECKING:
    from plugsocket.transports.trio_listener import ListenerTransport as ListenerTransport
else:  # what needs trio
    offer(globals(), "plugsocket.transports.trio_listener:ListenerTransport")

default_registry.register_with("trio", "plugsocket.transports.trio_listener")
