"""Put `plugsocket.compat.socketserver` in the place of the standard library's module."""

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

STANDARD = "socketserver"
OURS = "plugsocket.compat.socketserver"
CHILDREN = str(Path(__file__).with_name("children"))
"""The directory with the `sitecustomize` of child processes."""


class TooLateError(RuntimeError):
    """Something has the standard library's module already, and would go on using it."""


def replace() -> ModuleType:
    """Have everything that imports `socketserver` from now on get `plugsocket.compat.socketserver`.

    Its public classes say that they are of the module `socketserver`, as those of the standard library do, so that
    they are pickled and shown under the name by which the program knows them. The module itself keeps its own name.

    Returns:
        The module. Calling it again changes nothing.

    Raises:
        TooLateError: the standard library's module has been imported.
    """
    before = sys.modules.get(STANDARD)
    if before is not None and before.__name__ != OURS:
        users = ", ".join(_users(before)) or "no module that is known"
        raise TooLateError(f"too late to replace {STANDARD}: it is in use already, by {users}")
    ours = import_module(OURS)
    for name in ours.__all__:
        getattr(ours, name).__module__ = STANDARD
    sys.modules[STANDARD] = ours
    return ours


def replace_in_children() -> None:
    """Have Python interpreters that this process starts from now on do the same, when they import `socketserver`.

    That is how reloaders run a server, and `multiprocessing` its processes. They find `sitecustomize` by the variable
    `PYTHONPATH`; those that are told to ignore it, with the options `-I`, `-E` or `-S`, are as they always were.
    """
    known = os.environ.get("PYTHONPATH")
    places = known.split(os.pathsep) if known else []
    if CHILDREN not in places:
        os.environ["PYTHONPATH"] = os.pathsep.join([CHILDREN, *places])


def _users(module: ModuleType) -> list[str]:
    """The modules that know it, or a class of it, by a name."""

    def knows(user: ModuleType) -> bool:
        values = list(vars(user).values())
        return any(value is module or (isinstance(value, type) and value.__module__ == STANDARD) for value in values)

    known = list(sys.modules.items())
    return sorted(name for name, user in known if user is not module and isinstance(user, ModuleType) and knows(user))
