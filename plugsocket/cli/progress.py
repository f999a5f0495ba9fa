"""The line that a terminal shows while a server stops: who is waited for, and how long."""

import math
import threading
import time
from _thread import start_new_thread

from plugsocket.cli.console import Console
from plugsocket.core.events import DrainBegan, DrainEnded
from plugsocket.core.server import Server
from plugsocket.core.signals import signals_left_alone

INTERVAL = 0.25  # seconds between one look and the next; a stop that is over before the first shows nothing
PATIENCE = 1.0  # seconds that a terminal which takes no output may hold up the end of the program


class Progress:
    """Shows how a stop gets on, from a thread that lives as long as the stop.

    Args:
        server: one that does not serve yet.
        console: where to show it.
    """

    def __init__(self, server: Server, console: Console) -> None:
        self._server = server
        self._console = console
        self._over = threading.Event()
        self._erased = threading.Event()
        server.subscribe(self._begin, DrainBegan)
        server.subscribe(self._end, DrainEnded)

    def _begin(self, event: DrainBegan) -> None:
        if not event.busy:
            self._erased.set()
            return
        with signals_left_alone():
            start_new_thread(self._show, (event,))  # takes no lock: this may be a signal handler

    def _end(self, _event: DrainEnded) -> None:
        self._over.set()
        self._erased.wait(PATIENCE)

    def _show(self, event: DrainBegan) -> None:
        while not self._over.wait(INTERVAL):
            left = event.grace - (time.monotonic_ns() - event.at) / 1e9
            self._console.show(describe(self._server.stats.active, left))
        self._console.show("")
        self._erased.set()


def describe(active: int, left: float) -> str:
    """Say in one line how a stop gets on.

    Args:
        active: how many requests are under way.
        left: seconds that they have; `inf` for as long as they take.
    """
    if not active:
        return ""
    requests = "1 request" if active == 1 else f"{active} requests"
    if left <= 0:
        return f"stopping: {requests} cut, not over yet"
    time_left = "" if left == math.inf else f", {math.ceil(left)} s left"
    return f"stopping: {requests} under way{time_left}; Ctrl-C again cuts them"
