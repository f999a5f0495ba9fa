"""The options of `plugsocket serve` for limits and deadlines: one for each field of `Limits` and of `Deadlines`."""

import argparse

from plugsocket.core.deadlines import Deadlines
from plugsocket.core.limits import Limits
from plugsocket.core.options import option_fields

HELP = {
    "max_connections": ("N", "how many requests may be under way (default: as many as the strategy takes)"),
    "max_per_peer": ("N", "how many of them may be of one peer (default: as many as there may be)"),
    "overload": ("POLICY", "what becomes of those above a limit (default: queue)"),
    "first_byte": ("SECONDS", "what a peer has for its first byte (default: no limit)"),
    "idle": ("SECONDS", "how long a connection may be silent while its handler waits (default: no limit)"),
    "request": ("SECONDS", "what a connection has in all (default: no limit)"),
    "linger": ("SECONDS", f"what a peer has to end, after the handler has (default: {Deadlines().linger:g})"),
}
"""What stands for each option's value, and what it is about."""


def add_terms(parser: argparse.ArgumentParser) -> None:
    """Add the options; their texts are read by `limits_of` and `deadlines_of`, which know what is wrong with them."""
    for cls in (Limits, Deadlines):
        for name in option_fields(cls):
            metavar, about = HELP[name]
            parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=about)


def limits_of(arguments: argparse.Namespace) -> Limits:
    """Read the limits; `OptionError` if they are none."""
    return Limits.from_text({}, _given(Limits, arguments))


def deadlines_of(arguments: argparse.Namespace) -> Deadlines:
    """Read the deadlines; `OptionError` if they are none."""
    return Deadlines.from_text({}, _given(Deadlines, arguments))


def _given(cls: type, arguments: argparse.Namespace) -> dict[str, str]:
    texts = {name: getattr(arguments, name) for name in option_fields(cls)}
    return {name: text for name, text in texts.items() if text is not None}
