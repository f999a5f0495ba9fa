"""What a forked child tells its parent about how its handler ended: text, so that a child cannot attack the parent.

The first line says how it ended and what went over the connection; the second sums the failure up; the rest is the
end of its traceback.
"""

import traceback
from collections.abc import Callable
from functools import partial

from plugsocket.core.endings import deadline_of, is_disconnection
from plugsocket.core.errors import ChildDeadlineError, ChildDisconnectedError, ChildError
from plugsocket.core.protocols import Job

LONGEST_REPORT = 4096  # bytes; what fits into a pipe at once on every system (PIPE_BUF and more, pipe(7))

# How a handler in a child ended, in the word that the child's report begins with; for a deadline it is its name.
_ENDINGS: dict[str, Callable[[str], ChildError] | None] = {
    "ended": None,
    "disconnected": ChildDisconnectedError,
    "failed": ChildError,
    **{name: partial(ChildDeadlineError, deadline=name) for name in ("first_byte", "idle", "request")},
}


def _ending(failure: BaseException | None) -> str:
    if failure is None:
        return "ended"
    return deadline_of(failure) or ("disconnected" if is_disconnection(failure) else "failed")


def describe(failure: BaseException | None, summary: tuple[int, int, bool]) -> bytes:
    """Write down for the parent how the handler ended, and what went over the connection."""
    received, sent, over = summary
    head = f"{_ending(failure)} {received} {sent} {int(over)}\n".encode()
    if failure is None:
        return head
    head += _summary(failure).encode(errors="backslashreplace")[: LONGEST_REPORT // 2] + b"\n"
    trace = "".join(traceback.format_exception(failure)).encode(errors="backslashreplace")
    return head + trace[-(LONGEST_REPORT - len(head)) :]


def _summary(failure: BaseException) -> str:
    """Write an exception's class and the first line of its text; notes and further lines are in the traceback."""
    try:
        text = str(failure)
    except Exception:  # noqa: BLE001 - a class of the handler's own may fail in any way
        text = "<its __str__ failed>"
    name, line = type(failure).__qualname__, text.partition("\n")[0]
    return f"{name}: {line}" if line else name


def told(written: bytes, job: Job) -> ChildError | None:
    """Read what `describe()` wrote, into the job and the failure that it returns; a child may have written anything."""
    head, message, trace = (*written.decode(errors="replace").split("\n", 2), "", "")[:3]
    try:
        ending, received, sent, over = head.split()
        made = _ENDINGS[ending]
        job.adopt((int(received), int(sent), over == "1"))
    except (KeyError, ValueError):
        return ChildError(f"the child's report makes no sense: {head[:80]!r}")
    if made is None:
        return None
    error = made(message)
    error.__cause__ = ChildError(f"\n\n{trace}") if trace else None
    return error
