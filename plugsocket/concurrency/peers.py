"""Trio tasks for conversations: each datagram goes to the task that converses with its sender."""

from collections.abc import Collection, Hashable
from typing import Any

from zope.interface import implementer

from plugsocket.concurrency.trio import TaskRunner, Trio
from plugsocket.core.engine import Endpoint
from plugsocket.core.interfaces import IRouter
from plugsocket.core.job import Job
from plugsocket.core.kinds import HandlerSpec
from plugsocket.core.protocols import Request, Strategy


@implementer(IRouter)
class PeerRunner(TaskRunner):
    """Runs handlers of conversations, each in a task for one peer.

    Args:
        handler: the handler.
        strategy: says how many run at once.
    """

    def __init__(self, handler: HandlerSpec, strategy: Trio) -> None:
        super().__init__(handler, strategy)
        settings: Any = handler.function
        self._begin = settings.begin
        self._conversations: dict[Hashable, Any] = {}
        self._jobs: dict[Job, Any] = {}

    def route(self, endpoint: Endpoint, request: Request) -> bool | None:
        """Give a datagram to the conversation that it belongs to; see `IRouter`."""
        conversation = self._conversations.get(_key(endpoint, request))
        if conversation is None or conversation.over:
            return None
        return bool(conversation.offer(endpoint.view(request, conversation.closing)))

    def expect(self, job: Job) -> None:
        """Begin a conversation; see `IRouter`."""
        conversation = self._begin(job.view(self.closing_of(job)))
        self._conversations[_key(job.endpoint, job.request)] = self._jobs[job] = conversation

    def end_idle(self) -> Collection[Job]:
        """End all conversations; see `IRouter`."""
        return [job for job, conversation in self._jobs.items() if conversation.end()]

    async def handle(self, job: Job) -> None:
        """Have the handler converse, and drop what it did not receive."""
        conversation = self._jobs[job]
        try:
            await self._handle(conversation)
        finally:
            del self._jobs[job]
            key = _key(job.endpoint, job.request)
            if self._conversations.get(key) is conversation:  # else the peer began another one
                del self._conversations[key]
            for datagram in conversation.unread():
                job.engine.admission.drop(job.endpoint, datagram.request, "unread")


def _key(endpoint: Endpoint, request: Any) -> Hashable:
    return endpoint, request.conversation


def no_tasks(handler: HandlerSpec, strategy: Strategy) -> str:
    """Say why conversations do not run under a blocking strategy."""
    return f"{handler.name} needs a task for each peer, and {strategy!r} runs blocking code: use Trio()"
