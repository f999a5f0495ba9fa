"""What these programs share: how they talk to the test that runs them."""

import os
import signal
import socketserver
from inspect import isfunction


def say(*words: object) -> None:
    """Print a line at once and in one piece, also from one of several threads or children."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def meet() -> None:
    """Tell the test that a request is being handled, and go on when it lets one of them."""
    say("met")
    os.read(0, 1)


def made_of(server: type) -> str:
    """The modules in which what a class of servers has from `socketserver` is written."""
    bases = [cls for cls in server.__mro__ if vars(socketserver).get(cls.__name__) is cls]
    # A class may say that it is of another module, for the sake of those who pickle it.
    written = {method.__module__ for cls in bases for method in vars(cls).values() if isfunction(method)}
    return " ".join(sorted(written))


def until_interrupted() -> None:
    """Have the main thread wait for Ctrl-C."""
    try:
        signal.pause()
    except KeyboardInterrupt:
        pass
