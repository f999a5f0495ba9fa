"""The directive `interfaces`: every interface of a module, with the signatures and contracts of its methods.

autodoc looks at instances and classes, and an interface of zope.interface is neither.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata
from zope.interface import Interface
from zope.interface.interface import Attribute, InterfaceClass, Method

INDENT = "   "


def interfaces_of(module: ModuleType) -> Iterator[InterfaceClass]:
    """The interfaces that a module defines, in its order."""
    for value in vars(module).values():
        if isinstance(value, InterfaceClass) and value.__module__ == module.__name__:
            yield value


def signatures_of(module: ModuleType) -> dict[tuple[str, str], str]:
    """The signature of each method of each class of a module, with the types, which interfaces do not keep."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(node, ast.ClassDef) and isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                result = f" -> {ast.unparse(part.returns)}" if part.returns else ""
                signature = f"({ast.unparse(part.args)}){result}".replace("'", "")
                found[node.name, part.name] = signature
                if isinstance(part, ast.AsyncFunctionDef):
                    found[node.name, f"async {part.name}"] = signature
    return found


def headings_of(module: ModuleType) -> dict[str, str]:
    """The comment that stands above a class on a line of its own, and so begins a group, by the class's name."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    found, heading = {}, ""
    starts = {node.lineno: node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    for number, line in enumerate(lines, start=1):
        if line.startswith("# "):
            heading = line.removeprefix("# ").rstrip(".")
        elif number in starts and heading:
            found[starts[number]], heading = heading, ""
    return found


class Interfaces(SphinxDirective):
    """Documents every interface of the module that is its argument; to be used in reStructuredText."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the documentation as reStructuredText, and have it read."""
        module = importlib.import_module(self.arguments[0])
        signatures, headings = signatures_of(module), headings_of(module)
        lines = [f".. py:currentmodule:: {module.__name__}", ""]
        for interface in interfaces_of(module):
            if heading := headings.get(interface.__name__):
                lines += [heading, "-" * len(heading), ""]
            lines += self._interface(interface, signatures)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)

    def _interface(self, interface: InterfaceClass, signatures: dict[tuple[str, str], str]) -> Iterator[str]:
        yield f".. py:class:: {interface.__name__}"
        yield ""
        bases = [base for base in interface.__bases__ if base is not Interface]
        if bases:
            yield f"{INDENT}Extends {', '.join(f':py:class:`{base.__name__}`' for base in bases)}."
            yield ""
        yield from self._text(interface.__doc__, INDENT)
        for name in interface.names():
            yield from self._member(name, interface[name], signatures, interface.__name__)

    def _member(
        self, name: str, member: Attribute, signatures: dict[tuple[str, str], str], interface: str
    ) -> Iterator[str]:
        text = member.__doc__
        if isinstance(member, Method):
            yield f"{INDENT}.. py:method:: {name}{signatures[interface, name]}"
            if (interface, f"async {name}") in signatures:
                yield f"{INDENT * 2}:async:"
        else:
            yield f"{INDENT}.. py:attribute:: {name}"
            kind, colon, rest = text.partition(": ")
            if colon and kind.isidentifier():
                yield f"{INDENT * 2}:type: {kind}"
                text = f"{rest[0].upper()}{rest[1:]}"
        yield ""
        yield from self._text(text, INDENT * 2)

    def _text(self, docstring: str | None, indent: str) -> Iterator[str]:
        text = "\n".join(GoogleDocstring(inspect.cleandoc(docstring or ""), self.config).lines())
        yield from (indent + line for line in text.split("\n"))
        yield ""


def setup(app: Sphinx) -> ExtensionMetadata:
    """Make the directive known to Sphinx."""
    app.add_directive("interfaces", Interfaces)
    return {"parallel_read_safe": True}
