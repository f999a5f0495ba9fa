"""The arguments of the program `plugsocket`, and its help."""

import argparse
from argparse import RawDescriptionHelpFormatter
from importlib.metadata import version
from typing import Any

from plugsocket.cli.terms import add_terms
from plugsocket.core.server import DEFAULT_GRACE

ABOUT = "Network servers put together at run time: any transport, any concurrency strategy, any handler."

EXAMPLES = """\
examples:
  plugsocket demo
  plugsocket serve tcp://127.0.0.1:9999 --handler echo --strategy 'thread?max_workers=64'
  plugsocket serve unix:///run/app.sock --handler mypackage.handlers:Upper --strategy fork
  plugsocket explain udp://127.0.0.1:9999 --strategy trio --handler mymodule:handle
  plugsocket plugins

plugsocket COMMAND --help tells more about each.
"""

PARTS = """\
endpoints:
  tcp://HOST:PORT, udp://HOST:PORT   an IPv6 host in brackets: tcp://[::1]:9999; port 0 for one that is free
  unix://PATH, unixgram://PATH       @NAME in place of a path is an abstract name (Linux)
  Options follow as a query: 'tcp://127.0.0.1:9999?backlog=512&reuse_port=1'. Quote it for the shell.

handlers:
  echo, upper, discard, or MODULE:ATTRIBUTE: a function, an async function, or a class derived from
  BaseRequestHandler. The current directory is searched for MODULE first.

strategies:
  sync, thread, fork, trio; options as a query: 'thread?max_workers=64'. By default the handler's: trio for an
  async function, thread for the others. Plug-ins bring more of both: see plugsocket plugins.
"""

SERVE = f"""\
{PARTS}
overload policies:
  queue: what comes above a limit waits in the kernel's queue; reject: it is accepted and closed at once;
  'wait?seconds=2': it is accepted, waits so long for room, and is closed then;
  'answer?reply=TEXT': it is sent a few bytes and closed; percent-escapes stand for what TEXT cannot have: %0D%0A.

The addresses are printed to standard output, one a line, once they accept; the log goes to standard error.
SIGTERM and Ctrl-C close the listeners and let requests under way end; a second one cuts them at once. Meanwhile a
terminal shows how many are under way, and how long they have left.

examples:
  plugsocket serve tcp://127.0.0.1:9999
  plugsocket serve tcp://127.0.0.1:9999 'tcp://[::1]:9999' unix:///tmp/app.sock --handler upper --strategy trio
  plugsocket serve udp://127.0.0.1:9999 --handler mypackage.handlers:Upper --strategy 'fork?max_children=8' --grace 30
  plugsocket serve tcp://127.0.0.1:9999 --max-connections 500 --max-per-peer 20 --overload 'wait?seconds=2'
  plugsocket serve tcp://127.0.0.1:9999 --first-byte 5 --idle 60 --request 600 --stats 10
"""

EXPLAIN = f"""\
{PARTS}
The exit status is 0 if the parts make a server, and 1 if they do not.

examples:
  plugsocket explain udp://127.0.0.1:9999 --strategy trio --handler mymodule:handle
  plugsocket explain unix:///run/app.sock --strategy fork
"""

DEMO = """\
Serves every example endpoint of every transport under every strategy with every kind of handler, asks it over a
real socket, checks the answer, and stops it: on the loopback interface and in a temporary directory.
The exit status is 0 if every pair did as it should.
"""

PLUGINS = """\
Each plug-in is loaded, to see whether it can be. Installed packages bring them through the entry points
plugsocket.transports and plugsocket.strategies.
"""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; `command` is the name of what to do, or `None`."""
    parser = argparse.ArgumentParser(
        prog="plugsocket", description=ABOUT, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"plugsocket {version('plugsocket')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    serve = _add(commands, "serve", "Serve endpoints until a signal.", SERVE)
    _add_parts(serve)
    serve.add_argument(
        "--grace",
        type=float,
        default=DEFAULT_GRACE,
        metavar="SECONDS",
        help="what requests under way get when the server stops (default: %(default)g)",
    )
    add_terms(serve)
    serve.add_argument("--stats", type=float, metavar="SECONDS", help="log the counters every so many seconds")
    serve.add_argument("--verbose", action="store_true", help="log more: every connection, at level DEBUG")
    _add(commands, "demo", "Try every pair of transport and strategy, live.", DEMO)
    _add_parts(_add(commands, "explain", "Tell what would be composed and why, or why not.", EXPLAIN))
    _add(commands, "plugins", "List the transports and strategies known.", PLUGINS)
    return parser


def _add(commands: Any, name: str, about: str, more: str) -> argparse.ArgumentParser:
    short = about[0].lower() + about[1:].rstrip(".")
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=short, description=about, epilog=more, formatter_class=RawDescriptionHelpFormatter
    )
    return parser


def _add_parts(parser: argparse.ArgumentParser) -> None:
    """Add what a server is composed of: one or more endpoints make one server."""
    parser.add_argument("endpoints", nargs="+", metavar="ENDPOINT", help="where requests come from")
    parser.add_argument("--handler", default="echo", metavar="NAME", help="what to do with them (default: %(default)s)")
    parser.add_argument("--strategy", metavar="NAME", help="how they run beside each other (default: the handler's)")
