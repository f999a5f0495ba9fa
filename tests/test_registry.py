"""The registry and composition: what is chosen and why; duplicates, ambiguities and misses as errors with texts."""

from typing import Any

import attrs
import pytest
from zope.interface import Interface, implementer

import plugsocket
from plugsocket import TCP, CompositionError, RegistrationError, Registry, Server, Sync, Trio, default_registry
from plugsocket.concurrency.selector import SelectorDriver
from plugsocket.core.composition import IRefusal
from plugsocket.core.interfaces import (
    IAsyncHandler,
    IBlockingStrategy,
    IDriver,
    IStrategy,
    IStreamTransport,
    ITransport,
)
from tests.kit import ask, async_function, client, function, serving

ENDPOINT = "tcp://127.0.0.1:0"


class IAnimal(Interface):
    """For the tests."""


class IBird(IAnimal):
    """For the tests."""


class ISound(Interface):
    """For the tests."""


def quack(*_: Any) -> str:
    return "quack"


def chirp(*_: Any) -> str:
    return "chirp"


def test_a_duplicate_is_an_error_that_names_both() -> None:
    registry = Registry("zoo")
    registry.register(quack, (IAnimal, IAnimal), ISound)
    with pytest.raises(RegistrationError) as caught:
        registry.register(chirp, (IAnimal, IAnimal), ISound)
    assert str(caught.value) == (
        "(IAnimal, IAnimal) -> tests.test_registry.quack is registered already as ISound; "
        "pass override=True to replace it by tests.test_registry.chirp"
    )
    registry.register(chirp, (IAnimal, IAnimal), ISound, override=True)
    choice = registry.choose((IAnimal, IAnimal), ISound)
    assert choice is not None
    assert choice.chosen.factory is chirp


def test_an_adapter_can_be_registered_by_its_place() -> None:
    registry = Registry("zoo")
    registry.register("tests.test_registry:quack", (IAnimal,), ISound)
    registry.register("nowhere.to_be_found:chirp", (IBird,), ISound)  # imported when it is used
    choice = registry.choose((IBird,), ISound)
    assert choice is not None
    assert str(choice.chosen) == "(IBird) -> nowhere.to_be_found.chirp"
    assert [str(lost) for lost in choice.lost] == ["(IAnimal) -> tests.test_registry.quack"]
    assert [lost.factory for lost in choice.lost] == [quack]
    with pytest.raises(ModuleNotFoundError):
        _ = choice.chosen.factory
    with pytest.raises(RegistrationError) as caught:
        registry.register("tests.test_registry.quack", (IAnimal, IAnimal), ISound)
    assert str(caught.value) == "an adapter's place is 'package.module:name', not 'tests.test_registry.quack'"


def test_the_closest_fit_wins_and_the_others_are_told() -> None:
    registry = Registry("zoo")
    registry.register(quack, (IAnimal, IAnimal), ISound)
    registry.register(chirp, (IBird, IAnimal), ISound)
    choice = registry.choose((IBird, IBird), ISound)
    assert choice is not None
    assert choice.chosen.factory is chirp
    assert [lost.factory for lost in choice.lost] == [quack]
    assert registry.choose((Interface, IBird), ISound) is None


def test_an_ambiguity_is_an_error_that_names_both() -> None:
    registry = Registry("zoo")
    registry.register(quack, (IAnimal, IBird), ISound)
    registry.register(chirp, (IBird, IAnimal), ISound)
    with pytest.raises(CompositionError) as caught:
        registry.choose((IBird, IBird), ISound)
    assert str(caught.value) == (
        "ambiguous: (IAnimal, IBird) -> tests.test_registry.quack and (IBird, IAnimal) -> tests.test_registry.chirp "
        "fit equally well; register a ISound for what they have in common"
    )
    registry.register(quack, (IBird, IBird), ISound)
    assert registry.choose((IBird, IBird), ISound) is not None


def test_a_registry_of_ones_own_overrides_its_base_and_leaves_it_alone() -> None:
    base = Registry("base")
    base.register(quack, (IAnimal,), ISound)
    own = Registry("own", bases=(base,))
    own.register(chirp, (IAnimal,), ISound)
    for registry, sound in ((own, chirp), (base, quack)):
        choice = registry.choose((IBird,), ISound)
        assert choice is not None
        assert choice.chosen.factory is sound
    assert [entry.factory for entry in own.registrations(ISound)] == [chirp]


class Quiet(SelectorDriver):
    """A driver for one server only."""


