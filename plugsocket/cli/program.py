"""The program `plugsocket`: runs one command, words its errors, and gives the exit status."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from plugsocket.cli.arguments import make_parser
from plugsocket.cli.handlers import load_handler
from plugsocket.cli.output import remark, tell
from plugsocket.cli.plugins import plugin_table
from plugsocket.cli.serve import log_to_stderr, serve_until_stopped, watch
from plugsocket.cli.terms import deadlines_of, limits_of
from plugsocket.core.entry import explain
from plugsocket.core.errors import PlugsocketError
from plugsocket.core.server import Server

OK, FAILED, WRONG_INPUT = 0, 1, 2
INTERRUPTED = 130  # 128 and the number of SIGINT, as a shell reports a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default the program's.

    Returns:
        The exit status: 0; 1 when the system refused something, or the answer is no; 2 for wrong input; 130 after a
        Ctrl-C that no server was there to take.

    Raises:
        SystemExit: from argparse: for `--help` and `--version` with status 0, for wrong arguments with status 2.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return WRONG_INPUT
    try:
        return COMMANDS[arguments.command](arguments)
    except PlugsocketError as error:
        remark(f"error: {error}")
        return WRONG_INPUT
    except BrokenPipeError:
        # Who read the output has gone, and knows; what is still buffered must not raise when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        remark(f"error: {_worded(error)}")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _serve(arguments: Namespace) -> int:
    console = log_to_stderr(arguments.verbose)
    server = Server(
        arguments.endpoints,
        load_handler(arguments.handler),
        arguments.strategy,
        limits=limits_of(arguments),
        deadlines=deadlines_of(arguments),
        grace=arguments.grace,
    )
    watch(server, console, arguments.verbose)
    serve_until_stopped(server, arguments.stats)
    return OK


def _demo(_arguments: Namespace) -> int:
    from plugsocket.cli.demo import demo  # noqa: PLC0415 - it tries everything, and so imports trio

    return OK if demo() else FAILED


def _explain(arguments: Namespace) -> int:
    explanation = explain(arguments.endpoints, load_handler(arguments.handler), arguments.strategy)
    tell(str(explanation))
    return FAILED if explanation.composition is None else OK


def _plugins(_arguments: Namespace) -> int:
    tell(*plugin_table())
    return OK


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "serve": _serve,
    "demo": _demo,
    "explain": _explain,
    "plugins": _plugins,
}


def _worded(error: OSError) -> str:
    """Leave out the error's number, unless the words alone would not say which file they are about."""
    return str(error) if error.filename is not None or not error.strerror else error.strerror
