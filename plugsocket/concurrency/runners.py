"""How jobs reach handlers under blocking strategies, and why some handlers do not."""

from zope.interface import implementer

from plugsocket.core.interfaces import IBlockingRunner
from plugsocket.core.kinds import HandlerSpec
from plugsocket.core.protocols import BlockingStrategy, Job, Strategy


@implementer(IBlockingRunner)
class InPlaceRunner:
    """Gives jobs to a blocking strategy, wherever that runs them.

    Args:
        handler: the handler; the job calls it.
        strategy: the strategy.
    """

    def __init__(self, handler: HandlerSpec, strategy: BlockingStrategy) -> None:  # noqa: ARG002 - the form of every runner
        self.capacity = strategy.capacity
        self._strategy = strategy

    def spawn(self, job: Job) -> None:
        """Start a job; see `IBlockingStrategy`."""
        self._strategy.spawn(job)


def no_loop(handler: HandlerSpec, strategy: Strategy) -> str:
    """Say why an async handler does not run under a blocking strategy."""
    return (
        f"{handler.name} is an async handler, and {strategy!r} runs blocking ones: use Trio(), or wrap it to give each "
        f"request a trio.run of its own: own_loop({handler.name})"
    )
