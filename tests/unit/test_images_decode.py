"""Pictures of all kinds as uint8 [S, S, 3]: ADM's centre crop, modes, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from selfflow_robotics.data import images_decode
from selfflow_robotics.data.images_decode import decode_picture
from selfflow_robotics.data.skips import Unusable
from tests.pictures import picture_bytes


def as_file(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_picture_of_the_right_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert (decode_picture(as_file(Image.fromarray(pixels)), 16) == pixels).all()


def test_the_middle_of_the_longer_side_is_kept():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 21, 3), np.uint8)
    assert (decode_picture(as_file(Image.fromarray(pixels)), 16) == pixels[:, 2:18]).all()


def test_a_large_picture_is_halved_by_boxes_first():
    # 64 -> 32 -> 16 by means of 2 x 2, no bicubic step; Pillow rounds after each axis.
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    halved = pixels.astype(np.float64)
    for side in (32, 16):
        halved = np.floor(halved.reshape(side, 2, side, 2, 3).mean(axis=(1, 3)) + 0.5)
    assert np.abs(decode_picture(as_file(Image.fromarray(pixels)), 16) - halved).max() <= 2


def test_then_it_is_scaled_with_a_bicubic_filter():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8))
    # 40 x 50 is halved to 20 x 25, scaled to 16 x 20, cut from row 2.
    scaled = image.resize((20, 25), Image.Resampling.BOX).resize((16, 20), Image.Resampling.BICUBIC)
    assert (decode_picture(as_file(image), 16) == np.asarray(scaled)[2:18]).all()


def test_a_small_picture_is_enlarged():
    assert decode_picture(picture_bytes(0, size=(5, 3)), 32).shape == (32, 32, 3)


def test_grey_and_palette_pictures_become_rgb():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert (decode_picture(as_file(Image.fromarray(grey)), 16) == expected).all()
    palette = Image.fromarray(grey).convert("P")
    assert palette.mode == "P"
    assert (decode_picture(as_file(palette), 16) == expected).all()
    black_and_white = decode_picture(as_file(Image.fromarray(grey > 127)), 16)
    assert (black_and_white == np.where(expected > 127, 255, 0)).all()


def test_sixteen_bits_of_grey_are_scaled_to_eight():
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    decoded = decode_picture(as_file(Image.fromarray(levels)), 16)
    assert (decoded == np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None]).all()


def test_transparent_parts_are_white():
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:8, :, 3] = 255
    decoded = decode_picture(as_file(Image.fromarray(pixels)), 16)
    assert (decoded[:8] == [200, 0, 0]).all()
    assert (decoded[8:] == 255).all()
    half = np.full((16, 16, 2), 128, np.uint8)
    half[..., 0] = 0
    assert (decode_picture(as_file(Image.fromarray(half, "LA")), 16) == 127).all()
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert (decode_picture(as_file(palette, transparency=0), 16) == 255).all()
    deep = Image.fromarray(np.full((16, 16), 300, np.uint16))
    assert (decode_picture(as_file(deep, transparency=300), 16) == 255).all()
    assert (decode_picture(as_file(deep, transparency=301), 16) == 1).all()
    keyed = Image.new("RGB", (16, 16), (1, 2, 3))
    assert (decode_picture(as_file(keyed, transparency=(1, 2, 3)), 16) == 255).all()


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    decoded = decode_picture(as_file(cmyk, "jpeg", quality=95), 16)
    assert np.abs(decoded.astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_other_formats(kind):
    image = Image.new("RGB", (16, 16), (30, 60, 90))
    decoded = decode_picture(as_file(image, kind), 16).astype(int)
    assert np.abs(decoded - [30, 60, 90]).max() <= 3


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (as_file(Image.new("RGB", (16, 16)), "bmp"), "not an image"),
        (as_file(Image.new("RGB", (16, 16)), "gif"), r"image type \(GIF\)"),
        (as_file(Image.new("RGB", (16, 16)), "tiff"), r"image type \(TIFF\)"),
        (picture_bytes(0, "jpg")[:-60], "truncated or damaged"),
        (picture_bytes(0, "png")[:-60], "truncated or damaged"),
        (
            picture_bytes(0, "png")[:100] + bytes(20) + picture_bytes(0)[120:],
            "truncated or damaged",
        ),
        (as_file(Image.new("L", (10_000, 1))), "too large"),  # 160 000 px wide after scaling
    ],
)
def test_what_cannot_be_used_has_a_cause(data, cause, monkeypatch):
    monkeypatch.setattr(images_decode.Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(Unusable, match=cause):
        decode_picture(data, 16)


@pytest.mark.parametrize("side", [40, 60])  # beyond the limit once (a warning of Pillow), and twice
def test_decompression_bombs_are_refused(side, monkeypatch, recwarn):
    monkeypatch.setattr(images_decode.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Unusable, match="too large"):
        decode_picture(as_file(Image.new("RGB", (side, side))), 16)
    assert not recwarn.list
