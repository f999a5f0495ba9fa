"""plugsocket: network servers put together at run time from a transport, a handler and a concurrency strategy.

Server(transport, handler, strategy)
          where      what      how
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from plugsocket.concurrency import BlockingStrategy as BlockingStrategy
from plugsocket.concurrency import Fork as Fork
from plugsocket.concurrency import Sync as Sync
from plugsocket.concurrency import Thread as Thread
from plugsocket.core.addresses import Inet6Address as Inet6Address
from plugsocket.core.addresses import InetAddress as InetAddress
from plugsocket.core.addresses import UnixAddress as UnixAddress
from plugsocket.core.composition import Explanation as Explanation
from plugsocket.core.deadlines import Deadlines as Deadlines
from plugsocket.core.entry import explain as explain
from plugsocket.core.entry import run as run
from plugsocket.core.entry import serve as serve
from plugsocket.core.errors import ChildError as ChildError
from plugsocket.core.errors import CompositionError as CompositionError
from plugsocket.core.errors import DeadlineError as DeadlineError
from plugsocket.core.errors import LifecycleError as LifecycleError
from plugsocket.core.errors import OptionError as OptionError
from plugsocket.core.errors import PluginError as PluginError
from plugsocket.core.errors import PlugsocketError as PlugsocketError
from plugsocket.core.errors import RegistrationError as RegistrationError
from plugsocket.core.errors import ReplyError as ReplyError
from plugsocket.core.failures import Abort as Abort
from plugsocket.core.failures import Isolate as Isolate
from plugsocket.core.ledger import Stats as Stats
from plugsocket.core.lifecycle import State as State
from plugsocket.core.limits import Answer as Answer
from plugsocket.core.limits import Limits as Limits
from plugsocket.core.limits import Queue as Queue
from plugsocket.core.limits import Reject as Reject
from plugsocket.core.limits import Wait as Wait
from plugsocket.core.places import offer as _offer
from plugsocket.core.registry import Registry as Registry
from plugsocket.core.registry import default_registry as default_registry
from plugsocket.core.report import StopReport as StopReport
from plugsocket.core.reporting import log_events as log_events
from plugsocket.core.server import Server as Server
from plugsocket.core.specs import strategy as strategy
from plugsocket.core.specs import transport as transport
from plugsocket.handlers import BaseRequestHandler as BaseRequestHandler
from plugsocket.handlers import Connection as Connection
from plugsocket.handlers import Datagram as Datagram
from plugsocket.handlers import DatagramRequestHandler as DatagramRequestHandler
from plugsocket.handlers import StreamRequestHandler as StreamRequestHandler
from plugsocket.handlers import discard as discard
from plugsocket.handlers import echo as echo
from plugsocket.handlers import upper as upper
from plugsocket.transports import TCP as TCP
from plugsocket.transports import UDP as UDP
from plugsocket.transports import UnixDatagram as UnixDatagram
from plugsocket.transports import UnixStream as UnixStream

if _TYPE_CHECKING:
    from plugsocket.concurrency import Trio as Trio
    from plugsocket.handlers import AsyncConnection as AsyncConnection
    from plugsocket.handlers import AsyncDatagram as AsyncDatagram
    from plugsocket.handlers import Conversation as Conversation
    from plugsocket.handlers import StreamConnection as StreamConnection
    from plugsocket.handlers import TransportListener as TransportListener
    from plugsocket.handlers import as_trio_listener as as_trio_listener
    from plugsocket.handlers import own_loop as own_loop
    from plugsocket.handlers import per_peer as per_peer
else:  # what needs trio
    _offer(
        globals(),
        "plugsocket.concurrency:Trio",
        "plugsocket.handlers:AsyncConnection",
        "plugsocket.handlers:AsyncDatagram",
        "plugsocket.handlers:Conversation",
        "plugsocket.handlers:StreamConnection",
        "plugsocket.handlers:TransportListener",
        "plugsocket.handlers:as_trio_listener",
        "plugsocket.handlers:own_loop",
        "plugsocket.handlers:per_peer",
    )
