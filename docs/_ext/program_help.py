"""The directive `program-help`: what the command line says about itself."""

import argparse
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from plugsocket.cli.arguments import make_parser

WIDTH = 110


def parsers() -> Iterator[argparse.ArgumentParser]:
    """The parser of the program, and those of its commands."""
    program = make_parser()
    yield program
    for action in program._actions:  # noqa: SLF001 - argparse has no other way to its sub-parsers
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            yield from action.choices.values()


class ProgramHelp(SphinxDirective):
    """Shows the help of each command, or with an argument of that one."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make a block of each."""
        wanted = " ".join(["plugsocket", *self.arguments])
        (parser,) = (parser for parser in parsers() if parser.prog == wanted)
        formatter: Any = parser.formatter_class
        parser.formatter_class = lambda prog: formatter(prog, width=WIDTH)  # not the width of who builds
        return [nodes.literal_block("", parser.format_help(), language="text")]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Make the directive known to Sphinx."""
    app.add_directive("program-help", ProgramHelp)
    return {"parallel_read_safe": True}
