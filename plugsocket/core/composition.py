"""Composition: which driver, runner and views make a server of these parts; or why none do."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

import attrs
from zope.interface import Interface, providedBy

from plugsocket.core.addresses import display
from plugsocket.core.errors import CompositionError
from plugsocket.core.interfaces import (
    IDatagramTransport,
    IDriver,
    IRunner,
    IStrategy,
    ITransport,
    IView,
)
from plugsocket.core.kinds import HandlerSpec, inspect_handler
from plugsocket.core.protocols import Driver, Handler, Runner, Strategy, Transport, View
from plugsocket.core.registry import Choice, Registry, short_name
from plugsocket.core.specs import escape
from plugsocket.core.specs import strategy as make_strategy
from plugsocket.core.specs import transport as make_transport

if TYPE_CHECKING:
    import trio

Endpoint: TypeAlias = Union[str, Transport, "trio.abc.Listener[Any]"]
"""A transport, its string, or what a trio program has for one."""

Endpoints: TypeAlias = Endpoint | Iterable[Endpoint]


class IRefusal(Interface):
    """What two parts adapt to when the pair cannot be made honest: `factory(one, other) -> str` says why.

    Registered like the adapters that compose, for (handler, strategy), (transport, strategy) or (transport, handler).
    Where an adapter fits more closely than a refusal, it holds, so that a plug-in that knows better overrides it.
    """


@attrs.frozen
class Composition:
    """Parts that fit, and what makes a server of them.

    Attributes:
        transports: in the order given.
        handler: the handler, with its kind.
        strategy: the strategy.
        driver: makes the driver, from the strategy.
        runner: makes the runner, from the handler and the strategy.
        views: for each transport, what makes the handler's argument from one of its requests.
        choices: for people: each decision and what decided it.
    """

    transports: tuple[Transport, ...]
    handler: HandlerSpec
    strategy: Strategy
    driver: Callable[[Strategy], Driver]
    runner: Callable[[HandlerSpec, Strategy], Runner]
    views: tuple[View, ...]
    choices: tuple[tuple[str, Choice], ...] = attrs.field(repr=False)


def compose(endpoints: Endpoints, handler: Handler, strategy: str | Strategy | None, registry: Registry) -> Composition:
    """Put parts together; nothing is opened.

    Args:
        endpoints: a transport or its string, or several of them.
        handler: what to do with a request.
        strategy: a strategy or its string; `None` for the handler's default.
        registry: where to look for what fits.

    Raises:
        OptionError: a string, or an option in it, is wrong.
        PluginError: a string names a plug-in that is not there or does not load.
        CompositionError: the parts do not fit; the message says why, and what would fit.
    """
    transports = _transports(endpoints, registry)
    spec = inspect_handler(handler)
    chosen = default_strategy(spec, registry) if strategy is None else make_strategy(strategy)
    if not IStrategy.providedBy(chosen):
        raise CompositionError(
            f"the strategy must be a string or provide IBlockingStrategy or ITrioStrategy, not {_shown(chosen)}"
        )
    views = [_view(transport, spec, registry) for transport in transports]
    drivers = [_driver(transport, chosen, registry) for transport in transports]
    if len({choice.chosen.factory for choice in drivers}) > 1:
        pairs = ", ".join(f"{t.scheme}: {c.chosen.source}" for t, c in zip(transports, drivers, strict=True))
        raise CompositionError(f"these transports need different drivers under {chosen!r} ({pairs}); use a server each")
    runner = _runner(spec, chosen, registry)
    return Composition(
        transports,
        spec,
        chosen,
        cast("Callable[[Strategy], Driver]", drivers[0].chosen.factory),
        cast("Callable[[HandlerSpec, Strategy], Runner]", runner.chosen.factory),
        tuple(cast("View", choice.chosen.factory) for choice in views),
        (("runner", runner), *_each("driver", transports, drivers), *_each("view", transports, views)),
    )


def default_strategy(handler: HandlerSpec, registry: Registry) -> Strategy:
    """Make the strategy that a handler gets when none is named."""
    choice = registry.choose([providedBy(handler)], IStrategy)
    if choice is None:
        raise CompositionError(f"there is no default strategy for {handler.name}; name one")
    return cast("Strategy", choice.chosen.factory())


def _each(what: str, transports: Sequence[Transport], choices: Sequence[Choice]) -> Iterable[tuple[str, Choice]]:
    """Name the decisions made for each transport, by its scheme where there are several."""
    for transport, choice in zip(transports, choices, strict=True):
        yield (what if len(transports) == 1 else f"{what} of {transport.scheme}"), choice


def _transports(endpoints: Endpoints, registry: Registry) -> tuple[Transport, ...]:
    if isinstance(endpoints, tuple) and any(isinstance(part, int) for part in endpoints):
        raise CompositionError(f"{endpoints!r} is no transport; for a host and a port write TCP{endpoints!r}")
    one = isinstance(endpoints, str | bytes) or ITransport.providedBy(endpoints) or not isinstance(endpoints, Iterable)
    given = [endpoints] if one else endpoints
    transports = tuple(_adapted(make_transport(each), registry) for each in cast("Iterable[Any]", given))
    if not transports:
        raise CompositionError("a server needs at least one transport")
    for each in transports:
        if not ITransport.providedBy(each):
            raise CompositionError(
                f"a transport must be a string such as 'tcp://127.0.0.1:9999' or provide ITransport, not {_shown(each)}"
            )
    return transports


def _adapted(part: Transport, registry: Registry) -> Transport:
    """Make a transport of what is none by itself, where somebody registered how."""
    choice = None if ITransport.providedBy(part) else registry.choose([providedBy(part)], ITransport)
    return part if choice is None else cast("Transport", choice.chosen.factory(part))


def _shown(part: object) -> str:
    """Show what is no part, and that a class is not its instance."""
    return f"the class {part.__name__}: pass {part.__name__}(...)" if isinstance(part, type) else repr(part)


def _runner(handler: HandlerSpec, strategy: Strategy, registry: Registry) -> Choice:
    return _choose(handler, strategy, IRunner, registry, f"{handler.name} does not run under {strategy!r}")


def _driver(transport: Transport, strategy: Strategy, registry: Registry) -> Choice:
    return _choose(transport, strategy, IDriver, registry, f"{transport!r} is not served by {strategy!r}")


def _view(transport: Transport, handler: HandlerSpec, registry: Registry) -> Choice:
    return _choose(transport, handler, IView, registry, f"{handler.name} cannot take what {transport!r} gives")


def _choose(one: Any, other: Any, provided: Any, registry: Registry, problem: str) -> Choice:
    """Find the adapter for a pair of parts, unless a refusal fits them more closely."""
    specs = [providedBy(one), providedBy(other)]
    choice, refusal = registry.choose(specs, provided), registry.choose(specs, IRefusal)
    if refusal is not None and (choice is None or not choice.chosen.beats(refusal.chosen)):
        raise CompositionError(refusal.chosen.factory(one, other))
    if choice is None:
        known = "; ".join(sorted(str(entry) for entry in registry.registrations(provided)))
        raise CompositionError(
            f"{problem}: no {provided.__name__} is registered for the pair; registered: {known or 'none'}"
        )
    return choice


@attrs.frozen
class Explanation:
    """What would be composed of some parts, and why, or why not. Printing it tells.

    Attributes:
        composition: what would be composed; `None` when the parts do not fit.
        problem: why they do not fit; `None` when they do.
    """

    composition: Composition | None
    problem: Exception | None

    def __str__(self) -> str:
        if self.composition is None:
            return f"does not compose: {self.problem}"
        return "\n".join(_describe(self.composition))


def _describe(composition: Composition) -> Sequence[str]:
    lines = [f"transport  {transport!r}: {_kinds(transport)}" for transport in composition.transports]
    lines.append(f"handler    {composition.handler.name}: {_kinds(composition.handler)}")
    lines.append(f"strategy   {composition.strategy!r}: {_kinds(composition.strategy)}")
    for what, choice in composition.choices:
        lines.append(f"{what:<10} {choice.chosen}")
        lines.extend(f"{'':<10}   over {lost}" for lost in choice.lost)
    return lines


def _kinds(part: Any) -> str:
    return ", ".join(short_name(interface) for interface in providedBy(part).interfaces()) or type(part).__name__


def url_of(transport: Transport, address: Any) -> str:
    """Write an endpoint as a string: its scheme, and an address of it."""
    return f"{transport.scheme}://{escape(display(address))}"


def is_datagram(transport: Transport) -> bool:
    """Whether requests of the transport are single messages."""
    return IDatagramTransport.providedBy(transport)
