"""Options of transports and strategies: frozen attrs classes, checked when they are made, readable from text.

A class of options derives from `Options` and is made with `attrs.frozen` or `attrs.define`; each of its fields is
an option. The same fields give the constructor, its checks, and the form `name=value` of endpoint strings.
"""

import inspect
import os
import threading
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Self

import attrs

from plugsocket.core.errors import OptionError, UnknownOptionError, nearest

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

FROM_TEXT = "plugsocket.from_text"
"""Key of a field's metadata: a function from `str` to the option's value, for those whose type does not say it."""


class _OfInit:
    """The signature of a class as that of its constructor, which attrs makes."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("an instance has the signature of its __call__, if it has one")
        signature = inspect.signature(owner.__init__)  # type: ignore[misc]  # of whatever class
        _, *parameters = signature.parameters.values()
        return signature.replace(parameters=[_with_default(owner, parameter) for parameter in parameters])


def _with_default(cls: type, parameter: inspect.Parameter) -> inspect.Parameter:
    """Show what a factory of attrs makes, instead of that there is one, unless that depends on other options."""
    if parameter.default is not attrs.NOTHING:
        return parameter
    factory: Any = option_fields(cls)[parameter.name].default
    return parameter if factory.takes_self else parameter.replace(default=factory.factory())


class Options:
    """Base of a transport or strategy: its attrs fields are its options."""

    __signature__ = _OfInit()  # what help() and the documentation show, in place of that of __new__

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        """Refuse an option that is not there with the nearest name that is."""
        for name in options:
            check_known(cls, name)
        return super().__new__(cls)

    @classmethod
    def from_text(cls, location: Mapping[str, Any], texts: Mapping[str, str]) -> Self:
        """Make one from the parts of a string.

        Args:
            location: arguments that the part before the `?` gave, as values.
            texts: the options behind the `?`, as text.

        Returns:
            The same as the constructor would give for these values.

        Raises:
            OptionError: an option is unknown or missing, or its text is not of its type, or the constructor refuses it.
        """
        for name in texts:
            check_known(cls, name)
            if name in location:
                raise OptionError(f"{cls.__name__}: {name} is given twice: before the '?', and as an option behind it")
        for name, field in option_fields(cls).items():
            if field.default is attrs.NOTHING and name not in location and name not in texts:
                raise OptionError(f"{cls.__name__} needs the option {name!r}, which the string does not give")
        return cls(**location, **{name: _parse(cls, name, text) for name, text in texts.items()})


def option_fields(cls: type) -> "dict[str, attrs.Attribute[Any]]":
    """The options of a class by the names that its constructor takes, in its order."""
    return {field.alias or field.name: field for field in attrs.fields(cls) if field.init}


def check_known(cls: type, name: str) -> None:
    """Raise `UnknownOptionError`, naming the nearest right one, unless the class has this option."""
    fields = option_fields(cls)
    if name not in fields:
        raise UnknownOptionError(f"{cls.__name__} has no option {name!r}{nearest(name, fields)}")


def integer(minimum: int, maximum: int | None = None, *, optional: bool = False) -> Validator:
    """Make a validator for whole numbers from `minimum` to `maximum`, both included."""
    wanted = (
        f"a whole number from {minimum} to {maximum}"
        if maximum is not None
        else f"a whole number of at least {minimum}"
    )

    def validate(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if optional and value is None:
            return
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < minimum or (maximum is not None and value > maximum):
            raise wrong(instance, attribute.name, value, wanted + (" or None" if optional else ""))

    return validate


SECONDS = "a number of seconds, zero or more"


def is_seconds(value: Any) -> bool:
    """Whether a value is a duration: a number that is not negative, and that locks can wait for."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= threading.TIMEOUT_MAX


def seconds(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """Validate that an option is a duration."""
    if not is_seconds(value):
        raise wrong(instance, attribute.name, value, SECONDS)


def flag(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """Validate that an option is `True` or `False`."""
    if not isinstance(value, bool):
        raise wrong(instance, attribute.name, value, "True or False")


def text(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """Validate that an option is a string."""
    if not isinstance(value, str):
        raise wrong(instance, attribute.name, value, "a string")


def wrong(instance: Any, name: str, value: Any, wanted: str) -> OptionError:
    """Word the error about one option's value, the same way for every option."""
    return OptionError(f"{type(instance).__name__}: {name} must be {wanted}, not {shown(value)}")


def shown(value: Any) -> str:
    """Show a value in a message."""
    try:
        return repr(value)
    except ValueError:  # a number of more digits than Python writes (sys.set_int_max_str_digits)
        return f"such a large {type(value).__name__}"


_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _flag_from_text(text: str) -> bool:
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def whole_number(text: str) -> int:
    """Read a whole number in ASCII digits, and nothing else that `int` would take; `ValueError` if it is none."""
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if "_" in text:  # which is for source code
        raise ValueError(text)
    return float(text)


# By the option's type: how its text is read, and what the text should have been.
_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: (_flag_from_text, "one of 1, true, yes, on, 0, false, no, off"),
    int: (whole_number, "a whole number"),
    float: (_number, "a number"),
    str: (str, "text"),
}


def _parse(cls: type, name: str, text: str) -> Any:
    check_known(cls, name)
    field = option_fields(cls)[name]
    kind = typing.get_type_hints(cls)[field.name]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if type(None) in typing.get_args(kind) and text.lower() == "none":
            return None
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    reader = field.metadata.get(FROM_TEXT) or _READERS.get(kind)
    if reader is None:
        raise OptionError(f"{cls.__name__}: {name} cannot be given as text, only as an argument")
    read, wanted = reader
    try:
        return read(text)
    except OptionError:  # a reader that knows better what is wrong
        raise
    except ValueError:
        raise OptionError(f"{cls.__name__}: {name} must be {wanted}, not {text!r}") from None


def octal(text: str) -> int:
    """Read a file mode as people write it: `660` and `0o660` are the same."""
    if "_" in text:
        raise ValueError(text)
    return int(text, 8)


OCTAL = {FROM_TEXT: (octal, "an octal file mode such as 660")}
"""Metadata of a field that holds a file mode."""


def path_text(path: "str | os.PathLike[str]") -> str:
    """Convert a path to a string; anything else is left for the validator to refuse."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path
