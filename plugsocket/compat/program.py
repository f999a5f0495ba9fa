"""Find a program as `python` finds it, and run it in its own place, as `__main__`.

The module `runpy` does nearly that, but takes `__main__` and the name of the program away when the program's last line
has run, while its threads may go on serving.
"""

import builtins
import importlib.util
import os
import sys
from importlib.machinery import BYTECODE_SUFFIXES, ModuleSpec, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from pkgutil import get_importer
from types import CodeType, ModuleType, TracebackType
from typing import Any

import attrs

NOT_THE_PROGRAM = ("<frozen ", os.path.join(os.path.dirname(__file__), ""))
"""How the names of the files begin whose code finds and runs programs."""


class NoProgramError(Exception):
    """There is no such program.

    Attributes:
        status: the exit status that `python` has then.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@attrs.frozen
class Program:
    """A program that was found: its code, and the names that its module has before it runs."""

    code: CodeType
    names: dict[str, Any]

    def run(self) -> None:
        """Run it as the module `__main__`, which it stays: what it leaves to threads and `atexit` still needs it."""
        main = ModuleType("__main__")
        vars(main).update(self.names, __builtins__=builtins)
        sys.modules["__main__"] = main
        exec(self.code, vars(main))  # noqa: S102 - that is what it is for


def find_file(path: str) -> Program:
    """Find the program that `python PATH` runs, and have imports search its directory first.

    Args:
        path: a file of Python code, or a directory or archive with a file `__main__.py`.

    Raises:
        NoProgramError: there is none.
        SyntaxError: it is no Python.
    """
    absolute = os.path.join(os.getcwd(), path)  # as it is: python tidies nothing
    importer: Any = get_importer(absolute)
    if importer is not None:
        spec = importer.find_spec("__main__")
        if spec is None:
            raise NoProgramError(f"can't find '__main__' module in {absolute!r}")
        sys.path[: not sys.flags.safe_path] = [absolute]  # in place of what `python -m` put there
        return _from_spec(spec)
    kind = SourcelessFileLoader if absolute.endswith(tuple(BYTECODE_SUFFIXES)) else SourceFileLoader
    loader = kind("__main__", absolute)
    try:
        code = _read(loader, absolute)
    except OSError as error:
        raise NoProgramError(f"can't open file {absolute!r}: [Errno {error.errno}] {error.strerror}", 2) from None
    if not sys.flags.safe_path:
        sys.path[0] = str(Path(absolute).resolve().parent)
    return Program(code, _names(absolute, loader))


def find_module(name: str) -> Program:
    """Find the program that `python -m NAME` runs; the packages that it is in are imported.

    Raises:
        NoProgramError: there is none.
        Exception: whatever importing its packages raises.
    """
    if name.startswith("."):
        raise NoProgramError("Relative module names not supported")
    spec = _find_spec(name)
    if spec is None:
        raise NoProgramError(f"No module named {name}")
    if spec.submodule_search_locations is not None:
        spec = _find_spec(f"{name}.__main__")
        if spec is None:
            raise NoProgramError(
                f"No module named {name}.__main__; {name!r} is a package and cannot be directly executed"
            )
    return _from_spec(spec)


def _find_spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a package that it is in wants to import another one
        raise NoProgramError(f"No module named {name} ({error})") from None


def _from_spec(spec: ModuleSpec) -> Program:
    loader: Any = spec.loader
    code = loader.get_code(spec.name) if hasattr(loader, "get_code") else None
    if code is None:
        raise NoProgramError(f"No code object available for {spec.name}")
    return Program(code, _names(spec.origin, loader, spec))


def _names(file: str | None, loader: Any, spec: ModuleSpec | None = None) -> dict[str, Any]:
    return {
        "__file__": file,
        "__loader__": loader,
        "__spec__": spec,
        "__package__": None if spec is None else spec.parent,
        "__cached__": None if spec is None else spec.cached,
    }


def _read(loader: SourceFileLoader | SourcelessFileLoader, path: str) -> CodeType:
    if isinstance(loader, SourceFileLoader):
        return loader.source_to_code(loader.get_data(path), path)  # which get_code() would store for the next time
    code = loader.get_code("__main__")
    assert code is not None
    return code


def begin_tracebacks_in_the_program() -> None:
    """Leave out, of the traceback that the interpreter ends with, the frames that led to the program."""
    hook = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(NOT_THE_PROGRAM):
            trace = trace.tb_next
        hook(kind, error.with_traceback(trace), trace)

    sys.excepthook = show
