"""`plugsocket serve`: serve until a signal, and say where."""

import logging

from plugsocket.cli.console import Console
from plugsocket.cli.counters import Counters
from plugsocket.cli.output import remark, tell
from plugsocket.cli.progress import Progress
from plugsocket.core.addresses import display
from plugsocket.core.report import StopReport
from plugsocket.core.reporting import FREQUENT, log_events
from plugsocket.core.server import Server

SHOWN_PEERS = 10  # of those that were cut; a line that names thousands helps nobody

logger = logging.getLogger("plugsocket")


def log_to_stderr(verbose: bool) -> Console:
    """Log to standard error: what plugsocket says, and warnings of everything else."""
    console = Console()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=[console])
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    return console


def watch(server: Server, console: Console, verbose: bool) -> None:
    """Have a server that does not serve yet tell more than it does by itself.

    Args:
        server: the server.
        console: if it is a terminal, it shows how the stop gets on.
        verbose: whether to log each connection.
    """
    if verbose:
        server.subscribe(log_events, *FREQUENT)
    if console.is_terminal:
        Progress(server, console)


def serve_until_stopped(server: Server, stats: float | None = None) -> None:
    """Bind, print the bound addresses, and serve until SIGTERM or SIGINT; the second one stops at once.

    Args:
        server: one that is `NEW`; it is closed afterwards.
        stats: seconds from one line about its counters to the next; `None` for none.

    Raises:
        OptionError: `stats` is no duration; nothing was opened.
        OSError: an endpoint cannot be opened, or a listener failed for good.
    """
    counters = None if stats is None else Counters(server, stats)

    def started(server: Server) -> None:
        _announce(server)
        if counters is not None:
            counters.begin()

    try:
        report = server.run(started=started)
    finally:
        if counters is not None:
            counters.end()
    if report.cut:
        remark(describe(report))


def _announce(server: Server) -> None:
    tell(*server.urls)
    logger.info("serving with %r; Ctrl-C or SIGTERM stops", server.strategy)


def describe(report: StopReport) -> str:
    """Say in one line how a stop went that cut requests."""
    peers = ", ".join(display(peer) for peer in report.cut[:SHOWN_PEERS])
    more = f" and {len(report.cut) - SHOWN_PEERS} more" if len(report.cut) > SHOWN_PEERS else ""
    return (
        f"stopped after {report.seconds:.1f} s; requests under way that ended by themselves: {report.completed}; "
        f"that were cut: {len(report.cut)} (from {peers}{more})"
    )
