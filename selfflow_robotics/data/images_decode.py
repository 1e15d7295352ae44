"""Decode an image to pixels: uint8 RGB [S, S, 3], with ADM's centre crop.

ADM (arXiv 2105.05233), like DiT, SiT and REPA after it, halves an image with a box filter while its
shorter side is at least 2 S, scales that side to S with a bicubic filter and crops the centre. As
there, EXIF orientation is ignored.
"""

import io
import warnings

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")
OTHERS = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"ftypavif": "AVIF",
    b"ftyphei": "HEIC",
}  # in the first 12 bytes
MAX_PICTURE_BYTES = 1 << 28  # of a file, which is read at once; Pillow's pixel limit is lower


class BadPicture(Exception):
    """An unusable image; the message is one of a few causes, so that they can be counted."""


def decode_picture(data: bytes, size: int) -> np.ndarray:
    """uint8 [size, size, 3] from the bytes of a JPEG, PNG or WebP file; the first frame of an
    animation.

    Raises BadPicture: "not an image" (with its kind where that is known), "too large" (Pillow's
    limit against decompression bombs, for the image as it is and as it would be scaled) or
    "truncated or damaged".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadPicture("too large") from None
    except Image.UnidentifiedImageError:
        kinds = [kind for mark, kind in OTHERS.items() if mark in data[:12]]
        cause = f"unsupported image type ({kinds[0]})" if kinds else "not an image"
        raise BadPicture(cause) from None
    except Exception:
        raise BadPicture("truncated or damaged") from None
    if _scaled_pixels(image.size, size) > (Image.MAX_IMAGE_PIXELS or float("inf")):
        raise BadPicture("too large")
    try:
        with image:
            return centre_crop(to_rgb(image), size)
    except Exception:  # damaged bytes make decoders raise many kinds of exceptions
        raise BadPicture("truncated or damaged") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB: transparent parts on white, 16 bits of grey scaled to 8."""
    if image.mode.startswith("I"):
        levels = np.asarray(image, np.float64).clip(0, 65535)
        levels[levels == image.info.get("transparency", -1)] = 65535
        image = Image.fromarray((levels / 257).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """ADM's centre crop of an RGB image: uint8 [size, size, 3]."""
    while min(image.size) >= 2 * size:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def _scaled_pixels(shape: tuple[int, int], size: int) -> float:
    """Pixels after scaling the shorter side to `size`; for a strip of 1 x 10000 px, too many."""
    return max(shape) / max(1, min(shape)) * size**2
