"""Fuzzing of everything that parses: whatever the text, nothing is raised but what the documentation names.

The ordinary run tries the same texts each time; `tests/profiles.py` says how to try many more, at random.
"""

import errno
import importlib
import io
import os
import socket
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any

import attrs
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import plugsocket
from plugsocket import CompositionError, OptionError, PluginError
from plugsocket.cli import handlers, program
from plugsocket.cli.console import Console
from plugsocket.core.interfaces import IStrategy, ITransport
from plugsocket.core.options import FROM_TEXT, option_fields
from plugsocket.core.plugins import STRATEGIES, plugins
from plugsocket.core.specs import escape
from tests.kit import async_function, function, strategy_names, transport_classes
from tests.profiles import examples, time_limit

DOCUMENTED = (OptionError, PluginError, CompositionError)

pytestmark = [time_limit, pytest.mark.usefixtures("nothing_opens")]


@pytest.fixture(autouse=True)
def nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test fail that opens a socket, or asks for a name."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened, or a name asked for")

    for name in ("socket", "socketpair", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


# Texts: arbitrary ones, well-formed ones, and those that are nearly so

STRATEGY_CLASSES: tuple[Any, ...] = tuple(plugin.load() for plugin in plugins(STRATEGIES))
CLASSES: tuple[Any, ...] = (*transport_classes(), *STRATEGY_CLASSES)
NAMES = sorted({name for cls in CLASSES for name in option_fields(cls)})
SCHEMES = [cls.scheme for cls in transport_classes()]
MARKS = ["://", "?", "&", "=", "%", "%00", "%FF", "%zz", "%25", "@", "[", "]", ":", "/", ".", "+", "-", " ", "\n", "\0"]

# The second one with lone surrogates, of which those from \udc80 to \udcff are how Python has undecodable bytes.
ARBITRARY = st.text(max_size=30) | st.text(st.sampled_from(["\ud800", "\udc80", "\udcff", "\0", "a", "/"]), max_size=5)
DIGITS = ["0", "1", "80", "65535", "65536", "660", "0o600", "-1", "1_0", "\u0661", "9" * 5000, "7" * 5000]
VALUES = st.sampled_from([*DIGITS, "", "none", "None", "yes", "OFF", "1e-3", "1e999", "nan", "inf", "0x1F"]) | ARBITRARY
HOSTS = st.sampled_from(["127.0.0.1", "localhost", "", "::", "[::1]", "[::]", "[fe80::1%25eth0]", "[[::1]]", "\u20ac"])
LOCATIONS = st.one_of(
    st.builds("{}:{}".format, HOSTS | ARBITRARY, VALUES),
    st.builds("/{}".format, ARBITRARY),
    st.builds("@{}".format, ARBITRARY),
    st.sampled_from(
        ["/run/app.sock", "app.sock", "@app", "/a%FFb", "/a%00b", "/a%3Fb", "x" * 107, "/" + "\u20ac" * 36]
    ),
)
OPTIONS = st.lists(st.builds("{}={}".format, st.sampled_from(NAMES) | ARBITRARY, VALUES), max_size=3).map("&".join)


@st.composite
def mutated(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with a few of its parts taken out, put in, or put elsewhere."""
    text = draw(texts)
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + 5)))
        new = draw(st.just("") | st.just(text[begin:end] * 2) | st.sampled_from(MARKS) | ARBITRARY)
        text = text[:begin] + new + text[end:]
    return text


ENDPOINTS = ARBITRARY | mutated(
    st.builds("{}://{}".format, st.sampled_from(SCHEMES), LOCATIONS)
    | st.builds("{}://{}?{}".format, st.sampled_from(SCHEMES), LOCATIONS, OPTIONS)
)
STRATEGIES_AS_TEXT = ARBITRARY | mutated(
    st.sampled_from(strategy_names()) | st.builds("{}?{}".format, st.sampled_from(strategy_names()), OPTIONS)
)


# Endpoints


@example("unix:///a?mode=" + "7" * 5000)  # octal digits have no limit of sys.set_int_max_str_digits()
@example("tcp://[[::1]]:80")
@example("tcp://[[a]]:80")
@examples(600)
@given(ENDPOINTS)
def test_endpoint_strings(spec: str) -> None:
    try:
        made: Any = plugsocket.transport(spec)
    except DOCUMENTED:
        return
    assert ITransport.providedBy(made)
    assert repr(made)
    check_what_the_system_gets(made)
    # What an endpoint is written as means the same place; the options are not part of it.
    again: Any = plugsocket.transport(str(made))
    assert again == type(made)(*where(made))
    assert str(again) == str(made)


def check_what_the_system_gets(transport: Any) -> None:
    """Of what cannot be refused later, since it would not be with a documented error."""
    for value in where(transport):
        assert "\0" not in str(value)
    if hasattr(transport, "path"):
        assert os.fsencode(transport.path)


def where(transport: Any) -> list[Any]:
    """The arguments that say where, and not how."""
    fields = option_fields(type(transport)).values()
    return [getattr(transport, field.name) for field in fields if field.default is attrs.NOTHING]


@examples(300)
@given(st.sampled_from(transport_classes()), LOCATIONS | ARBITRARY, st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_parts_of_endpoint_strings(cls: Any, location: str, texts: dict[str, str]) -> None:
    arguments: dict[str, Any] = {}
    with suppress(OptionError):
        arguments = cls.parse_location(location)
        assert set(arguments) <= set(option_fields(cls))
    for given_before in (arguments, {}):
        with suppress(OptionError):
            assert isinstance(cls.from_text(given_before, texts), cls)


@examples(300)
@given(st.sampled_from(transport_classes()), ARBITRARY | HOSTS, st.integers(-1, 65_536))
def test_endpoints_that_were_made_as_objects(cls: Any, text: str, number: int) -> None:
    """Whatever the constructor takes can be written as a string, and read again."""
    arguments = [text, number][: len([f for f in option_fields(cls).values() if f.default is attrs.NOTHING])]
    try:
        made = cls(*arguments)
    except OptionError:
        return
    assert plugsocket.transport(str(made)) == made


# Strategies


@examples(300)
@given(STRATEGIES_AS_TEXT)
def test_strategy_strings(spec: str) -> None:
    try:
        made = plugsocket.strategy(spec)
    except DOCUMENTED:
        return
    assert IStrategy.providedBy(made)
    assert repr(made)


# Options as text

OF_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-1, 70_000),
    float: st.floats() | st.integers(0, 100).map(float),
    str: ARBITRARY | HOSTS | st.sampled_from(["/run/app.sock", "@app"]),
    type(None): st.none(),
}


def values_of(cls: type, field: "attrs.Attribute[Any]") -> st.SearchStrategy[Any]:
    """Values for an option, of the types that it has; the constructor may refuse them."""
    kind = typing.get_type_hints(cls)[field.name]
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return st.one_of([OF_TYPE[each] for each in kinds])


def as_text(field: "attrs.Attribute[Any]", value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, int) and FROM_TEXT in field.metadata:
        return f"{value:o}"  # a file mode
    return str(value)


@examples(400)
@given(st.data())
def test_options_mean_the_same_as_text_and_as_values(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(CLASSES))
    fields = option_fields(cls)
    needed = {name for name, field in fields.items() if field.default is attrs.NOTHING}
    chosen = needed | (data.draw(st.sets(st.sampled_from(sorted(fields)))) if fields else set())
    values = {name: data.draw(values_of(cls, fields[name])) for name in sorted(chosen)}
    try:
        made = cls(**values)
    except OptionError:
        assume(False)
    texts = {name: as_text(fields[name], value) for name, value in values.items()}
    assert options_of(cls.from_text({}, texts)) == options_of(made)
    if not needed:  # a strategy, whose string is its name and options
        query = "&".join(f"{escape(name)}={escape(text)}" for name, text in texts.items())
        assert options_of(plugsocket.strategy(f"{cls.name}?{query}")) == options_of(made)


def options_of(made: Any) -> dict[str, Any]:
    return {name: getattr(made, field.name) for name, field in option_fields(type(made)).items()}


# What is composed of them


@examples(200)
@given(st.lists(ENDPOINTS, max_size=2), st.sampled_from([function, async_function]), st.none() | STRATEGIES_AS_TEXT)
def test_explain(endpoints: list[str], handler: Any, strategy: str | None) -> None:
    explanation = plugsocket.explain(endpoints, handler, strategy)
    assert (explanation.composition is None) is (explanation.problem is not None)
    assert str(explanation)


# The command line

MODULES = ["tests.kit", "plugsocket", "plugsocket.handlers", "builtins", "operator", "socket"]  # which harm nobody
ATTRIBUTES = sorted({name for module in MODULES for name in dir(importlib.import_module(module))})
HANDLERS = st.one_of(
    st.sampled_from(["echo", "upper", "discard", "echos", "tests.kit:function", "tests.kit:async_function"]),
    st.builds("{}:{}".format, st.sampled_from(MODULES), st.sampled_from(ATTRIBUTES)),
    st.builds("{}:{}.{}".format, st.sampled_from(MODULES), st.sampled_from(ATTRIBUTES), st.sampled_from(ATTRIBUTES)),
    mutated(st.just("tests.kit:HandlerClass.handle")),
    ARBITRARY,
)
ARGUMENTS = st.one_of(
    ENDPOINTS,
    st.builds("--handler={}".format, HANDLERS),
    st.builds("--strategy={}".format, STRATEGIES_AS_TEXT),
    st.builds("--grace={}".format, VALUES),
    st.sampled_from(["--handler", "--strategy", "--grace", "--verbose", "--hand", "-h", "--help", "--version", "--"]),
)
GOOD = st.sampled_from(["tcp://127.0.0.1:80", "unix:///run/app.sock", "udp://[::1]:80"])
COMMANDS = st.sampled_from(["serve", "explain"])
COMMAND_LINES = st.one_of(
    st.lists(ARGUMENTS, max_size=4),
    st.builds(lambda command, rest: [command, *rest], COMMANDS, st.lists(ARGUMENTS, max_size=4)),
    st.builds(
        lambda command, *parts: [command, *parts],
        COMMANDS,
        GOOD,
        st.builds("--handler={}".format, HANDLERS),
        st.builds("--strategy={}".format, STRATEGIES_AS_TEXT | st.sampled_from(strategy_names())),
    ),
)


def import_harmless(name: str) -> types.ModuleType:
    """As `importlib.import_module`, for modules of which it is known what their import does."""
    known = [module for module in sys.modules if module in MODULES]
    if name not in known:
        missing = next(name[: len(part)] for part in prefixes(name) if part not in sys.modules or part == name)
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
    return importlib.import_module(name)


def prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:number]) for number in range(1, len(parts) + 1))


def refuse_socket(*arguments: object, **options: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def refuse_name(*arguments: object, **options: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def harmless_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the program open nothing, import nothing by chance, and leave the logging of the tests alone."""
    monkeypatch.setattr(socket, "socket", refuse_socket)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_name)
    monkeypatch.setattr(handlers, "importlib", types.SimpleNamespace(import_module=import_harmless))
    monkeypatch.setattr(program, "log_to_stderr", lambda verbose: Console())
    monkeypatch.setitem(program.COMMANDS, "demo", lambda arguments: program.OK)


@example(["explain", "unix:///tmp/\u20ac"], "ascii")
@examples(500)
@given(COMMAND_LINES, st.sampled_from(["utf-8", "ascii", "latin-1"]))
@pytest.mark.usefixtures("harmless_program")
def test_command_lines(argv: list[str], encoding: str) -> None:
    status, output, errors = outcome(argv, encoding)
    assert status in (program.OK, program.FAILED, program.WRONG_INPUT)
    assert "Traceback (most recent call last)" not in errors
    if status == program.WRONG_INPUT:
        assert not output
        assert errors.startswith(("usage: plugsocket", "plugsocket: error: "))
    if status == program.OK:
        assert not errors


def outcome(argv: list[str], encoding: str) -> tuple[Any, str, str]:
    """Run the program, with standard streams as the interpreter has them under an encoding."""
    output = io.TextIOWrapper(io.BytesIO(), encoding)
    errors = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace")
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            status: Any = program.main(argv)
        except SystemExit as exit_:
            status = exit_.code
    texts = []
    for stream in (output, errors):
        stream.seek(0)
        texts.append(stream.read())
    return status, texts[0], texts[1]
