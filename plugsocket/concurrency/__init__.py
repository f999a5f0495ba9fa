"""How requests run beside each other: one file a strategy, and the drivers that wait for them."""

from typing import TYPE_CHECKING, Any

from zope.interface.interface import InterfaceClass

from plugsocket.concurrency.base import BlockingStrategy as BlockingStrategy
from plugsocket.concurrency.fork import Fork as Fork
from plugsocket.concurrency.runners import InPlaceRunner, no_loop
from plugsocket.concurrency.selector import SelectorDriver
from plugsocket.concurrency.sync import Sync as Sync
from plugsocket.concurrency.thread import Thread as Thread
from plugsocket.core.composition import IRefusal
from plugsocket.core.interfaces import (
    IAsyncHandler,
    IAsyncTransport,
    IBlockingStrategy,
    IDriver,
    IPeerHandler,
    IRunner,
    IStrategy,
    ISyncHandler,
    ITransport,
    ITrioStrategy,
)
from plugsocket.core.places import offer
from plugsocket.core.registry import Factory, default_registry

if TYPE_CHECKING:
    from plugsocket.concurrency.trio import Trio as Trio
else:  # what needs trio
    offer(globals(), "plugsocket.concurrency.trio:Trio")

# The whole matrix: every (transport, strategy) and (handler, strategy) that composes, and what does not.
_TABLE: tuple[tuple[Factory, tuple[Any, ...], InterfaceClass], ...] = (
    (SelectorDriver, (ITransport, IBlockingStrategy), IDriver),
    ("plugsocket.concurrency.trio_driver:TrioDriver", (ITransport, ITrioStrategy), IDriver),
    (InPlaceRunner, (ISyncHandler, IBlockingStrategy), IRunner),
    ("plugsocket.concurrency.trio:ThreadRunner", (ISyncHandler, ITrioStrategy), IRunner),
    ("plugsocket.concurrency.trio:TaskRunner", (IAsyncHandler, ITrioStrategy), IRunner),
    (no_loop, (IAsyncHandler, IBlockingStrategy), IRefusal),
    ("plugsocket.concurrency.peers:PeerRunner", (IPeerHandler, ITrioStrategy), IRunner),
    ("plugsocket.concurrency.peers:no_tasks", (IPeerHandler, IBlockingStrategy), IRefusal),
    ("plugsocket.concurrency.trio:Trio", (IPeerHandler,), IStrategy),
    ("plugsocket.concurrency.trio_driver:only_in_trio", (IAsyncTransport, IBlockingStrategy), IRefusal),
    (Thread, (ISyncHandler,), IStrategy),
    ("plugsocket.concurrency.trio:Trio", (IAsyncHandler,), IStrategy),
)
for _factory, _required, _provided in _TABLE:
    default_registry.register(_factory, _required, _provided)
