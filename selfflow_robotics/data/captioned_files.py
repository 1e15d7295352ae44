"""List the captioned files of a folder: videos, sounds, or videos with sound.

    FOLDER/**/NAME.mp4        next to NAME.txt or NAME.json (`data.captions`)
    FOLDER/**/NAME.wav        likewise; or next to NAME.mp4, as its sound

Hidden files are ignored. What has no usable caption is counted by cause.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from selfflow_robotics.data.captions import Captions
from selfflow_robotics.data.images import captions_of
from selfflow_robotics.data.latents_record import MEDIA, Size
from selfflow_robotics.data.skips import Skips, Unusable
from selfflow_robotics.errors import UserError

BESIDE = ".wav"  # the sound of a video


class Reader(Protocol):
    """Reads one part of a sample: its frames, or its sound."""

    def read(self, path: Path, /) -> np.ndarray:
        """Raises Unusable or OSError for a file to skip."""
        ...


class MediaFile(NamedTuple):
    """A file relative to the list's root, its sound beside it ("": it has its own), the bytes of
    both, and its captions."""

    file: str
    sound: str
    num_bytes: int
    captions: Captions


@dataclass(frozen=True)
class MediaFiles:
    """Captioned files in an order that depends only on their names; also a range of them.

    `readers` are the parts of a sample: "frames", "sound" or both.
    """

    root: Path
    items: list[MediaFile]
    readers: Mapping[str, Reader]
    skips: Skips = field(default_factory=Skips)

    labels = None
    noun = "files"

    @property
    def num_found(self) -> int:
        """Files listed and files left out."""
        return len(self.items) + self.skips.total

    def __len__(self) -> int:
        return len(self.items)

    def part(self, start: int, stop: int) -> "MediaFiles":
        return MediaFiles(self.root, self.items[start:stop], self.readers)

    @property
    def captions(self) -> list[Captions]:
        return [item.captions for item in self.items]

    def name(self, number: int) -> str:
        return self.items[number].file

    def read(self, number: int, size: Size | None = None) -> dict[str, np.ndarray]:
        """The parts of a sample. Raises Unusable or OSError."""
        item = self.items[number]
        files = {"frames": item.file, "sound": item.sound or item.file}
        return {part: reader.read(self.root / files[part]) for part, reader in self.readers.items()}

    def record(self) -> dict[str, Any]:
        """The "source" entry of cache.json."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(json.dumps(item).encode())
        return {
            "path": str(self.root),
            "kind": MEDIA,
            "num_pictures": len(self.items),
            "captions": True,
            "fingerprint": digest.hexdigest(),
        }

    def check_output(self, folder: Path) -> None:
        """Any folder is fine: latents are not mistaken for videos or sounds."""


def list_media(
    source: str | Path, suffixes: tuple[str, ...], readers: Mapping[str, Reader]
) -> MediaFiles:
    """The captioned files below the folder `source` with one of these suffixes.

    Raises UserError if it is no folder, or if no file in it has a caption.
    """
    root = Path(os.path.expanduser(source))
    if not root.is_dir():
        raise UserError(f"{root} is no folder; pass a folder of {', '.join(suffixes)} files")
    found: list[str] = []

    def stop(error: OSError) -> None:  # by default os.walk ignores unreadable folders
        raise UserError(
            f"cannot read {error.filename} ({error.strerror}); check its permissions"
        ) from error

    for where, folders, files in os.walk(root, onerror=stop):
        folders[:] = [name for name in folders if name[0] != "."]
        below = os.path.relpath(where, root)
        names = [name for name in files if name[0] != "." and name.lower().endswith(suffixes)]
        found += [name if below == "." else f"{below}/{name}" for name in names]
    if not found:
        raise UserError(f"no files in {root}; expected {', '.join('*' + s for s in suffixes)}")
    items, skips = [], Skips()
    for file in sorted(found):
        try:
            items.append(_item(root, file, captions_of(root / file), "frames" in readers))
        except Unusable as cause:
            skips.add(str(cause), file)
        except OSError:
            skips.add("unreadable file", file)
    if not items:
        raise UserError(
            f"no file in {root} has captions ({skips.text()}); expected NAME.txt, with a caption "
            f"per line, or NAME.json, a list of captions, next to NAME{suffixes[0]}"
        )
    return MediaFiles(root, items, readers, skips)


def _item(root: Path, file: str, captions: Captions, is_video: bool) -> MediaFile:
    """Raises OSError."""
    num_bytes, sound = (root / file).stat().st_size, ""
    beside = (root / file).with_suffix(BESIDE)
    if is_video and beside.is_file():
        sound = str(beside.relative_to(root))
        num_bytes += beside.stat().st_size
    return MediaFile(file, sound, num_bytes, captions)
