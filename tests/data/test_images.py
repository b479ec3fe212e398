"""Odd image files become upright, opaque RGB pictures, or a one-line error."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.data.images import PIXEL_LIMIT, open_image
from captioner.errors import ImageError

RED, BLUE = (220, 30, 30), (30, 30, 220)


def left_red_right_blue(width: int = 40, height: int = 20) -> Image.Image:
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


def near(pixel: object, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(np.subtract(np.array(pixel, dtype=int), colour)).max() <= tolerance)


def test_path_bytes_stream_and_picture_give_the_same(tmp_path: Path):
    path = tmp_path / "a.png"
    left_red_right_blue().save(path)
    content = path.read_bytes()
    expected = left_red_right_blue().tobytes()
    for source in (path, str(path), content, BytesIO(content), left_red_right_blue()):
        picture = open_image(source)
        assert (picture.mode, picture.size) == ("RGB", (40, 20))
        assert picture.tobytes() == expected


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [(1, (40, 20), RED), (2, (40, 20), BLUE), (3, (40, 20), BLUE), (6, (20, 40), RED),
     (8, (20, 40), BLUE)],
)  # fmt: skip
def test_orientation_of_the_camera_is_applied(tmp_path, orientation, size, corner):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    left_red_right_blue().save(path, quality=95, exif=exif)
    picture = open_image(path)
    assert picture.size == size
    assert near(picture.getpixel((2, 2)), corner)


def test_a_picture_given_by_the_caller_is_left_as_it_was():
    given = left_red_right_blue()
    given.getexif()[0x0112] = 3
    before = given.tobytes()
    assert near(open_image(given).getpixel((2, 2)), BLUE)
    assert given.tobytes() == before
    assert given.getexif()[0x0112] == 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_metadata_does_not_cost_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    left_red_right_blue().save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f" + b"\xff" * 9)
    assert near(open_image(path).getpixel((2, 2)), RED)


def test_transparency_shows_white(tmp_path):
    clear_left = left_red_right_blue().convert("RGBA")
    clear_left.paste((220, 30, 30, 0), (0, 0, 20, 20))
    clear_left.save(tmp_path / "a.png")
    picture = open_image(tmp_path / "a.png")
    assert picture.getpixel((2, 2)) == (255, 255, 255)
    assert picture.getpixel((38, 2)) == BLUE


def test_palette_with_a_transparent_entry_shows_white(tmp_path):
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([*RED, *BLUE])
    picture.paste(1, (4, 0, 8, 8))
    picture.save(tmp_path / "a.gif", transparency=0)
    opened = open_image(tmp_path / "a.gif")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((7, 0)) == BLUE


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "LA", "YCbCr", "HSV"])
def test_other_colour_models_become_rgb(mode):
    picture = open_image(left_red_right_blue().convert(mode))
    assert (picture.mode, picture.size) == ("RGB", (40, 20))


def test_cmyk_photograph_keeps_its_colours(tmp_path):
    left_red_right_blue().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert near(open_image(tmp_path / "a.jpg").getpixel((4, 10)), RED, 25)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_and_not_cut_off(tmp_path, suffix):
    ramp = np.linspace(0, 65_535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}")
    grey = np.asarray(open_image(tmp_path / f"a.{suffix}"))[..., 0].ravel()
    assert np.abs(grey.astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_a_transparent_grey_of_sixteen_bits_shows_white(mode):
    values = np.array([[0, 1, 300], [40_000, 65_535, 0]], np.uint16)
    content = BytesIO()
    grey = Image.fromarray(values)
    grey.save(content, "PNG", transparency=0)
    picture = Image.open(content)
    assert picture.info["transparency"] == 0
    given = picture.convert(mode)
    given.info = picture.info
    found = np.asarray(open_image(content.getvalue() if mode == "I;16" else given))
    expected = np.rint(values / 257).astype(np.uint8)
    expected[values == 0] = 255
    assert found.tolist() == np.repeat(expected[:, :, None], 3, axis=2).tolist()


def test_whole_numbers_and_fractions_beyond_8_bits_are_scaled():
    whole = Image.fromarray(np.array([[0, 32_768], [65_535, 65_535]], dtype=np.int32))
    assert np.asarray(open_image(whole))[..., 0].tolist() == [[0, 128], [255, 255]]
    fractions = Image.fromarray(np.array([[-1.0, 0.0], [1.0, np.nan]], dtype=np.float32))
    assert np.asarray(open_image(fractions))[..., 0].tolist() == [[0, 128], [255, 0]]


def test_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for name in ("a.gif", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert near(open_image(tmp_path / name).getpixel((4, 4)), RED)


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_photograph_is_an_error_that_names_it(tmp_path, kept):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "half.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ImageError, match=r"half\.jpg cannot be decoded: .*truncated.*fetch it"):
        open_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not an image"), (b"GIF89a", "not an image|cannot be decoded"), (b"text", "not an")],
)
def test_no_image_is_an_error_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_errors(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg: there is no such file"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)


@pytest.mark.parametrize("side", [9_460, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_an_error_before_it_is_decoded(tmp_path, side):
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert side * side > PIXEL_LIMIT
    with pytest.raises(ImageError, match=r"bomb\.png has more than 89,478,485 pixels"):
        open_image(path)
