"""Options of a request, from its query, its form or its JSON, and its deadline.

One model, which derives from `SearchConfig`, checks all three, so a value means the same
everywhere. An unknown option is refused; otherwise a misspelt one would be ignored.
"""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from captioner.control import problem_word
from captioner.errors import OptionError
from captioner.search_config import (
    MAX_BEAM_SIZE,
    MAX_EXCLUDED,
    MAX_INCLUDED,
    MAX_LENGTH,
    SearchConfig,
)
from captioner.vocabulary import Vocabulary
from serving.problems import Problem
from serving.routes.uploads import Upload

TIMEOUT_HEADER = "X-Request-Timeout"
BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
WORD_LISTS = ("include", "exclude")
_SHOWN_CHARACTERS = 60
_MAX_WORD_LENGTH = 50  # characters
_MAX_WORDS_LENGTH = 2 * MAX_EXCLUDED * _MAX_WORD_LENGTH  # of a list; half of it for commas, blanks
_MAX_SIDE_BY_SIDE = 32  # captions of one image that are searched at once
_MAX_SEED = 2**31 - 1
_MAX_TEMPERATURE = 10.0


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON has one kind of number: 3.0 is the integer 3. Behind the bounds, or the schema loses them.
WHOLE = BeforeValidator(_whole)


