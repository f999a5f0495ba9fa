"""Which strategy instance serves which server: a strategy has threads and children, and so one server at a time."""

import weakref

from plugsocket.core.errors import CompositionError
from plugsocket.core.protocols import Strategy

# By identity, since strategies may be equal or unhashable. A living owner keeps its strategy, and so its id, alive.
_owners: "dict[int, weakref.ref[object]]" = {}


def claim(strategy: Strategy, owner: object) -> None:
    """Record that the strategy serves `owner`, until `release` or until the owner is gone.

    Raises:
        CompositionError: another owner has it.
    """
    key = id(strategy)
    holder = _owners[key]() if key in _owners else None
    if holder is not None:
        raise CompositionError(
            f"{strategy!r} is in use by {holder!r}; an instance serves one server at a time, so give each its own"
        )
    _owners[key] = weakref.ref(owner, lambda _: _owners.pop(key, None))


def release(strategy: Strategy) -> None:
    """Let the strategy serve another server. Idempotent."""
    _owners.pop(id(strategy), None)
