"""What blocking strategies have in common."""

from zope.interface import implementer

from plugsocket.core.interfaces import IManagedStrategy
from plugsocket.core.options import Options
from plugsocket.core.protocols import Job, Watcher


@implementer(IManagedStrategy)
class BlockingStrategy(Options):
    """A base for strategies: write `spawn()`, and replace what else is not enough.

    Attributes:
        name: its name in strings.
        capacity: how many jobs it takes at once.
    """

    name: str
    capacity: int

    def spawn(self, job: Job) -> None:
        """Have the job run; see `IBlockingStrategy`."""
        raise NotImplementedError

    def open(self, watcher: Watcher) -> None:
        """Get ready to spawn: nothing to do."""

    def cut(self, force: bool) -> bool:  # noqa: ARG002 - there is nothing to force
        """End jobs that run in other processes: there are none."""
        return False

    def join(self, timeout: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        """Let go of threads and processes: there are none."""
        return True
