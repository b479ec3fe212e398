"""Changed photographs: what the numbers do, what stays recognisable, what is always the same."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from captioner.data.augmented_images import (
    ASPECTS,
    LEAST_AREA,
    NUM_DRAWS,
    AugmentedCopy,
    Change,
    change_of,
    changed,
)

WHOLE = (1.0, 1.0, 0.0, 0.0)
NOTHING = Change(crop=WHOLE, light=1, contrast=1, colour=1, blur=0, quality=None)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """Four coloured quarters with some grain, 90 pixels wide and 60 high."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:30, :45], pixels[:30, 45:] = (200, 30, 30), (30, 180, 40)
    pixels[30:, :45], pixels[30:, 45:] = (40, 50, 210), (235, 235, 235)
    grain = np.random.default_rng(0).integers(-12, 13, pixels.shape)
    return Image.fromarray((pixels.astype(int) + grain).clip(0, 255).astype(np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


def test_nothing_is_changed_by_factors_of_one(photograph):
    assert (pixels(changed(photograph, NOTHING)) == pixels(photograph)).all()


def test_each_number_does_what_it_says(photograph):
    before = pixels(photograph)
    darker = pixels(changed(photograph, NOTHING._replace(light=0.8)))
    assert darker == pytest.approx(before * 0.8, abs=1)
    flatter = pixels(changed(photograph, NOTHING._replace(contrast=0.5)))
    assert flatter.std() == pytest.approx(before.std() / 2, rel=0.02)
    grey = pixels(changed(photograph, NOTHING._replace(colour=0)))
    assert (grey.max(axis=2) == grey.min(axis=2)).all()
    soft = pixels(changed(photograph, NOTHING._replace(blur=1 / 90)))
    assert (soft == pixels(photograph.filter(ImageFilter.GaussianBlur(1)))).all()
    poor, good = (
        np.abs(pixels(changed(photograph, NOTHING._replace(quality=quality))) - before).mean()
        for quality in (25, 90)
    )
    assert 0 < good < poor < 12
    part = changed(photograph, NOTHING._replace(crop=(0.5, 1.0, 1.0, 0.0)))
    assert (part.width, part.height) == (64, 42)
    assert (pixels(part) == before[:42, 26:]).all()
    assert changed(photograph, NOTHING._replace(crop=(0.5, 1, 0, 0)), with_crop=False).size == (
        photograph.size
    )


def test_changes_are_within_their_limits_and_of_every_kind():
    generator = np.random.default_rng(0)
    changes = [change_of(row) for row in generator.random((2000, NUM_DRAWS)).tolist()]
    assert all(LEAST_AREA <= one.crop[0] <= 1 for one in changes)
    assert all(ASPECTS[0] <= one.crop[1] <= ASPECTS[1] for one in changes)
    assert 0.27 < np.mean([one.blur > 0 for one in changes]) < 0.33
    assert 0.46 < np.mean([one.quality is not None for one in changes]) < 0.54
    assert all(25 <= one.quality <= 90 for one in changes if one.quality is not None)
    for name in ("light", "contrast", "colour"):
        values = [getattr(one, name) for one in changes]
        assert 0.7 <= min(values) < 0.81 < 1.24 < max(values) <= 1.4


def test_what_is_named_keeps_its_colour_and_place(photograph):
    generator = np.random.default_rng(1)
    for row in generator.random((200, NUM_DRAWS)).tolist():
        image = pixels(changed(photograph, change_of(row)).resize((40, 40)))
        red, green, blue = image[8, 8], image[8, 31], image[31, 8]
        assert (red.argmax(), green.argmax(), blue.argmax()) == (0, 1, 2)
        white = image[33, 33]
        assert white.min() > 150
        assert np.ptp(white) < 40


def test_a_copy_depends_on_name_and_number_only(photograph):
    copy = AugmentedCopy(number=1, may_mirror=True)
    first = pixels(copy.of(photograph, "a.jpg"))
    again = AugmentedCopy(number=1, may_mirror=True).of(photograph, "a.jpg")
    assert (first == pixels(again)).all()
    others = [AugmentedCopy(number=2, may_mirror=True).of(photograph, "a.jpg")]
    others.append(copy.of(photograph, "b.jpg"))
    assert all(first.shape != pixels(o).shape or (first != pixels(o)).any() for o in others)


def test_half_of_the_copies_are_mirrored_where_they_may_be(photograph):
    names = [f"{number}.jpg" for number in range(300)]
    copy = AugmentedCopy(number=3, may_mirror=True)
    assert 120 < sum(map(copy.is_mirrored, names)) < 180
    assert not any(map(AugmentedCopy(number=3, may_mirror=False).is_mirrored, names))
    for name in names[:20]:
        image = pixels(copy.of(photograph, name).resize((40, 40)))
        top_left = image[8, 8].argmax()
        assert top_left == (1 if copy.is_mirrored(name) else 0)  # green, or red
