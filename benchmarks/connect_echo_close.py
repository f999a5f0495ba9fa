"""How fast plugsocket serves short requests, beside the servers that it would replace, in one run.

A client connects, sends a few bytes, reads them back until end of file, and closes; or sends a datagram and reads the
reply. Subject and peer take turns, each time as a fresh process on one core, with the load generator on another one.

    python benchmarks/connect_echo_close.py
    python benchmarks/connect_echo_close.py --only thread --only trio --rounds 15 --check

Exit status: 0; 1 when a run failed, or with `--check` when a wanted ratio was missed; 2 for wrong arguments.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from load import AT_ONCE

HERE = Path(__file__).parent
TIMEOUT = 60.0  # seconds after which a run of the load generator has failed
REAPING = 0.6  # seconds; ForkingMixIn looks after its children in its poll of half a second


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


@attrs.frozen
class Pair:
    """A subject and the peer that it is measured against, with the same handler.

    Attributes:
        name: what `--only` calls it.
        subject: plugsocket's.
        peer: the other one.
        wanted: the ratio of requests per second that is wanted at least; `None` where it is only of interest.
        load: `tcp` or `udp`.
        share: how many requests a round has, relative to `--connections`.
        settle: seconds to wait before the processor time is read, for children to be reaped.
    """

    name: str
    subject: Contender
    peer: Contender
    wanted: float | None = None
    load: str = "tcp"
    share: float = 1.0
    settle: float = 0.0


def _pair(name: str, peer: str, **options: Any) -> Pair:
    load = options.get("load", "tcp")
    strategy = name if load == "tcp" else "sync"
    title = f"Server({load.upper()}, {strategy.capitalize()}())"
    subject = Contender(title, ("serve_plugsocket.py", load, strategy))
    if peer == "trio.serve_tcp":
        return Pair(name, subject, Contender(peer, ("serve_trio.py",)), **options)
    return Pair(name, subject, Contender(peer, ("serve_socketserver.py", peer)), **options)


PAIRS = (
    _pair("thread", "ThreadingTCPServer", wanted=1.5),
    _pair("trio", "trio.serve_tcp", wanted=1.5),
    _pair("sync", "TCPServer", wanted=1.0),
    _pair("fork", "ForkingTCPServer", share=0.1, settle=REAPING),
    _pair("udp", "UDPServer", load="udp", share=5.0),
)


@attrs.frozen
class Sample:
    """One round of one contender.

    Attributes:
        rate: requests per second.
        cpu: microseconds of processor time that the server used for a request, its children included.
        load: how much of a core the load generator used, 0 to 1; near 1 it was what limited the rate.
    """

    rate: float
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
        """Requests per second: the subject's median over the peer's."""
        return statistics.median(s.rate for s in self.subject) / statistics.median(s.rate for s in self.peer)

    @property
    def ratios(self) -> Spread:
        """The same, over the ratios of the single rounds."""
        return spread([subject.rate / peer.rate for subject, peer in zip(self.subject, self.peer, strict=True)])

    @property
    def cpu_ratio(self) -> float:
        """Processor time per request: the peer's median over the subject's, so that more is better here too."""
        return statistics.median(s.cpu for s in self.peer) / statistics.median(s.cpu for s in self.subject)

    @property
    def missed(self) -> bool:
        """Whether the wanted ratio was missed."""
        return self.pair.wanted is not None and self.ratio < self.pair.wanted


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


def _read(process: "subprocess.Popen[str]") -> dict[str, float]:
    assert process.stdout is not None, "it was started with a pipe"
    line = process.stdout.readline()
    if not line:
        raise BenchmarkError(f"{process.args!r} ended without a word, status {process.wait()}")
    told: dict[str, float] = json.loads(line)
    return told


def _figures(server: "subprocess.Popen[str]") -> dict[str, float]:
    server.send_signal(signal.SIGUSR1)
    return _read(server)


@contextmanager
def _serving(contender: Contender, core: int | None) -> Iterator["subprocess.Popen[str]"]:
    """Have a contender's process for the length of a block. What it wrote to standard error is an error afterwards."""
    with tempfile.TemporaryFile("w+") as complaints:
        process = _start(contender.command, core, stderr=complaints)
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


