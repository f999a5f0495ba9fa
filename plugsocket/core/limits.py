"""How many requests may be under way, and what becomes of those that come above that."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import attrs
from zope.interface import implementer

from plugsocket.core.interfaces import IOverloadPolicy
from plugsocket.core.options import FROM_TEXT, Options, integer, seconds, wrong
from plugsocket.core.protocols import OverloadPolicy
from plugsocket.core.specs import named


@implementer(IOverloadPolicy)
@attrs.frozen
class Queue(Options):
    """Stop accepting: requests wait in the kernel's queue, as long as its `backlog`, until there is room."""

    patience = 0.0

    def admits(self, waiting: int) -> bool:  # noqa: ARG002 - nobody waits
        """Nobody is accepted; see `IOverloadPolicy`."""
        return False

    def farewell(self, peer: Any) -> bytes:  # noqa: ARG002 - the form of every policy
        """Nothing is said to the peer that has too many connections; see `IOverloadPolicy`."""
        return b""


@implementer(IOverloadPolicy)
@attrs.frozen
class Reject(Options):
    """Accept, and close at once: the client knows."""

    patience = 0.0

    def admits(self, waiting: int) -> bool:  # noqa: ARG002 - nobody waits
        """Everybody is accepted; see `IOverloadPolicy`."""
        return True

    def farewell(self, peer: Any) -> bytes:  # noqa: ARG002 - the form of every policy
        """Nothing is said; see `IOverloadPolicy`."""
        return b""


def _reply(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, bytes) and (not callable(value) or inspect.iscoroutinefunction(value)):
        raise wrong(instance, attribute.name, value, "bytes, or a plain function from the peer's address to bytes")


@implementer(IOverloadPolicy)
@attrs.frozen
class Answer(Options):
    """Accept, send a few bytes, such as a 503, and close. A datagram is dropped without an answer.

    Attributes:
        reply: the bytes, or a function from the peer's address to the bytes. It is called in the loop that accepts, so
            it must be quick; what does not fit into an empty send buffer at once is not sent.
    """

    reply: bytes | Callable[[Any], bytes] = attrs.field(validator=_reply, metadata={FROM_TEXT: (str.encode, "text")})

    patience = 0.0

    def admits(self, waiting: int) -> bool:  # noqa: ARG002 - nobody waits
        """Everybody is accepted; see `IOverloadPolicy`."""
        return True

    def farewell(self, peer: Any) -> bytes:
        """Return the reply; see `IOverloadPolicy`."""
        return self.reply if isinstance(self.reply, bytes) else self.reply(peer)


def overload_policy(spec: str | OverloadPolicy) -> OverloadPolicy:
    """Make an overload policy from its string; a policy is returned as it is.

    Args:
        spec: `queue`, `reject`, `wait?seconds=2`, or `answer?reply=TEXT`.

    Raises:
        OptionError: there is no such policy, or one of its options is wrong.
    """
    return cast("OverloadPolicy", named("overload policy", spec, POLICIES)) if isinstance(spec, str) else spec


def _policy(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if not IOverloadPolicy.providedBy(value):
        raise wrong(instance, attribute.name, value, "an overload policy or its string, such as 'reject'")


_POLICY_FROM_TEXT = {FROM_TEXT: (overload_policy, "an overload policy")}


@implementer(IOverloadPolicy)
@attrs.frozen
class Wait(Options):
    """Accept, and keep the request until there is room, for a while; then do as another policy says.

    Attributes:
        seconds: how long.
        room: how many may be kept waiting; more wait in the kernel's queue.
        then: what becomes of those that waited in vain.
    """

    seconds: float = attrs.field(validator=seconds)
    room: int = attrs.field(default=128, kw_only=True, validator=integer(1))  # picked, not measured
    then: OverloadPolicy = attrs.field(
        factory=Reject, kw_only=True, converter=overload_policy, validator=_policy, metadata=_POLICY_FROM_TEXT
    )

    @property
    def patience(self) -> float:
        """Seconds; see `IOverloadPolicy`."""
        return self.seconds

    def admits(self, waiting: int) -> bool:
        """As many are accepted as there is room for; see `IOverloadPolicy`."""
        return waiting < self.room

    def farewell(self, peer: Any) -> bytes:
        """Say what the other policy says; see `IOverloadPolicy`."""
        return self.then.farewell(peer)


POLICIES: dict[str, Any] = {"queue": Queue, "reject": Reject, "wait": Wait, "answer": Answer}
"""The overload policies by the names that strings give them."""


@attrs.frozen
class Limits(Options):
    """How many requests may be under way at once; `None` for as many as the strategy takes.

    Attributes:
        max_connections: connections, or datagrams, under way in all; the strategy's own number is a limit as well.
        max_per_peer: those of one peer: an IP address whatever its ports, or the process at the other end of a Unix
            socket where the system tells (SO_PEERCRED, unix(7)). Who it is shows only when a request was accepted, so
            that under `Queue()` those of one peer that are too many are rejected.
        overload: what becomes of requests above a limit; a policy, or its string: `queue`, `reject`,
            `wait?seconds=2`, `answer?reply=TEXT`.
    """

    max_connections: int | None = attrs.field(default=None, kw_only=True, validator=integer(1, optional=True))
    max_per_peer: int | None = attrs.field(default=None, kw_only=True, validator=integer(1, optional=True))
    overload: OverloadPolicy = attrs.field(
        factory=Queue, kw_only=True, converter=overload_policy, validator=_policy, metadata=_POLICY_FROM_TEXT
    )
