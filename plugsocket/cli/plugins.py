"""`plugsocket plugins`: what is installed, and whether it works."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from plugsocket.cli.output import columns
from plugsocket.core.errors import PluginError
from plugsocket.core.interfaces import IStrategy, ITransport
from plugsocket.core.plugins import STRATEGIES, TRANSPORTS, Plugin, plugins

GROUPS: tuple[tuple[str, str, Any], ...] = (
    ("transport", TRANSPORTS, ITransport),
    ("strategy", STRATEGIES, IStrategy),
)


def plugin_table() -> list[str]:
    """Lay out a table of all plug-ins; each of them is loaded to see whether it can be."""
    return columns([("KIND", "NAME", "SOURCE", "DISTRIBUTION", "STATUS"), *_rows()])


def _rows() -> Iterator[tuple[str, str, str, str, str]]:
    for kind, group, contract in GROUPS:
        known = list(plugins(group))
        claims = Counter(plugin.name for plugin in known)
        for plugin in known:
            status = "conflicting: several claim the name" if claims[plugin.name] > 1 else status_of(plugin, contract)
            yield kind, plugin.name, plugin.source, plugin.distribution, status


def status_of(plugin: Plugin, contract: Any) -> str:
    """Say whether a plug-in loads and is what its group promises: `ok`, or `broken: ` and the reason."""
    try:
        loaded = plugin.load()
    except PluginError as error:
        return f"broken: {error.__cause__!r}"
    if not callable(loaded):
        return f"broken: {type(loaded).__name__} is not callable"
    if isinstance(loaded, type) and not contract.implementedBy(loaded):
        return f"broken: {loaded.__name__} does not implement {contract.__name__}"
    return "ok"
