"""`plugsocket demo`: every pair, live, as a table."""

import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs

from plugsocket.cli.matrix import HANDLERS, Outcome, Row, Verdict, attempt, count, rows, strategies
from plugsocket.cli.output import row_of, tell
from plugsocket.core.specs import strategy as make_strategy

CELL = len("3 + 1 refused")
NEXT = "serve tcp://127.0.0.1:9999 --handler upper --strategy 'thread?max_workers=64'"


@attrs.define
class _Demo:
    """A demonstration under way: what there is to try, and what was found.

    Attributes:
        folder: for socket files.
        strategies: by name.
    """

    folder: str
    strategies: Sequence[str]
    outcomes: list[Outcome] = attrs.field(factory=list)
    complaints: list[str] = attrs.field(factory=list)

    def cell(self, row: Row, strategy: str) -> str:
        """Try one transport under one strategy with every kind of handler."""
        assert row.transport is not None, "a row without a transport is not tried"
        outcomes = []
        for kind, handler in HANDLERS.items():
            outcome = attempt(row.transport, make_strategy(strategy), handler, self.folder)
            outcomes.append(outcome)
            if outcome.verdict is Verdict.WRONG:
                self.complaints.append(f"{row.label} under {strategy} with {kind}: {outcome.reason}")
        self.outcomes += outcomes
        return _cell(outcomes)

    def line(self, row: Row, widths: Sequence[int]) -> str:
        """Try one transport under every strategy; lay out the row of the table."""
        if row.transport is None:
            return row_of((row.label, row.reason), (widths[0], 0))
        return row_of((row.label, *(self.cell(row, strategy) for strategy in self.strategies)), widths)


def demo() -> bool:
    """Serve, ask and stop every pair, and print what became of it.

    Returns:
        Whether every pair did as it should, and at least one answered.
    """
    tell("Every transport under every strategy, served and asked over real sockets. A cell counts the handlers that")
    tell(f"answered right, out of {len(HANDLERS)}: {', '.join(HANDLERS)}.", "")
    found = dict(strategies())
    with tempfile.TemporaryDirectory(prefix="plugsocket-") as folder, _forks_allowed():
        run = _Demo(folder, [name for name, obstacle in found.items() if not obstacle])
        endpoints = list(rows(folder))
        widths = [
            max((len(row.label) for row in endpoints), default=0),
            *(max(CELL, len(name)) for name in run.strategies),
        ]
        tell(row_of(("", *run.strategies), widths))
        for row in endpoints:
            tell(run.line(row, widths))
    for name, obstacle in found.items():
        if obstacle:
            run.complaints.append(f"the strategy {name} could not be tried: {obstacle}")
    return _sum_up(run)


def _cell(outcomes: list[Outcome]) -> str:
    counted = count(outcomes)
    others = [f"{counted[each]} {each.value}" for each in (Verdict.REFUSED, Verdict.WRONG) if counted[each]]
    return " + ".join([str(counted[Verdict.RIGHT]), *others])


def _sum_up(run: _Demo) -> bool:
    counted = count(run.outcomes)
    tell("", *run.complaints)
    if counted[Verdict.REFUSED]:
        tell("refused: an async function does not run under a strategy for blocking code, unless own_loop() wraps it.")
    good = counted[Verdict.RIGHT] > 0 and not counted[Verdict.WRONG]
    tell(
        f"{len(run.outcomes)} pairs: {counted[Verdict.RIGHT]} answered right, {counted[Verdict.REFUSED]} were refused "
        f"as they should be, {counted[Verdict.WRONG]} did wrong.",
        f"Try next: {_command()} {NEXT}",
    )
    return good


@contextmanager
def _forks_allowed() -> Iterator[None]:
    """Let Fork() fork beside the demo's own thread, about which `os.fork` warns from Python 3.12 on.

    The demo's thread waits for an answer meanwhile, and holds no lock that a child could need.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
        yield


def _command() -> str:
    """How this program was started, so that it can be started once more from where the user is."""
    program = sys.argv[0]
    return f"{sys.executable} -m plugsocket" if program.endswith(".py") else program or "plugsocket"
