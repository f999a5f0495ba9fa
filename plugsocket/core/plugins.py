"""Plug-ins of installed packages, found through entry points: looked up by name, and loaded only when named."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from plugsocket.core.errors import PluginError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

TRANSPORTS = "plugsocket.transports"
STRATEGIES = "plugsocket.strategies"


@attrs.frozen
class Plugin:
    """One name that a distribution claims.

    Attributes:
        name: what strings call it: a transport's scheme, a strategy's name.
        source: `module:attribute`, where it is loaded from.
    """

    name: str
    source: str
    _entry: "EntryPoint" = attrs.field(repr=False)

    @property
    def distribution(self) -> str:
        """The name and version of the distribution that brings it; read when asked for, which takes a while."""
        metadata = self._entry.dist.metadata if self._entry.dist is not None else None
        if not metadata:  # what an interrupted uninstallation leaves
            return "an unknown distribution"
        return f"{metadata['Name']} {metadata['Version']}"

    def load(self) -> Any:
        """Import it.

        Raises:
            PluginError: it does not import; the cause is kept as `__cause__`.
        """
        try:
            return self._entry.load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"plug-in {self.name!r} of {self.distribution} ({self.source}) does not load: {error!r}"
            ) from error


def plugins(group: str) -> Iterator[Plugin]:
    """Every plug-in of a group (`TRANSPORTS` or `STRATEGIES`), by name; nothing is loaded."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - a tenth of the time that importing plugsocket takes

    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        yield Plugin(entry.name, entry.value, entry)


def find(group: str, name: str, what: str) -> Any:
    """Load the plug-in of this name.

    Args:
        group: `TRANSPORTS` or `STRATEGIES`.
        name: the name claimed.
        what: how a message calls a member of the group.

    Raises:
        PluginError: no distribution claims the name, several do, or the one that does fails to load.
    """
    known = list(plugins(group))
    found = [plugin for plugin in known if plugin.name == name]
    if not found:
        hint = nearest(name, {plugin.name for plugin in known}) if known else "; is plugsocket installed?"
        raise PluginError(f"unknown {what} {name!r}{hint}")
    if len(found) > 1:
        claims = " and ".join(f"{plugin.distribution} ({plugin.source})" for plugin in found)
        raise PluginError(f"{what} {name!r} is claimed by {claims}; uninstall all but one")
    return found[0].load()
