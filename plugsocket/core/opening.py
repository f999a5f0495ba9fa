"""Opening what a composition describes: every listener, or none."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from plugsocket.core.composition import Composition, is_datagram, url_of
from plugsocket.core.engine import Endpoint, Engine, Terms
from plugsocket.core.interfaces import IAsyncListener
from plugsocket.core.ledger import Ledger
from plugsocket.core.reporting import Events


def open_engine(
    composition: Composition,
    call: Callable[[Any], Any],
    ledger: Ledger,
    events: Events,
    terms: Terms,
    on_drain: Callable[[int], None],
) -> Engine:
    """Open the listeners of a composition, and make the engine that accepts from them.

    Args:
        composition: the parts.
        call: the handler, as the engine calls it.
        ledger: as for `Engine`.
        events: as for `Engine`.
        terms: as for `Engine`.
        on_drain: as for `Engine`.

    Returns:
        The engine; the caller closes it.

    Raises:
        OSError: an endpoint cannot be opened; those that were opened here are closed again.
    """
    with ExitStack() as undo:
        endpoints = []
        for transport, view in zip(composition.transports, composition.views, strict=True):
            listener = transport.listen()
            awaited = IAsyncListener.providedBy(listener)
            if not awaited:  # else somebody else opened it, who keeps it unless all goes well
                undo.callback(listener.close)
            url = url_of(transport, listener.address)
            endpoints.append(Endpoint(listener, view, url, is_datagram(transport), awaited))
        runner = composition.runner(composition.handler, composition.strategy)
        name = composition.handler.name
        engine = Engine(endpoints, runner, call, name, ledger, events, terms, on_drain)
        undo.pop_all()
        return engine
