"""Endpoint and strategy strings, the options that they and constructors take, and the plug-ins that they name."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import attrs
import pytest

import plugsocket
from plugsocket import (
    TCP,
    UDP,
    Fork,
    Limits,
    OptionError,
    PluginError,
    Queue,
    Server,
    Sync,
    Thread,
    Trio,
    UnixDatagram,
    UnixStream,
)
from plugsocket.core.errors import UnknownOptionError
from plugsocket.core.options import Options, integer, path_text, seconds
from plugsocket.core.plugins import STRATEGIES, TRANSPORTS, find, plugins
from tests.kit import function

# Strings and the objects that they mean


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("tcp://127.0.0.1:9999", TCP("127.0.0.1", 9999)),
        ("tcp://localhost:0", TCP("localhost", 0)),
        ("tcp://[::1]:65535", TCP("::1", 65_535)),
        ("tcp://:80", TCP("", 80)),
        ("tcp://127.0.0.1:80?", TCP("127.0.0.1", 80)),
        ("tcp://127.0.0.1:80?backlog=512&reuse_port=1", TCP("127.0.0.1", 80, backlog=512, reuse_port=True)),
        ("tcp://[::]:80?dual_stack=yes&nodelay=off", TCP("::", 80, dual_stack=True, nodelay=False)),
        ("tcp://:80?keepalive=False&keepalive_idle=60", TCP("", 80, keepalive=False, keepalive_idle=60)),
        ("tcp://:80?keepalive_idle=none", TCP("", 80)),
        ("udp://127.0.0.1:53?max_datagram=512", UDP("127.0.0.1", 53, max_datagram=512)),
        ("unix:///run/app.sock", UnixStream("/run/app.sock")),
        ("unix://app.sock", UnixStream("app.sock")),
        ("unix:///run/app.sock?mode=660&backlog=1", UnixStream("/run/app.sock", mode=0o660, backlog=1)),
        ("unix:///run/app.sock?mode=0o600", UnixStream("/run/app.sock", mode=0o600)),
        ("unix://@app", UnixStream("@app")),
        ("unix:///a%3Fb%25c%20d+e&f", UnixStream("/a?b%c d+e&f")),
        ("unix:///a%FFb", UnixStream(os.fsdecode(b"/a\xffb"))),
        ("unixgram:///run/log.sock?max_datagram=70000", UnixDatagram("/run/log.sock", max_datagram=70_000)),
    ],
)
def test_endpoint_strings(spec: str, expected: Any) -> None:
    made = plugsocket.transport(spec)
    assert made == expected
    assert type(made) is type(expected)
    assert plugsocket.transport(made) is made
    # What an endpoint is written as means the same address, up to options.
    again: Any = plugsocket.transport(str(made))
    assert [getattr(again, name) for name in location_of(made)] == [getattr(made, name) for name in location_of(made)]


def location_of(transport: Any) -> list[str]:
    return [field.name for field in attrs.fields(type(transport)) if not field.kw_only]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (TCP("::1", 80), "tcp://[::1]:80"),
        (TCP("fe80::1%eth0", 80), "tcp://[fe80::1%25eth0]:80"),
        (UDP("localhost", 80, max_datagram=5), "udp://localhost:80"),
        (UnixStream("/a?b%c d"), "unix:///a%3Fb%25c d"),
        (UnixStream("@name"), "unix://@name"),
    ],
)
def test_endpoints_as_strings(endpoint: Any, expected: str) -> None:
    assert str(endpoint) == expected
    assert plugsocket.transport(expected) == attrs.evolve(
        endpoint, **({"max_datagram": 65_535} if "udp" in expected else {})
    )


def values(strategy: Any) -> tuple[Any, ...]:
    fields = [field.name for field in attrs.fields(type(strategy)) if field.init]
    return (type(strategy), *(getattr(strategy, name) for name in fields))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("sync", Sync()),
        ("thread", Thread()),
        ("thread?max_workers=5", Thread(5)),
        ("thread?max_workers=5&idle_timeout=0.5", Thread(5, idle_timeout=0.5)),
        ("fork?max_children=3", Fork(3)),
        ("trio?max_tasks=3&max_threads=2", Trio(3, max_threads=2)),
    ],
)
def test_strategy_strings(spec: str, expected: Any) -> None:
    made = plugsocket.strategy(spec)
    assert values(made) == values(expected)
    assert plugsocket.strategy(made) is made
    assert plugsocket.strategy(spec) is not made


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("thread?max_workers", "'thread?max_workers': options look like 'name=value&name=value', not 'max_workers'"),
        (
            "thread?max_workers=1&",
            "'thread?max_workers=1&': options look like 'name=value&name=value', not 'max_workers=1&'",
        ),
        ("thread?max_workers=", "Thread: max_workers must be a whole number, not ''"),
        ("thread?max_workers=1_0", "Thread: max_workers must be a whole number, not '1_0'"),
        ("thread?max_workers=+5", "Thread: max_workers must be a whole number, not '+5'"),
        ("thread?max_workers=%D9%A1", "Thread: max_workers must be a whole number, not '\u0661'"),
        ("thread?max_workers=many", "Thread: max_workers must be a whole number, not 'many'"),
        ("thread?max_workers=0", "Thread: max_workers must be a whole number of at least 1, not 0"),
        ("thread?idle_timeout=soon", "Thread: idle_timeout must be a number, not 'soon'"),
        ("thread?idle_timeout=nan", "Thread: idle_timeout must be a number of seconds, zero or more, not nan"),
        (
            "thread?max_workers=1&max_workers=1",
            "'thread?max_workers=1&max_workers=1': option 'max_workers' is given twice",
        ),
        ("thread?maxworkers=1", "Thread has no option 'maxworkers'; did you mean 'max_workers'?"),
        ("thread?_pool=1", "Thread has no option '_pool'; known: daemon, idle_timeout, max_workers"),
        ("sync?max_workers=1", "Sync has no option 'max_workers'; known: none"),
    ],
)
def test_bad_strategy_strings(spec: str, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        plugsocket.strategy(spec)
    assert str(caught.value) == text


def test_unknown_strategies() -> None:
    with pytest.raises(PluginError) as caught:
        plugsocket.strategy("tread?max_workers=1")
    assert str(caught.value) == "unknown strategy 'tread'; did you mean 'thread'?"
    with pytest.raises(PluginError, match=r"^unknown strategy ''; known: fork, sync, thread, trio"):
        plugsocket.strategy("")


# The objects


@pytest.mark.parametrize(
    "options",
    [TCP("127.0.0.1", 1), UDP("::1", 2), UnixStream("/a"), UnixDatagram("@a"), Sync(), Thread(), Fork(), Trio()],
)
def test_options_are_frozen(options: Any) -> None:
    for field in (field for field in attrs.fields(type(options)) if field.init):
        with pytest.raises(attrs.exceptions.FrozenError):
            setattr(options, field.name, getattr(options, field.name))


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: TCP("127.0.0.1", 1, backlog=5), TCP("127.0.0.1", 1)),
        (lambda: UDP("127.0.0.1", 1), TCP("127.0.0.1", 1)),
        (lambda: UnixStream("/a", mode=0o600), UnixStream("/a", mode=0o660)),
        (lambda: UnixDatagram("/a"), UnixDatagram("/b")),
    ],
)
def test_transports_are_values(make: Callable[[], Any], other: Any) -> None:
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != other


def test_strategies_are_not_values() -> None:
    """They have threads and children: two that look alike are still two."""
    for make in (Sync, Thread, Fork, Trio):
        assert make() != make()


def test_repr() -> None:
    assert repr(UnixStream("/a", mode=0o600)) == "UnixStream(path='/a', mode=384, backlog=1024)"
    assert repr(TCP("::1", 80)) == (
        "TCP(host='::1', port=80, reuse_port=False, dual_stack=False, "
        "backlog=1024, nodelay=True, keepalive=True, keepalive_idle=None)"
    )
    assert repr(UDP("::1", 80)) == "UDP(host='::1', port=80, reuse_port=False, dual_stack=False, max_datagram=65535)"
    assert repr(Thread(5)) == "Thread(max_workers=5, idle_timeout=30.0, daemon=True)"
    assert repr(Fork()) == "Fork(max_children=40)"


def test_only_what_says_where_is_positional() -> None:
    arguments: list[tuple[Any, tuple[Any, ...]]] = [
        (TCP, ("::1", 80)),
        (UDP, ("::1", 80)),
        (UnixStream, ("/a",)),
        (UnixDatagram, ("/a",)),
    ]
    for cls, where in arguments:
        cls(*where)
        with pytest.raises(TypeError, match="positional argument"):
            cls(*where, 5)


def test_paths_need_not_be_strings() -> None:
    assert UnixStream(Path("/run/app.sock")) == UnixStream("/run/app.sock")


# Options of classes that users write


@attrs.frozen
class Custom(Options):
    """Options of every type that can be written as text, and of one that cannot."""

    path: str = attrs.field(default="", converter=path_text)
    size: Optional[int] = attrs.field(default=1, validator=integer(1, optional=True))  # noqa: UP045 - people write it
    pause: float = attrs.field(default=1.0, validator=seconds)
    _hidden: bool = attrs.field(default=False)
    names: list[str] = attrs.field(factory=list)


def test_options_of_ones_own() -> None:
    texts = {"path": "a+b", "size": "7", "pause": "1e-3", "hidden": "on"}
    assert Custom.from_text({}, texts) == Custom("a+b", 7, 1e-3, True)
    assert Custom.from_text({"path": "x"}, {"size": "none"}) == Custom("x", None)
    assert Custom(hidden=True) == Custom.from_text({}, {"hidden": "1"})


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        ({"names": "a"}, "Custom: names cannot be given as text, only as an argument"),
        ({"_hidden": "1"}, "Custom has no option '_hidden'; did you mean 'hidden'?"),
        ({"path": "b"}, "Custom: path is given twice: before the '?', and as an option behind it"),
    ],
)
def test_bad_options_of_ones_own(texts: dict[str, str], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Custom.from_text({"path": "a"}, texts)
    assert str(caught.value) == text


def test_an_unknown_option_is_also_the_error_that_python_has_for_it() -> None:
    for error in (UnknownOptionError, OptionError, TypeError, ValueError):
        with pytest.raises(error, match="TCP has no option 'backlgo'; did you mean 'backlog'"):
            TCP("127.0.0.1", 80, backlgo=5)  # type: ignore[call-arg]


# Plug-ins


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a distribution that importlib.metadata finds, and a module beside it."""

    def make(name: str, entry_points: str, module: str = "", metadata: bool = True) -> None:
        site = tmp_path / name
        info = site / f"{name}-1.5.dist-info"
        info.mkdir(parents=True)
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(entry_points)
        (site / f"{name}_module.py").write_text(module)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)
        importlib.invalidate_caches()

    return make


