"""Every transport under every strategy with every kind of handler: serves each, asks it, and judges the answer."""

import enum
import errno
import os
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs

from plugsocket.core.addresses import Inet6Address, InetAddress, UnixAddress
from plugsocket.core.errors import CompositionError, PlugsocketError
from plugsocket.core.interfaces import IAsyncHandler, IBlockingStrategy, IDatagramTransport
from plugsocket.core.kinds import inspect_handler
from plugsocket.core.lifecycle import State
from plugsocket.core.plugins import STRATEGIES, TRANSPORTS, find, plugins
from plugsocket.core.protocols import Handler, Strategy, Transport
from plugsocket.core.server import Server
from plugsocket.core.specs import strategy as make_strategy
from plugsocket.handlers import AsyncDatagram, BaseRequestHandler, own_loop, upper

QUESTION = b"hello, plugsocket"
ANSWER = QUESTION.upper()
PATIENCE = 5.0  # seconds that an answer may take
GRACE = 1.0  # seconds that a request may still be under way after its answer

# The machine does not have this address, or this family of addresses at all: bind(2), socket(2), getaddrinfo(3).
NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
NOT_RESOLVED_HERE = {socket.EAI_FAMILY, getattr(socket, "EAI_ADDRFAMILY", socket.EAI_FAMILY)}

FAMILIES: dict[type, socket.AddressFamily] = {InetAddress: socket.AF_INET, Inet6Address: socket.AF_INET6}
if hasattr(socket, "AF_UNIX"):
    FAMILIES[UnixAddress] = socket.AF_UNIX


# The handlers: one of each kind, all of the same behaviour.


class Upper(BaseRequestHandler):
    """As `upper`, as a request handler class."""

    def handle(self) -> None:
        """Answer one datagram, or everything that a connection brings."""
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(data.upper(), self.client_address)
            return
        while chunk := self.request.recv(len(QUESTION)):
            self.request.sendall(chunk.upper())


async def async_upper(request: Any) -> None:
    """As `upper`, under trio."""
    if isinstance(request, AsyncDatagram):
        await request.reply(request.data.upper())
        return
    async for chunk in request:
        await request.send_all(chunk.upper())


HANDLERS: dict[str, Handler] = {
    "a function": upper,
    "a request handler class": Upper,
    "an async function": async_upper,
    "own_loop(an async function)": own_loop(async_upper),
}


# What there is to try.


@attrs.frozen
class Row:
    """One endpoint of a transport.

    Attributes:
        label: how the table calls it.
        transport: the endpoint; `None` if there is none to try.
        reason: why there is none.
    """

    label: str
    transport: Transport | None
    reason: str = ""


def rows(folder: str) -> Iterator[Row]:
    """Every endpoint to try, of every transport that is installed; Unix sockets in the folder."""
    for name in sorted({plugin.name for plugin in plugins(TRANSPORTS)}):
        try:
            cls = find(TRANSPORTS, name, "transport scheme")
            examples: list[Transport] = list(cls.examples(folder)) if hasattr(cls, "examples") else []
        except PlugsocketError as error:
            yield Row(f"{name}://", None, str(error))
            continue
        if not examples:
            yield Row(f"{name}://", None, "no example")
        for example in examples:
            reason = _obstacle(example)
            label = str(example).replace(folder + os.sep, "")
            yield Row(label, None if reason else example, reason)


def _obstacle(transport: Transport) -> str:
    """Say why an endpoint cannot be tried on this machine; `""` if it can."""
    try:
        listener = transport.listen()
    except socket.gaierror as error:
        return "not on this machine" if error.errno in NOT_RESOLVED_HERE else ""
    except OSError as error:
        return "not on this machine" if error.errno in NOT_HERE else ""
    except Exception:  # noqa: BLE001 - a plug-in that raises something else is tried, and found wrong
        return ""
    address = listener.address
    listener.close()
    return "" if type(address) in FAMILIES else "no client for its addresses"


def strategies() -> Iterator[tuple[str, str]]:
    """Every strategy that is installed, by name, and why it cannot be tried, or `""`."""
    for name in sorted({plugin.name for plugin in plugins(STRATEGIES)}):
        try:
            make_strategy(name)
        except (PlugsocketError, TypeError) as error:  # TypeError: it cannot be made without arguments
            yield name, str(error)
        else:
            yield name, ""


# Trying.


class Verdict(enum.Enum):
    """What became of a pair."""

    RIGHT = "right"
    REFUSED = "refused"
    WRONG = "WRONG"


@attrs.frozen
class Outcome:
    """What became of a pair.

    Attributes:
        verdict: in a word.
        reason: what was wrong.
    """

    verdict: Verdict
    reason: str = ""


def attempt(transport: Transport, strategy: Strategy, handler: Handler, folder: str) -> Outcome:
    """Serve a pair, ask it, judge the answer, and stop it; Unix datagram clients get their address in the folder."""
    must_refuse = IAsyncHandler.providedBy(inspect_handler(handler)) and IBlockingStrategy.providedBy(strategy)
    try:
        server = Server(transport, handler, strategy, grace=GRACE)
    except CompositionError as refusal:
        return Outcome(Verdict.REFUSED) if must_refuse else Outcome(Verdict.WRONG, f"refused: {refusal}")
    if must_refuse:
        return Outcome(Verdict.WRONG, "not refused")
    try:
        with server:
            server.start()
            answer = _ask(server, folder)
    except Exception as error:  # noqa: BLE001 - whatever a plug-in raises is a finding about it
        return Outcome(Verdict.WRONG, repr(error))
    if answer != ANSWER:
        return Outcome(Verdict.WRONG, f"answered {answer!r}")
    if server.state is not State.CLOSED or server.report is None or server.report.cut:
        return Outcome(Verdict.WRONG, f"did not stop well: {server!r}, {server.report}")
    return Outcome(Verdict.RIGHT)


def _ask(server: Server, folder: str) -> bytes:
    (address,), (transport,) = server.addresses, server.transports
    family = FAMILIES[type(address)]
    if not IDatagramTransport.providedBy(transport):
        return _ask_stream(family, address)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return _ask_from_file(family, address, os.path.join(folder, "client.sock"))
    return _ask_datagram(family, address, None)


def _ask_stream(family: int, address: Any) -> bytes:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)
        sock.sendall(QUESTION)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as reply:
            return reply.read()


def _ask_from_file(family: int, address: Any, own: str) -> bytes:
    """Ask from a socket file, without which a Unix datagram could not be answered."""
    try:
        return _ask_datagram(family, address, own)
    finally:
        if os.path.exists(own):
            os.unlink(own)


def _ask_datagram(family: int, address: Any, own: str | None) -> bytes:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        if own is not None:
            sock.bind(own)
        sock.connect(address)
        sock.send(QUESTION)
        return sock.recv(2 * len(ANSWER))


def count(outcomes: list[Outcome]) -> Counter[Verdict]:
    """How often each verdict was given."""
    return Counter(outcome.verdict for outcome in outcomes)
