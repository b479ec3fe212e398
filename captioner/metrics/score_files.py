"""References and candidates from files: COCO's forms, Karpathy's, or both in one file.

The form is recognised by the content. References: COCO annotations, a Karpathy JSON with its
splits, or `{id: [captions]}`. Candidates: COCO results, a list of `{"image_id", "caption"}`, or
`{id: [caption]}`. Both at once: a list of `{"image_name", "captions", "prediction"}`, or COCO
results with `references`, as validations write them. Ids are equal where they spell the same whole
number, in all forms.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.karpathy import RESTVAL, as_id, captions_of, image_ids
from captioner.errors import CaptionerError, DataError, OptionError
from captioner.files import read_json
from captioner.metrics.signature import read_signature

ImageKey = int | str
References = dict[ImageKey, list[str]]
Candidates = dict[ImageKey, str]

_NAMED_IDS = 5  # in an error message


class Pairs(NamedTuple):
    """References and candidates of the same images."""

    references: References
    candidates: Candidates
    signature: dict[str, Any]  # how the candidates were made, and the split where it counts


def read_pairs(
    references: Path,
    candidates: Path | None = None,
    *,
    split: str | None = "test",
    subset: bool = False,
) -> tuple[References, Candidates]:
    """Return the reference captions of each image, and the candidate caption of each.

    `split` chooses among the images of a Karpathy JSON, None takes all; the other forms have no
    splits. With `subset`, references of images without a candidate are dropped, as coco-caption's
    demonstration does; CIDEr's idf is then that of the remaining ones.

    Raises:
        DataError: a file is missing or malformed, or an id comes twice.
        OptionError: `candidates` is missing, or given although the first file holds both.
    """
    known, given, _ = read_signed_pairs(references, candidates, split=split, subset=subset)
    return known, given


def read_signed_pairs(
    references: Path,
    candidates: Path | None = None,
    *,
    split: str | None = "test",
    subset: bool = False,
    needs_splits: bool = False,
) -> Pairs:
    """Return what `read_pairs` does, and what the files tell of how the captions were made.

    Raises:
        DataError: a file is missing or malformed, or an id comes twice.
        OptionError: `candidates` is missing, or given although the first file holds both; or
            `needs_splits` and the references have none.
    """
    value = read_json(references, "the references file", DataError, unique_keys=True)
    if needs_splits:
        _refuse_split(value, references, split)
    return _pairs(value, references, candidates, split, subset=subset)


def read_two(
    references: Path | None,
    first: Path,
    second: Path,
    *,
    split: str | None = "test",
    subset: bool = False,
    needs_splits: bool = False,
) -> tuple[Pairs, Pairs]:
    """Return the candidates of two files for the same images, each with the same references.

    Without `references` both files hold their own, which must be the same. With `subset`,
    references of images without a candidate in the first file are dropped.

    Raises:
        DataError: a file is missing or malformed, or the references are not the same.
        OptionError: `references` is needed, or one file too many holds references; or
            `needs_splits` and the references have none.
    """
    if references is not None:
        value = read_json(references, "the references file", DataError, unique_keys=True)
        if needs_splits:
            _refuse_split(value, references, split)
        one = _pairs(value, references, first, split, subset=subset)
        _, given, signature = _pairs(value, references, second, split, subset=False)
        if subset:
            given = {key: caption for key, caption in given.items() if key in one.references}
        return one, Pairs(one.references, given, signature)
    values = []
    for file in (first, second):
        values.append(read_json(file, "the captions file", DataError, unique_keys=True))
        if not holds_both(values[-1]):
            raise OptionError(
                f"{file} holds no references beside its captions; name a file of references before "
                "the two"
            )
        if needs_splits:
            _refuse_split(values[-1], file, split)
    one, other = (
        _pairs(value, file, None, None, subset=False)
        for value, file in zip(values, (first, second), strict=True)
    )
    if one.references != other.references:
        raise DataError(
            f"{first} and {second} do not hold the same references; compare captions of the same "
            "images, or name the references first"
        )
    return one, other


def _refuse_split(value: Any, path: Path, split: str | None) -> None:
    if not _is_karpathy(value):
        raise OptionError(
            f"--split is {split}, and {path} has no splits, as a Karpathy JSON alone has; leave it "
            "out"
        )


def _pairs(
    value: Any, references: Path, candidates: Path | None, split: str | None, *, subset: bool
) -> Pairs:
    """Return what `read_signed_pairs` does, from the content of the references file."""
    if holds_both(value):
        if candidates is not None:
            raise OptionError(
                f"{references} holds candidates beside its references; "
                f"leave {candidates} out, or give references alone"
            )
        return Pairs(*_from_pairs(value, references), read_signature(references))
    if candidates is None:
        raise OptionError(
            f"{references} holds no candidates; name a file of them, a JSON list of "
            f'{{"image_id", "caption"}}, as well'
        )
    known = _references(value, references, split)
    content = read_json(candidates, "the candidates file", DataError, unique_keys=True)
    given = _candidates(content, candidates)
    if subset:
        known = {key: own for key, own in known.items() if key in given}
    signature = read_signature(candidates)
    if _is_karpathy(value):
        signature["split"] = split or "all"
    return Pairs(known, given, signature)


def holds_both(value: Any) -> bool:
    """Whether a file of this content holds candidates beside their references."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and ("prediction" in first or "references" in first)


