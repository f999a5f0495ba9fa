"""Replace `socketserver` in an interpreter that was started by a program under `python -m plugsocket.compat`.

Every interpreter imports `sitecustomize` at its start (see the module `site`). This one costs it next to nothing, since
it imports plugsocket when `socketserver` is imported, and no sooner. The interpreter may also be another one than the
program's, and older: where there is no plugsocket, it does nothing.
"""

from __future__ import annotations  # for older interpreters

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType

HERE = os.path.dirname(os.path.abspath(__file__))


class Replacing:
    """Finds `socketserver`, the first time, and loads plugsocket's in its place."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find that module alone, as finders in `sys.meta_path` do."""
        del path, target
        if name != "socketserver":
            return None
        sys.meta_path.remove(self)
        return ModuleSpec(name, self) if find_spec("plugsocket") else None  # type: ignore[arg-type]  # it loads

    def create_module(self, spec: ModuleSpec) -> None:
        """Have Python make a module, which is not going to be used."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the other module in its place, where Python takes it from."""
        from plugsocket.compat.replace import replace  # noqa: PLC0415 - it imports all of plugsocket

        del sys.modules[module.__name__]
        replace()


def _run_hidden() -> None:
    """Run the `sitecustomize` that this one was found before, and leave no other trace of that."""
    sys.path[:] = [place for place in sys.path if place != HERE]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


if "socketserver" not in sys.modules:
    sys.meta_path.insert(0, Replacing())
_run_hidden()
