"""Children whose parent was killed: they end by themselves."""

import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2)
GRACE = 10  # whole seconds (alarm(2)) that a child has to finish; as long as a server's grace by default


def end_with_parent(parent: int) -> None:
    """Have this process end some time after its parent does; called in a child that was just forked.

    Its close signal is set as well, when the parent is gone. On systems without `prctl` that is all there is.

    Args:
        parent: the parent's process id.
    """
    prctl = find_prctl()
    if prctl is None:
        return

    def on_death(*_: object) -> None:
        if os.getppid() != parent:  # and it was not merely the thread that forked us
            signal.alarm(GRACE)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, on_death)
    prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    on_death()  # the parent may have been killed before that


@cache
def find_prctl() -> Callable[[int, int], Any] | None:
    """Find the system call by which a child hears of its parent's end; `None` where there is none."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - costs as much as all of plugsocket, and nothing but this needs it

    try:
        return ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # a system without dynamic linking
        return None
