"""Transports and strategies from strings: `tcp://127.0.0.1:9999?backlog=512`, `thread?max_workers=64`."""

import re
from collections.abc import Mapping
from typing import Any, Protocol, Self, cast
from urllib.parse import unquote

from plugsocket.core.errors import OptionError, PluginError, nearest
from plugsocket.core.interfaces import IStrategy
from plugsocket.core.plugins import STRATEGIES, TRANSPORTS, find
from plugsocket.core.protocols import Strategy, Transport

UNDECODED = re.compile("[\udc80-\udcff]")  # how Python has bytes that are no UTF-8 (PEP 383)


class TextTransport(Protocol):
    """What a transport class offers so that strings can name it; `Options` has the second method ready."""

    @staticmethod
    def parse_location(location: str) -> dict[str, Any]:
        """Read the part between `://` and `?`, with percent-escapes already replaced.

        Returns:
            Arguments of the class, by name.

        Raises:
            OptionError: it is not such a location; the message names it and shows the right form.
        """
        ...

    @classmethod
    def from_text(cls, location: dict[str, Any], texts: dict[str, str]) -> Self:
        """Make the transport from those arguments and from options as text."""
        ...

    @classmethod
    def examples(cls, folder: str) -> list[Self]:
        """Make endpoints to try the transport with, one for each address family: private, and free on this machine.

        Args:
            folder: an existing folder, for those that need files.
        """
        ...


def transport(spec: str | Transport) -> Transport:
    """Make a transport from its string; a transport is returned as it is.

    Args:
        spec: `SCHEME://LOCATION`, then optionally `?` and options as `name=value`, joined by `&`:
            `tcp://HOST:PORT`, `udp://HOST:PORT`, `unix://PATH`, `unixgram://PATH`, and those of plug-ins. An IPv6
            host stands in brackets, a leading `@` makes a path a name of Linux's abstract namespace. A `?`, `%`
            or `&` that is part of a value is written as its percent-escape.

    Raises:
        OptionError: the string or one of its options is wrong.
        PluginError: no transport has that scheme.
    """
    if not isinstance(spec, str):
        return spec
    scheme, separator, rest = spec.partition("://")
    if not separator or not scheme:
        raise OptionError(f"{spec!r} is no endpoint; one looks like 'tcp://127.0.0.1:9999' or 'unix:///run/app.sock'")
    found = cast("type[TextTransport]", find(TRANSPORTS, scheme, "transport scheme"))
    if not hasattr(found, "parse_location"):
        raise OptionError(f"the transport of {scheme!r} cannot be made from a string: it has no parse_location()")
    location, _, query = rest.partition("?")
    return cast("Transport", found.from_text(found.parse_location(_unescape(location)), read_options(spec, query)))


def strategy(spec: str | Strategy) -> Strategy:
    """Make a strategy from its string; a strategy is returned as it is.

    Args:
        spec: `NAME`, then optionally `?` and options as `name=value`, joined by `&`: `thread?max_workers=64`.

    Raises:
        OptionError: one of the options is wrong.
        PluginError: no strategy has that name, or what has it is none.
    """
    if not isinstance(spec, str):
        return spec
    name, _, query = spec.partition("?")
    found = find(STRATEGIES, name, "strategy")
    options = read_options(spec, query)
    if not hasattr(found, "from_text"):
        if options:
            raise OptionError(f"the strategy {name!r} takes no options as text: it has no from_text()")
        made = found() if callable(found) else None
    else:
        made = found.from_text({}, options)
    if not IStrategy.providedBy(made):
        raise PluginError(f"the plug-in of {name!r} is no strategy: {found!r}")
    return cast("Strategy", made)


def named(what: str, spec: str, classes: Mapping[str, Any]) -> Any:
    """Make what a string names: `NAME`, or `NAME?OPTION=VALUE&OPTION=VALUE`.

    Args:
        what: what it is, for messages.
        spec: the string.
        classes: the classes of `Options` that there are, by name.

    Raises:
        OptionError: there is none of that name, or one of its options is wrong.
    """
    name, _, query = spec.partition("?")
    if name not in classes:
        raise OptionError(f"there is no {what} {name!r}{nearest(name, classes)}")
    return classes[name].from_text({}, read_options(spec, query))


def read_options(spec: str, query: str) -> dict[str, str]:
    """Read `name=value&name=value`, with percent-escapes replaced; `spec` is what messages quote."""
    options: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, separator, text = map(_unescape, pair.partition("="))
        if not separator:
            raise OptionError(f"{spec!r}: options look like 'name=value&name=value', not {query!r}")
        if name in options:
            raise OptionError(f"{spec!r}: option {name!r} is given twice")
        options[name] = text
    return options


def escape(location: str) -> str:
    """Write a location so that a string with it is read as it is meant: with `%` and `?` as percent-escapes.

    So are the bytes of file names that are no text, which not every output could write.
    """
    escaped = location.replace("%", "%25").replace("?", "%3F")
    return UNDECODED.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", escaped)


def _unescape(text: str) -> str:
    # Bytes that are no UTF-8 stand in file names as Python has them (os.fsdecode).
    return unquote(text, errors="surrogateescape")
