"""Options of a request, from its query, its form or its JSON, and its deadline.

One model, which derives from `SearchConfig`, checks all three, so a value means the same
everywhere. An unknown option is refused; otherwise a misspelt one would be ignored.
"""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from captioner.errors import OptionError
from captioner.search_config import MAX_BEAM_SIZE, MAX_LENGTH, SearchConfig
from serving.problems import Problem
from serving.routes.uploads import Upload

TIMEOUT_HEADER = "X-Request-Timeout"
BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
_SHOWN_CHARACTERS = 60


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON has one kind of number: 3.0 is the integer 3. Behind the bounds, or the schema loses them.
WHOLE = BeforeValidator(_whole)


def _search_option(name: str, most: int) -> Any:
    """Return the field of an option of `SearchConfig` that a request may set up to `most`."""
    declared = SearchConfig.__dataclass_fields__[name]
    text = declared.metadata["description"]
    return Field(
        declared.default,
        ge=declared.metadata["within"].low,
        le=most,
        description=text[0].upper() + text[1:] + ".",
        examples=[declared.default],
    )


class OptionFields(BaseModel):
    """How to search for captions."""

    model_config = ConfigDict(extra="forbid")

    beam_size: Annotated[int, WHOLE] = _search_option("beam_size", MAX_BEAM_SIZE)
    num_captions: Annotated[int, WHOLE] = _search_option("num_captions", MAX_BEAM_SIZE)
    max_length: Annotated[int, WHOLE] = _search_option("max_length", MAX_LENGTH)
    attention: Annotated[
        bool, Field(description="Return for each word a grid of weights: where it looked.")
    ] = False


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
    if not upload.is_json and "attention" in given:
        if given["attention"] not in BOOLEANS:
            raise _bad_option(
                "attention", f"attention is {given['attention'][:9]!r}; give true or false"
            )
        given["attention"] = BOOLEANS[given["attention"]]
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
        return SearchConfig.for_captions(**values), attention
    except OptionError as error:
        raise _bad_option("num_captions", str(error)) from None


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
        else:
            shown = repr(error.get("input"))[:_SHOWN_CHARACTERS]
            lines.append(f"{name[:_SHOWN_CHARACTERS]} is {shown}; {error['msg'].lower()}")
    first = next(iter(errors))["loc"]
    return _bad_option(str(first[-1])[:_SHOWN_CHARACTERS] if first else "body", "; ".join(lines))


def _bad_option(name: str, detail: str) -> Problem:
    return Problem("invalid_parameter", detail, members={"parameter": name})
