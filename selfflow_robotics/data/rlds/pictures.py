"""The stored images of an episode: JPEG or PNG files of 8 bits a channel."""

import io
import struct

import numpy as np
import simplejpeg
from PIL import Image

JPEG_START, PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# No robot's camera has more; a header may claim 4 Gpx in a file of 100 bytes.
MAX_PIXELS = 2**25
_PNG_HEADER = struct.Struct(">4sIIB")  # IHDR, width, height, bits a channel


def picture_size(data: bytes) -> tuple[int, int]:
    """(height, width) as the file's header has it, without decoding.

    Raises ValueError saying why where `decode_picture` could not, or not faithfully.
    """
    if data.startswith(JPEG_START):
        header = simplejpeg.decode_jpeg_header(data)
        height, width, colours = int(header[0]), int(header[1]), header[2]
        if colours not in ("YCbCr", "Gray", "RGB"):
            raise ValueError(f"a JPEG of {colours} colours, RGB or grey is needed")
    elif data.startswith(PNG_START):
        if len(data) < 8 + 4 + _PNG_HEADER.size:
            raise ValueError("a PNG without a header")
        kind, width, height, bits = _PNG_HEADER.unpack_from(data, 12)
        if kind != b"IHDR":
            raise ValueError("a PNG without a header")
        if bits > 8:
            raise ValueError(f"a PNG of {bits} bits a channel, 8 are needed")
    else:
        raise ValueError("neither JPEG nor PNG")
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width} x {height} px, {MAX_PIXELS} px are the most")
    return height, width


def decode_picture(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3]; of a JPEG exactly what TensorFlow's decoder makes of it.

    Grey becomes RGB and an alpha channel is dropped, as TensorFlow does for three channels.
    Raises ValueError for damaged bytes and for what `picture_size` refuses.
    """
    picture_size(data)
    if data.startswith(JPEG_START):
        # The fast transform gives TensorFlow's default decoding bit for bit; an image cut short
        # or with a broken stream raises ValueError.
        return simplejpeg.decode_jpeg(data, fastdct=True, strict=True)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # damaged bytes make Pillow fail in many ways
        raise ValueError(" ".join(str(error).split())) from error
