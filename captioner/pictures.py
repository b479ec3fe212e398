"""Pictures for people: the attention of each word over a photograph, and sheets of captioned ones.

Both are drawn with Pillow and written as PNG. The attention of a word is light on a darkened
photograph, as in Xu et al. 2015 (figures 2 and 5): the lit part keeps its colours and stays
recognisable. The typeface is the one that comes with matplotlib, which has most alphabets; where
that is not installed, Pillow's own, which has the letters of English.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from captioner.data.images import open_image
from captioner.errors import ImageError, OptionError
from captioner.files import write_atomically

if TYPE_CHECKING:
    from captioner.encoder.preprocessing import Preprocessing

PAPER, INK, FAINT = (255, 255, 255), (24, 24, 27), (113, 113, 122)
GAP = 16  # pixels between the parts of a picture
PANEL = 224  # pixels of the longer side of a photograph under attention
PANELS_IN_A_ROW = 7
SAMPLE_WIDTH, SAMPLE_HEIGHT = 264, 264  # pixels that a photograph of a sheet may take
SAMPLES_IN_A_ROW = 4
REFERENCES_SHOWN = 2
DARKNESS = 0.3  # what is left of the light where a word did not look
FULL_LIGHT = 4.0  # times even attention; where a word looks harder, its maximum is full light
GAMMA = 0.7  # brightens what is between dark and full light
GLOW = (1.08, 1.04, 0.9)  # the light is a little warm, so that it shows on grey photographs too

Box = tuple[float, float, float, float]
PixelBox = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One photograph of a sheet: the caption that was generated, and captions people wrote."""

    image_path: Path
    generated: str
    references: Sequence[str] = ()


class LookedCaption(Protocol):
    """A caption and where its decoder looked, whether it was made here or by a service."""

    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> Sequence[str]: ...
    @property
    def attention(self) -> Any: ...  # a grid for each token: an array, or nested sequences
    @property
    def shares(self) -> Mapping[str, Any]: ...  # what else was looked at: a number for each token


def draw_attention(
    image: Image.Image, caption: LookedCaption, out: Path, *, seen: Box | None = None
) -> None:
    """Write a PNG with the photograph and, for every word, where the decoder looked.

    `seen` is the part of the photograph that the encoder saw, (left, top, right, bottom) in its
    pixels; None is all of it. The light is on one scale for all words: even attention over the
    whole grid is dim, four times as much or more is bright.

    Raises:
        OptionError: the caption has no attention.
        StorageError: the file cannot be written.
    """
    if caption.attention is None:
        raise OptionError(
            "this caption has no attention to draw: its decoder looks at the image as a whole; "
            "train with --decoder soft_attention for that"
        )
    image = image.convert("RGB")
    scale = PANEL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    photograph = image.resize(size, Image.Resampling.LANCZOS)
    left, top, right, bottom = (round(edge * scale) for edge in seen or (0, 0, *image.size))
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    grids = np.asarray(caption.attention, np.float32)
    full = min(1.0, FULL_LIGHT / grids[0].size)
    panels = [("", _framed(photograph, box))]
    for place, (word, weights) in enumerate(zip(caption.tokens, grids, strict=True)):
        shares = [f"{name} {of[place]:.0%}" for name, of in caption.shares.items()]
        lit = _lit(photograph, weights, box, max(full, float(weights.max())))
        panels.append((" · ".join([word, *shares]), lit))
    _write(_panels(caption.text, panels), out)


def seen_box(preprocessing: "Preprocessing", size: tuple[int, int]) -> Box:
    """Return the part of an image of `size` (width, height) that reaches the encoder.

    Shapes:
        -> (left, top, right, bottom) in the pixels of that image.
    """
    width, height = size
    if preprocessing.image_mode == "whole":
        return (0.0, 0.0, width, height)
    before_crop = math.floor(preprocessing.image_size / preprocessing.crop_fraction)
    kept = preprocessing.image_size / before_crop
    seen_width, seen_height = width * kept, height * kept
    if preprocessing.image_mode == "crop":
        seen_width = seen_height = min(width, height) * kept
    left, top = (width - seen_width) / 2, (height - seen_height) / 2
    return (left, top, left + seen_width, top + seen_height)


def draw_samples(items: Sequence[Sample], out: Path) -> None:
    """Write a PNG of photographs, each with its generated caption and two references below.

    A photograph that cannot be read leaves an empty place that says so.

    Raises:
        StorageError: the file cannot be written.
    """
    rows = [
        items[start : start + SAMPLES_IN_A_ROW] for start in range(0, len(items), SAMPLES_IN_A_ROW)
    ]
    pictures = [_samples_row(row) for row in rows]
    columns = min(len(items), SAMPLES_IN_A_ROW)
    width = columns * SAMPLE_WIDTH + (columns + 1) * GAP
    height = sum(picture.height for picture in pictures) + (len(rows) + 1) * GAP
    sheet = Image.new("RGB", (max(width, 1), height), PAPER)
    top = GAP
    for picture in pictures:
        sheet.paste(picture, (GAP, top))
        top += picture.height + GAP
    _write(sheet, out)


