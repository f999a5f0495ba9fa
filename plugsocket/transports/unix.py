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
from plugsocket.core.options import OCTAL, Options, path_text, shown, text, wrong
from plugsocket.core.specs import escape
from plugsocket.transports.base import open_socket

if sys.platform != "win32":
    import fcntl

# sockaddr_un has 108 bytes for the path on Linux (unix(7)) and 104 elsewhere; a path is ended by a NUL, a name is not.
LONGEST_PATH = 107 if sys.platform == "linux" else 103

PERMISSIONS = 0o777
LONGEST_MODE = 1 << 32  # of which a message shows the octal digits as well

LOCK_TRIES = 100
LOCK_PAUSE = 0.01  # seconds; one second in all, for a lock that other servers hold for microseconds


def _usable(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    text(instance, attribute, value)
    if not hasattr(socket, "AF_UNIX"):
        raise OptionError(f"{type(instance).__name__} needs Unix sockets, which this platform does not have")
    if not value or value == "@":
        raise wrong(instance, attribute.name, value, "a path, or '@' and a name")
    if "\0" in value:
        raise wrong(instance, attribute.name, value, "a path without NUL (an abstract name begins with '@')")
    abstract = value.startswith("@")
    if abstract and sys.platform != "linux":
        raise OptionError(f"{type(instance).__name__}: abstract names such as {value!r} are a feature of Linux")
    try:
        size = len(os.fsencode(value))
    except UnicodeEncodeError:
        raise wrong(instance, attribute.name, value, "a path that can be encoded") from None
    longest = LONGEST_PATH + abstract
    if size > longest:
        raise OptionError(
            f"{type(instance).__name__}: path must be at most {longest} bytes long (unix(7)), "
            f"not {size} as {value!r} is"
        )


def _permissions(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if value is None:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value & ~PERMISSIONS:  # which also says that it is not negative
        octal = f" ({value:#o})" if whole and abs(value) < LONGEST_MODE else ""
        raise OptionError(
            f"{type(instance).__name__}: {attribute.name} must be permission bits from 0 to 0o777, or None, "
            f"not {shown(value)}{octal}"
        )


@attrs.frozen
class UnixEndpoint(Options):
    """What the two Unix transports have in common.

    Attributes:
        path: the socket file, or `@` and a name of Linux's abstract namespace (unix(7)), which has no file.
        mode: the file's permission bits, such as `0o660`; `None` leaves them to the process's umask.
    """

    path: str = attrs.field(converter=path_text, validator=_usable)
    mode: int | None = attrs.field(default=None, kw_only=True, validator=_permissions, metadata=OCTAL)

    scheme = ""

    def __attrs_post_init__(self) -> None:
        if self.mode is not None and self.path.startswith("@"):
            raise OptionError(
                f"{type(self).__name__}: mode {self.mode:#o} needs a file, and the abstract name {self.path!r} has none"
            )

    @staticmethod
    def parse_location(location: str) -> dict[str, Any]:
        """Read a path; see `TextTransport`."""
        return {"path": location}

    @classmethod
    def examples(cls, folder: str) -> list[Self]:
        """Make an endpoint in a folder; see `TextTransport`."""
        return [cls(os.path.join(folder, f"{cls.scheme}.sock"))]

    def __str__(self) -> str:
        return f"{self.scheme}://{escape(self.path)}"

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

        with _directory_locked(self.path):
            try:
                return open_socket(socket.AF_UNIX, kind, bind, str(self), backlog=backlog), made[0]
            except BaseException:
                for remove in made:
                    remove()
                raise

    def _bind(self, sock: socket.socket) -> None:
        if self.mode is not None and sys.platform == "linux":
            # Linux makes the file with the socket's mode, so that it never has wider permissions than it should.
            os.fchmod(sock.fileno(), self.mode)
        try:
            sock.bind(self.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            with suppress(FileNotFoundError):  # its server has just removed it
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
            # A live server of another type, or one that takes datagrams from one peer only.
            if error.errno not in (errno.EPROTOTYPE, errno.EPERM):
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
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(
                    LOCK_PAUSE
                )  # after the last one somebody uses the lock for something else: the race is a risk
            except OSError:
                break  # a file system without locks: the same
        yield
    finally:
        # Closing is not enough: a child that another thread forks meanwhile has a copy of the descriptor.
        with suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_UN)
        os.close(directory)


def _remover(path: str) -> Callable[[], None]:
    """Make a function that removes the socket file if it is still the one that is there now.

    It needs no lock when it is called before the socket is closed: nobody replaces the file of a live one.
    """
    mine = os.lstat(path)

    def remove() -> None:
        try:
            there = os.lstat(path)
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                os.unlink(path)
        except FileNotFoundError:
            pass

    return remove
