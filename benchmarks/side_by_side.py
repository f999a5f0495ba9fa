"""Measures a subject and its peer side by side: what the programs share that compare plugsocket with others."""

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from contender import BACKLOG, resident
from load import AT_ONCE

HERE = Path(__file__).parent
TIMEOUT = 60.0  # seconds after which a run of the load generator has failed


class BenchmarkError(Exception):
    """A run that measures nothing: a request went wrong, or a server complained."""


@attrs.frozen
class Contender:
    """A server under test.

    Attributes:
        title: how the table calls it.
        command: the script that serves, and its arguments.
    """

    title: str
    command: tuple[str, ...]


def plugsocket_server(scheme: str, strategy: str, handler: str) -> Contender:
    """A server of ours, with a handler of `contender.py`."""
    endpoint = f"{scheme}://127.0.0.1:0" + (f"?backlog={BACKLOG}" if scheme == "tcp" else "")
    title = f"Server({scheme.upper()}, {strategy.capitalize()}())"
    return Contender(title, ("serve_plugsocket.py", endpoint, strategy, handler))


def socketserver_server(cls: str) -> Contender:
    """A server of the standard library, with the handler for its kind."""
    return Contender(cls, ("serve_socketserver.py", cls))


def trio_server(kind: str, handler: str) -> Contender:
    """What trio has: `serve_tcp`, or a loop around `recvfrom`."""
    return Contender(f"trio, {kind}", ("serve_trio.py", kind, handler))


@attrs.frozen
class Pair:
    """A subject and the peer that it is measured against, with the same handler.

    Attributes:
        name: what `--only` calls it.
        subject: plugsocket's.
        peer: the other one.
        wanted: the ratio of requests per second that is wanted at least, or that of memory that is wanted at most;
            `None` where it is only of interest.
        load: what the load generator does.
        count: how many requests a round has.
        memory: whether the memory of connections that stay open is compared, and not requests per second.
        settle: seconds to wait before the processor time is read, for children to be reaped.
    """

    name: str
    subject: Contender
    peer: Contender
    wanted: float | None = None
    load: str = "tcp"
    count: int = 4_000
    memory: bool = False
    settle: float = 0.0

    @property
    def unit(self) -> str:
        """What is compared."""
        return "bytes/connection" if self.memory else "requests/s"


@attrs.frozen
class Sample:
    """One round of one contender.

    Attributes:
        value: requests per second, or bytes of resident memory per connection.
        cpu: microseconds of processor time that the server used for a request, its children included.
        load: how much of a core the load generator used, 0 to 1; near 1 it was what limited the rate.
    """

    value: float
    cpu: float
    load: float


@attrs.frozen
class Spread:
    """A median with its quartiles."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Find the quartiles of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


@attrs.frozen
class Result:
    """The samples of a pair, round by round."""

    pair: Pair
    subject: list[Sample] = attrs.field(factory=list)
    peer: list[Sample] = attrs.field(factory=list)

    @property
    def ratio(self) -> float:
        """The subject's median over the peer's."""
        return statistics.median(s.value for s in self.subject) / statistics.median(s.value for s in self.peer)

    @property
    def ratios(self) -> Spread:
        """The same, over the ratios of the single rounds."""
        return spread([subject.value / peer.value for subject, peer in zip(self.subject, self.peer, strict=True)])

    @property
    def cpu_ratio(self) -> float:
        """Processor time per request: the peer's median over the subject's, so that more is better here too."""
        return statistics.median(s.cpu for s in self.peer) / statistics.median(s.cpu for s in self.subject)

    @property
    def missed(self) -> bool:
        """Whether the wanted ratio was missed."""
        if self.pair.wanted is None:
            return False
        return self.ratio > self.pair.wanted if self.pair.memory else self.ratio < self.pair.wanted


# Running


@attrs.frozen
class Cores:
    """Where the processes run; `None` for wherever the system puts them."""

    server: int | None
    load: int | None

    @classmethod
    def choose(cls) -> "Cores":
        """Take the first two cores that this process may use, where it can be told and there are two."""
        if not hasattr(os, "sched_setaffinity"):
            return cls(None, None)
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1]) if len(usable) > 1 else cls(None, None)

    def __str__(self) -> str:
        if self.server is None:
            return "not pinned to cores, since there is no sched_setaffinity or just one core: take it with care"
        return f"server pinned to core {self.server}, load to core {self.load}"


def _start(command: Sequence[str], core: int | None, **options: Any) -> "subprocess.Popen[str]":
    script, *arguments = command
    process = subprocess.Popen(  # noqa: S603 - our own scripts
        [sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True, **options
    )
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    return process


def _read(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None, "it was started with a pipe"
    line = process.stdout.readline()
    if not line:
        raise BenchmarkError(f"{process.args!r} ended without a word, status {process.wait()}")
    told: dict[str, Any] = json.loads(line)
    return told


def _figures(server: "subprocess.Popen[str]") -> dict[str, Any]:
    server.send_signal(signal.SIGUSR1)
    return _read(server)


@contextmanager
def _serving(contender: Contender, core: int | None) -> Iterator["subprocess.Popen[str]"]:
    """Have a contender's process for the length of a block. What it wrote to standard error is an error afterwards."""
    # A server is terminated, and so leaves to us what it put into the folder, such as a Unix socket.
    with tempfile.TemporaryFile("w+") as complaints, tempfile.TemporaryDirectory() as folder:
        process = _start(contender.command, core, stderr=complaints, env={**os.environ, "TMPDIR": folder})
        try:
            yield process
        finally:
            process.terminate()
            process.wait()
            assert process.stdout is not None, "it was started with a pipe"
            process.stdout.close()
            complaints.seek(0)
            said = complaints.read()
            if said:
                raise BenchmarkError(f"{contender.title} wrote to standard error:\n{said}")