def _lit(photograph: Image.Image, weights: np.ndarray, box: PixelBox, full: float) -> Image.Image:
    """Return the photograph in the light of one word's attention [rows, columns]."""
    left, top, right, bottom = box
    grid = Image.fromarray((weights / full).astype(np.float32))
    smooth = grid.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    everywhere = Image.new("F", photograph.size, 0.0)
    everywhere.paste(smooth, (left, top))
    light = np.asarray(everywhere)[..., None].clip(0.0, 1.0) ** GAMMA
    colours = np.asarray(photograph, np.float32)
    greys = np.asarray(photograph.convert("L"), np.float32)[..., None]
    dark = DARKNESS * (0.7 * greys + 0.3 * colours)
    mixed = dark + light * (colours * np.array(GLOW, np.float32) - dark)
    return Image.fromarray(mixed.clip(0, 255).round().astype(np.uint8))


def _framed(photograph: Image.Image, box: PixelBox) -> Image.Image:
    """Return the photograph with a thin line around what the encoder saw of it."""
    if box == (0, 0, *photograph.size):
        return photograph
    framed = photograph.copy()
    left, top, right, bottom = box
    ImageDraw.Draw(framed).rectangle((left, top, right - 1, bottom - 1), outline=PAPER)
    return framed


def _panels(title: str, panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    rows = -(-len(panels) // PANELS_IN_A_ROW)
    columns = -(-len(panels) // rows)
    wide, high = panels[0][1].size
    wide = max(wide, PANEL // 2)
    heading, label = _font(20, bold=True), _font(15, bold=True)
    width = columns * wide + (columns + 1) * GAP
    lines = _wrapped(title, heading, width - 2 * GAP, most=2)
    below = GAP + len(lines) * 26 + GAP // 2
    sheet = Image.new("RGB", (width, below + rows * (high + 24 + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP + 26 * number), line, fill=INK, font=heading)
    for place, (word, picture) in enumerate(panels):
        row, column = divmod(place, columns)
        left = GAP + column * (wide + GAP)
        top = below + row * (high + 24 + GAP)
        (text,) = _wrapped(word, label, wide, most=1) or [""]
        draw.text((left + wide // 2, top), text, fill=INK, font=label, anchor="ma")
        sheet.paste(picture, (left + (wide - picture.width) // 2, top + 24))
    return sheet


def _samples_row(items: Sequence[Sample]) -> Image.Image:
    pictures = [_photograph(item.image_path) for item in items]
    texts = [_sample_lines(item) for item in items]
    photographs_height = max(picture.height for picture in pictures)
    text_height = max(sum(height for *_, height in lines) for lines in texts)
    width = len(items) * (SAMPLE_WIDTH + GAP) - GAP
    row = Image.new("RGB", (width, photographs_height + GAP // 2 + text_height), PAPER)
    draw = ImageDraw.Draw(row)
    for column, (picture, lines) in enumerate(zip(pictures, texts, strict=True)):
        left = column * (SAMPLE_WIDTH + GAP)
        centred = left + (SAMPLE_WIDTH - picture.width) // 2
        row.paste(picture, (centred, photographs_height - picture.height))
        top = photographs_height + GAP // 2
        for text, font, colour, height in lines:
            draw.text((left, top), text, fill=colour, font=font)
            top += height
    return row


def _photograph(path: Path) -> Image.Image:
    try:
        image = open_image(path)
    except ImageError:
        empty = Image.new("RGB", (SAMPLE_WIDTH, SAMPLE_HEIGHT // 2), (228, 228, 231))
        middle = (empty.width // 2, empty.height // 2)
        ImageDraw.Draw(empty).text(
            middle, f"{path.name} cannot be read", fill=FAINT, font=_font(14), anchor="mm"
        )
        return empty
    return ImageOps.contain(image, (SAMPLE_WIDTH, SAMPLE_HEIGHT), Image.Resampling.LANCZOS)


def _sample_lines(item: Sample) -> list[tuple[str, Font, tuple, int]]:
    bold, plain = _font(15, bold=True), _font(13)
    texts = [(item.generated, bold, INK, 20, 3)]
    texts += [(text, plain, FAINT, 17, 2) for text in item.references[:REFERENCES_SHOWN]]
    lines = []
    for text, font, colour, height, most in texts:
        text = re.sub(r"\s+([.,;:!?])", r"\1", text)  # data sets put blanks before punctuation
        wrapped = _wrapped(text, font, SAMPLE_WIDTH, most=most)
        for number, line in enumerate(wrapped, start=1):
            space = 5 if number == len(wrapped) else 0
            lines.append((line, font, colour, height + space))
    return lines


def _wrapped(text: str, font: Font, width: int, *, most: int) -> list[str]:
    """Return the text in lines no wider than `width`; what exceeds `most` lines is cut off."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    is_cut = len(lines) > most
    lines = lines[:most]
    for number, line in enumerate(lines):
        shown = line + ("…" if is_cut and number == most - 1 else "")
        while font.getlength(shown) > width and len(line) > 1:
            line = line[:-1].rstrip()
            shown = line + "…"
        lines[number] = shown
    return lines


@cache
def _font(size: int, bold: bool = False) -> Font:
    try:
        import matplotlib
    except ModuleNotFoundError:
        return ImageFont.load_default(size)
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _write(picture: Image.Image, out: Path) -> None:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    write_atomically(out, buffer.getvalue())
