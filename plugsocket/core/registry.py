"""The registry: which driver, runner and view fit which parts. zope.interface's components, with their silences ended.

zope.interface replaces a registration when its key comes again, and decides between two that fit equally well by the
order of the arguments. Here the first is an error when registering, the second when composing.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, TypeAlias, cast

import attrs
from zope.interface import implementedBy
from zope.interface.interface import InterfaceClass
from zope.interface.interfaces import IInterface, ISpecification
from zope.interface.registry import Components

from plugsocket.core.errors import CompositionError, RegistrationError
from plugsocket.core.places import load

Factory: TypeAlias = Callable[..., Any] | str
"""An adapter, or where it is, `package.module:name`: then it is imported when it is used for the first time."""


@attrs.frozen
class Registration:
    """One adapter of a registry: what it fits, what it gives, and who brought it."""

    required: tuple[Any, ...]
    provided: InterfaceClass
    _factory: Factory
    source: str

    @property
    def factory(self) -> Callable[..., Any]:
        """What makes the adapter; asking imports it."""
        return cast("Callable[..., Any]", load(self._factory)) if isinstance(self._factory, str) else self._factory

    def fits(self, specs: Sequence[Any]) -> bool:
        """Whether it accepts things of these specifications."""
        return all(spec.isOrExtends(need) for spec, need in zip(specs, self.required, strict=True))

    def beats(self, other: "Registration") -> bool:
        """Whether it asks for everything that the other asks for, and so fits more closely."""
        return all(mine.isOrExtends(its) for mine, its in zip(self.required, other.required, strict=True))

    def __str__(self) -> str:
        return f"({', '.join(short_name(need) for need in self.required)}) -> {self.source}"


def _source(factory: Factory) -> str:
    if isinstance(factory, str):
        module, separator, name = factory.partition(":")
        if not separator:
            raise RegistrationError(f"an adapter's place is 'package.module:name', not {factory!r}")
        return f"{module}.{name}"
    return f"{factory.__module__}.{getattr(factory, '__qualname__', factory)}"


def _specification(need: Any) -> Any:
    return need if ISpecification.providedBy(need) else implementedBy(need)  # type: ignore[no-untyped-call]


@attrs.frozen
class Choice:
    """What a look-up found: the registration that fits best, and those that fit as well."""

    chosen: Registration
    lost: tuple[Registration, ...]


def short_name(spec: Any) -> str:
    """The name of an interface or of a class's specification, without its module."""
    named = spec if IInterface.providedBy(spec) else spec.inherit
    return cast("str", named.__name__)


class Registry(Components):
    """Adapters that compose servers.

    Args:
        name: for messages.
        bases: registries whose registrations hold here as well, unless overridden here.
    """

    def __init__(self, name: str, bases: "tuple[Registry, ...]" = ()) -> None:
        super().__init__(name, bases)
        self._awaited: list[tuple[str, str]] = []

    def register(
        self,
        factory: Factory,
        required: Sequence[Any],
        provided: InterfaceClass,
        *,
        override: bool = False,
    ) -> None:
        """Register an adapter.

        Args:
            factory: called with one object for each of `required`, or as the interface provided documents; or where it
                is, `"package.module:name"`, to have that imported when it is used for the first time.
            required: interfaces, or classes.
            provided: the interface of what the factory gives.
            override: whether it may replace the registration that this registry has for the same key.

        Raises:
            RegistrationError: this registry has that key already, or the string is no place.
        """
        source = _source(factory)
        specs = tuple(map(_specification, required))
        held = [entry for entry in self._own() if entry.required == specs and entry.provided is provided]
        if held and not override:
            raise RegistrationError(
                f"{held[0]} is registered already as {provided.__name__}; pass override=True to replace it by {source}"
            )
        self.registerAdapter(factory, specs, provided, info=source, event=False)

    def register_with(self, module: str, registering: str) -> None:
        """Have adapters registered for what is in a module that few import.

        Args:
            module: the module's name. Once it was imported, by whomever, look-ups find the adapters.
            registering: the name of the module that registers them when it is imported.
        """
        self._awaited.append((module, registering))

    def _own(self) -> Iterator[Registration]:
        for entry in cast("Iterable[Any]", self.registeredAdapters()):
            yield Registration(tuple(entry.required), entry.provided, entry.factory, entry.info)

    def registrations(self, provided: InterfaceClass) -> Iterator[Registration]:
        """Every registration that gives this interface; one of this registry hides its base's with the same key."""
        for module, registering in self._awaited:
            if sys.modules.get(module):
                import_module(registering)
        seen = set()
        bases = (entry for base in self.__bases__ for entry in base.registrations(provided))
        for entry in itertools.chain(self._own(), bases):
            if entry.provided is provided and entry.required not in seen:
                seen.add(entry.required)
                yield entry

    def choose(self, specs: Sequence[Any], provided: InterfaceClass) -> Choice | None:
        """Find the registration that fits best.

        Args:
            specs: the specifications of the parts (`providedBy(part)`).
            provided: the interface wanted.

        Returns:
            The choice, or `None` when nothing fits.

        Raises:
            CompositionError: several fit, and none of them more closely than all others.
        """
        fitting = [entry for entry in self.registrations(provided) if entry.fits(specs)]
        if not fitting:
            return None
        best = [entry for entry in fitting if all(entry.beats(other) for other in fitting)]
        if not best:
            closest = [a for a in fitting if not any(b is not a and b.beats(a) for b in fitting)]
            raise CompositionError(
                f"ambiguous: {' and '.join(map(str, closest))} fit equally well; "
                f"register a {provided.__name__} for what they have in common"
            )
        return Choice(best[0], tuple(entry for entry in fitting if entry is not best[0]))


default_registry = Registry("plugsocket")
"""What every server composes from, unless it is given a registry of its own."""
