"""Checks of what functions are given, worded as the options of transports and strategies are."""

import errno
import os
from typing import Any

from plugsocket.core.errors import OptionError


def check_whole(name: str, value: Any, minimum: int) -> None:
    """Raise `OptionError` unless the value is a whole number of at least `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise OptionError(f"{name} must be a whole number of at least {minimum}, not {value!r}")


def os_error(name: str, number: Any) -> OSError:
    """Make the error that the system would report by this number; `OptionError` if there is none of it."""
    if not isinstance(number, int) or isinstance(number, bool) or number not in errno.errorcode:
        raise OptionError(f"{name} must be an error number such as errno.EMFILE, not {number!r}")
    return OSError(number, os.strerror(number))