@contextmanager
def _load(kind: str, where: str, count: int, core: int | None) -> Iterator[dict[str, Any]]:
    """Run the load generator; for the length of a block, its connections that stay open do so."""
    process = _start(("load.py", kind, where, str(count)), core, stdin=subprocess.PIPE)
    watchdog = threading.Timer(TIMEOUT, process.kill)
    watchdog.start()
    try:
        told = _read(process)
        if told["right"] != count:
            raise BenchmarkError(f"{told['right']} of {count} echoes were right")
        yield told
    finally:
        watchdog.cancel()
        process.communicate()  # closes its input, with which it ends
    if process.returncode:
        raise BenchmarkError(f"the load generator failed with status {process.returncode}; its error is above")


def measure(pair: Pair, contender: Contender, count: int, cores: Cores) -> Sample:
    """Run a contender once.

    Raises:
        BenchmarkError: not every request was served as it should be.
    """
    warming = AT_ONCE if pair.memory else max(AT_ONCE, count // 20)  # for memory just the code, and no connections
    with _serving(contender, cores.server) as server:
        where = str(_read(server)["address"])
        with _load(pair.load, where, warming, cores.load):  # caches, and the pool of threads
            pass
        time.sleep(pair.settle)
        before, memory = _figures(server), resident(server.pid)
        with _load(pair.load, where, count, cores.load) as told:
            time.sleep(pair.settle)
            after, memory = _figures(server), resident(server.pid) - memory
    if "accepted" in after and (after["accepted"] - before["accepted"] != told["came"] or after["lost"]):
        raise BenchmarkError(f"{contender.title} counted {before} before and {after} after {told}")
    value = memory * 1024 / count if pair.memory else count / told["seconds"]
    return Sample(value, (after["cpu"] - before["cpu"]) / count * 1e6, told["cpu"] / told["seconds"])


def run(pairs: Sequence[Pair], rounds: int, scale: float, cores: Cores) -> list[Result]:
    """Run every pair, round by round, so that what else the machine does meets all of them alike."""
    results = [Result(pair) for pair in pairs]
    for number in range(rounds):
        for result in results:
            pair = result.pair
            count = max(AT_ONCE, round(scale * pair.count))
            turns = [(pair.subject, result.subject), (pair.peer, result.peer)]
            for contender, samples in turns if number % 2 else reversed(turns):
                samples.append(measure(pair, contender, count, cores))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)  # noqa: T201 - a command that prints
    return results


# Telling


def table(results: Sequence[Result]) -> Iterator[str]:
    """Write results for people."""
    yield f"{'':<24}{'median':>10} {'(quartiles)':>19}{'CPU µs/request':>16} {'(quartiles)':>17}{'load busy':>11}"
    for result in results:
        yield f"{result.pair.name}: {result.pair.unit}"
        for contender, samples in ((result.pair.subject, result.subject), (result.pair.peer, result.peer)):
            value, cpu = spread([s.value for s in samples]), spread([s.cpu for s in samples])
            busy = statistics.median(s.load for s in samples)
            yield (
                f"  {contender.title:<22}{value.median:>10,.0f} {f'({value.low:,.0f} to {value.high:,.0f})':>19}"
                f"{cpu.median:>16.1f} {f'({cpu.low:.1f} to {cpu.high:.1f})':>17}{busy:>11.0%}"
            )
        yield f"  {_verdict(result)}"


def _verdict(result: Result) -> str:
    pair, each = result.pair, result.ratios
    verdict = "for information"
    if pair.wanted is not None:
        limit = "at most" if pair.memory else "at least"
        verdict = f"wanted {limit} {pair.wanted}: {'MISSED' if result.missed else 'reached'}"
    return (
        f"{result.ratio:.2f} times the peer's (rounds: {each.low:.2f} to {each.high:.2f}), {verdict}; "
        f"{result.cpu_ratio:.2f} times as many requests for the same server CPU"
    )


def as_json(results: Sequence[Result], about: str) -> str:
    """Write results for programs."""
    return json.dumps(
        {
            "about": about,
            "pairs": [
                {
                    **attrs.asdict(result),
                    "ratio": result.ratio,
                    "ratios": attrs.asdict(result.ratios),
                    "cpu_ratio": result.cpu_ratio,
                    "missed": result.missed,
                }
                for result in results
            ],
        },
        indent=2,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _scale(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return number


def main(about: str, pairs: Sequence[Pair]) -> int:
    """Read the arguments, run, tell.

    Args:
        about: what `--help` says.
        pairs: what is compared.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [pair.name for pair in pairs]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--rounds", type=_positive, default=9, help="default %(default)s")
    parser.add_argument("--scale", type=_scale, default=1.0, help="how many times as many requests a round")
    parser.add_argument("--json", action="store_true", help="print every sample, for programs")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a wanted ratio is missed")
    options = parser.parse_args()

    cores = Cores.choose()
    terms = f"{AT_ONCE} requests at once; {cores}; {options.rounds} rounds; Python {platform.python_version()}"
    chosen = [pair for pair in pairs if options.only is None or pair.name in options.only]
    try:
        results = run(chosen, options.rounds, options.scale, cores)
    except BenchmarkError as error:
        print(f"failed: {error}", file=sys.stderr)  # noqa: T201 - a command that prints
        return 1
    lines = [as_json(results, terms)] if options.json else [terms, *table(results)]
    print("\n".join(lines))  # noqa: T201 - a command that prints
    return int(options.check and any(result.missed for result in results))
