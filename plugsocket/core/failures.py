"""What the failure of a handler means for the server."""

from typing import Any, cast

import attrs
from zope.interface import implementer

from plugsocket.core.endings import leaves
from plugsocket.core.errors import DeadlineError, OptionError
from plugsocket.core.events import HandlerFailed
from plugsocket.core.interfaces import IFailurePolicy
from plugsocket.core.options import Options, wrong
from plugsocket.core.protocols import FailurePolicy
from plugsocket.core.specs import named
from plugsocket.core.trio_seen import broken_errors, cancelled_errors


@implementer(IFailurePolicy)
@attrs.frozen
class Isolate(Options):
    """A failure ends its own request, and nothing else."""

    def aborts(self, failure: HandlerFailed) -> bool:  # noqa: ARG002 - the form of every policy
        """It never does; see `IFailurePolicy`."""
        return False


def _kinds(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if not value or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in value):
        raise wrong(instance, attribute.name, value, "classes of exceptions")


def _tuple(kinds: Any) -> Any:
    return tuple(kinds) if isinstance(kinds, tuple | list) else (kinds,)


@implementer(IFailurePolicy)
@attrs.frozen
class Abort(Options):
    """A failure ends the server: what else is under way is cut, and serving raises the error.

    A peer that is gone (`ConnectionError`, `trio.BrokenResourceError`) and a deadline that is over are no failures of
    the handler, and end nothing else, unless their own classes, or classes derived from those, are given.

    Attributes:
        kinds: a class of exceptions, or several in a tuple or list; by default `Exception`. Any other failure ends its
            own request alone. Of a group of exceptions, one is enough. From a forked child a `ChildError` comes,
            whatever was raised there.
    """

    kinds: tuple[type[BaseException], ...] = attrs.field(default=Exception, converter=_tuple, validator=_kinds)

    def aborts(self, failure: HandlerFailed) -> bool:
        """Return whether it is of these kinds; see `IFailurePolicy`."""
        # What handlers raise when it is the peer that is gone, or takes too long.
        the_peers: tuple[type[BaseException], ...] = (ConnectionError, *broken_errors(), DeadlineError)
        named = tuple(kind for kind in self.kinds if issubclass(kind, the_peers))
        return any(
            isinstance(each, named if isinstance(each, the_peers) else self.kinds)
            for each in leaves(failure.error)
            if not isinstance(each, cancelled_errors())  # which would cancel whoever serves, when it is raised there
        )


POLICIES: dict[str, Any] = {"isolate": Isolate, "abort": Abort}
"""The failure policies by the names that strings give them."""


def failure_policy(spec: str | FailurePolicy) -> FailurePolicy:
    """Make a failure policy from its string, `isolate` or `abort`; a policy is returned as it is.

    Raises:
        OptionError: there is no such policy, or it is none.
    """
    policy = named("failure policy", spec, POLICIES) if isinstance(spec, str) else spec
    if not IFailurePolicy.providedBy(policy):
        raise OptionError(
            "on_failure must be a failure policy, which provides IFailurePolicy, or its string, such as 'abort', "
            f"not {policy!r}"
        )
    return cast("FailurePolicy", policy)
