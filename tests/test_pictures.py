"""Sheets of captioned photographs and attention drawn over them, looked at pixel by pixel."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.captioner import Caption
from captioner.encoder.preprocessing import Preprocessing
from captioner.errors import OptionError
from captioner.pictures import (
    GAP,
    PANEL,
    Sample,
    _font,
    draw_attention,
    draw_samples,
    seen_box,
)

WHITE = Image.new("RGB", (80, 80), "white")


def a_caption(attention: np.ndarray | None, words: str = "") -> Caption:
    tokens = tuple((words or "dog " * (1 if attention is None else len(attention))).split())
    return Caption(
        text=" ".join(tokens),
        tokens=tokens,
        log_prob=-1.0,
        score=-0.5,
        attention=attention,
        token_log_probs=(),
    )


def picture_in(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def looking_at(row: int, column: int, grid: int = 4) -> np.ndarray:
    weights = np.zeros((1, grid, grid), np.float32)
    weights[0, row, column] = 1.0
    return weights


def last_panel(path: Path, height: int = PANEL) -> np.ndarray:
    """The brightness of the panel in the lower right corner of an attention picture."""
    picture = picture_in(path).convert("L")
    right, bottom = picture.width - GAP, picture.height - GAP
    return np.asarray(picture.crop((right - PANEL, bottom - height, right, bottom)), np.float64)


def middle_of_light(panel: np.ndarray) -> tuple[float, float]:
    light = panel - panel.min()
    rows, columns = np.indices(panel.shape)
    return (rows * light).sum() / light.sum(), (columns * light).sum() / light.sum()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (2, 1)])
def test_light_falls_where_the_word_looked(tmp_path: Path, row: int, column: int):
    out = tmp_path / "attention.png"
    draw_attention(WHITE, a_caption(looking_at(row, column)), out)
    found = middle_of_light(last_panel(out))
    expected = ((row + 0.5) * PANEL / 4, (column + 0.5) * PANEL / 4)
    assert found == pytest.approx(expected, abs=PANEL / 12)


def test_light_stays_inside_what_the_encoder_saw(tmp_path: Path):
    out = tmp_path / "attention.png"
    wide = Image.new("RGB", (200, 100), "white")
    even = np.full((1, 4, 4), 1 / 16, np.float32)
    draw_attention(wide, a_caption(even), out, seen=(60.0, 10.0, 140.0, 90.0))
    panel = last_panel(out, height=PANEL // 2)
    scale = PANEL / 200
    inside = np.zeros_like(panel, dtype=bool)
    inside[round(10 * scale) : round(90 * scale), round(60 * scale) : round(140 * scale)] = True
    assert panel[inside].min() > panel[~inside].max() + 10


def test_even_attention_is_dimmer_than_a_sharp_look(tmp_path: Path):
    even, sharp = tmp_path / "even.png", tmp_path / "sharp.png"
    draw_attention(WHITE, a_caption(np.full((1, 4, 4), 1 / 16, np.float32)), even)
    draw_attention(WHITE, a_caption(looking_at(1, 1)), sharp)
    assert 100 < last_panel(even).max() < 200 < last_panel(sharp).max()


@pytest.mark.parametrize("words", [1, 4, 6, 7, 12, 20])
@pytest.mark.parametrize("size", [(80, 80), (640, 30), (30, 640)])
def test_every_number_of_words_and_every_shape_fits(
    tmp_path: Path, words: int, size: tuple[int, int]
):
    out = tmp_path / "attention.png"
    attention = np.full((words, 3, 3), 1 / 9, np.float32)
    long = " ".join(["incomprehensibilities"] * words)
    draw_attention(Image.new("RGB", size, "white"), a_caption(attention, long), out)
    assert picture_in(out).width <= 7 * (PANEL + GAP) + GAP


def test_a_caption_without_attention_says_what_would_have_one(tmp_path: Path):
    with pytest.raises(OptionError, match=r"no attention to draw.*soft_attention"):
        draw_attention(WHITE, a_caption(None), tmp_path / "attention.png")
    assert not (tmp_path / "attention.png").exists()


@pytest.mark.parametrize("image_mode", ["crop", "squash", "whole"])
@pytest.mark.parametrize("crop_fraction", [0.5, 0.875, 1.0])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (256, 256), (224, 700)])
def test_the_seen_box_is_what_preprocessing_leaves(
    image_mode: str, crop_fraction: float, size: tuple[int, int]
):
    # Every pixel says where it stands: red its column, green its row.
    width, height = size
    columns, rows = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    values = np.stack([columns, rows, np.zeros_like(rows)], 2) * 255
    preprocessing = Preprocessing(
        image_size=64,
        image_mode=image_mode,
        crop_fraction=crop_fraction,
        interpolation="bilinear",
    )
    seen = preprocessing.resize(Image.fromarray(values.astype(np.uint8))) / 255
    left, top, right, bottom = seen_box(preprocessing, size)
    found = [
        seen[:, 0, 0].mean() * width,
        seen[0, :, 1].mean() * height,
        seen[:, -1, 0].mean() * width,
        seen[-1, :, 1].mean() * height,
    ]
    # An edge is half a pixel of the small image away from the middle of the first one.
    step = max((right - left) / seen.shape[1], (bottom - top) / seen.shape[0])
    assert found == pytest.approx([left, top, right, bottom], abs=1.5 * step)


def test_a_sheet_has_a_place_for_every_sample(tmp_path: Path, photographs: list[Path]):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    items = [
        Sample(image_path=path, generated="a dog runs", references=("A dog .", "Two", "Three"))
        for path in (*photographs, broken)
    ]
    draw_samples(items[:1], tmp_path / "one.png")
    draw_samples(items, tmp_path / "five.png")
    one, five = (picture_in(tmp_path / name) for name in ("one.png", "five.png"))
    assert five.width > 3.5 * one.width
    assert five.height > 1.5 * one.height


def test_a_photograph_keeps_its_shape_and_colours_on_a_sheet(tmp_path: Path):
    path = tmp_path / "red.png"
    Image.new("RGB", (60, 20), (200, 30, 30)).save(path)
    draw_samples([Sample(image_path=path, generated="red")], tmp_path / "sheet.png")
    sheet = np.asarray(picture_in(tmp_path / "sheet.png"))
    rows, columns = np.nonzero((sheet == (200, 30, 30)).all(2))
    assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(3, rel=0.03)


def test_pictures_are_drawn_without_matplotlib_too(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _font.cache_clear()
    draw_attention(WHITE, a_caption(looking_at(0, 0), "dog"), tmp_path / "dog.png")
    draw_attention(WHITE, a_caption(looking_at(0, 0), "."), tmp_path / "dot.png")
    _font.cache_clear()
    dog, dot = (np.asarray(picture_in(tmp_path / name)) for name in ("dog.png", "dot.png"))
    assert (dog[: GAP + 26] < 128).sum() > 4 * (dot[: GAP + 26] < 128).sum() > 0


def test_text_without_end_is_cut_and_no_samples_are_no_error(tmp_path: Path):
    path = tmp_path / "grey.png"
    Image.new("RGB", (40, 40), "grey").save(path)
    items = [Sample(image_path=path, generated="word " * 200, references=("x" * 500, " "))]
    draw_samples(items, tmp_path / "long.png")
    draw_samples([], tmp_path / "none.png")
    assert picture_in(tmp_path / "long.png").height < 500
