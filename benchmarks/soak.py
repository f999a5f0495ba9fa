"""Whether a server holds more after many connections than after some: memory, descriptors, threads, children.

Good and hostile clients, mixed, come to a server of each strategy that is installed; it is measured when it is quiet,
after the first tenth of them and after the last.

    python benchmarks/soak.py
    python benchmarks/soak.py --strategy thread --strategy trio --connections 50000 --check
    python benchmarks/soak.py --short --check

Exit status: 0; 1 when a run failed, or with `--check` when something is wrong; 2 for wrong arguments.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
from hostile import GOOD, RAISES, Crowd, mixture
from load import AT_ONCE
from serve_soak import Figures
from side_by_side import HERE, TIMEOUT, BenchmarkError, Cores

import plugsocket
from plugsocket.core.interfaces import ITrioStrategy
from plugsocket.core.plugins import STRATEGIES, plugins

CONNECTIONS, SHORT = 200_000, 2_000
SHARES = {"fork": 0.1}  # of these; a process each takes its time
GROWTH = 1.05  # resident memory at the end, over that after the first tenth
# Fewer threads than there are clients at once, so that both times all of them have been started.
SPECS = {"thread": "thread?max_workers=16", "trio": "trio?max_threads=16"}
KINDS_OF_THING = ("descriptors", "threads", "children")


@attrs.frozen
class Case:
    """A server to wear out.

    Attributes:
        strategy: its name.
        handler: `blocking` or `async`.
        capacity: how many requests it runs at once.
        connections: how many clients come.
    """

    strategy: str
    handler: str
    capacity: int
    connections: int

    def __str__(self) -> str:
        return f"{self.strategy}, {self.handler}"


def cases(names: Iterable[str], connections: int) -> Iterator[Case]:
    """Make a case of each strategy and kind of handler that go together without an adapter."""
    for name in names:
        strategy: Any = plugsocket.strategy(SPECS.get(name, name))
        count = round(connections * SHARES.get(name, 1.0))
        if ITrioStrategy.providedBy(strategy):
            yield Case(name, "async", strategy.max_tasks, count)
            yield Case(name, "blocking", strategy.max_threads, count)
        else:
            yield Case(name, "blocking", strategy.capacity, count)


@attrs.frozen
class Result:
    """How a case went.

    Attributes:
        case: the case.
        early: the server's figures after the first tenth of the clients.
        late: those after the last.
        connected: connections made in all.
        served: clients that got the answer that they waited for.
        wrong: clients that did not.
        raisers: clients that made the handler raise.
        seconds: how long all of it took.
    """

    case: Case
    early: Figures
    late: Figures
    connected: int
    served: int
    wrong: int
    raisers: int
    seconds: float

    @property
    def growth(self) -> float:
        """Resident memory: at the end over early."""
        return self.late.memory / self.early.memory

    def faults(self) -> Iterator[str]:
        """Say everything that is wrong."""
        late = self.late
        if self.growth > GROWTH:
            yield f"memory grew from {self.early.memory} to {late.memory} KiB, {self.growth:.3f} times"
        for what in KINDS_OF_THING:
            before, after = getattr(self.early, what), getattr(late, what)
            if after > before:
                yield f"{what} grew from {before} to {after}"
        if self.wrong:
            yield f"{self.wrong} clients were not served as they should be"
        if late.accepted != self.connected:
            yield f"the server counted {late.accepted} of {self.connected} connections"
        if late.raised != self.raisers:
            yield f"{late.raised} handlers raised, on {self.raisers} requests to"
        if late.lost:
            yield f"{late.lost} requests were refused or accepts failed"


# Running


class Subject:
    """A server process.

    Args:
        process: what was started; `serve_soak.py` says how to talk to it.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.port: int = self._read()["port"]

    def figures(self, requests: int) -> Figures:
        """Wait until so many requests are under way, and take its figures."""
        assert self._process.stdin is not None, "it was started with a pipe"
        try:
            self._process.stdin.write(f"{requests}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading tells
        return Figures(**self._read())

    def _read(self) -> dict[str, int]:
        assert self._process.stdout is not None, "it was started with a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the server ended, status {self._process.wait()}")
        told: dict[str, int] = json.loads(line)
        return told


