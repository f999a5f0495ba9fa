"""What is imported when somebody asks for it: trio, and what needs it, would make every import half as long again."""

from importlib import import_module
from typing import Any


def load(place: str) -> Any:
    """Import what is at a place, `package.module:name`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def offer(package: dict[str, Any], *places: str) -> None:
    """Add names to a package, each of which is imported when it is first asked for.

    Type checkers do not see them: import them under `if TYPE_CHECKING` as well. None may have the name of a module of
    the package, which would take its place.

    Args:
        package: the package's `globals()`, at its end.
        places: `package.module:name` of each.
    """
    offered = {place.partition(":")[2]: place for place in places}
    public = sorted(name for name in (*package, *offered) if not name.startswith("_"))

    def get(name: str) -> Any:
        if name not in offered:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        package[name] = load(offered[name])
        return package[name]

    # PEP 562; and what `from package import *` gives, which would leave them out.
    package.update(__getattr__=get, __dir__=lambda: sorted({*package, *offered}), __all__=public)
