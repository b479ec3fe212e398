"""Answers of our own routes: their schema, and how they are made."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from captioner.captioner import Caption
from captioner.pictures import seen_box
from captioner.sandbox.decode_pool import DecodedImage
from serving.back_end import Outcome
from serving.model import ServedModel

ATTENTION_DIGITS = 5
SEEN_DIGITS = 6


@dataclass(frozen=True)
class Captioned:
    """An image with its captions."""

    image: DecodedImage
    outcome: Outcome


class CaptionEntry(BaseModel):
    """One caption."""

    text: str = Field(examples=["a dog runs on the grass"])
    tokens: list[str] = Field(examples=[["a", "dog", "runs", "on", "the", "grass"]])
    log_prob: float = Field(description="Natural logarithm of `probability`.", examples=[-5.4])
    score: float = Field(
        description="What captions are ranked by: `log_prob` per token.", examples=[-0.77]
    )
    probability: float = Field(
        description="Of exactly this caption, by the model.", ge=0, le=1, examples=[0.0045]
    )
    confidence: float | None = Field(
        description="The chance that this caption agrees with people's as well as half of theirs "
        "do with each other; null where the model was not calibrated.",
        ge=0,
        le=1,
        examples=[0.41],
    )
    word_probabilities: list[float] = Field(
        description="Of each token after those before it, by the model.",
        examples=[[0.8, 0.5, 0.3, 0.6, 0.7, 0.4]],
    )
    end_probability: float | None = Field(
        description="That the caption ends there; null where it was cut. The product of this and "
        "of the words' is `probability`.",
        ge=0,
        le=1,
        examples=[0.45],
    )
    attention: list[list[list[float]]] | None = Field(
        None,
        description="Only if asked for: for each token rows of weights that sum to 1; null where "
        "the model looks at the image once.",
    )
    attribute_attention: list[list[float]] | None = Field(
        None,
        description="Only with attention: for each token how much of the look was at each of the "
        "image's attributes, and not at the photograph; null where the model reads none.",
    )
    shares: dict[str, list[float]] | None = Field(
        None,
        description="Only with attention: of what the model attends to beside photograph and "
        "attributes, by its name, the share that it had in each token; empty where there is none.",
        examples=[{"sentinel": [0.41, 0.2, 0.35, 0.8, 0.88, 0.31]}],
    )


class AttributeEntry(BaseModel):
    """Something that the model found in the image before it wrote a caption."""

    word: str = Field(examples=["dog"])
    probability: float = Field(description="That it is there.", ge=0, le=1, examples=[0.83])


class ImageEntry(BaseModel):
    """The image as it was understood: upright, and by its content."""

    width: int = Field(ge=1, examples=[640])
    height: int = Field(ge=1, examples=[480])
    format: str = Field(examples=["JPEG"])
    seen: list[float] | None = Field(
        None,
        description="Only with attention: the part of the image that its grids cover, as fractions "
        "of the image: left, top, right, bottom.",
        examples=[[0.0, 0.125, 1.0, 0.875]],
        min_length=4,
        max_length=4,
    )
    attributes: list[AttributeEntry] | None = Field(
        None,
        description="Only with attention: words for what the model found in the image, which its "
        "captions may look at; empty where it looks for none.",
    )


class ModelEntry(BaseModel):
    """The checkpoint that answered."""

    name: str = Field(examples=["flickr8k"])
    hash: str = Field(description="SHA-256 of the checkpoint's contents.")


class Timing(BaseModel):
    """Where the time went, in milliseconds."""

    queue: float
    decode: float
    encode: float
    search: float
    total: float = Field(description="From the request's header to this answer.")


class CaptionAnswer(BaseModel):
    """The captions of one image, the best first; `caption` is the best one's text."""

    caption: str = Field(examples=["a dog runs on the grass"])
    captions: list[CaptionEntry]
    image: ImageEntry
    model: ModelEntry
    timing_ms: Timing
    request_id: str


class ProblemAnswer(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(json_schema_extra={"format": "uri-reference"})
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class BatchEntry(CaptionAnswer):
    """The captions of one image of several."""

    index: int = Field(ge=0, description="Which image of the form it was, from 0.")


class BatchProblem(BaseModel):
    """Why one image of several has no captions."""

    index: int = Field(ge=0)
    error: ProblemAnswer


class BatchAnswer(BaseModel):
    """A result or an error for each image, in the order they were sent."""

    results: list[BatchEntry | BatchProblem]
    request_id: str


def caption_answer(
    captioned: Captioned, *, attention: bool, total_seconds: float, request_id: str
) -> dict[str, Any]:
    """Return the JSON of `CaptionAnswer`."""
    outcome, header = captioned.outcome, captioned.image.header
    image: dict[str, Any] = {
        "width": header.width,
        "height": header.height,
        "format": header.format,
    }
    if attention:
        size = (header.width, header.height)
        edges = seen_box(outcome.model.preprocessing, size)
        image["seen"] = [
            round(edge / side, SEEN_DIGITS) for edge, side in zip(edges, size * 2, strict=True)
        ]
        image["attributes"] = [one._asdict() for one in outcome.captions[0].attributes]
    return {
        "caption": outcome.captions[0].text,
        "captions": [_entry(caption, attention=attention) for caption in outcome.captions],
        "image": image,
        "model": model_entry(outcome.model),
        "timing_ms": {
            "queue": _milliseconds(outcome.queue_seconds),
            "decode": _milliseconds(captioned.image.seconds),
            "encode": _milliseconds(outcome.encode_seconds),
            "search": _milliseconds(outcome.search_seconds),
            "total": _milliseconds(total_seconds),
        },
        "request_id": request_id,
    }


def model_entry(model: ServedModel) -> dict[str, Any]:
    return {"name": model.name, "hash": model.hash}


def _entry(caption: Caption, *, attention: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "text": caption.text,
        "tokens": list(caption.tokens),
        "log_prob": caption.log_prob,
        "score": caption.score,
        "probability": caption.probability,
        "confidence": caption.confidence,
        "word_probabilities": list(caption.word_probabilities),
        "end_probability": caption.end_probability,
    }
    if attention:
        for name in ("attention", "attribute_attention"):
            weights = getattr(caption, name)
            entry[name] = None if weights is None else weights.round(ATTENTION_DIGITS).tolist()
        entry["shares"] = {
            name: of_tokens.astype(float).round(ATTENTION_DIGITS).tolist()
            for name, of_tokens in caption.shares.items()
        }
    return entry


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
