"""What is imported when: trio and logging by whom they are needed, and by nobody else; and the names that wait."""

import ast
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
import trio
from zope.interface.interface import InterfaceClass

import plugsocket
from plugsocket.core import trio_seen
from plugsocket.core.composition import IRefusal
from plugsocket.core.endings import is_cancellation, is_disconnection
from plugsocket.core.interfaces import IDriver, IRunner, IStrategy, ITransport, IView
from tests.programs import end_of, program


def run(source: str, *arguments: str) -> str:
    """Run a program to its end; return what it printed. It fails the test by a traceback, or anything else said."""
    with program(source, *arguments) as process:
        status, output, errors = end_of(process)
    assert not errors, errors
    assert status == 0
    return output


# Nothing that blocks needs trio.


@pytest.mark.parametrize(
    "module", ["plugsocket", "plugsocket.cli", "plugsocket.compat.socketserver", "plugsocket.testing"]
)
def test_importing_it_leaves_trio_alone(module: str) -> None:
    run("import importlib, sys; importlib.import_module(sys.argv[1]); assert 'trio' not in sys.modules", module)


@pytest.mark.parametrize("module", ["plugsocket", "plugsocket.compat.socketserver"])
def test_importing_it_leaves_logging_alone(module: str) -> None:
    run("import importlib, sys; importlib.import_module(sys.argv[1]); assert 'logging' not in sys.modules", module)


# Of each request it is told what of it is there where the handler runs; one of them fails.
SERVING = """
    import socket, sys
    import plugsocket

    def answer(data):
        if data == b"fail":
            raise ConnectionResetError("made up")
        return repr((data, {"trio", "logging"} & sys.modules.keys())).encode()

    def function(request):
        if isinstance(request, plugsocket.Datagram):
            request.reply(answer(request.data))
        else:
            request.sendall(answer(request.recv(100)))

    class StreamClass(plugsocket.StreamRequestHandler):
        def handle(self):
            self.wfile.write(answer(self.rfile.read(4)))

    strategy, handler = sys.argv[1:]
    endpoints = ["tcp://127.0.0.1:0"] if handler == "StreamClass" else ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"]
    server = plugsocket.Server(endpoints, globals()[handler], strategy, on_failure="abort")
    with server:
        server.start()
        for address, kind in zip(server.addresses, (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            for data in (b"fail", b"good"):
                with socket.socket(socket.AF_INET, kind) as client:
                    client.settimeout(20)
                    client.connect(address)
                    client.sendall(data)
                    if data == b"good" or kind == socket.SOCK_STREAM:
                        print(client.recv(100).decode())
        server.stop()
    assert server.state is plugsocket.State.CLOSED, server.state
    assert "trio" not in sys.modules
"""


@pytest.mark.parametrize("handler", ["function", "StreamClass"])
@pytest.mark.parametrize("strategy", ["sync", "thread", "fork"])
def test_serving_what_blocks_leaves_trio_and_logging_alone(strategy: str, handler: str) -> None:
    told = "\n(b'good', set())\n"
    assert run(SERVING, strategy, handler) == (told if handler == "StreamClass" else told + told[1:])


COMPATIBLE = """
    import socket, sys, threading
    from plugsocket.compat import socketserver

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            unneeded = {"trio", "logging"} & sys.modules.keys()
            self.wfile.write(repr((self.rfile.readline(), unneeded)).encode())

    with getattr(socketserver, sys.argv[1])(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.create_connection(server.server_address, 20) as client:
            client.sendall(b"good\\n")
            print(client.makefile().read())
        server.shutdown()
        thread.join()
    assert "trio" not in sys.modules
"""


@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
def test_the_classes_of_socketserver_leave_trio_and_logging_alone(name: str) -> None:
    assert run(COMPATIBLE, name) == "(b'good\\n', set())\n"


FORKED = """
    import socket, sys
    import plugsocket

    async def handle(request):
        new = repr(set(sys.modules) - before).encode()
        await (request.reply(new) if isinstance(request, plugsocket.AsyncDatagram) else request.send_all(new))

    handler = plugsocket.own_loop(handle)
    with plugsocket.Server(["tcp://127.0.0.1:0", "udp://127.0.0.1:0"], handler, "fork") as server:
        server.start()
        before = set(sys.modules)
        for address, kind in zip(server.addresses, (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            with socket.socket(socket.AF_INET, kind) as client:
                client.settimeout(20)
                client.connect(address)
                client.send(b"?")
                print(client.recv(10_000).decode())
"""


def test_forked_children_have_what_they_need_of_trio_from_their_parent() -> None:
    assert run(FORKED) == "set()\nset()\n"


# Whoever needs it gets it, in a program that has imported nothing but plugsocket.

