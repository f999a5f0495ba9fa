"""Sync: one request at a time, in the loop."""

import attrs
from zope.interface import implementer

from plugsocket.concurrency.base import BlockingStrategy
from plugsocket.core.interfaces import IInlineStrategy
from plugsocket.core.protocols import Job


@implementer(IInlineStrategy)
@attrs.frozen(eq=False)
class Sync(BlockingStrategy):
    """One request at a time, in the thread that serves. While one is handled, the others wait in the kernel's queue."""

    name = "sync"
    capacity = 1

    def spawn(self, job: Job) -> None:
        """Run the job to its end."""
        job()
