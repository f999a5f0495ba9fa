"""Signals, for the length of a block: who handles them, and what wakes up for them."""

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2")
HANDLED = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # few, since Python names each anew
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals_handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT with `handler`, and afterwards as before; only the main thread can."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None: it was not Python that set it, and what did is not known.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


@contextmanager
def signals_wake(fileno: int) -> Iterator[None]:
    """Have every signal write a byte to a non-blocking descriptor, if this is the main thread.

    The main thread runs the handlers of Python, but the system may deliver a signal to any thread (signal(7)); then
    nothing interrupts the main thread's waiting, unless something makes what it waits for ready.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.set_wakeup_fd(fileno, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


@contextmanager
def signals_left_alone() -> Iterator[None]:
    """Have threads that are started in the block take no signals, for their life, so that the main thread gets them.

    A thread inherits the signals that are blocked where it is started (pthread_sigmask(3)). The system would else be
    free to give it the signal that is to bring the main thread out of a call that waits.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    with _held(signal.valid_signals()):
        yield


@contextmanager
def _held(signals: Collection[int]) -> Iterator[Collection[int]]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # it raises what a handler does of one that just came
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def signals_held() -> AbstractContextManager[Collection[int]]:
    """Have this thread take none of the signals that programs handle for the length of a block; they come afterwards.

    Gives those that were held before, for a child that is forked in the block.
    """
    return _held(HANDLED)


@contextmanager
def wake_up_left_to_others() -> Iterator[None]:
    """Undo `signals_wake()` for the length of a block, in which a loop of somebody else's sees to signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