WORKING = """
from plugsocket import Thread
class Mine(Thread):
    name = "mine"
"""


def test_an_installed_plug_in_is_found(install: Callable[..., None]) -> None:
    install("first", "[plugsocket.strategies]\nmine = first_module:Mine\n", WORKING)
    assert repr(plugsocket.strategy("mine?max_workers=3")) == "Mine(max_workers=3, idle_timeout=30.0, daemon=True)"
    (plugin,) = [plugin for plugin in plugins(STRATEGIES) if plugin.name == "mine"]
    assert (plugin.source, plugin.distribution) == ("first_module:Mine", "first 1.5")


def test_only_the_plug_in_that_is_named_is_loaded(install: Callable[..., None]) -> None:
    install("first", "[plugsocket.strategies]\nmine = first_module:Mine\n", WORKING)
    plugsocket.strategy("thread")
    assert "first_module" not in sys.modules


@pytest.mark.parametrize(
    ("entry", "module", "cause"),
    [
        ("broken_module:Missing", "import a_module_that_is_not_there", ModuleNotFoundError),
        ("broken_module:Missing", "", AttributeError),
        ("broken_module:Missing", "1 / 0", ZeroDivisionError),
        ("not an entry point!", "", AttributeError),
    ],
)
def test_a_broken_plug_in_is_an_error_for_who_asks_for_it(
    install: Callable[..., None], entry: str, module: str, cause: type[Exception]
) -> None:
    install("broken", f"[plugsocket.transports]\nbad = {entry}\n", module)
    assert plugsocket.transport("tcp://127.0.0.1:80") == TCP("127.0.0.1", 80)
    assert "bad" in [plugin.name for plugin in plugins(TRANSPORTS)]
    with pytest.raises(PluginError) as caught:
        Server("bad://somewhere", function)
    assert str(caught.value).startswith(f"plug-in 'bad' of broken 1.5 ({entry}) does not load: {cause.__name__}(")
    assert type(caught.value.__cause__) is cause


