"""`plugsocket serve`: serve until a signal, and say where."""

import logging

from plugsocket.cli.output import remark, tell
from plugsocket.core.addresses import display
from plugsocket.core.engine import StopReport
from plugsocket.core.server import Server

SHOWN_PEERS = 10  # of those that were cut; a line that names thousands helps nobody

logger = logging.getLogger("plugsocket")


def log_to_stderr(verbose: bool) -> None:
    """Log to standard error: what plugsocket says, and warnings of everything else."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def serve_until_stopped(server: Server) -> None:
    """Bind, print the bound addresses, and serve until SIGTERM or SIGINT; the second one stops at once.

    Args:
        server: one that is `NEW`; it is closed afterwards.

    Raises:
        OSError: an endpoint cannot be opened, or a listener failed for good.
    """
    report = server.run(started=_announce)
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
