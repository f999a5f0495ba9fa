"""Keeps napoleon from taking what stands before the first colon of a property's docstring for its type."""

from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

BEFORE_NAPOLEON = 400  # listeners are called by priority; napoleon's is 500


def begin_with_a_comment(_app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Put an empty comment first: napoleon looks for the type in the first line that is not blank, and only there."""
    if what in {"attribute", "property"}:
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Listen to autodoc."""
    app.connect("autodoc-process-docstring", begin_with_a_comment, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True}