def _split(value: Any) -> Any:
    """Return words one by one: a query and a form may have some between commas.

    A list longer than any that is allowed is left whole: the bounds of its fields refuse it.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return value
    if sum(map(len, value)) > _MAX_WORDS_LENGTH:
        return value
    return [part.strip() for one in value for part in one.split(",") if part.strip()]


def _search_option(name: str, most: float | None = None, **bounds: Any) -> Any:
    """Return the field of an option of `SearchConfig` that a request may set up to `most`."""
    declared = SearchConfig.__dataclass_fields__[name]
    text, within = declared.metadata["description"], declared.metadata["within"]
    if within is not None and within.low is not None:
        bounds["ge"] = within.low
    elif within is not None:
        bounds["gt"] = 0
    if declared.default is None:
        bounds["default_factory"] = lambda: None  # what is not given is no value of the schema
    else:
        default = [] if declared.default == () else declared.default
        bounds.update(default=default, examples=[default])
    return Field(le=most, description=text[0].upper() + text[1:] + ".", **bounds)


Word = Annotated[str, Field(min_length=1, max_length=_MAX_WORD_LENGTH)]
Words = Annotated[list[Word], BeforeValidator(_split)]


class OptionFields(BaseModel):
    """How to search for captions."""

    model_config = ConfigDict(extra="forbid")

    beam_size: Annotated[int, WHOLE] = _search_option("beam_size", MAX_BEAM_SIZE)
    num_captions: Annotated[int, WHOLE] = _search_option("num_captions", MAX_BEAM_SIZE)
    max_length: Annotated[int, WHOLE] = _search_option("max_length", MAX_LENGTH)
    include: Words = _search_option("include", max_length=MAX_INCLUDED)
    exclude: Words = _search_option("exclude", max_length=MAX_EXCLUDED)
    no_repeat_ngram: Annotated[int, WHOLE] = _search_option("no_repeat_ngram", MAX_LENGTH)
    repeat_words: bool = _search_option("repeat_words")
    attribute_threshold: float = _search_option("attribute_threshold", 1.0)
    diverse_groups: Annotated[int, WHOLE] = _search_option("diverse_groups", MAX_BEAM_SIZE)
    diversity: float = _search_option("diversity", 100.0)
    sample: bool = _search_option("sample")
    temperature: float = _search_option("temperature", _MAX_TEMPERATURE)
    top_k: Annotated[int, WHOLE] = _search_option("top_k", _MAX_SEED)
    top_p: float = _search_option("top_p", 1.0)
    seed: Annotated[int, WHOLE] = _search_option("seed", _MAX_SEED)
    attention: Annotated[
        bool, Field(description="Return for each word a grid of weights: where it looked.")
    ] = False


SWITCHES = ("repeat_words", "sample", "attention")


def limit_caption_length(schema: Any, longest: int) -> None:
    """State in an OpenAPI document that captions here have at most `longest` words."""
    for one in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(one, dict | list):
            limit_caption_length(one, longest)
    if isinstance(schema, dict):
        is_parameter = schema.get("name") == "max_length"
        option = schema.get("schema") if is_parameter else schema.get("max_length")
        if isinstance(option, dict) and "maximum" in option:
            option.update(maximum=longest, default=min(option["default"], longest))


def options_of(
    query: OptionFields, upload: Upload, *, longest_caption: int
) -> tuple[SearchConfig, bool]:
    """Return how to search and whether to show attention; the body counts more than the query.

    Raises:
        Problem: an option is unknown, out of range, or contradicts another.
    """
    given = dict(upload.options)
    for name in given.keys() & set(SWITCHES) if not upload.is_json else ():
        if given[name] not in BOOLEANS:
            raise _bad_option(name, f"{name} is {given[name][:9]!r}; give true or false")
        given[name] = BOOLEANS[given[name]]
    try:
        body = OptionFields.model_validate(given, strict=upload.is_json)
    except ValidationError as error:
        raise invalid(error.errors()) from None
    values = query.model_dump(exclude_unset=True) | body.model_dump(exclude_unset=True)
    attention = values.pop("attention", False)
    if values.get("max_length", 0) > longest_caption:
        detail = f"max_length is {values['max_length']}; give at most {longest_caption}"
        raise _bad_option("max_length", detail)
    # What was not given must fit: a short longest caption, a narrow beam.
    values.setdefault("max_length", min(SearchConfig.max_length, longest_caption))
    try:
        config = SearchConfig.for_captions(**values)
    except OptionError as error:
        problem = error.problems[0]
        raise _bad_option(problem.split(" ")[0], problem) from None
    if config.beam_size << len(config.include) > _MAX_SIDE_BY_SIDE:
        raise _bad_option(
            "include",
            f"include holds {len(config.include)} words and beam_size is {config.beam_size}; each "
            "word doubles the captions that are searched side by side, and there may be at most "
            f"{_MAX_SIDE_BY_SIDE}",
        )
    return config, attention


def check_words(config: SearchConfig, vocabulary: Vocabulary) -> None:
    """Raise Problem where the model of this vocabulary cannot follow the words asked for."""
    if problem := problem_word(config, vocabulary):
        raise _bad_option(*problem)


def timeout_of(header: str | None, limit_seconds: float) -> float:
    """Return how many seconds a request may take: the limit, or less if its header says so."""
    if header is None:
        return limit_seconds
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise _bad_option(
            TIMEOUT_HEADER,
            f"{TIMEOUT_HEADER} is {header[:_SHOWN_CHARACTERS]!r}; give seconds above 0",
        )
    return min(seconds, limit_seconds)


def invalid(errors: Any) -> Problem:
    """Return the problem that pydantic's or FastAPI's findings are."""
    lines = []
    for error in list(errors)[:5]:
        name = ".".join(str(part) for part in error["loc"] if part not in ("query", "body"))
        if error["type"] == "extra_forbidden":
            known = ", ".join(OptionFields.model_fields)
            lines.append(f"{name[:_SHOWN_CHARACTERS]!r} is no option; there are {known}")
        elif error["type"] == "missing":
            lines.append(f"{name} is missing")
        else:
            shown = repr(error.get("input"))[:_SHOWN_CHARACTERS]
            lines.append(f"{name[:_SHOWN_CHARACTERS]} is {shown}; {error['msg'].lower()}")
    first = next(iter(errors))["loc"]
    return _bad_option(str(first[-1])[:_SHOWN_CHARACTERS] if first else "body", "; ".join(lines))


def _bad_option(name: str, detail: str) -> Problem:
    return Problem("invalid_parameter", detail, members={"parameter": name})
