"""Folders and tar shards of small pictures for tests."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture_bytes(number: int, suffix: str = "png", size: tuple[int, int] = (20, 16)) -> bytes:
    """A noisy RGB picture (width, height) as a file's bytes; a function of the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "jpeg"}.get(suffix, suffix))
    return file.getvalue()


def write_folder(root: Path, classes: dict[str, int]) -> Path:
    """`root`/CLASS/*.png, so many for each class."""
    number = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for _ in range(count):
            (root / name / f"{number:03d}.png").write_bytes(picture_bytes(number))
            number += 1
    return root


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar of these files, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(numbers: range) -> dict[str, bytes]:
    """A WebDataset sample for each number: NUMBER.jpg and NUMBER.cls, whose label is number % 3."""
    files = {}
    for number in numbers:
        files[f"{number:04d}.jpg"] = picture_bytes(number, "jpg")
        files[f"{number:04d}.cls"] = f"{number % 3}\n".encode()
    return files
