"""`python -m plugsocket.compat`: run a program with `socketserver` replaced."""

import sys
from typing import NoReturn

from plugsocket.compat.program import NoProgramError, Program, begin_tracebacks_in_the_program, find_file, find_module
from plugsocket.compat.replace import TooLateError, replace, replace_in_children

FAILED, WRONG_INPUT = 1, 2

USAGE = "usage: python -m plugsocket.compat [--help] (PROGRAM | -m MODULE) [ARGUMENT ...]\n"

HELP = f"""\
{USAGE}
Run a Python program, unchanged, with plugsocket.compat.socketserver in the place of the standard library's module,
for it and for every module that it imports; so too in Python interpreters that it starts, such as those of a reloader.

  PROGRAM      a file, or a directory or archive with a file __main__.py
  -m MODULE    a module, found as python -m finds it
  ARGUMENT     what comes after that is the program's, options too

examples:
  python -m plugsocket.compat server.py --port 8000
  python -m plugsocket.compat -m http.server 8000
  python -m plugsocket.compat manage.py runserver
"""


def main() -> None:
    """Run the program that the arguments name; its end is this one's.

    Raises:
        SystemExit: for `--help` with status 0; with status 2 for wrong arguments or a file that cannot be read; with
            status 1 when there is no such module, or it is too late to replace `socketserver`.
        BaseException: whatever the program raises.
    """
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return
    try:
        replace()
    except TooLateError as error:
        _fail(f"error: {error}", FAILED)
    replace_in_children()
    try:
        program = _find(arguments)
        _say("socketserver is plugsocket.compat.socketserver in this program")
        program.run()
    except NoProgramError as error:
        _fail(f"error: {error}", error.status)
    except BaseException:
        begin_tracebacks_in_the_program()
        raise


def _find(arguments: list[str]) -> Program:
    """Find the program, and leave `sys.argv` as it should have it."""
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if first.startswith("-m"):
        name, rest = (first[2:], rest) if first != "-m" else (rest[0] if rest else "", rest[1:])
        if not name:
            raise NoProgramError(f"-m needs a module\n{USAGE}", WRONG_INPUT)
        sys.argv = ["-m", *rest]  # as long as the packages that it is in are imported
        program = find_module(name)
        sys.argv[0] = program.names["__file__"]
        return program
    if not first:
        raise NoProgramError(f"no program to run\n{USAGE}", WRONG_INPUT)
    if first.startswith("-"):
        raise NoProgramError(f"there is no option {first}\n{USAGE}", WRONG_INPUT)
    sys.argv = arguments
    return find_file(first)


def _say(line: str) -> None:
    if sys.stderr is not None:  # as it is when descriptor 2 is closed
        sys.stderr.write(f"plugsocket: {line}\n")


def _fail(message: str, status: int) -> NoReturn:
    _say(message.rstrip("\n"))
    sys.exit(status)


if __name__ == "__main__":
    main()