def _load(kind: str, port: int, count: int, core: int | None) -> dict[str, float]:
    process = _start(("load.py", kind, str(port), str(count)), core)
    try:
        written, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{count} requests were not done in {TIMEOUT} seconds") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise BenchmarkError(f"the load generator failed with status {process.returncode}; its error is above")
    told: dict[str, float] = json.loads(written)
    if told["right"] != count:
        raise BenchmarkError(f"{told['right']} of {count} echoes were right")
    return told


def measure(pair: Pair, contender: Contender, count: int, cores: Cores) -> Sample:
    """Run a contender once.

    Raises:
        BenchmarkError: not every request was served as it should be.
    """
    with _serving(contender, cores.server) as server:
        port = int(_read(server)["port"])
        _load(pair.load, port, max(AT_ONCE, count // 20), cores.load)  # warms up: caches, and the pool of threads
        time.sleep(pair.settle)
        before = _figures(server)
        told = _load(pair.load, port, count, cores.load)
        time.sleep(pair.settle)
        after = _figures(server)
    if "accepted" in after and (after["accepted"] - before["accepted"] != count or after["lost"]):
        raise BenchmarkError(f"{contender.title} counted {before} before and {after} after {count} requests")
    return Sample(count / told["seconds"], (after["cpu"] - before["cpu"]) / count * 1e6, told["cpu"] / told["seconds"])


def run(pairs: Sequence[Pair], rounds: int, connections: int, cores: Cores) -> list[Result]:
    """Run every pair, round by round, so that what else the machine does meets all of them alike."""
    results = [Result(pair) for pair in pairs]
    for number in range(rounds):
        for result in results:
            pair = result.pair
            count = max(1, round(connections * pair.share))
            turns = [(pair.subject, result.subject), (pair.peer, result.peer)]
            for contender, samples in turns if number % 2 else reversed(turns):
                samples.append(measure(pair, contender, count, cores))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)  # noqa: T201 - a command that prints
    return results


# Telling


def table(results: Sequence[Result]) -> Iterator[str]:
    """Write results for people."""
    yield f"{'':<24}{'requests/s':>11} {'(quartiles)':>19}{'CPU µs/request':>16} {'(quartiles)':>17}{'load busy':>11}"
    for result in results:
        for contender, samples in ((result.pair.subject, result.subject), (result.pair.peer, result.peer)):
            rate, cpu = spread([s.rate for s in samples]), spread([s.cpu for s in samples])
            busy = statistics.median(s.load for s in samples)
            yield (
                f"{contender.title:<24}{rate.median:>11,.0f} {f'({rate.low:,.0f} to {rate.high:,.0f})':>19}"
                f"{cpu.median:>16.1f} {f'({cpu.low:.1f} to {cpu.high:.1f})':>17}{busy:>11.0%}"
            )
        yield f"  {result.pair.name + ':':<8}{_verdict(result)}"


def _verdict(result: Result) -> str:
    wanted = result.pair.wanted
    verdict = "for information" if wanted is None else f"wanted {wanted}: {'MISSED' if result.missed else 'reached'}"
    each = result.ratios
    return (
        f"{result.ratio:.2f} times the peer's requests/s (rounds: {each.low:.2f} to {each.high:.2f}), {verdict}; "
        f"{result.cpu_ratio:.2f} times as many for the same server CPU"
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


def main() -> int:
    """Read the arguments, run, tell; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [pair.name for pair in PAIRS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--rounds", type=_positive, default=9, help="default %(default)s")
    parser.add_argument(
        "--connections", type=_positive, default=4000, help="a round, default %(default)s; fork a tenth, udp five times"
    )
    parser.add_argument("--json", action="store_true", help="print every sample, for programs")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a wanted ratio is missed")
    options = parser.parse_args()

    cores = Cores.choose()
    about = f"{AT_ONCE} requests at once; {cores}; {options.rounds} rounds; Python {platform.python_version()}"
    pairs = [pair for pair in PAIRS if options.only is None or pair.name in options.only]
    try:
        results = run(pairs, options.rounds, options.connections, cores)
    except BenchmarkError as error:
        print(f"failed: {error}", file=sys.stderr)  # noqa: T201 - a command that prints
        return 1
    lines = [as_json(results, about)] if options.json else [about, *table(results)]
    print("\n".join(lines))  # noqa: T201 - a command that prints
    return int(options.check and any(result.missed for result in results))


if __name__ == "__main__":
    sys.exit(main())
