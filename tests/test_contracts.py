"""Interfaces, what implements them, their Protocol twins, and the direction of imports."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from zope.interface import Interface, implementedBy
from zope.interface.interface import InterfaceClass, Method
from zope.interface.verify import verifyClass, verifyObject

import plugsocket
from plugsocket import Server
from plugsocket.core import interfaces, protocols
from plugsocket.core.accepting import AcceptPolicy
from plugsocket.core.interfaces import IBlockingStrategy, IDriver, IRunner, IStrategy, ITransport
from plugsocket.core.kinds import inspect_handler
from plugsocket.core.registry import default_registry
from plugsocket.core.requests import DatagramRequest, StreamRequest
from plugsocket.core.trio_requests import StreamOfTrio
from plugsocket.transports.trio_listener import AwaitedListener
from tests.kit import client, example_ids, example_name, function, serving, strategy_names, transport_classes

INTERFACES = [
    value
    for value in vars(interfaces).values()
    if isinstance(value, InterfaceClass) and value is not Interface and value.__module__ == interfaces.__name__
]
ROOT = Path(plugsocket.__file__).parent


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda interface: interface.__name__)
def test_every_interface_and_member_is_documented(interface: InterfaceClass) -> None:
    assert interface.__doc__
    for name, member in interface.namesAndDescriptions():
        assert member.__doc__, name


TWINS = [
    (interface, twin if isinstance(twin, type) else None)
    for interface in INTERFACES
    for twin in [getattr(protocols, interface.__name__[1:], None)]
]


@pytest.mark.parametrize(
    ("interface", "twin"), [pair for pair in TWINS if pair[1]], ids=[pair[0].__name__ for pair in TWINS if pair[1]]
)
def test_protocols_say_the_same_as_interfaces(interface: InterfaceClass, twin: type) -> None:
    members = dict(interface.namesAndDescriptions(all=True))
    written = {name for cls in twin.__mro__ for name in inspect.get_annotations(cls)}  # attributes that others write
    assert {name for name in members if name != "__call__"} == {
        name
        for cls in twin.__mro__
        if cls is not object
        for name in (*vars(cls), *inspect.get_annotations(cls))
        if not name.startswith("_")
    }
    for name, member in members.items():
        if name in written:
            assert not isinstance(member, Method), name
            continue
        theirs = inspect.getattr_static(twin, name)
        if not isinstance(member, Method):
            assert isinstance(theirs, property), name
            continue
        parameters = list(inspect.signature(theirs).parameters.values())[1:]
        assert [parameter.name for parameter in parameters] == list(member.getSignatureInfo()["positional"]), name
        optional = [p.name for p in parameters if p.default is not p.empty]
        assert optional == list(member.getSignatureInfo()["optional"]), name


def test_every_interface_that_signatures_name_has_a_twin() -> None:
    without = {interface.__name__ for interface, twin in TWINS if twin is None}
    assert without == {
        "IStreamTransport", "IDatagramTransport", "IAsyncTransport",  # kinds: markers that nothing names
        "IInlineStrategy",  # likewise
        "IHandler", "ISyncHandler", "IAsyncHandler", "IRequestHandlerClass",  # kinds; the type of all is Handler
        "IPeerHandler", "IStreamHandlerClass", "IDatagramHandlerClass",  # likewise
        "IServer", "IAcceptPolicy",  # implemented here only, by classes that are types themselves
    }  # fmt: skip


def instances(folder: Path) -> list[Any]:
    transports = [cls.examples(str(folder))[number] for cls, number in example_ids()]
    strategies = [plugsocket.strategy(name) for name in strategy_names()]
    return [*transports, *strategies, AcceptPolicy(), inspect_handler(function), Server("tcp://127.0.0.1:0", function)]


def test_instances_provide_what_they_declare(tmp_path: Path) -> None:
    for instance in instances(tmp_path):
        declared = list(implementedBy(type(instance))) or list(interfaces.IHandler)
        for interface in declared:
            if isinstance(interface, InterfaceClass):
                assert verifyObject(interface, instance)


@pytest.mark.parametrize("example", list(example_ids()), ids=example_name)
def test_listeners_and_requests_provide_what_they_declare(example: Any, tmp_path: Path) -> None:
    cls, number = example
    listener = cls.examples(str(tmp_path))[number].listen()
    try:
        assert verifyObject(interfaces.IListener, listener)
        with pytest.raises(BlockingIOError):
            listener.accept()
    finally:
        listener.close()
    assert verifyClass(interfaces.IRequest, StreamRequest, tentative=True)
    assert verifyClass(interfaces.IRequest, DatagramRequest, tentative=True)
    assert verifyClass(interfaces.IAsyncListener, AwaitedListener)
    assert verifyClass(interfaces.IAsyncRequest, StreamOfTrio, tentative=True)


def test_the_close_signal_and_jobs_provide_what_they_declare() -> None:
    seen: list[bool] = []

    def handle(connection: plugsocket.Connection) -> None:
        seen.append(verifyObject(interfaces.ICloseSignal, connection.closing))
        (job,) = server._ledger.active
        seen.append(verifyObject(interfaces.IJob, job))

    with serving(Server("tcp://127.0.0.1:0", handle)) as server, client(server) as sock:
        assert sock.recv(1) == b""
    assert seen == [True, True]


@pytest.mark.parametrize("provided", [IDriver, IRunner, IStrategy], ids=lambda interface: interface.__name__)
def test_what_is_registered_implements_what_it_is_registered_for(provided: InterfaceClass) -> None:
    registrations = list(default_registry.registrations(provided))
    assert registrations
    for registration in registrations:
        for interface in implementedBy(registration.factory):
            assert verifyClass(interface, registration.factory, tentative=True)
        assert provided.implementedBy(registration.factory)


def test_transport_plugins_are_transports_and_strategy_plugins_strategies() -> None:
    assert all(ITransport.implementedBy(cls) for cls in transport_classes())
    assert all(IStrategy.providedBy(plugsocket.strategy(name)) for name in strategy_names())
    assert IBlockingStrategy.providedBy(plugsocket.strategy("thread"))


# What each room may import of the others.
MAY_IMPORT = {
    "core": {"core"},
    "transports": {"core", "transports"},
    "concurrency": {"core", "concurrency"},
    "handlers": {"core", "handlers"},
    "testing": {"core", "transports", "concurrency", "handlers", "testing"},
}


def imports_of(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """What the modules below a folder import of plugsocket: each module with the parts of a name."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                names = [f"{prefix}{alias.name}".split(".") for alias in node.names]
                yield from ((file, parts) for parts in names if parts[0] == "plugsocket")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room: str) -> None:
    imports = list(imports_of(ROOT / room))
    assert imports
    for file, parts in imports:
        assert parts[1] in MAY_IMPORT[room], f"{file.name} imports {'.'.join(parts)}"


def test_nothing_that_serves_imports_what_tests_are_made_with() -> None:
    importers = {file for file, parts in imports_of(ROOT) if parts[1:2] == ["testing"]}
    assert importers
    assert {file.parent for file in importers} == {ROOT / "testing"}


def test_only_three_packages_are_needed_at_run_time() -> None:
    known = {"plugsocket", "attr", "attrs", "zope", "trio"}
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                top = node.module.split(".")[0]
                assert top in known or top in __import__("sys").stdlib_module_names, f"{file.name}: {node.module}"
