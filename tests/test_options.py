"""A dataclass of options: what it accepts, how it is stored, which flags it makes."""

from dataclasses import dataclass
from typing import Any

import pytest

from captioner.errors import OptionError
from captioner.options import (
    AT_LEAST_ONE,
    CheckedOptions,
    OneLineParser,
    add_flags,
    check_changes,
    option,
)


@dataclass(frozen=True, kw_only=True)
class Base(CheckedOptions):
    size: int = option(4, "how large", within=AT_LEAST_ONE)
    rate: float | None = option(None, "how fast")


@dataclass(frozen=True, kw_only=True)
class Extended(Base):
    size: int = option(7, "how large, here", within=AT_LEAST_ONE)
    delays: tuple[int, ...] = option((), "which ones", within=AT_LEAST_ONE, changeable=True)
    is_loud: bool = option(False, "100% loud")


def parsed(line: str) -> dict[str, Any]:
    parser = OneLineParser(argument_default=None)
    add_flags(parser, Extended)
    return {name: value for name, value in vars(parser.parse_args(line.split())).items() if value}


def test_a_subclass_has_its_own_defaults() -> None:
    assert (Base().size, Extended().size) == (4, 7)


def test_a_list_is_checked_member_by_member() -> None:
    assert Extended(delays=(1, 2)).delays == (1, 2)
    with pytest.raises(OptionError, match="--delays is 0; it must be at least 1"):
        Extended(delays=(3, 0))
    with pytest.raises(OptionError, match=r"--delays is 'x'; it must be a int"):
        Extended(delays=(3, "x"))
    with pytest.raises(OptionError, match=r"--delays is 3; it must be a list"):
        Extended(delays=3)


@pytest.mark.parametrize("value", [True, "4", 4.0, None])
def test_a_whole_number_is_nothing_else(value: Any) -> None:
    with pytest.raises(OptionError, match=r"--size is .*; it must be a int"):
        Base(size=value)


def test_the_stored_form_gives_the_same_options() -> None:
    options = Extended(delays=(5, 6), rate=0.5)
    stored = {name: list(v) if name == "delays" else v for name, v in options.to_json().items()}
    assert Extended.from_json(stored) == options
    with pytest.raises(OptionError, match="unknown options: warp"):
        Extended.from_json({"warp": 9})


def test_flags_become_values_of_the_right_type() -> None:
    assert parsed("--size 3 --rate 0.5 --delays 1 2 --is-loud") == {
        "size": 3,
        "rate": 0.5,
        "delays": [1, 2],
        "is_loud": True,
    }


def test_the_parsers_complaint_is_an_error_of_one_line() -> None:
    with pytest.raises(OptionError, match="invalid int value: 'x'; --help lists the options"):
        parsed("--size x")


def test_a_resumed_run_takes_what_is_changeable() -> None:
    check_changes({"delays": (1,)}, Base, Extended)
    with pytest.raises(OptionError, match=r"--size cannot be changed .* only --delays can"):
        check_changes({"size": 3, "delays": (1,)}, Base, Extended)
