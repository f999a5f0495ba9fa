"""The exceptions of plugsocket, by who can do something about them.

Each one also derives from the built-in exception that a caller would already catch.
"""

import difflib
from collections.abc import Iterable


class PlugsocketError(Exception):
    """The base of every exception that plugsocket defines."""


class OptionError(PlugsocketError, ValueError):
    """An endpoint, a strategy or an option of one has a value that cannot work; nothing was opened."""


class UnknownOptionError(OptionError, TypeError):
    """An option that the transport or strategy does not have."""


class CompositionError(PlugsocketError, TypeError):
    """The parts given do not make a server; nothing was opened."""


class RegistrationError(PlugsocketError, ValueError):
    """A registration that would replace another one silently."""


class PluginError(PlugsocketError, LookupError):
    """A named plug-in is unknown, is claimed by two distributions, or does not load."""


class LifecycleError(PlugsocketError, RuntimeError):
    """The server is in a state in which this call has no meaning; the server is unharmed."""


class ReplyError(PlugsocketError, OSError):
    """A datagram cannot be answered, since its sender has no address."""


class DeadlineError(PlugsocketError, TimeoutError):
    """A peer took longer than one of the server's deadlines allows; raised by the operation that waits for it.

    Attributes:
        deadline: which one: `"first_byte"`, `"idle"` or `"request"`.
    """

    def __init__(self, message: str, deadline: str = "") -> None:
        super().__init__(message)
        self.deadline = deadline


class ChildError(PlugsocketError):
    """A handler failed in a forked child: what it raised, with the traceback as `__cause__`; or how the child died."""


class ChildDisconnectedError(ChildError, ConnectionError):
    """A handler in a forked child found its peer gone."""


class ChildDeadlineError(ChildError, DeadlineError):
    """A handler in a forked child ran into a deadline."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Args:
        name: what the user wrote.
        known: every name that would have been right.

    Returns:
        `"; did you mean 'x'?"` when one is close, else `"; known: a, b, c"`.
    """
    names = sorted(known)
    lowered = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    if close:
        return f"; did you mean {lowered[close[0]]!r}?"
    return f"; known: {', '.join(names) or 'none'}"