def test_what_is_left_of_an_uninstalled_distribution_does_no_harm(install: Callable[..., None]) -> None:
    install("rest", "[plugsocket.transports]\nbad = rest_module:Missing\n", metadata=False)
    assert plugsocket.transport("tcp://127.0.0.1:80") == TCP("127.0.0.1", 80)
    with pytest.raises(PluginError, match=r"plug-in 'bad' of an unknown distribution \(rest_module:Missing\)"):
        plugsocket.transport("bad://somewhere")


def test_two_distributions_that_claim_one_name(install: Callable[..., None]) -> None:
    install("first", "[plugsocket.strategies]\nmine = first_module:Mine\nother = first_module:Mine\n", WORKING)
    install("second", "[plugsocket.strategies]\nmine = second_module:Mine\n", WORKING)
    with pytest.raises(PluginError) as caught:
        Server("tcp://127.0.0.1:0", function, "mine")
    assert str(caught.value) == (
        "strategy 'mine' is claimed by first 1.5 (first_module:Mine) and second 1.5 (second_module:Mine); "
        "uninstall all but one"
    )
    assert not {"first_module", "second_module"} & set(sys.modules)
    assert type(plugsocket.strategy("other")).__name__ == "Mine"


def test_plug_ins_that_are_no_such_thing(install: Callable[..., None]) -> None:
    entries = """
[plugsocket.transports]
number = odd_module:number
[plugsocket.strategies]
number = odd_module:number
plain = odd_module:Plain
"""
    install("odd", entries, "number = 5\nclass Plain: pass\n")
    with pytest.raises(OptionError) as transport:
        plugsocket.transport("number://here")
    assert str(transport.value) == "the transport of 'number' cannot be made from a string: it has no parse_location()"
    with pytest.raises(PluginError, match=r"^the plug-in of 'number' is no strategy: 5$"):
        plugsocket.strategy("number")
    with pytest.raises(OptionError) as strategy:
        plugsocket.strategy("plain?size=5")
    assert str(strategy.value) == "the strategy 'plain' takes no options as text: it has no from_text()"


