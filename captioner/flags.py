"""The command line's flags for typed options, and its complaints: one line, with the remedy."""

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn

from captioner.errors import OptionError
from captioner.options import Options, OptionType, default_text, flag, option_type

_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are errors of this project: one line, with the remedy.

    It takes no shortened flags.
    """

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **{"allow_abbrev": False, **named})

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; --help lists the options")


def options_parser(options: type[Options], **of_parser: Any) -> OneLineParser:
    """Return a parser with a flag for each option; those that are not given have no value.

    `Options.from_json(vars(parser.parse_args()))` makes the options of its result.
    """
    parser = OneLineParser(argument_default=argparse.SUPPRESS, **of_parser)
    add_flags(parser, options)
    return parser


def add_flags(
    parser: Any,
    options: type[Options],
    *,
    names: Collection[str] | None = None,
    as_text: bool = False,
) -> None:
    """Give a parser, or a group of one, a flag for each option, or for those of these names.

    `as_text` leaves the values as they were typed, for `from_environment` to read and check
    together with the variables.
    """
    for item in fields(options):
        if names is None or item.name in names:
            parser.add_argument(flag(item.name), **_argument(options, item, as_text=as_text))


def _argument(options: type[Options], item: Any, *, as_text: bool) -> dict[str, Any]:
    """Return the arguments of `add_argument` for an option."""
    kind, metadata = option_type(options, item.name), item.metadata
    text = metadata["description"].replace("%", "%%")
    if kind.of is bool:
        if as_text:
            return {"action": "store_const", "const": "true", "help": text}
        return {"action": argparse.BooleanOptionalAction, "help": text}
    if default := default_text(options, item.name):
        text += f" (default: {default})"
    settings: dict[str, Any] = {"help": text, "metavar": metadata["metavar"]}
    if settings["metavar"] is None:
        settings["metavar"] = _metavar(kind, metadata["choices"], as_text=as_text)
    if as_text:
        return settings
    if item.default is MISSING:
        settings["required"] = True
    settings["type"] = kind.of if metadata["parse"] is None else _reader(metadata["parse"])
    if metadata["choices"]:
        settings["choices"] = metadata["choices"]
        del settings["metavar"]
    if kind.is_list:
        settings["nargs"] = "+"
    if metadata["bare"] is not None:
        settings.update(nargs="?", const=metadata["bare"])
    return settings


def _metavar(kind: OptionType, choices: Sequence[str], *, as_text: bool) -> str:
    if as_text and kind.is_list:
        return "LIST"
    return "{" + ",".join(choices) + "}" if choices else _METAVARS.get(kind.of, "TEXT")


def _reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return `parse` with its own message where argparse would have a general one."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(f"{text!r}: {problem}") from None

    return read
