"""The directive `options`: what every transport or strategy can be told, from the fields of its class."""

import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from plugsocket.core.options import option_fields
from plugsocket.core.plugins import STRATEGIES, TRANSPORTS, plugins

GROUPS = {"transports": TRANSPORTS, "strategies": STRATEGIES}
INDENT = "   "


def descriptions(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say about their attributes."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        for entry in re.split(r"\n(?=    \w)", f"\n{section}"):
            name, colon, text = entry.strip().partition(":")
            if colon:
                found[name] = " ".join(text.split())
    return found


def summary(cls: type) -> str:
    """The docstring of a class without its attributes."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[0].strip()


def type_name(hint: Any) -> str:
    """A type as people write it."""
    return hint.__name__ if isinstance(hint, type) else str(hint)


class Options(SphinxDirective):
    """Documents the transports or strategies; to be used in reStructuredText."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the documentation as reStructuredText, and have it read."""
        lines: list[str] = []
        for plugin in plugins(GROUPS[self.arguments[0]]):
            if plugin.source.startswith("plugsocket."):  # whatever else is installed where the docs are built
                lines += self._part(plugin.name, plugin.load())
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)

    def _part(self, name: str, cls: type) -> Iterator[str]:
        title = f"``{name}``: {cls.__name__}"
        yield from (title, "-" * len(title), "")
        yield from GoogleDocstring(summary(cls), self.config).lines()
        if not option_fields(cls):
            yield from ("", "It has no options.", "")
            return
        yield from ("", ".. list-table::", f"{INDENT}:header-rows: 1", f"{INDENT}:widths: 18 14 12 56", "")
        yield from self._row("option", "type", "default", "meaning")
        known, hints = descriptions(cls), typing.get_type_hints(cls)
        for field in option_fields(cls).values():
            if field.name not in known:
                raise ExtensionError(f"the docstring of {cls.__name__} says nothing about its option {field.name}")
            default = "required" if field.default is attrs.NOTHING else f"``{field.default!r}``"
            yield from self._row(f"``{field.name}``", f"``{type_name(hints[field.name])}``", default, known[field.name])
        yield ""

    def _row(self, *cells: str) -> Iterator[str]:
        for number, cell in enumerate(cells):
            yield f"{INDENT}{'*' if number == 0 else ' '} - {cell}"


def setup(app: Sphinx) -> ExtensionMetadata:
    """Make the directive known to Sphinx."""
    app.add_directive("options", Options)
    return {"parallel_read_safe": True}
