"""Responses of a caption service as types; figures are those of the service, unchanged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Grid = Sequence[Sequence[float]]  # [rows][columns], summing to 1


@dataclass(frozen=True, kw_only=True)
class ServedCaption:
    """One caption of one photograph."""

    text: str
    tokens: tuple[str, ...]
    log_prob: float  # natural logarithm of `probability`
    score: float  # what the captions are ranked by
    probability: float  # that the model gives to exactly this caption
    confidence: float | None  # that it agrees with people's; None where the model cannot tell
    word_probabilities: tuple[float, ...]  # of each token after those before it
    end_probability: float | None  # that the caption ends there; None where it was cut
    attention: tuple[Grid, ...] | None  # a grid for each token; None if not asked for or not there
    attribute_attention: tuple[Sequence[float], ...] | None
    """For each token how much of the look was at each of the photograph's attributes."""
    shares: Mapping[str, tuple[float, ...]]
    """With attention: for each token the share of what else is attended to, by its name."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ServedCaption":
        attention, attributes = value.get("attention"), value.get("attribute_attention")
        return cls(
            text=str(value["text"]),
            tokens=tuple(map(str, value["tokens"])),
            log_prob=float(value["log_prob"]),
            score=float(value["score"]),
            probability=float(value["probability"]),
            word_probabilities=tuple(map(float, value.get("word_probabilities", ()))),
            confidence=_number_or_none(value.get("confidence")),
            end_probability=_number_or_none(value.get("end_probability")),
            attention=None if attention is None else tuple(attention),
            attribute_attention=None if attributes is None else tuple(attributes),
            shares={
                str(name): tuple(map(float, of_tokens))
                for name, of_tokens in (value.get("shares") or {}).items()
            },
        )


def _number_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True, kw_only=True)
class CaptionResponse:
    """The captions of one photograph, the best first, and what the service says about them."""

    captions: tuple[ServedCaption, ...]
    width: int  # of the photograph as it stands upright, in pixels
    height: int
    format: str
    seen: tuple[float, ...] | None  # what attention covers: left, top, right, bottom as fractions
    attributes: tuple[tuple[str, float], ...]
    """With attention: words for what the model found in the photograph, and how probably."""
    model_name: str
    model_hash: str
    timing_ms: dict[str, float]
    request_id: str

    @property
    def caption(self) -> str:
        """The text of the best caption."""
        return self.captions[0].text

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "CaptionResponse":
        """Return what the service wrote.

        Raises:
            KeyError, TypeError, ValueError: it is no response of a caption service.
        """
        captions = tuple(map(ServedCaption.from_json, value["captions"]))
        if not captions:
            raise ValueError("there is no caption in the response")
        seen = value["image"].get("seen")
        return cls(
            captions=captions,
            width=int(value["image"]["width"]),
            height=int(value["image"]["height"]),
            format=str(value["image"]["format"]),
            seen=None if seen is None else tuple(map(float, seen)),
            attributes=tuple(
                (str(one["word"]), float(one["probability"]))
                for one in value["image"].get("attributes") or ()
            ),
            model_name=str(value["model"]["name"]),
            model_hash=str(value["model"]["hash"]),
            timing_ms={str(name): float(time) for name, time in value["timing_ms"].items()},
            request_id=str(value["request_id"]),
        )