WAYS_IN = {
    "a strategy by its name": 'assert serves(blocking, "trio")',
    "a strategy": "assert serves(blocking, plugsocket.Trio())",
    "an async function": "assert serves(asynchronous)",
    "own_loop": 'assert serves(plugsocket.own_loop(asynchronous), "thread")',
    "per_peer": "assert serves(plugsocket.per_peer(asynchronous), endpoint='udp://127.0.0.1:0')",
    "a refusal": "assert not serves(plugsocket.per_peer(asynchronous))",
    "a listener of trio": """
        import trio
        listener, *others = trio.run(trio.open_tcp_listeners, 0)
        assert serves(asynchronous, endpoint=listener)
        mine = plugsocket.Registry("mine", (plugsocket.default_registry,))
        assert serves(asynchronous, endpoint=listener, registry=mine)
        assert not serves(blocking, endpoint=listener)
        for each in (listener, *others):
            trio.run(each.aclose)
    """,
    "as_trio_listener": """
        import trio
        listener = trio.run(plugsocket.as_trio_listener, "tcp://127.0.0.1:0")
        assert isinstance(listener, trio.abc.Listener)
        trio.run(listener.aclose)
    """,
    "to_async": """
        import socket

        def handle(request):
            print(isinstance(request.to_async(), (plugsocket.AsyncConnection, plugsocket.AsyncDatagram)))

        for endpoint, kind in (("tcp://127.0.0.1:0", socket.SOCK_STREAM), ("udp://127.0.0.1:0", socket.SOCK_DGRAM)):
            with plugsocket.Server(endpoint, handle, "sync") as server, socket.socket(socket.AF_INET, kind) as client:
                server.bind()
                client.connect(server.addresses[0])
                client.send(b"?")
                assert server.handle_request(20)
    """,
}

EXPLAINED = """
    import sys
    import plugsocket
    assert "trio" not in sys.modules

    def blocking(request): ...

    async def asynchronous(request): ...

    def serves(handler, strategy=None, *, endpoint="tcp://127.0.0.1:0", **options):
        return plugsocket.explain(endpoint, handler, strategy, **options).composition is not None
"""


@pytest.mark.parametrize("way", WAYS_IN)
def test_whoever_needs_trio_gets_it(way: str) -> None:
    output = run(f"{dedent(EXPLAINED)}\n{dedent(WAYS_IN[way])}\nassert 'trio' in sys.modules")
    assert output == ("True\nTrue\n" if way == "to_async" else "")


@pytest.mark.parametrize(
    "provided", [IDriver, IRunner, IView, IStrategy, IRefusal, ITransport], ids=lambda interface: interface.__name__
)
def test_every_adapter_is_where_its_registration_says(provided: InterfaceClass) -> None:
    entries = list(plugsocket.default_registry.registrations(provided))
    assert entries
    for entry in entries:
        assert entry.source == f"{entry.factory.__module__}.{entry.factory.__qualname__}"


# What is asked of trio without importing it.


def test_without_trio_there_are_no_tasks_and_no_errors_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> bool:
        return trio_seen.in_trio_task()

    assert trio.run(ask)
    assert not trio_seen.in_trio_task()
    assert trio_seen.cancelled_errors() == (trio.Cancelled,)
    assert trio_seen.broken_errors() == (trio.BrokenResourceError,)
    assert is_disconnection(trio.BrokenResourceError())
    # About to be imported by another thread, and not imported.
    for name in ("trio", "trio.lowlevel"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for _ in range(2):
        assert not trio_seen.in_trio_task()
        assert trio_seen.cancelled_errors() == trio_seen.broken_errors() == ()
        assert is_disconnection(ConnectionResetError())
        assert not is_disconnection(ValueError())
        assert not is_cancellation(ValueError())
        for name in ("trio", "trio.lowlevel"):
            monkeypatch.delitem(sys.modules, name, raising=False)


# The names that are imported when they are asked for.

PACKAGES = ["plugsocket", "plugsocket.concurrency", "plugsocket.handlers", "plugsocket.transports"]


def nodes_of(package: str) -> list[ast.stmt]:
    file = import_module(package).__file__
    assert file is not None
    return ast.parse(Path(file).read_text()).body


def exported(nodes: list[ast.stmt]) -> set[str]:
    """The names that are imported `as` themselves, which is how type checkers are told that they are for others."""
    imports = [node for statement in nodes for node in ast.walk(statement) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names if alias.asname == alias.name}


def offered(package: str) -> tuple[set[str], set[str]]:
    """The names that type checkers see, and those that a program finds."""
    (block,) = (node for node in nodes_of(package) if isinstance(node, ast.If))
    constants = [node.value for each in block.orelse for node in ast.walk(each) if isinstance(node, ast.Constant)]
    return exported(block.body), {str(value).partition(":")[2] for value in constants}


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_what_programs_find(package: str) -> None:
    seen, found = offered(package)
    assert seen == found != set()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_has_the_name_of_what_is_offered(package: str) -> None:
    """It would be there instead, once somebody has imported it."""
    (folder,) = import_module(package).__path__
    assert not offered(package)[1] & {file.stem for file in Path(folder).iterdir()}


NAMES = """
    import importlib, sys
    package, *names = sys.argv[1:]
    found = importlib.import_module(package)
    assert "trio" not in sys.modules
    assert not set(names) - set(dir(found)), set(names) - set(dir(found))
    starred = {}
    exec(f"from {package} import *", starred)
    assert not set(names) - starred.keys(), set(names) - starred.keys()
    assert all(getattr(found, name) is starred[name] for name in names)
    assert not any(isinstance(starred[name], type(sys)) for name in names)
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    names = exported(nodes_of(package))
    assert names
    run(NAMES, package, *sorted(names))


@pytest.mark.parametrize("name", sorted(offered("plugsocket")[1]))
def test_each_name_can_be_the_first_one(name: str) -> None:
    run(f"from plugsocket import {name}; import plugsocket; assert plugsocket.{name} is {name}")


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match=r"^module 'plugsocket' has no attribute 'Tri'"):
        plugsocket.Tri  # type: ignore[attr-defined]  # noqa: B018
