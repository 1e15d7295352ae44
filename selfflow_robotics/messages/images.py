"""Encoded images in messages: PNG or JPEG, decoded within limits."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_PIXELS = 16_000_000  # 16 MB of PNG may describe a picture of terabytes
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


class MessageError(ValueError):
    """A message that breaks its protocol; the text is one line, for the other side."""


@dataclass(frozen=True)
class EncodedImage:
    """A PNG or JPEG file, and the shape (height, width, channels) that the sender claims."""

    data: bytes
    shape: tuple[Any, ...] | None = None

    def decode(self) -> np.ndarray:
        """uint8 [H, W, 3]. Raises MessageError if it is damaged, too large, or not RGB."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.data), formats=("PNG", "JPEG")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise MessageError(
                        f"an image has at most {MAX_PIXELS} pixels, got {image.width} x "
                        f"{image.height}"
                    )
                if image.mode != "RGB":
                    raise MessageError(f"an image must be RGB with 8 bits, got {image.mode}")
                pixels = np.asarray(image)
        except MessageError:
            raise
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
            raise MessageError(f"an image cannot be decoded ({str(error)[:100]})") from None
        if self.shape is not None and self.shape != pixels.shape:
            raise MessageError(
                f"an image has the shape {list(pixels.shape)}, not {str(list(self.shape))[:100]}"
            )
        return pixels


def as_image(value: Any) -> "np.ndarray | EncodedImage":
    """A picture in a message: uint8 [H, W, 3], or one that is still encoded.

    Raises MessageError for anything else, such as floats or channels first.
    """
    if isinstance(value, EncodedImage):
        return value
    if isinstance(value, bytes) and value.startswith(_SIGNATURES):
        return EncodedImage(value)
    if not isinstance(value, np.ndarray):
        raise MessageError(f"an image must be an array or a PNG, got {type(value).__name__}")
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3 or not value.size:
        raise MessageError(
            f"an image must be uint8 [height, width, 3], got {value.dtype} {list(value.shape)}"
        )
    if value.size > 3 * MAX_PIXELS:
        raise MessageError(f"an image has at most {MAX_PIXELS} pixels")
    return value
