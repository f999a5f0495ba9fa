"""How handlers end: by themselves, by a failure, by a peer that is gone, or from outside."""

import threading
from collections.abc import Iterator

from plugsocket.core.errors import DeadlineError
from plugsocket.core.trio_seen import broken_errors, cancelled_errors


def split_ending(error: BaseException, *, cancelled: bool) -> tuple[BaseException | None, BaseException | None]:
    """Separate what a handler raised from what ends it from outside: cancellation, and Ctrl-C.

    Args:
        error: what came out of a handler; a group may hold both.
        cancelled: whether the handler is cancelled. If not, a `trio.Cancelled` is one that it kept, or that another
            trio program gave it: a failure like others. To raise it on would end more than the handler.

    Returns:
        The failure to report, and what is to be raised on; each `None` where there is none.
    """
    ends = cancelled_errors() if cancelled else ()
    if _interruptible():
        ends += (KeyboardInterrupt,)
    if isinstance(error, BaseExceptionGroup):
        ending, failure = error.split(ends)
        return failure, ending
    return (None, error) if isinstance(error, ends) else (error, None)


def is_interrupt(error: BaseException) -> bool:
    """Whether this is a Ctrl-C, which only the main thread gets, and not an exception that a handler made up."""
    return isinstance(error, KeyboardInterrupt) and _interruptible()


def _interruptible() -> bool:
    return threading.current_thread() is threading.main_thread()


def is_cancellation(error: BaseException) -> bool:
    """Whether an error, or all of a group, say that a task of trio was cancelled, and nothing else."""
    return all(isinstance(each, cancelled_errors()) for each in leaves(error))


def is_disconnection(error: BaseException) -> bool:
    """Whether an error, or all of a group, say that the peer is gone, as blocking sockets and trio's streams say it."""
    return all(isinstance(each, (ConnectionError, *broken_errors())) for each in leaves(error))


def deadline_of(error: BaseException) -> str | None:
    """The deadline that an error, or all of a group, are about; `None` if they are about something else."""
    found = list(leaves(error))
    return getattr(found[0], "deadline", None) if all(isinstance(each, DeadlineError) for each in found) else None


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in the groups in it; or the one itself."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error
