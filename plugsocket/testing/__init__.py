"""For tests of servers and of plug-ins: a recorder of events, faults to order, a transport without a network."""

from plugsocket.testing.faults import Failures as Failures
from plugsocket.testing.faults import failing_forks as failing_forks
from plugsocket.testing.faults import failing_threads as failing_threads
from plugsocket.testing.faults import low_descriptor_limit as low_descriptor_limit
from plugsocket.testing.faulty_transport import FaultyListener as FaultyListener
from plugsocket.testing.faulty_transport import FaultyTransport as FaultyTransport
from plugsocket.testing.memory import MemoryListener as MemoryListener
from plugsocket.testing.memory import MemoryTransport as MemoryTransport
from plugsocket.testing.recorder import EventRecorder as EventRecorder
