"""Unix socket files: who may replace one, and who may remove it."""

import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import attrs

from plugsocket.core.errors import OptionError
from plugsocket.core.options import OCTAL, Options, integer, path_text, text, wrong
from plugsocket.transports.base import open_socket

if sys.platform != "win32":
    import fcntl

# sockaddr_un has 108 bytes for the path on Linux (unix(7)) and 104 elsewhere; a path is ended by a NUL, a name is not.
LONGEST_PATH = 107 if sys.platform == "linux" else 103

LOCK_TRIES = 100
LOCK_PAUSE = 0.01  # seconds; one second in all, for a lock that other servers hold for microseconds


def _usable(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    text(instance, attribute, value)
    if not hasattr(socket, "AF_UNIX"):
        raise OptionError(f"{type(instance).__name__} needs Unix sockets, which this platform does not have")
    if not value or value == "@":
        raise wrong(instance, attribute.name, value, "a path, or '@' and a name")
    if "\0" in value:
        raise wrong(instance, attribute.name, value, "without NUL; an abstract name begins with '@'")
    if value.startswith("@") and sys.platform != "linux":
        raise OptionError(f"{type(instance).__name__}: abstract names such as {value!r} are a feature of Linux")
    size = len(os.fsencode(value))
    if size > LONGEST_PATH:
        raise wrong(instance, attribute.name, value, f"at most {LONGEST_PATH} bytes (unix(7)); this one has {size}:")


@attrs.frozen
class UnixEndpoint(Options):
    """What the two Unix transports have in common.

    Attributes:
        path: the socket file, or `@` and a name of Linux's abstract namespace (unix(7)), which has no file.
        mode: the file's permission bits, such as `0o660`; `None` leaves them to the process's umask.
    """

    path: str = attrs.field(converter=path_text, validator=_usable)
    mode: int | None = attrs.field(
        default=None, kw_only=True, validator=integer(0, 0o777, optional=True), metadata=OCTAL
    )

    scheme = ""

    def __attrs_post_init__(self) -> None:
        if self.mode is not None and self.path.startswith("@"):
            raise wrong(self, "mode", oct(self.mode), "None for an abstract name, which has no file:")

    @staticmethod
    def parse_location(location: str) -> dict[str, Any]:
        """Read a path; see `TextTransport`."""
        return {"path": location}

    @classmethod
    def examples(cls, folder: str) -> list[Self]:
        """Make an endpoint in a folder; see `TextTransport`."""
        return [cls(os.path.join(folder, f"{cls.scheme}.sock"))]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def open(self, kind: int, backlog: int | None) -> tuple[socket.socket, Callable[[], None] | None]:
        """Bind, in place of a dead server's socket if one is in the way.

        Args:
            kind: `socket.SOCK_STREAM` or `socket.SOCK_DGRAM`.
            backlog: for stream sockets.

        Returns:
            The socket, and what removes its file.

        Raises:
            OSError: a live server, or something that is no socket, is at the path (`EADDRINUSE`); or the system
                refuses. What was there still is.
        """
        if self.path.startswith("@"):
            address = "\0" + self.path[1:]
            return open_socket(socket.AF_UNIX, kind, lambda sock: sock.bind(address), str(self), backlog=backlog), None
        made: list[Callable[[], None]] = []

        def bind(sock: socket.socket) -> None:
            self._bind(sock)
            # Absolute, so that it is the same file when the program has changed its directory.
            made.append(_remover(os.path.abspath(self.path)))
            if self.mode is not None:
                os.chmod(self.path, self.mode)  # what the umask took away

        try:
            with _directory_locked(self.path):
                return open_socket(socket.AF_UNIX, kind, bind, str(self), backlog=backlog), made[0]
        except BaseException:
            for remove in made:
                remove()
            raise

    def _bind(self, sock: socket.socket) -> None:
        if self.mode is not None:
            # Linux makes the file with the socket's mode, so that it never has wider permissions than it should.
            os.fchmod(sock.fileno(), self.mode)
        try:
            sock.bind(self.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _check_dead(self.path, sock.type)
            os.unlink(self.path)
            sock.bind(self.path)


def _check_dead(path: str, kind: int) -> None:
    """Raise `EADDRINUSE`, saying what is there, unless it is the socket of a server that is gone."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: a file that is no socket is at the path")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return  # what connect(2) says when nobody has the socket open
        except BlockingIOError:
            pass  # a live server with a full queue
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # a live server of another type
                raise
    raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: a live server answers at the path")


@contextmanager
def _directory_locked(path: str) -> Iterator[None]:
    """Keep other plugsocket servers from binding in the same directory meanwhile.

    Between finding a socket dead and replacing it, another server might have replaced it; and a socket that is bound
    but does not listen yet looks dead. A directory can be locked without leaving a lock file behind.
    """
    if sys.platform == "win32":  # which has no lock for directories
        yield
        return
    try:
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # not there or not readable: binding says so, or works
        return
    try:
        for _ in range(LOCK_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(LOCK_PAUSE)  # else somebody else uses the lock for something; the race is only a risk
        yield
    finally:
        os.close(directory)


def _remover(path: str) -> Callable[[], None]:
    """Make a function that removes the socket file if it is still the one that is there now."""
    mine = os.lstat(path)

    def remove() -> None:
        try:
            there = os.lstat(path)
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                os.unlink(path)
        except FileNotFoundError:
            pass

    return remove
