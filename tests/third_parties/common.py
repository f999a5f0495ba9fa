"""What these programs share: how they talk to the test that runs them."""

import os
import signal
import socketserver


def say(*words: object) -> None:
    """Print a line at once and in one piece, also from one of several threads or children."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def meet() -> None:
    """Tell the test that a request is being handled, and go on when it lets one of them."""
    say("met")
    os.read(0, 1)


def made_of(server: type) -> str:
    """The modules that a class of servers has its classes of `socketserver` from."""
    return " ".join(sorted({cls.__module__ for cls in server.__mro__ if vars(socketserver).get(cls.__name__) is cls}))


def until_interrupted() -> None:
    """Have the main thread wait for Ctrl-C."""
    try:
        signal.pause()
    except KeyboardInterrupt:
        pass
