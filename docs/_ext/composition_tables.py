"""The directives `composition-matrix` and `adapter-table`: what composes with what, asked of the code itself."""

from collections.abc import Iterator
from typing import Any

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata
from zope.interface.interface import InterfaceClass

import plugsocket
from plugsocket.core.composition import IRefusal
from plugsocket.core.interfaces import IDriver, IRunner, IStrategy, IView
from plugsocket.core.plugins import STRATEGIES, TRANSPORTS, Plugin, plugins
from plugsocket.core.protocols import Handler
from plugsocket.core.registry import short_name


def _blocking(request: Any) -> None:
    """Stand for every function that blocks."""


class _Class(plugsocket.BaseRequestHandler):
    """Stands for every request handler class."""


async def _asynchronous(request: Any) -> None:
    """Stand for every async function."""


HANDLERS: dict[str, Handler] = {
    "function": _blocking,
    "request handler class": _Class,
    "async function": _asynchronous,
    "own_loop(async function)": plugsocket.own_loop(_asynchronous),
}


@attrs.frozen
class Row:
    """One kind of handler behind one transport.

    Attributes:
        handler: the kind, in words.
        called_with: what the handler is called with.
        strategies: by name, whether the two run under it.
    """

    handler: str
    called_with: str
    strategies: tuple[tuple[str, bool], ...]


def matrix() -> dict[str, list[Row]]:
    """Compose everything with everything; return the rows of each transport, by its scheme."""
    return {plugin.name: list(_rows(plugin)) for plugin in _own(TRANSPORTS)}


def _own(group: str) -> Iterator[Plugin]:
    """What comes with plugsocket, whatever else is installed where the docs are built."""
    return (plugin for plugin in plugins(group) if plugin.source.startswith("plugsocket."))


def _rows(transport: Plugin) -> Iterator[Row]:
    endpoint = transport.load().examples(".")[0]
    strategies = [plugin.name for plugin in _own(STRATEGIES)]
    for kind, handler in HANDLERS.items():
        composed = {name: plugsocket.explain(endpoint, handler, name).composition for name in strategies}
        views = {composition.views[0] for composition in composed.values() if composition is not None}
        argument = ", ".join(sorted(getattr(view, "__name__", repr(view)) for view in views))
        if isinstance(handler, type):
            argument = "request, client_address, server"
        yield Row(kind, argument, tuple((name, composition is not None) for name, composition in composed.items()))


class CompositionMatrix(SphinxDirective):
    """A table of transports and handlers against strategies; transports that are alike share rows."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        alike: dict[tuple[Row, ...], list[str]] = {}
        for scheme, found in matrix().items():
            alike.setdefault(tuple(found), []).append(scheme)
        strategies = [name for name, _ in next(iter(alike))[0].strategies]
        table, body = _table(["transport", "handler", "called with", *strategies], "matrix")
        for rows, schemes in alike.items():
            for row in rows:
                cells = [_cell(", ".join(schemes), code=True), _cell(row.handler), _cell(row.called_with, code=True)]
                for _, fits in row.strategies:
                    cell = _cell("runs" if fits else "refused")
                    cell["classes"].append("fits" if fits else "refused")
                    cells.append(cell)
                body += nodes.row("", *cells)
        return [table]


class AdapterTable(SphinxDirective):
    """A table of the default registry: what fits which parts."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        table, body = _table(["for", "it gives", "which is"], "adapters")
        provided: tuple[InterfaceClass, ...] = (IDriver, IRunner, IView, IStrategy, IRefusal)
        for interface in provided:
            for entry in plugsocket.default_registry.registrations(interface):
                needs = ", ".join(map(short_name, entry.required))
                factory = entry.source.removeprefix("plugsocket.")
                body += nodes.row(
                    "", _cell(needs, code=True), _cell(interface.__name__, code=True), _cell(factory, code=True)
                )
        return [table]


def _table(heads: list[str], kind: str) -> tuple[nodes.table, nodes.tbody]:
    table = nodes.table(classes=[kind])
    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=1) for _ in heads]
    group += nodes.thead("", nodes.row("", *map(_cell, heads)))
    body = nodes.tbody()
    group += body
    table += group
    return table, body


def _cell(text: str, *, code: bool = False) -> nodes.entry:
    content = nodes.literal("", text) if code else nodes.Text(text)
    return nodes.entry("", nodes.paragraph("", "", content))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Make the directives known to Sphinx."""
    app.add_directive("composition-matrix", CompositionMatrix)
    app.add_directive("adapter-table", AdapterTable)
    return {"parallel_read_safe": True}
