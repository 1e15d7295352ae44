"""The stored images of an episode: JPEG or PNG files with 8 bits per channel."""

import io
import struct

import numpy as np
import simplejpeg
from PIL import Image

JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# More than any robot camera; a header may claim 4 Gpx in a file of 100 bytes.
MAX_PIXELS = 2**25
_PNG_HEADER = struct.Struct(">4sIIB")  # IHDR, width, height, bits per channel


def picture_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the file header, without decoding.

    Raises ValueError with the reason if `decode_picture` cannot decode the file exactly.
    """
    if data.startswith(JPEG_START):
        header = simplejpeg.decode_jpeg_header(data)
        height, width, colours = int(header[0]), int(header[1]), header[2]
        if colours not in ("YCbCr", "Gray", "RGB"):
            raise ValueError(f"a JPEG in {colours}, expected RGB or grey")
    elif data.startswith(PNG_START):
        if len(data) < 8 + 4 + _PNG_HEADER.size:
            raise ValueError("a PNG without a header")
        kind, width, height, bits = _PNG_HEADER.unpack_from(data, 12)
        if kind != b"IHDR":
            raise ValueError("a PNG without a header")
        if bits > 8:
            raise ValueError(f"a PNG with {bits} bits per channel, expected 8")
    else:
        raise ValueError("neither JPEG nor PNG")
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width} x {height} px, more than {MAX_PIXELS} px")
    return height, width


def decode_picture(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3]; JPEGs decode exactly as in TensorFlow.

    As in TensorFlow with three channels, grey becomes RGB and alpha is dropped. Raises ValueError
    for damaged bytes and files that `picture_size` refuses.
    """
    picture_size(data)
    if data.startswith(JPEG_START):
        # The fast DCT matches TensorFlow's default decoding bit for bit; a truncated image or
        # broken stream raises ValueError.
        return simplejpeg.decode_jpeg(data, fastdct=True, strict=True)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # damaged bytes make Pillow raise many kinds of exceptions
        raise ValueError(" ".join(str(error).split())) from error
