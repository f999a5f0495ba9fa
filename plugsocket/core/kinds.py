"""What kind of handler a callable is: found by looking at it, or declared with `directlyProvides`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import attrs
from zope.interface import directlyProvides

from plugsocket.core.errors import CompositionError
from plugsocket.core.interfaces import (
    IAsyncHandler,
    IDatagramHandlerClass,
    IPeerHandler,
    IRequestHandlerClass,
    IStreamHandlerClass,
    ISyncHandler,
)

# With what they make of a request, these fit one kind of transport alone: the standard library's and plugsocket's own.
CLASSES = {
    (module, name): kind
    for module in ("socketserver", "plugsocket.handlers.classes")
    for name, kind in (("StreamRequestHandler", IStreamHandlerClass), ("DatagramRequestHandler", IDatagramHandlerClass))
}
KINDS = (IRequestHandlerClass, IPeerHandler, IAsyncHandler, ISyncHandler)


@attrs.define(slots=False, eq=False)  # zope.interface writes the declaration into the instance
class HandlerSpec:
    """A handler that is known: it provides the interface of its kind.

    Attributes:
        function: the callable itself.
        name: how messages call it.
    """

    function: Callable[..., Any]
    name: str


def inspect_handler(handler: Any) -> HandlerSpec:
    """Find out what a handler is.

    Args:
        handler: a function, bound method, partial or callable instance, plain or async, that takes one argument;
            or a class in the style of `socketserver.BaseRequestHandler`.

    Raises:
        CompositionError: it is not callable, cannot take what handlers are given, or would do nothing when called.
    """
    if isinstance(handler, HandlerSpec):
        return handler
    name = _name(handler)
    if not callable(handler):
        raise CompositionError(
            f"the handler must be callable, not {handler!r}: "
            "a function, an async function, or a class derived from BaseRequestHandler"
        )
    kind = next((kind for kind in KINDS if kind.providedBy(handler)), None) or _kind(handler, name)
    _check_arguments(handler, name, 3 if kind.isOrExtends(IRequestHandlerClass) else 1)
    spec = HandlerSpec(handler, name)
    directlyProvides(spec, kind)
    return spec


def _kind(handler: Any, name: str) -> Any:
    target = _innermost(handler)
    if isinstance(target, type):
        if not callable(getattr(target, "handle", None)):
            raise CompositionError(
                f"the class {name} has no handle() method, as a request handler class has; "
                f"to have its instances called, pass one: {name}()"
            )
        if inspect.iscoroutinefunction(target.handle):  # type: ignore[attr-defined]  # it was found above
            raise CompositionError(
                f"handle() of the class {name} is async, and request handler classes block; "
                "write an async function instead"
            )
        bases = ((base.__module__, base.__name__) for base in target.__mro__)
        return next((CLASSES[base] for base in bases if base in CLASSES), IRequestHandlerClass)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise CompositionError(f"{name} is a generator function: calling it would run nothing")
    return IAsyncHandler if inspect.iscoroutinefunction(target) else ISyncHandler


def _innermost(handler: Any) -> Any:
    """The function or class that a call ends up in, behind partials, bound methods and `__call__`."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if isinstance(handler, type) or inspect.isroutine(handler):
        return handler
    return type(handler).__call__


def _check_arguments(handler: Any, name: str, count: int) -> None:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # some callables written in C do not tell
    try:
        signature.bind(*range(count))
    except TypeError as error:
        wanted = "(request, client_address, server)" if count > 1 else "one argument, a connection or a datagram"
        raise CompositionError(f"handler {name}{signature} must take {wanted}: {error}") from None


def _name(handler: Any) -> str:
    target = handler.func if isinstance(handler, functools.partial) else handler
    return getattr(target, "__qualname__", None) or repr(handler)