def _is_karpathy(value: Any) -> bool:
    is_other = not isinstance(value, dict) or "annotations" in value
    return not is_other and isinstance(value.get("images"), list)


def _references(value: Any, path: Path, split: str | None) -> References:
    with _malformed(path, "references"):
        if isinstance(value, dict) and "annotations" in value:
            return _from_coco(value, path)
        if _is_karpathy(value):
            return _from_karpathy(value, path, split)
        if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
            return {as_id(key): [_text(caption) for caption in own] for key, own in value.items()}
    raise DataError(
        f"{path} is no known form of references; allowed are COCO annotations "
        f'("images" and "annotations"), a Karpathy JSON ("images" with "sentences"), '
        f'{{id: [captions]}}, or a list of {{"image_name", "captions", "prediction"}}'
    )


def _candidates(value: Any, path: Path) -> Candidates:
    with _malformed(path, "candidates"):
        if isinstance(value, list):
            if strange := next((one for one in value if not isinstance(one, dict)), None):
                raise TypeError(f'an entry is {strange!r}, not {{"image_id", "caption"}}')
            rows = [(as_id(entry["image_id"]), _text(entry["caption"])) for entry in value]
            _refuse_twice((key for key, _ in rows), path, "a caption")
            return dict(rows)
        if isinstance(value, dict) and value:
            return {as_id(key): _only_text(caption, key) for key, caption in value.items()}
    raise DataError(
        f"{path} is no known form of candidates; allowed are COCO results, "
        f'[{{"image_id", "caption"}}, …], or {{id: [caption]}}'
    )


def _from_coco(value: Mapping[str, Any], path: Path) -> References:
    listed = [as_id(image["id"]) for image in value.get("images", ())]
    _refuse_twice(listed, path, "an entry")
    captions: defaultdict[ImageKey, list[str]] = defaultdict(list)
    for annotation in value["annotations"]:
        captions[as_id(annotation["image_id"])].append(_text(annotation["caption"]))
    # Images without captions stand in these files too; a candidate for one is reported later.
    return {key: captions[key] for key in listed or captions if key in captions}


def _from_karpathy(value: Mapping[str, Any], path: Path, split: str | None) -> References:
    """Return the references as an evaluation of that split has them."""
    entries = value["images"]
    chosen = {split, RESTVAL} if split == "train" else {split}
    rows = [
        (key, [_text(text) for text, words in captions_of(entry) if words])
        for key, entry in zip(image_ids(entries), entries, strict=True)
        if split is None or entry.get("split") in chosen
    ]
    if not rows:
        found = sorted({str(entry.get("split")) for entry in entries})
        raise DataError(f"{path} has no images in split {split!r}; it has {', '.join(found)}")
    _refuse_twice((key for key, _ in rows), path, "an entry")
    return {key: own for key, own in rows if own}


def _from_pairs(value: list[dict[str, Any]], path: Path) -> tuple[References, Candidates]:
    if "prediction" not in value[0]:
        with _malformed(path, "captions and references"):
            known: References = {
                as_id(entry["image_id"]): [_text(caption) for caption in entry["references"]]
                for entry in value
            }
            return known, _candidates(value, path)
    with _malformed(path, "captions and predictions"):
        _refuse_twice((entry["image_name"] for entry in value), path, "an entry")
        references: References = {
            entry["image_name"]: [_text(caption) for caption in entry["captions"]]
            for entry in value
        }
        return references, {entry["image_name"]: _text(entry["prediction"]) for entry in value}


def _text(caption: object) -> str:
    if not isinstance(caption, str):
        raise TypeError(f"a caption is {caption!r}, not text")
    return caption


def _only_text(caption: object, key: str) -> str:
    if isinstance(caption, list):
        if len(caption) != 1:
            raise ValueError(f"image {key} has {len(caption)} candidates, exactly 1 is allowed")
        caption = caption[0]
    return _text(caption)


def _refuse_twice(keys: Iterable[ImageKey], path: Path, what: str) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        named = ", ".join(repr(key) for key in twice[:_NAMED_IDS])
        more = ", …" if len(twice) > _NAMED_IDS else ""
        images = "image has" if len(twice) == 1 else "images have"
        raise DataError(
            f"{path}: {len(twice):,} {images} {what} twice: {named}{more}; keep one of each"
        )


@contextlib.contextmanager
def _malformed(path: Path, what: str) -> Iterator[None]:
    """Turn the stumbling of a reader over an unexpected form into one line that names the file."""
    try:
        yield
    except CaptionerError:
        raise
    except KeyError as problem:
        raise DataError(
            f"{path} is not a valid file of {what}: an entry lacks {problem}; add it"
        ) from problem
    except (TypeError, ValueError, AttributeError) as problem:
        raise DataError(
            f"{path} is not a valid file of {what}: {problem}; correct or rewrite it"
        ) from problem
