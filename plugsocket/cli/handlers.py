"""What `--handler` names: a handler that is built in, or `MODULE:ATTRIBUTE`."""

import importlib
import os
import sys
import traceback
from functools import reduce
from types import ModuleType
from typing import Any

from plugsocket.core.errors import PlugsocketError, nearest
from plugsocket.core.protocols import Handler
from plugsocket.handlers import discard, echo, upper

BUILT_IN: dict[str, Handler] = {"echo": echo, "upper": upper, "discard": discard}
FORM = "MODULE:ATTRIBUTE, such as mypackage.handlers:Upper"


class HandlerNameError(PlugsocketError, LookupError):
    """What `--handler` names is not there, or does not import."""


def load_handler(name: str) -> Handler:
    """Find a handler by its name.

    The current directory is searched first, as `python -m` does it.

    Args:
        name: `echo`, `upper`, `discard`, or `MODULE:ATTRIBUTE`, both of which may have dots.

    Returns:
        What is there; whether it is a handler is for the composition to say.

    Raises:
        HandlerNameError: it is of neither form, or there is no such module or attribute, or the module does not import.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, separator, path = name.partition(":")
    if not separator:
        raise HandlerNameError(
            f"unknown handler {name!r}; built in are {', '.join(BUILT_IN)}; one of your own is {FORM}"
        )
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise HandlerNameError(f"the handler {name!r} is not of the form {FORM}")
    found: Any = reduce(_attribute, path.split("."), _import(module))
    return found  # type: ignore[no-any-return]  # nobody can say before the composition has looked at it


def _import(name: str) -> ModuleType:
    here = os.getcwd()
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise HandlerNameError(
                f"there is no module {error.name!r}, neither in the current directory nor installed"
            ) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:  # a script without a `__main__` guard may end the program
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> HandlerNameError:
    """Word the error about a module that is there and does not import: what it raised, and where."""
    what = " ".join(f"{type(error).__name__}: {error}".split())  # in one line, whatever the exception says
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames and frames[-1].filename != __file__ else ""
    return HandlerNameError(f"the module {name!r} does not import: {what}{where}")


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        kind = "class" if isinstance(owner, type) else type(owner).__name__
        right = [each for each in dir(owner) if not each.startswith("_") and callable(getattr(owner, each, None))]
        called = repr(getattr(owner, "__name__", owner))
        raise HandlerNameError(f"the {kind} {called} has no attribute {name!r}{nearest(name, right)}") from None
