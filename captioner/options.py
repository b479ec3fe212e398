"""How a dataclass becomes a checked configuration and the flags of a command line.

Every field is made by `option`, which says what it means and what it may be. The same name is
the flag, the key in `config.json` and the attribute; what is wrong with a value is said the same
way whether it was typed, read from a file or passed by a program.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NoReturn, Self, get_args, get_origin, get_type_hints

from captioner.errors import OptionError


@dataclass(frozen=True)
class Range:
    """What a number may be: in words that finish "--flag is VALUE; ...", and as a test."""

    words: str
    holds: Callable[[float], bool]


AT_LEAST_ONE = Range("it must be at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Range("it cannot be negative", lambda value: value >= 0)
ABOVE_ZERO = Range("it must be above 0", lambda value: value > 0)
PROBABILITY = Range("a probability lies between 0 and 1", lambda value: 0 <= value <= 1)
SHARE = Range("it must be at least 0 and below 1", lambda value: 0 <= value < 1)


def option(
    default: Any,
    description: str,
    *,
    choices: Sequence[str] = (),
    within: Range | None = None,
    metavar: str | None = None,
    bare: str | None = None,
    changeable: bool = False,
) -> Any:
    """Return a dataclass field that also knows how to appear on the command line.

    `bare` is the value of a flag given without one; `changeable` options may differ when a run
    is resumed.
    """
    metadata = {
        "description": description,
        "choices": tuple(choices),
        "within": within,
        "metavar": metavar,
        "bare": bare,
        "changeable": changeable,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """A configuration that checks its values when it is made.

    A subclass declares fields of type bool, int, float, str, one of these or None, or a tuple of
    one of these. What depends on several options it checks in its own `__post_init__`.
    """

    def __post_init__(self) -> None:
        """Check every value by itself.

        Raises:
            OptionError: a value has the wrong type, is not finite, or not what is allowed.
        """
        for item in fields(self):
            value, kind = getattr(self, item.name), option_type(type(self), item.name)
            if value is None and kind.is_optional:
                continue
            if kind.is_list and not isinstance(value, tuple):
                raise OptionError(f"{flag(item.name)} is {value!r}; it must be a list")
            for one in value if kind.is_list else (value,):
                _check(flag(item.name), one, kind.of, item.metadata)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that `to_json` wrote.

        Raises:
            OptionError: an option is unknown to this version, or its value is out of range.
        """
        known = {item.name for item in fields(cls)}
        if strangers := sorted(set(values) - known):
            raise OptionError(
                f"the stored configuration has unknown options: {', '.join(strangers)}; "
                "it was written by another version of this program"
            )
        return cls(
            **{
                name: tuple(value) if isinstance(value, list) else value  # JSON has no tuples
                for name, value in values.items()
            }
        )


@dataclass(frozen=True)
class OptionType:
    of: type  # bool, int, float or str: the value, or each of its members
    is_optional: bool  # None is a value too
    is_list: bool


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are errors of this project: one line, with the remedy."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; --help lists the options")


def flag(name: str) -> str:
    """Return the command line's word for a field, such as `--batch-size`."""
    return "--" + name.replace("_", "-")


def option_type(options: type[CheckedOptions], name: str) -> OptionType:
    """Return the type of an option's value."""
    annotation = get_type_hints(options)[name]
    if get_origin(annotation) is tuple:
        return OptionType(get_args(annotation)[0], is_optional=False, is_list=True)
    members = get_args(annotation) or (annotation,)
    kind = next(member for member in members if member is not type(None))
    return OptionType(kind, is_optional=type(None) in members, is_list=False)


def add_flags(parser: Any, options: type[CheckedOptions]) -> None:
    """Give a parser, or a group of one, a flag for each option."""
    for item in fields(options):
        parser.add_argument(flag(item.name), **_argument(options, item.name, item))


def check_changes(given: Mapping[str, Any], *options: type[CheckedOptions]) -> None:
    """Raise `OptionError` if something is given that cannot change when a run is resumed."""
    items = [item for one in options for item in fields(one)]
    changeable = [item.name for item in items if item.metadata["changeable"]]
    if fixed := [flag(name) for name in given if name not in changeable]:
        raise OptionError(
            f"{', '.join(fixed)} cannot be changed when a run is resumed; only "
            f"{', '.join(map(flag, changeable))} can; start a new run for the rest"
        )


def _check(name: str, value: Any, kind: type, metadata: Mapping[str, Any]) -> None:
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise OptionError(f"{name} is {value!r}; it must be a {kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"{name} is {value}; it must be a finite number")
    choices, within = metadata["choices"], metadata["within"]
    if choices and value not in choices:
        raise OptionError(f"{name} is {value!r}; it can be {' or '.join(choices)}")
    if within is not None and not within.holds(value):
        raise OptionError(f"{name} is {value}; {within.words}")


def _argument(options: type[CheckedOptions], name: str, item: Any) -> dict[str, Any]:
    kind, default, metadata = option_type(options, name), item.default, item.metadata
    text = metadata["description"].replace("%", "%%")
    if default not in (None, ()) and kind.of is not bool:
        text += f" (default: {default:g})" if kind.of is float else f" (default: {default})"
    if kind.of is bool:
        return {"action": argparse.BooleanOptionalAction, "help": text}
    settings: dict[str, Any] = {"type": kind.of, "help": text}
    if metadata["choices"]:
        settings["choices"] = metadata["choices"]
    else:
        settings["metavar"] = metadata["metavar"] or _METAVARS[kind.of]
    if kind.is_list:
        settings["nargs"] = "+"
    if metadata["bare"] is not None:
        settings.update(nargs="?", const=metadata["bare"])
    return settings


_METAVARS = {int: "N", float: "X", str: "PATH"}
