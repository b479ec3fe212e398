"""A dataclass of options: what it accepts, how it is stored, which flags it makes."""

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType

import pytest

from captioner.errors import OptionError
from captioner.flags import OneLineParser, add_flags
from captioner.options import AT_LEAST_ONE, Options, between, check_changes, default_text, option
from captioner.search_config import SearchConfig

Hashed = NewType("Hashed", bytes)


@dataclass(frozen=True, kw_only=True)
class Base(Options):
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


def hashed(text: str) -> Hashed:
    if " " in text:
        raise ValueError("a key has no blanks")
    return Hashed(text.encode())


@dataclass(frozen=True, kw_only=True)
class Service(Options):
    """Options as a service reads them: from variables, and from flags left as text."""

    folder: Path | None = option(None, "where the model is")
    port: int = option(8000, "where to listen", within=between(0, 65_535))
    wait: float | None = option(None, "seconds", within=between(0.5, 10))
    is_open: bool = option(False, "whether everybody may call it")
    origins: tuple[str, ...] = option((), "who may call it")
    keys: tuple[Hashed, ...] = option((), "who may", parse=hashed, is_secret=True)
    level: str = option("info", "what is logged", choices=("info", "error"))

    def contradictions(self) -> Iterable[str]:
        if self.is_open and self.keys:
            yield "is_open is set and so are keys"


def test_variables_become_values_of_the_right_type() -> None:
    environ = {
        "X_FOLDER": "/models/a",
        "X_PORT": "",  # as if it were not set
        "X_WAIT": "2",
        "X_IS_OPEN": "No",
        "X_ORIGINS": "https://a.example, https://b.example,",
        "X_KEYS": "one,two",
    }
    assert Service.from_environment(environ, "X_", {"level": "error", "wait": None}) == Service(
        folder=Path("/models/a"),
        wait=2.0,
        origins=("https://a.example", "https://b.example"),
        keys=(Hashed(b"one"), Hashed(b"two")),
        level="error",
    )


def test_a_flag_left_as_text_counts_more_than_a_variable() -> None:
    parser = OneLineParser()
    add_flags(parser, Service, as_text=True)
    given = vars(parser.parse_args(["--port", "90", "--origins", "a,b", "--is-open"]))
    found = Service.from_environment({"X_PORT": "80", "X_WAIT": "1"}, "X_", given)
    assert found == Service(port=90, wait=1.0, origins=("a", "b"), is_open=True)


def test_every_bad_value_is_named_and_no_secret_shown() -> None:
    environ = {
        "X_PORT": "http",
        "X_WAIT": "nan",
        "X_IS_OPEN": "perhaps",
        "X_KEYS": "my secret",
        "X_LEVEL": "loud",
    }
    with pytest.raises(OptionError) as caught:
        Service.from_environment(environ, "X_", {"port": "70000"})
    assert caught.value.problems == (
        "--port is 70000; give a number from 0 to 65,535",
        "X_WAIT is nan; it must be a finite number",
        "X_IS_OPEN is 'perhaps'; give true or false",
        "X_KEYS is not usable; a key has no blanks",
        "X_LEVEL is 'loud'; it can be info or error",
    )
    with pytest.raises(OptionError) as caught:
        Service.from_environment({"X_PORT": "http", "X_IS_OPEN": "1", "X_KEYS": "k"}, "X_")
    assert caught.value.problems == (
        "X_PORT is 'http'; give a whole number",
        "is_open is set and so are keys",
    )
    with pytest.raises(OptionError, match="--keys is not usable; it must be a bytes") as caught:
        Service(keys=("my secret",))
    assert "my secret" not in str(caught.value)


def test_all_limits_that_are_broken_are_named_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        Service(port=-1, level="loud")
    assert len(caught.value.problems) == 2
    assert str(caught.value).count("; ") == 3  # one line all the same


def test_a_path_is_stored_as_text() -> None:
    options = Service(folder=Path("a/b"), origins=("x",))
    assert options.to_json()["folder"] == "a/b"
    assert Service.from_json({**options.to_json(), "origins": ["x"]}) == options


def test_defaults_are_shown_in_short() -> None:
    assert [default_text(Service, name) for name in ("folder", "port", "is_open", "origins")] == [
        "",
        "8000",
        "false",
        "",
    ]
    assert default_text(SearchConfig, "length_power") == "0.7"


def test_a_beam_is_as_wide_as_the_captions_need() -> None:
    assert SearchConfig.for_captions().beam_size == SearchConfig.beam_size == 3
    assert SearchConfig.for_captions(7).beam_size == 7
    assert SearchConfig.for_captions(2, 4, max_length=9) == SearchConfig(
        num_captions=2, beam_size=4, max_length=9
    )


def test_declaring_options_loads_no_torch() -> None:
    code = "import sys, captioner.search_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
