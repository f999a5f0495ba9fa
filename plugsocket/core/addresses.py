"""Socket addresses with names: each is also exactly what `socket.connect` takes.

They are tuples and strings, as the socket module's own are, so that code written for `socketserver`'s
`client_address` and `server_address` works on them unchanged.
"""

import socket
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

Address: TypeAlias = Any
"""What `socket.connect` takes, as typeshed types it: families that users add bring addresses of their own."""

MAPPED_PREFIX = "::ffff:"  # RFC 4291, section 2.5.5.2: an IPv4 peer of a dual-stack socket


class InetAddress(NamedTuple):
    """An IPv4 address and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Inet6Address(NamedTuple):
    """An IPv6 address and port, with the flow and scope numbers of RFC 3493, section 3.3."""

    host: str
    port: int
    flowinfo: int = 0
    scope_id: int = 0

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}"


class UnixAddress(str):
    """The path of a Unix socket; Linux's abstract names begin with a NUL, and a peer that did not bind is `""`."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> str:
        # Programs written for TCP take client_address[0] for the host; an unnamed peer has none, which is no error.
        return super().__getitem__(index) if self else ""

    @property
    def path(self) -> str:
        """The address as a plain string."""
        return str.__str__(self)

    @property
    def abstract(self) -> bool:
        """Whether this is a name of Linux's abstract namespace (unix(7)), which has no file."""
        return self.startswith("\0")


def inet(raw: Any) -> InetAddress:
    """Name the parts of an AF_INET address."""
    return InetAddress(*raw)


def inet6(raw: Any) -> InetAddress | Inet6Address:
    """Name the parts of an AF_INET6 address; an IPv4 peer of a dual-stack socket is shown as the IPv4 peer it is."""
    host: str = raw[0]
    if host.startswith(MAPPED_PREFIX) and "." in host:
        return InetAddress(host.removeprefix(MAPPED_PREFIX), raw[1])
    return Inet6Address(*raw)


def unix(raw: Any) -> UnixAddress:
    """Name an AF_UNIX address: the kernel gives abstract names as bytes, and no name as `None` or an empty string."""
    if isinstance(raw, bytes):
        raw = raw.decode("utf-8", "surrogateescape")
    return UnixAddress(raw or "")


_NAMED: dict[int, Callable[[Any], Address]] = {socket.AF_INET: inet, socket.AF_INET6: inet6}
if hasattr(socket, "AF_UNIX"):
    _NAMED[socket.AF_UNIX] = unix


def address_of(family: int, raw: Any) -> Address:
    """Name the parts of an address that the kernel gave.

    Args:
        family: the socket's address family.
        raw: what `accept`, `recvfrom`, `getsockname` or `getpeername` returned for it.

    Returns:
        An `InetAddress`, `Inet6Address` or `UnixAddress`; for another family `raw` as it is.
    """
    named = _NAMED.get(family)
    return raw if named is None else named(raw)


def display(address: Address) -> str:
    """Write an address as people read it, and as endpoint strings write it."""
    if not isinstance(address, UnixAddress):
        return str(address)
    if address.abstract:
        return "@" + address.path[1:]
    return address.path or "(unnamed)"