@contextmanager
def serving(case: Case, core: int | None) -> Iterator[Subject]:
    """Have a server process for the length of a block. What it wrote to standard error is an error afterwards."""
    command = [sys.executable, str(HERE / "serve_soak.py"), SPECS.get(case.strategy, case.strategy), case.handler]
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(  # noqa: S603 - our own script
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            yield Subject(process)
            process.communicate(timeout=TIMEOUT)  # closes its input, with which it ends
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"the server did not stop within {TIMEOUT} seconds") from None
        finally:
            process.kill()
            process.communicate()
            complaints.seek(0)
            said = complaints.read()
            if said:
                raise BenchmarkError(f"the server wrote to standard error:\n{said}")


def soak(case: Case, cores: Cores) -> Result:
    """Run a case.

    Raises:
        BenchmarkError: the server did not come through it, or could not be reached.
    """
    kinds = mixture(case.connections)
    tenth = max(1, len(kinds) // 10)
    began = time.perf_counter()
    with serving(case, cores.server) as server:
        crowd = Crowd(server.port)
        try:
            crowd.run(kinds[:tenth])
            early = quiet_figures(server, crowd, case.capacity)
            crowd.run(kinds[tenth:])
            late = quiet_figures(server, crowd, case.capacity)
        except OSError as error:
            raise BenchmarkError(f"{case}: after {crowd.connected} connections: {error!r}") from error
    seconds = time.perf_counter() - began
    return Result(case, early, late, crowd.connected, crowd.served, crowd.wrong, kinds.count(RAISES), seconds)


def quiet_figures(server: Subject, crowd: Crowd, capacity: int) -> Figures:
    """Take the figures of a server without clients, after as many at once as there ever are.

    The second is what brings a pool of threads to the same size each time.
    """
    _settle(server, crowd)
    with crowd.silent_ones():
        server.figures(min(AT_ONCE, capacity))
    return _settle(server, crowd)


def _settle(server: Subject, crowd: Crowd) -> Figures:
    crowd.run([GOOD])  # connections are accepted in their order: with its answer, all before it have been
    return server.figures(0)


# Telling


def table(results: Sequence[Result]) -> Iterator[str]:
    """Write results for people."""
    yield (
        f"{'':<17}{'connections':>12}{'served':>9}{'wrong':>7}{'raised':>8}{'cut off':>9}{'seconds':>9}"
        f"{'RSS MiB':>16}{'ratio':>7}{'descriptors':>13}{'threads':>10}{'children':>10}"
    )
    for result in results:
        early, late = result.early, result.late
        memory = f"{early.memory / 1024:.1f} > {late.memory / 1024:.1f}"
        things = [f"{getattr(early, what)} > {getattr(late, what)}" for what in KINDS_OF_THING]
        yield (
            f"{result.case!s:<17}{result.connected:>12}{result.served:>9}{result.wrong:>7}{late.raised:>8}"
            f"{late.disconnected:>9}{result.seconds:>9.1f}{memory:>16}{result.growth:>7.3f}"
            f"{things[0]:>13}{things[1]:>10}{things[2]:>10}"
        )


def main() -> int:
    """Read the arguments, run, tell; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [plugin.name for plugin in plugins(STRATEGIES)]
    parser.add_argument("--strategy", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument(
        "--connections", type=int, default=CONNECTIONS, help="each, default %(default)s; fork a tenth of them"
    )
    parser.add_argument(
        "--short", action="store_const", const=SHORT, dest="connections", help=f"the same as --connections {SHORT}"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 when something is wrong")
    options = parser.parse_args()
    if options.connections < AT_ONCE:
        parser.error(f"--connections must be at least {AT_ONCE}, not {options.connections}")

    cores = Cores.choose()
    if cores.load is not None:
        os.sched_setaffinity(0, {cores.load})
    _say(f"{AT_ONCE} clients at once; {cores}; Python {platform.python_version()}", sys.stderr)
    results = []
    try:
        for case in cases(options.strategy or names, options.connections):
            _say(f"{case}: {case.connections} connections", sys.stderr)
            results.append(soak(case, cores))
    except (BenchmarkError, plugsocket.PlugsocketError) as error:
        _say(f"failed: {error}", sys.stderr)
        return 1
    faults = [f"{result.case}: {fault}" for result in results for fault in result.faults()]
    _say("\n".join([*table(results), *faults]), sys.stdout)
    return int(options.check and bool(faults))


def _say(what: str, stream: Any) -> None:
    print(what, file=stream, flush=True)


if __name__ == "__main__":
    sys.exit(main())
