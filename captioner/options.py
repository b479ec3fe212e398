"""Typed options, declared once: flags, variables, keys of a file, checks and help come from it.

A group of options is a frozen dataclass that derives from `Options`; each field is made by
`option`, which says what the value means and what it may be. The field's name is the attribute,
the key in `config.json`, the flag (`--batch-size`) and, behind a prefix, the environment variable
(`CAPTIONER_BATCH_SIZE`). A bad value is described the same way wherever it came from. Importing
this does not import torch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from captioner.errors import OptionError

YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Range:
    """The numbers an option may be: in words that finish "--flag is VALUE; ...", and as a test."""

    words: str
    holds: Callable[[float], bool]
    low: float | None = None  # inclusive bounds, where there are some: a schema shows them
    high: float | None = None


def between(low: float, high: float, words: str = "") -> Range:
    """Return the range of the numbers from `low` to `high`, both included."""
    words = words or f"give a number from {low:,} to {high:,}"
    return Range(words, lambda value: low <= value <= high, low, high)


def at_least(low: float, words: str) -> Range:
    """Return the range of the numbers from `low` on."""
    return Range(words, lambda value: value >= low, low)


AT_LEAST_ONE = at_least(1, "it must be at least 1")
NOT_NEGATIVE = at_least(0, "it cannot be negative")
ABOVE_ZERO = Range("it must be above 0", lambda value: value > 0)
PROBABILITY = Range("a probability lies between 0 and 1", lambda value: 0 <= value <= 1, 0, 1)
SHARE = Range("it must be at least 0 and below 1", lambda value: 0 <= value < 1, low=0)


def option(
    default: Any,
    description: str,
    *,
    choices: Sequence[str] = (),
    within: Range | None = None,
    metavar: str | None = None,
    bare: str | None = None,
    changeable: bool = False,
    parse: Callable[[str], Any] | None = None,
    is_secret: bool = False,
) -> Any:
    """Return a field of an `Options` class; with `dataclasses.MISSING` it has to be given.

    `bare` is the value of a flag given without one. `changeable` options may differ when a run is
    resumed. `parse` makes the value, or each member of a list, from text in its own way and raises
    ValueError, with the remedy, for text that stands for none. The value of a secret is never
    shown.
    """
    metadata = {
        "description": description,
        "choices": tuple(choices),
        "within": within,
        "metavar": metavar,
        "bare": bare,
        "changeable": changeable,
        "parse": parse,
        "is_secret": is_secret,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of options whose values are checked when it is made.

    A subclass declares fields of type bool, int, float, str or Path, of one of these or None, or
    of a tuple of one of these. A field with its own `parse` may have any type.
    """

    is_named_by_flags: ClassVar[bool] = True  # in messages

    def __post_init__(self) -> None:
        """Check every value by itself, then those that depend on each other.

        Raises:
            OptionError: values have the wrong type, are not finite, not what is allowed, or
                contradict each other; `problems` has a line for each.
        """
        problems = _problems(type(self), vars(self), self.label) or [*self.contradictions()]
        if problems:
            raise OptionError(*problems)

    def contradictions(self) -> Iterable[str]:
        """Return what is wrong with values that depend on each other, a line for each.

        It is asked when each value by itself is right.
        """
        return ()

    @classmethod
    def label(cls, name: str) -> str:
        """Return what an option is called in messages."""
        return flag(name) if cls.is_named_by_flags else name

    def to_json(self) -> dict[str, Any]:
        """Return the values by name, in types that JSON has."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the options that `to_json` wrote; what is missing takes its default.

        Raises:
            OptionError: an option is unknown to this version, or its value is out of range.
        """
        known = {item.name for item in fields(cls)}
        if strangers := sorted(set(values) - known):
            raise OptionError(
                f"the stored configuration has unknown options: {', '.join(strangers)}; "
                "it was written by another version of this program"
            )
        return cls(**{name: _from_json(cls, name, value) for name, value in values.items()})

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        prefix: str,
        given: Mapping[str, Any] | None = None,
        *,
        given_by_flags: bool = True,
    ) -> Self:
        """Return the options of the variables in `environ` whose names begin with `prefix`.

        What is `given` counts more: flags that were left as text, or values. An empty variable
        counts as none. A list stands between commas, a bool is a word such as true or off. Without
        `given_by_flags` messages name what is given as the options are named.

        Raises:
            OptionError: values are bad; `problems` names every one, and the variable it is in.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for item in fields(cls):
            value = (given or {}).get(item.name)
            is_flag = given_by_flags and isinstance(value, str)
            label = flag(item.name) if is_flag else cls.label(item.name)
            if value is None:
                label = variable(prefix, item.name)
                value = environ.get(label, "")
            if value == "":
                continue
            try:
                found = _from_text(cls, item.name, value) if isinstance(value, str) else value
            except ValueError as problem:
                problems.append(f"{label} is {_shown(value, item)}; {problem}")
                continue
            if bad := _problems(cls, {item.name: found}, {item.name: label}.__getitem__):
                problems += bad
            else:
                values[item.name] = found
        if not problems:
            return cls(**values)
        try:
            cls(**values)
        except OptionError as further:
            problems += further.problems
        raise OptionError(*problems)


@dataclass(frozen=True)
class OptionType:
    of: type  # bool, int, float, str or Path: the value, or each of its members
    is_optional: bool  # None is a value too
    is_list: bool


def is_count(value: object) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def flag(name: str) -> str:
    """Return the flag of an option on the command line, such as `--batch-size`."""
    return "--" + name.replace("_", "-")


def variable(prefix: str, name: str) -> str:
    """Return the environment variable of an option, such as `CAPTIONER_BATCH_SIZE`."""
    return prefix + name.upper()


def option_type(options: type[Options], name: str) -> OptionType:
    """Return the type of an option's value."""
    return _option_types(options)[name]  # type: ignore[arg-type] # a class has a hash


