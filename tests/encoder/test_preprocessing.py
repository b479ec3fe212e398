"""Preprocessing against timm's own evaluation transform, and its promises about sizes."""

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from captioner.data.images import open_image
from captioner.encoder.preprocessing import Preprocessing
from captioner.errors import OptionError

SIZES = [(224, 224), (640, 480), (333, 500), (61, 200), (225, 224), (1, 9)]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def normalised(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    """What the encoder takes of one image."""
    return preprocessing.normalise(torch.from_numpy(preprocessing.resize(image)).permute(2, 0, 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("crop_fraction", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("image_size", [224, 97])
def test_pixels_equal_those_of_timms_transform(
    size: tuple[int, int], mode: str, crop_fraction: float, image_size: int
) -> None:
    ours = Preprocessing(image_size=image_size, image_mode=mode, crop_fraction=crop_fraction)
    timms = create_transform(
        (3, image_size, image_size),
        interpolation="bicubic",
        crop_pct=crop_fraction,
        crop_mode={"crop": "center", "squash": "squash"}[mode],
    )
    image = noise(size)
    assert torch.equal(normalised(ours, image), timms(image))


def test_a_long_strip_costs_no_more_than_its_centre() -> None:
    strip = noise((1, 60_000))
    pixels = Preprocessing(interpolation="nearest").resize(strip)
    assert pixels.shape == (224, 224, 3)
    assert np.array_equal(pixels[112, 0], np.array(strip)[30_000, 0])


def test_other_colours_and_interpolation_equal_timms_too() -> None:
    colours = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)}
    ours = Preprocessing(interpolation="bilinear", **colours)
    timms = create_transform((3, 224, 224), interpolation="bilinear", crop_pct=0.875, **colours)
    image = noise((300, 400))
    assert torch.equal(normalised(ours, image), timms(image))


def test_squash_without_crop_leaves_an_image_of_the_right_size_untouched() -> None:
    image = noise((224, 224))
    pixels = Preprocessing(image_mode="squash", crop_fraction=1.0).resize(image)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(image))


def test_squash_shows_the_whole_picture_and_crop_its_centre() -> None:
    image = Image.new("RGB", (400, 200), "black")
    image.paste((255, 255, 255), (300, 0, 400, 200))
    squashed = Preprocessing(image_size=40, image_mode="squash", crop_fraction=1.0).resize(image)
    cropped = Preprocessing(image_size=40, image_mode="crop", crop_fraction=1.0).resize(image)
    assert squashed[:, -5:].min() == 255
    assert cropped.max() < 30  # bicubic interpolation reaches a little over the edge


@given(width=st.integers(1, 1500), height=st.integers(1, 1500), limit=st.integers(32, 600))
@settings(max_examples=60, deadline=None)
def test_whole_keeps_within_the_limit_in_steps_of_32(width: int, height: int, limit: int) -> None:
    image = Image.new("RGB", (width, height))
    shape = Preprocessing(image_size=limit, image_mode="whole").resize(image).shape
    for side, before in zip(shape[:2], (height, width), strict=True):
        assert side % 32 == 0
        assert 32 <= side <= limit
        unlimited = before * min(1.0, limit // 32 * 32 / max(width, height))
        assert abs(side - unlimited) <= 16 or unlimited < 32


def test_whole_never_enlarges_beyond_rounding() -> None:
    small = Preprocessing(image_size=448, image_mode="whole").resize(noise((96, 64)))
    assert small.shape == (64, 96, 3)


def test_a_stack_is_normalised_as_its_images_are() -> None:
    preprocessing = Preprocessing(image_size=32)
    images = [noise((40, 50), seed) for seed in range(3)]
    stack = torch.from_numpy(np.stack([preprocessing.resize(image) for image in images]))
    alone = torch.stack([normalised(preprocessing, image) for image in images])
    assert torch.equal(preprocessing.normalise(stack.permute(0, 3, 1, 2)), alone)


def test_the_image_is_not_changed_by_what_becomes_of_its_pixels() -> None:
    image = noise((224, 224))
    before = image.copy()
    Preprocessing(image_mode="squash", crop_fraction=1.0).resize(image).fill(0)
    assert np.array_equal(np.asarray(image), np.asarray(before))


def test_settings_survive_json() -> None:
    settings = Preprocessing(image_size=288, image_mode="squash", crop_fraction=0.9, mean=(0, 1, 0))
    assert Preprocessing.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_mode": "fit"}, "image_mode is 'fit'; it can be crop or squash or whole"),
        ({"image_size": 0}, "image_size is 0; it must be at least 1"),
        ({"image_size": 31, "image_mode": "whole"}, "image_size is 31 pixels; give at least 32"),
        ({"crop_fraction": 0.0}, "crop_fraction is 0.0; it must be from 0.1 to 1"),
        ({"crop_fraction": 1.5}, "crop_fraction is 1.5; it must be from 0.1 to 1"),
        ({"interpolation": "best"}, "interpolation is 'best'; it can be nearest or bilinear or"),
        ({"mean": (0.5,)}, "mean is (0.5,); give one number each for red, green, blue"),
        ({"std": (1.0, 0.0, 1.0)}, "std is 0.0; it must be above 0"),
    ],
)
def test_impossible_settings_are_refused(values: dict, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Preprocessing(**values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("mode", ["crop", "squash", "whole"])
@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1609), (2600, 300), (9000, 100)])
def test_a_large_jpeg_read_in_draft_looks_as_if_read_whole(mode: str, size: tuple[int, int]):
    preprocessing = Preprocessing(image_size=64, image_mode=mode)
    photograph = noise((8, 6)).resize(size, Image.Resampling.BICUBIC)
    content = BytesIO()
    photograph.save(content, "JPEG", quality=90)
    read = preprocessing.read(content.getvalue())
    whole = preprocessing.resize(open_image(content.getvalue()))
    assert read.shape == whole.shape
    assert np.abs(read.astype(float) - whole.astype(float)).mean() < 1.5


def test_a_photograph_is_decoded_at_a_third_more_than_the_size_it_gets():
    content = BytesIO()
    noise((1000, 800)).save(content, "JPEG")
    cases = ((74, 8), (75, 4), (148, 4), (149, 2), (296, 2), (297, 1))
    for mode in ("squash", "crop"):
        for side, share in cases:
            least = Preprocessing(image_size=side, image_mode=mode, crop_fraction=1.0).least_size
            assert open_image(content.getvalue(), least).size == (1000 // share, 800 // share)
    assert open_image(content.getvalue()).size == (1000, 800)


def test_photographs_of_the_size_of_coco_are_never_read_in_draft():
    content = BytesIO()
    noise((640, 480)).save(content, "JPEG")
    for mode in ("crop", "squash"):
        least = Preprocessing(image_mode=mode).least_size
        assert open_image(content.getvalue(), least).size == (640, 480)
