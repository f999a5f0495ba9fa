"""Hosts and ports: how `tcp://` and `udp://` locations are read, resolved and checked."""

import ipaddress
import socket
from typing import Any, Self

import attrs

from plugsocket.core.errors import OptionError
from plugsocket.core.options import Options, flag, integer, text, whole_number, wrong
from plugsocket.core.specs import escape
from plugsocket.transports.base import SocketOption

PORT = integer(0, 65_535)


def _host(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    text(instance, attribute, value)
    if "\0" in value:  # where the resolver would take it to end
        raise wrong(instance, attribute.name, value, "a name or an address without NUL")
    if "[" in value or "]" in value:  # they would not be there any more when its string is read
        raise wrong(instance, attribute.name, value, "a name or an address without the brackets of strings")


def _supported(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    flag(instance, attribute, value)
    if value and not hasattr(socket, "SO_REUSEPORT"):
        raise OptionError(
            f"{type(instance).__name__}: reuse_port needs SO_REUSEPORT, which this platform does not have"
        )


@attrs.frozen
class InetEndpoint(Options):
    """What TCP and UDP have in common.

    Attributes:
        host: an IPv4 or IPv6 address, or a name, of whose addresses the first is taken that the resolver gives. `""`
            means every address of the machine: of IPv4, or of both families with `dual_stack`.
        port: 0 to 65535; 0 has the kernel choose one.
        reuse_port: let several sockets share the port, the kernel distributing requests among them (SO_REUSEPORT,
            socket(7)).
        dual_stack: whether an IPv6 endpoint takes IPv4 as well. It is always set, one way or the other, so that the
            machine's default does not matter (IPV6_V6ONLY, ipv6(7)).
    """

    host: str = attrs.field(validator=_host)
    port: int = attrs.field(validator=PORT)
    reuse_port: bool = attrs.field(default=False, kw_only=True, validator=_supported)
    dual_stack: bool = attrs.field(default=False, kw_only=True, validator=flag)

    scheme = ""

    def __attrs_post_init__(self) -> None:
        if self.dual_stack and _is_ipv4(self.host):
            raise OptionError(
                f"{type(self).__name__}: dual_stack needs an address of IPv6, which {self.host!r} is not; "
                "'::' and '' take both families"
            )

    @staticmethod
    def parse_location(location: str) -> dict[str, Any]:
        """Read `HOST:PORT`; see `TextTransport`."""
        host, separator, port = location.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not separator or (":" in host and not bracketed):
            raise OptionError(f"{location!r} is no HOST:PORT; examples: 127.0.0.1:9999, localhost:0, [::1]:9999, :9999")
        try:
            number = whole_number(port)
        except ValueError:
            raise OptionError(
                f"the port of {location!r} must be a whole number from 0 to 65535, not {port!r}"
            ) from None
        return {"host": host[1:-1] if bracketed else host, "port": number}

    @classmethod
    def examples(cls, folder: str) -> list[Self]:  # noqa: ARG003 - the form of every transport
        """Make endpoints on the loopback interface; see `TextTransport`."""
        return [cls("127.0.0.1", 0), cls("::1", 0)]

    def resolve(self, kind: int) -> tuple[int, Any]:
        """Find the address to bind to.

        Args:
            kind: `socket.SOCK_STREAM` or `socket.SOCK_DGRAM`.

        Returns:
            The address family, and the address for `bind`.

        Raises:
            socket.gaierror: the host does not resolve; the message names it.
        """
        host = self.host or ("::" if self.dual_stack else "0.0.0.0")  # noqa: S104 - the caller asked for every address
        family = socket.AF_INET6 if self.dual_stack else socket.AF_UNSPEC
        try:
            # AI_PASSIVE is for binding; a literal address asks no name server.
            found = socket.getaddrinfo(host, self.port, family, kind, 0, socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise socket.gaierror(
                error.errno, f"cannot resolve host {self.host!r} of {self}: {error.strerror}"
            ) from error
        except UnicodeError as error:  # a part of it is empty, or too long (RFC 3490)
            raise socket.gaierror(
                socket.EAI_NONAME, f"cannot resolve host {self.host!r} of {self}: no name can be written like that"
            ) from error
        return found[0][0], found[0][4]

    def socket_options(self, family: int) -> list[SocketOption]:
        """The options of a socket of this family that are the same for TCP and UDP."""
        options = [(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)] if self.reuse_port else []
        if family == socket.AF_INET6:
            options.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not self.dual_stack)))
        return options

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{escape(host)}:{self.port}"


def _is_ipv4(host: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(host), ipaddress.IPv4Address)
    except ValueError:
        return False
