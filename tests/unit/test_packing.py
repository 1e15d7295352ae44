"""Arrays in msgpack: there and back in both spellings, and everything that a stranger may send."""

import contextlib
import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

pytest.importorskip("msgpack", reason="the extra 'serve' is not installed")

import msgpack

from selfflow_robotics.messages import packing
from selfflow_robotics.messages.images import EncodedImage, MessageError, as_image
from selfflow_robotics.messages.packing import DTYPES, pack, unpack


@pytest.mark.parametrize("keys", ["bytes", "str"])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_arrays_of_each_dtype_come_back_as_they_were(dtype, keys):
    for shape in ((), (0,), (3,), (2, 0, 4), (2, 3, 4)):
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        found = unpack(pack({"a": [array]}, keys))["a"][0]
        assert found.dtype == array.dtype
        assert_array_equal(found, array)
        assert found.shape == shape


def test_the_layout_is_that_of_openpi_and_vla_eval():
    array = np.array([[1, 2]], "<f4")
    data = array.tobytes()
    openpi = {b"__ndarray__": True, b"data": data, b"dtype": "<f4", b"shape": (1, 2)}
    vla_eval = {"__ndarray__": True, "data": data, "dtype": "<f4", "shape": [1, 2]}
    assert pack(array, "bytes") == msgpack.packb(openpi)
    assert pack(array, "str") == msgpack.packb(vla_eval)
    scalar = {b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}
    assert pack(np.float32(1.5), "bytes") == msgpack.packb(scalar)
    assert unpack(msgpack.packb(scalar)) == np.float32(1.5)
    assert unpack(msgpack.packb({b"key": b"value"})) == {"key": b"value"}


def test_big_endian_and_strided_arrays_are_sent_in_order():
    array = np.arange(6, dtype=">i4").reshape(2, 3)[:, ::2]
    assert_array_equal(unpack(pack(array)), array)


@pytest.mark.parametrize("value", [np.array([None]), np.array([1j]), np.array(["a"]), object()])
def test_other_values_are_not_sent(value):
    with pytest.raises(TypeError):
        pack({"a": value})


def array(**changes):
    whole = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]}
    return msgpack.packb({**whole, **changes})


HOSTILE = {
    "object dtype": array(dtype="|O"),
    "structured dtype": array(dtype="V8"),
    "dtype of another type": array(dtype=["<f4"]),
    "python code as dtype": array(dtype="__import__('os')"),
    "negative shape": array(shape=[-2]),
    "two negative sizes": array(shape=[-1, -2]),
    "huge shape": array(shape=[2**40, 2**40]),
    "shape that overflows": array(shape=[2**32, 2**32, 2]),
    "float shape": array(shape=[2.0]),
    "boolean shape": array(shape=[True, 2]),
    "shape is a number": array(shape=2),
    "many dimensions": array(shape=[1] * 60 + [2]),
    "short data": array(data=bytes(7)),
    "text data": array(data="12345678"),
    "no data": msgpack.packb({"__ndarray__": True}),
    "scalar of text": msgpack.packb({"__npgeneric__": True, "data": "1", "dtype": "<f4"}),
    "scalar too large": msgpack.packb({"__npgeneric__": True, "data": 300, "dtype": "|u1"}),
    "image of another format": msgpack.packb({"__image__": True, "format": "gif", "data": b""}),
    "image without data": msgpack.packb({"__image__": True, "format": "png"}),
    "image with object dtype": msgpack.packb(
        {"__image__": True, "format": "raw", "data": bytes(8), "dtype": "|O", "shape": [1]}
    ),
    "nothing": b"",
    "garbage": bytes(range(256)),
    "truncated": array()[:-3],
    "trailing bytes": array() + b"\x00",
    "array of 2 ** 32 - 1 items": b"\xdd\xff\xff\xff\xff",
    "map of 2 ** 32 - 1 items": b"\xdf\xff\xff\xff\xff",
    "100 000 nested lists": b"\x91" * 100_000,
    "a million empty lists": b"\xdd\x00\x01\x86\xa0" + b"\x90" * 100_000,
    "an extension type": msgpack.packb(msgpack.ExtType(5, b"x")),
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "a key that is a list": b"\x81\x91\x01\x02",
    "a key that is a number": b"\x81\x01\x02",
    "a key that is not text": b"\x81\xc4\x01\xff\x02",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_raise_one_short_line(name):
    with pytest.raises(MessageError) as caught:
        unpack(HOSTILE[name])
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300


def test_a_message_over_the_limit_is_not_read(monkeypatch):
    monkeypatch.setattr(packing, "MAX_BYTES", 100)
    with pytest.raises(MessageError):
        unpack(pack(bytes(101)))


def test_damaged_messages_never_raise_anything_else():
    draw = np.random.Generator(np.random.PCG64(0))
    whole = pack({"image": np.zeros((4, 5, 3), np.uint8), "state": np.ones(8), "n": [1, 2.5, None]})
    for _ in range(3000):
        data = bytearray(whole)
        for place in draw.integers(0, len(data), draw.integers(1, 5)):
            data[place] = draw.integers(256)
        data = data[: draw.integers(1, len(data) + 1)]
        with contextlib.suppress(MessageError):
            unpack(bytes(data))


def encoded(pixels, format):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def test_png_and_jpeg_are_decoded_when_asked():
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (8, 10, 3)).astype(np.uint8)
    png = {"__image__": True, "format": "png", "data": encoded(pixels, "PNG"), "shape": [8, 10, 3]}
    image = unpack(pack(png))
    assert isinstance(image, EncodedImage)
    assert_array_equal(image.decode(), pixels)
    assert_array_equal(as_image(encoded(pixels, "PNG")).decode(), pixels)  # openpi has no images
    assert EncodedImage(encoded(pixels, "JPEG")).decode().shape == (8, 10, 3)
    raw = {"__image__": True, "format": "raw", "data": pixels.tobytes(), "dtype": "|u1"}
    assert_array_equal(unpack(pack({**raw, "shape": [8, 10, 3]})), pixels)


@pytest.mark.parametrize(
    "image",
    [
        EncodedImage(b"\x89PNG\r\n\x1a\nnothing"),
        EncodedImage(encoded(np.zeros((8, 10, 3), np.uint8), "PNG")[:-30]),
        EncodedImage(encoded(np.zeros((8, 10, 4), np.uint8), "PNG")),
        EncodedImage(encoded(np.zeros((8, 10), np.uint8), "PNG")),
        EncodedImage(encoded(np.zeros((8, 10, 3), np.uint8), "GIF")),
        EncodedImage(encoded(np.zeros((8, 10, 3), np.uint8), "PNG"), (9, 10, 3)),
        EncodedImage(encoded(np.zeros((4001, 4000, 3), np.uint8), "PNG")),
    ],
)
def test_images_that_are_damaged_other_or_huge_are_refused(image):
    with pytest.raises(MessageError):
        image.decode()


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((8, 10, 3), np.float32),
        np.zeros((3, 8, 10), np.uint8),
        np.zeros((8, 10), np.uint8),
        np.zeros((0, 10, 3), np.uint8),
        [[0, 0, 0]],
        "image.png",
        b"text",
        None,
    ],
)
def test_what_is_no_picture_is_refused(value):
    with pytest.raises(MessageError):
        as_image(value)