def test_a_group_of_which_nothing_is_installed() -> None:
    with pytest.raises(PluginError) as caught:
        find("plugsocket.nothing", "x", "thing")
    assert str(caught.value) == "unknown thing 'x'; is plugsocket installed?"


def test_the_built_in_plug_ins() -> None:
    for group, names in (
        (TRANSPORTS, {"tcp", "udp", "unix", "unixgram"}),
        (STRATEGIES, {"sync", "thread", "fork", "trio"}),
    ):
        found = {plugin.name: plugin for plugin in plugins(group)}
        assert names <= set(found)
        assert all(found[name].distribution.startswith("plugsocket ") for name in names)
        assert all(found[name].load().__name__ == found[name].source.partition(":")[2] for name in names)


# What help() shows


def test_the_signature_of_a_class_has_its_options_and_their_defaults() -> None:
    options = "max_workers: int = 64, *, idle_timeout: float = 30.0, daemon: bool = True"
    assert str(inspect.signature(Thread)) == f"({options}) -> None"
    assert inspect.signature(Limits).parameters["overload"].default == Queue()
    with pytest.raises(AttributeError):
        _ = Thread().__signature__


def test_the_signature_of_a_class_with_an_option_that_depends_on_another() -> None:
    @attrs.frozen
    class Cube(Options):
        width: int = 1
        depth: int = attrs.field(default=attrs.Factory(lambda self: self.width, takes_self=True))

    assert list(inspect.signature(Cube).parameters) == ["width", "depth"]
    assert Cube(2).depth == 2