@cache
def _option_types(options: type[Options]) -> dict[str, OptionType]:
    hints = get_type_hints(options)
    return {item.name: _type_of(hints[item.name]) for item in fields(options)}


def _type_of(annotation: Any) -> OptionType:
    if get_origin(annotation) is tuple:
        return OptionType(_plain(get_args(annotation)[0]), is_optional=False, is_list=True)
    members = get_args(annotation) or (annotation,)
    kind = next(member for member in members if member is not type(None))
    return OptionType(_plain(kind), is_optional=type(None) in members, is_list=False)


def _from_text(options: type[Options], name: str, text: str) -> Any:
    """Return the value that `text` stands for, not yet checked.

    Raises:
        ValueError: it stands for no value of the option's type; the message is the remedy.
    """
    kind = option_type(options, name)
    read = _item(options, name).metadata["parse"] or _READERS[kind.of]
    if not kind.is_list:
        return read(text)
    members = tuple(read(part.strip()) for part in text.split(",") if part.strip())
    if not members:
        raise ValueError("it has commas and nothing between them; leave it out or give a value")
    return members


def default_text(options: type[Options], name: str) -> str:
    """Return an option's default as help and documents show it; empty where there is none."""
    default = _item(options, name).default
    if default is MISSING or default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def check_changes(given: Mapping[str, Any], *options: type[Options]) -> None:
    """Raise `OptionError` if something is given that cannot change when a run is resumed."""
    items = [item for one in options for item in fields(one)]
    changeable = [item.name for item in items if item.metadata["changeable"]]
    if fixed := [flag(name) for name in given if name not in changeable]:
        raise OptionError(
            f"{', '.join(fixed)} cannot be changed when a run is resumed; only "
            f"{', '.join(map(flag, changeable))} can; start a new run for the rest"
        )


def _item(options: type[Options], name: str) -> Any:
    return options.__dataclass_fields__[name]


def _plain(kind: Any) -> type:
    """Return the class behind a `NewType`."""
    return getattr(kind, "__supertype__", kind)


def _problems(
    options: type[Options], values: Mapping[str, Any], label: Callable[[str], str]
) -> list[str]:
    """Return a line for each value of a wrong type, or, without those, each that breaks a limit."""
    found: list[str] = []
    for problem_of in (_type_problem, _limit_problem):
        for name, value in values.items():
            kind, item = option_type(options, name), _item(options, name)
            if value is None and kind.is_optional:
                continue
            if kind.is_list and not isinstance(value, tuple):
                found.append(f"{label(name)} is {value!r}; it must be a list")
                continue
            for one in value if kind.is_list else (value,):
                if remedy := problem_of(one, kind.of, item.metadata):
                    found.append(f"{label(name)} is {_shown(one, item)}; {remedy}")
        if found:
            break
    return found


def _type_problem(value: Any, kind: type, _: Mapping[str, Any]) -> str:
    """Return what a value of the wrong type must be, or an empty text."""
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        return f"it must be a {kind.__name__}"
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be a finite number"
    return ""


def _limit_problem(value: Any, _: type, metadata: Mapping[str, Any]) -> str:
    """Return the limit that a value of the right type breaks, or an empty text."""
    choices, within = metadata["choices"], metadata["within"]
    if choices and value not in choices:
        return f"it can be {' or '.join(choices)}"
    if within is not None and not within.holds(value):
        return str(within.words)
    return ""


def _shown(value: Any, item: Any) -> str:
    return "not usable" if item.metadata["is_secret"] else repr(value)


def _from_json(options: type[Options], name: str, value: Any) -> Any:
    kind = option_type(options, name)

    def member(one: Any) -> Any:
        return Path(one) if kind.of is Path and isinstance(one, str) else one

    if isinstance(value, list):  # JSON has no tuples
        return tuple(map(member, value))
    if kind.is_list and (value is None or isinstance(value, (kind.of, str))):
        return () if value is None else (member(value),)  # as earlier versions, that took one
    return member(value)


def _number(of: Callable[[str], Any], remedy: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return of(text)
        except ValueError:
            raise ValueError(remedy) from None

    return read


def _bool(text: str) -> bool:
    if text.lower() not in (*YES, *NO):
        raise ValueError("give true or false")
    return text.lower() in YES


_READERS: dict[type, Callable[[str], Any]] = {
    bool: _bool,
    int: _number(int, "give a whole number"),
    float: _number(float, "give a number"),
    str: str,
    Path: Path,
}
