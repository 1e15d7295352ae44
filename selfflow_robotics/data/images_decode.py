"""Decode an image to pixels: uint8 RGB [H, W, 3], with ADM's centre crop.

ADM (arXiv 2105.05233), like DiT, SiT and REPA after it, halves an image with a box filter while its
shorter side is at least twice the size, scales that side to the size with a bicubic filter and
crops the centre. For sizes that are no square, it is the side that would be cropped the least. As
there, EXIF orientation is ignored.
"""

import io
import warnings

import numpy as np
from PIL import Image

from selfflow_robotics.data.latents_record import Size, sides
from selfflow_robotics.data.skips import Unusable

FORMATS = ("JPEG", "PNG", "WEBP")
OTHERS = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"ftypavif": "AVIF",
    b"ftyphei": "HEIC",
}  # in the first 12 bytes
MAX_PICTURE_BYTES = 1 << 28  # of a file, which is read at once; Pillow's pixel limit is lower


def decode_picture(data: bytes, size: Size) -> np.ndarray:
    """uint8 [H, W, 3] of this `size` from the bytes of a JPEG, PNG or WebP file; the first frame of
    an animation.

    Raises Unusable: "not an image" (with its kind where that is known), "too large" (Pillow's
    limit against decompression bombs, for the image as it is and as it would be scaled) or
    "truncated or damaged".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unusable("too large") from None
    except Image.UnidentifiedImageError:
        kinds = [kind for mark, kind in OTHERS.items() if mark in data[:12]]
        cause = f"unsupported image type ({kinds[0]})" if kinds else "not an image"
        raise Unusable(cause) from None
    except Exception:
        raise Unusable("truncated or damaged") from None
    if _scaled_pixels(image.size, sides(size)) > (Image.MAX_IMAGE_PIXELS or float("inf")):
        raise Unusable("too large")
    try:
        with image:
            return centre_crop(to_rgb(image), sides(size))
    except Exception:  # damaged bytes make decoders raise many kinds of exceptions
        raise Unusable("truncated or damaged") from None


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


def centre_crop(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """ADM's centre crop of an RGB image to `size` (H, W): uint8 [H, W, 3]."""
    height, width = size
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = _scale(image.size, size)
    wide, high = (round(side * scale) for side in image.size)
    pixels = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC))
    top, left = (high - height) // 2, (wide - width) // 2
    return pixels[top : top + height, left : left + width]


def _scale(shape: tuple[int, int], size: tuple[int, int]) -> float:
    """The factor from an image's (width, height) to where it just covers `size` (H, W)."""
    return max(size[1] / max(1, shape[0]), size[0] / max(1, shape[1]))


def _scaled_pixels(shape: tuple[int, int], size: tuple[int, int]) -> float:
    """Pixels after scaling; for a strip of 1 x 10000 px, too many."""
    return shape[0] * shape[1] * _scale(shape, size) ** 2
