"""How requests run beside each other: one file a strategy, and the drivers that wait for them."""

from plugsocket.concurrency.base import BlockingStrategy as BlockingStrategy
from plugsocket.concurrency.fork import Fork as Fork
from plugsocket.concurrency.peers import PeerRunner, no_tasks
from plugsocket.concurrency.runners import InPlaceRunner, no_loop
from plugsocket.concurrency.selector import SelectorDriver
from plugsocket.concurrency.sync import Sync as Sync
from plugsocket.concurrency.thread import Thread as Thread
from plugsocket.concurrency.trio import TaskRunner, ThreadRunner
from plugsocket.concurrency.trio import Trio as Trio
from plugsocket.concurrency.trio_driver import TrioDriver, only_in_trio
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
from plugsocket.core.registry import default_registry

# The whole matrix: every (transport, strategy) and (handler, strategy) that composes, and what does not.
for _factory, _required, _provided in (
    (SelectorDriver, (ITransport, IBlockingStrategy), IDriver),
    (TrioDriver, (ITransport, ITrioStrategy), IDriver),
    (InPlaceRunner, (ISyncHandler, IBlockingStrategy), IRunner),
    (ThreadRunner, (ISyncHandler, ITrioStrategy), IRunner),
    (TaskRunner, (IAsyncHandler, ITrioStrategy), IRunner),
    (no_loop, (IAsyncHandler, IBlockingStrategy), IRefusal),
    (PeerRunner, (IPeerHandler, ITrioStrategy), IRunner),
    (no_tasks, (IPeerHandler, IBlockingStrategy), IRefusal),
    (Trio, (IPeerHandler,), IStrategy),
    (only_in_trio, (IAsyncTransport, IBlockingStrategy), IRefusal),
    (Thread, (ISyncHandler,), IStrategy),
    (Trio, (IAsyncHandler,), IStrategy),
):
    default_registry.register(_factory, _required, _provided)
