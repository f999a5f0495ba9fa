"""The stage for the pains of `socketserver`: whatever goes wrong there is seen, so that what is not seen is well."""

import os
import socket
import socketserver
import sys
import threading
import warnings
from typing import Any

import pytest

from plugsocket.compat import socketserver as ours
from tests.compat_kit import Check, Pains, outcome, try_out
from tests.kit import TIMEOUT


def _well(_module: Any) -> None:
    pass


def _raises(_module: Any) -> None:
    raise ValueError("as told")


def _hangs(_module: Any) -> None:
    threading.Event().wait()


def _dies(_module: Any) -> None:
    os._exit(3)


def _prints(_module: Any) -> None:
    sys.stderr.write("something")


def _raises_in_a_thread(_module: Any) -> None:
    thread = threading.Thread(target=_raises, args=(None,))
    thread.start()
    thread.join()


def _leaves_a_thread(_module: Any) -> None:
    threading.Thread(target=_hangs, args=(None,), daemon=True).start()


def _leaves_a_socket(_module: Any) -> None:
    socket.socket()


def _leaves_a_child(_module: Any) -> None:
    if os.fork() == 0:
        threading.Event().wait()  # and is ended from outside, since the stage leaves no process behind


def _warns(_module: Any) -> None:
    warnings.warn("as told", stacklevel=1)


@pytest.mark.parametrize(
    ("check", "seen"),
    [
        (_raises, "ValueError: as told"),
        (_hangs, "Timeout (0:00:00.2"),
        (_dies, "exit code 3"),
        (_prints, "something"),
        (_raises_in_a_thread, "ValueError: as told"),
        (_leaves_a_thread, "AssertionError"),
        (_leaves_a_child, "AssertionError"),
        (_leaves_a_socket, "ResourceWarning: unclosed <socket.socket"),
        (_warns, "UserWarning: as told"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_goes_wrong_is_seen(check: Check, seen: str) -> None:
    assert seen in outcome(check, ours, 0.2 if check is _hangs else TIMEOUT)


def test_what_goes_well_is_silent() -> None:
    assert not outcome(_well, ours, TIMEOUT)


def _hurts_in_the_original(module: Any) -> None:
    assert module is ours, "it hurts"


def _hurts_in_ours(module: Any) -> None:
    assert module is socketserver, "it hurts"


def test_a_pain_must_be_the_original_s_alone() -> None:
    pains = Pains()
    pains.symptom(r"\AAssertionError: it hurts")(_hurts_in_the_original)
    pains.symptom(r"\AAssertionError: it aches")(_hurts_in_the_original)
    pains.symptom(r"\AAssertionError: it hurts")(_well)
    pains.symptom(r"\AAssertionError: it hurts", gone="since this release")(_hurts_in_the_original)
    pains.symptom(r"\AAssertionError: it hurts")(_hurts_in_ours)
    right, otherwise, gone, not_gone, in_ours = pains
    for module in (socketserver, ours):
        try_out(right, module)
    for pain, saying in [
        (otherwise, "fails otherwise"),
        (gone, "does not have this any more"),
        (not_gone, "it hurts"),
    ]:
        with pytest.raises(AssertionError, match=saying):
            try_out(pain, socketserver)
    with pytest.raises(AssertionError, match="it hurts"):
        try_out(in_ours, ours)
