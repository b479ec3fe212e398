"""The options of a request, from its query, its form or its JSON, and its deadline.

All three are checked by one model, so that a value means the same wherever it stands. An option
that does not exist is refused: a misspelt one would be ignored in silence otherwise.
"""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from captioner.search_config import SearchConfig
from serving.model import CaptionOptions
from serving.problems import Problem
from serving.routes.uploads import Upload

TIMEOUT_HEADER = "X-Request-Timeout"
MOST_BEAMS = 10
BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
_SHOWN_CHARACTERS = 60


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON has one kind of number: 3.0 is the integer 3. Behind the bounds, or the schema loses them.
WHOLE = BeforeValidator(_whole)


class OptionFields(BaseModel):
    """How to search for captions."""

    model_config = ConfigDict(extra="forbid")

    beam_size: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_BEAMS,
            description="Captions searched side by side, 1 is greedy. Where it is not given, as "
            "many as `num_captions` needs, and at least 3.",
            examples=[3],
        ),
        WHOLE,
    ] = SearchConfig.beam_size
    num_captions: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_BEAMS,
            description="Captions returned, the best first; at most `beam_size`.",
            examples=[1],
        ),
        WHOLE,
    ] = 1
    max_length: Annotated[
        int, Field(ge=1, le=50, description="Most words of a caption.", examples=[20]), WHOLE
    ] = SearchConfig.max_length
    attention: Annotated[
        bool, Field(description="Return for each word a grid of weights: where it looked.")
    ] = False


def options_of(query: OptionFields, upload: Upload, *, longest_caption: int) -> CaptionOptions:
    """Return the options of a request; those of its body count more than those of its query.

    Raises:
        Problem: one is unknown, out of range, or contradicts another.
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
    fields = query.model_copy(update=body.model_dump(exclude_unset=True))
    beam_size = fields.beam_size
    if "beam_size" not in query.model_fields_set | body.model_fields_set:
        beam_size = max(fields.num_captions, beam_size)
    if fields.num_captions > beam_size:
        raise _bad_option(
            "num_captions",
            f"num_captions is {fields.num_captions} and beam_size {beam_size}; ask for at most "
            "as many captions as the beam holds",
        )
    if fields.max_length > longest_caption:
        raise _bad_option(
            "max_length", f"max_length is {fields.max_length}; give at most {longest_caption}"
        )
    return CaptionOptions(
        beam_size=beam_size,
        num_captions=fields.num_captions,
        max_length=fields.max_length,
        attention=fields.attention,
    )


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
