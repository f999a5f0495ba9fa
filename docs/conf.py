"""How the documentation is built: `sphinx-build -W --keep-going -b html docs docs/_build/html`."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "plugsocket"
author = "the plugsocket contributors"
project_copyright = "the plugsocket contributors"
version = release = version_of("plugsocket")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "lifecycle_picture",
    "composition_tables",
    "interface_pages",
    "option_pages",
    "program_help",
    "property_docstrings",
]
exclude_patterns = ["_build", "_ext"]
nitpicky = True
# Nothing is fetched to build the documentation, so what other projects document cannot be linked to.
nitpick_ignore_regex = [
    (r"py:.*", r"(trio|zope|socket|threading|collections|functools|importlib|typing|attrs?|logging|enum|io)\b.*"),
    (r"py:.*", r"(os\.PathLike|contextvars\..*|Path|Self|Socket|T|bytes-like object)"),
    (r"py:.*", r"plugsocket\.(testing\.recorder|core\.requests)\.Kind"),  # a type variable is no object of its own
]

default_role = "code"  # docstrings write code between single backticks, as Markdown does
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "plugsocket"
html_static_path = ["_static"]
html_css_files = ["plugsocket.css"]
