"""Pictures of films, small enough to embed in a page."""

import base64
import io
from collections import deque
from pathlib import Path

import av
import av.error
from PIL import Image

WIDTH_PX = 200


def last_picture(path: Path) -> str | None:
    """The last frame of a film as a JPEG data URL; None if the film is missing or damaged."""
    try:
        with av.open(str(path)) as film:
            frames = deque(film.decode(video=0), maxlen=1)
    except (OSError, av.error.FFmpegError):
        return None
    if not frames:
        return None
    picture = frames[0].to_image()
    height = round(picture.height * WIDTH_PX / picture.width)
    small = io.BytesIO()
    picture.resize((WIDTH_PX, height), Image.Resampling.LANCZOS).save(
        small, format="jpeg", quality=75
    )
    return "data:image/jpeg;base64," + base64.b64encode(small.getvalue()).decode()