def test_a_server_with_a_registry_of_its_own() -> None:
    registry = Registry("mine", bases=(default_registry,))
    registry.register(Quiet, (IStreamTransport, IBlockingStrategy), IDriver)
    server = Server(ENDPOINT, function, "sync", registry=registry)
    assert isinstance(server._driver, Quiet)
    assert not isinstance(Server(ENDPOINT, function, "sync")._driver, Quiet)
    with serving(server), client(server) as sock:
        assert ask(sock, b"served") == b"served"


@implementer(ITransport)
@attrs.frozen
class Pigeons:
    """A transport that is neither of streams nor of datagrams."""

    scheme = "pigeons"

    def listen(self) -> Any:
        raise AssertionError("nothing may be opened")


@implementer(IStrategy)
class Someday:
    """A strategy that is neither blocking nor trio's."""

    name = "someday"

    def __repr__(self) -> str:
        return "Someday()"


def test_misses_say_what_does_not_fit_and_what_would() -> None:
    with pytest.raises(CompositionError) as caught:
        Server(Pigeons(), function, Sync())  # type: ignore[arg-type]
    assert str(caught.value).startswith(
        "function cannot take what Pigeons() gives: no IView is registered for the pair; registered: "
        "(IAsyncTransport, IAsyncHandler) -> plugsocket.handlers.trio_stream.stream_connection; "
    )
    with pytest.raises(CompositionError) as caught:
        Server("tcp://127.0.0.1:0?keepalive=no", function, Someday())
    assert str(caught.value).endswith(
        " is not served by Someday(): no IDriver is registered for the pair; registered: "
        "(ITransport, IBlockingStrategy) -> plugsocket.concurrency.selector.SelectorDriver; "
        "(ITransport, ITrioStrategy) -> plugsocket.concurrency.trio_driver.TrioDriver"
    )
    registry = Registry("mine", bases=(default_registry,))
    registry.register(SelectorDriver, (ITransport, Someday), IDriver)
    with pytest.raises(CompositionError) as caught:
        Server(ENDPOINT, function, Someday(), registry=registry)
    assert str(caught.value) == (
        "function does not run under Someday(): no IRunner is registered for the pair; registered: "
        "(IAsyncHandler, ITrioStrategy) -> plugsocket.concurrency.trio.TaskRunner; "
        "(IPeerHandler, ITrioStrategy) -> plugsocket.concurrency.peers.PeerRunner; "
        "(ISyncHandler, IBlockingStrategy) -> plugsocket.concurrency.runners.InPlaceRunner; "
        "(ISyncHandler, ITrioStrategy) -> plugsocket.concurrency.trio.ThreadRunner"
    )


def test_a_refusal_can_be_overridden() -> None:
    registry = Registry("mine", bases=(default_registry,))
    registry.register(lambda handler, strategy: f"no {handler.name} here", (IAsyncHandler, IBlockingStrategy), IRefusal)
    with pytest.raises(CompositionError, match=r"^no async_function here$"):
        Server(ENDPOINT, async_function, Sync(), registry=registry)


def test_explain_says_what_would_be_composed_and_why() -> None:
    assert str(plugsocket.explain(TCP("127.0.0.1", 0), function, Trio(max_tasks=5))).splitlines() == [
        f"transport  {TCP('127.0.0.1', 0)!r}: IStreamTransport",
        "handler    function: ISyncHandler",
        "strategy   Trio(max_tasks=5, max_threads=64): ITrioStrategy",
        "runner     (ISyncHandler, ITrioStrategy) -> plugsocket.concurrency.trio.ThreadRunner",
        "driver     (ITransport, ITrioStrategy) -> plugsocket.concurrency.trio_driver.TrioDriver",
        "view       (IStreamTransport, ISyncHandler) -> plugsocket.handlers.connection.Connection",
    ]


def test_explain_says_why_not() -> None:
    explanation = plugsocket.explain(ENDPOINT, async_function, "sync")
    assert explanation.composition is None
    assert str(explanation) == (
        "does not compose: async_function is an async handler, and Sync() runs blocking ones: use Trio(), or wrap it "
        "to give each request a trio.run of its own: own_loop(async_function)"
    )
    assert str(plugsocket.explain("tpc://h:1", function)) == (
        "does not compose: unknown transport scheme 'tpc'; did you mean 'tcp'?"
    )


def test_default_strategies() -> None:
    assert type(Server(ENDPOINT, function).strategy) is plugsocket.Thread
    assert type(Server(ENDPOINT, async_function).strategy) is plugsocket.Trio
