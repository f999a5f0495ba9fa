"""The streams that a program's output goes to, before and after a fork."""

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any


def output_streams() -> Iterator[Any]:
    """The standard streams as they are at the moment, and what `logging` writes to, which may be sockets."""
    yield from (sys.stdin, sys.stdout, sys.stderr)
    logging = _logging()
    if logging is None:
        return
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    # Weak references to every handler, also one that no logger has, such as those of a `QueueListener`.
    handlers += [handler for reference in getattr(logging, "_handlerList", ()) if (handler := reference()) is not None]
    handlers += [handler.target for handler in handlers if hasattr(handler, "target")]  # logging's MemoryHandler
    yield from (getattr(handler, name, None) for handler in handlers for name in ("stream", "socket", "sock"))


def _logging() -> Any:
    """Return the module, if the program uses it: where nothing is logged, forking is cheaper without its hooks."""
    return sys.modules.get("logging")


def shut_log_down() -> None:
    """Flush and close what `logging` writes to, as the end of an ordinary process does."""
    logging = _logging()
    if logging is not None:
        logging.shutdown()


def flush_standard_streams() -> None:
    """Bring out what was printed, as the end of an ordinary process does."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S110 - closed, None, or its reader is gone: nobody is left to tell
            pass


def release_streams() -> None:
    """Let this process use the streams, whatever other threads of its parent were doing with them at the fork.

    A buffered file has a lock, which a thread holds while it writes. The thread is not here, so nobody would ever
    release it, and the first use of the stream, if only to flush it at the end, would wait for ever. So each buffer is
    made anew, in place, since anybody may have references to it. What is in it is the parent's, which writes it.
    """
    for stream in output_streams():
        with suppress(Exception):  # detached, or an object of any kind
            buffer = getattr(stream, "buffer", stream)
            if type(buffer) is io.BufferedWriter and not buffer.closed:
                io.BufferedWriter.__init__(buffer, buffer.raw)
