"""List images with labels or captions: folders, or tar shards.

    FOLDER/CLASS/**/*.jpg     one folder for each class; the label is the class's place among the
                              sorted names of folders that hold images
    FOLDER/*.jpg              label 0
    FOLDER/*.tar, ONE.tar or 'some/*.tar'
                              WebDataset's layout: KEY.jpg next to KEY.cls, which has the label

With captions (`data.captions`), folders are no classes, and all labels are 0:

    FOLDER/**/NAME.jpg        next to NAME.txt or NAME.json
    FOLDER/*.tar, ONE.tar or 'some/*.tar'
                              KEY.jpg next to KEY.txt or KEY.json

Images are *.jpg, *.jpeg, *.png and *.webp. Other files in folders, and hidden ones, are ignored;
those in tars are counted. Tars must not be compressed: their headers are read once, then images by
position.
"""

import glob
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfflow_robotics.data.captions import MOST_BYTES, SUFFIXES, Captions, parse_captions
from selfflow_robotics.data.images_decode import MAX_PICTURE_BYTES, decode_picture
from selfflow_robotics.data.images_tar import tar_items
from selfflow_robotics.data.latents_record import Size
from selfflow_robotics.data.skips import Skips, Unusable, printable
from selfflow_robotics.errors import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
NAMED = 5  # examples per line


class Item(NamedTuple):
    """An image: a range of bytes in a file (relative to the list's root), its label and its
    captions."""

    file: str
    member: str  # name within a tar; "" for a separate file
    offset: int
    num_bytes: int
    label: int  # 0 with captions
    captions: Captions = ()

    @property
    def name(self) -> str:
        return f"{self.file}/{self.member}" if self.member else self.file


@dataclass(frozen=True)
class ImageList:
    """Images in an order that depends only on their names, and what was left out."""

    root: Path
    kind: str  # "folders", "flat" or "tars"
    items: list[Item]
    num_classes: int
    class_names: list[str] | None = None  # of "folders"
    skips: Skips = field(default_factory=Skips)
    others: Counter[str] = field(default_factory=Counter)  # files in tars that are not samples
    empty: list[str] = field(default_factory=list)  # folders without images, which are not classes
    captioned: bool = False  # whether the items have captions

    noun = "images"

    @property
    def labels(self) -> set[int]:
        """Labels that occur; with tars there may be gaps."""
        return {item.label for item in self.items}

    def notes(self) -> list[str]:
        """What was left out besides unusable images, one line per kind."""
        notes = []
        if self.empty:
            notes.append(f"folders without images, ignored: {_few(self.empty)}")
        if self.others:
            kinds = [f"{count} {kind}" for kind, count in self.others.most_common()]
            notes.append(f"other files in the tars, ignored: {_few(kinds)}")
        if note := missing_classes(self.labels, self.num_classes, self.class_names):
            notes.append(note)
        return notes

    @property
    def num_found(self) -> int:
        """Images listed and images left out."""
        return len(self.items) + self.skips.total

    def __len__(self) -> int:
        return len(self.items)

    def part(self, start: int, stop: int) -> "ImagePart":
        """Some of the images, as `data.latents_encode.Pictures`."""
        return ImagePart(self.root, self.items[start:stop], self.captioned)

    def record(self) -> dict[str, Any]:
        """The "source" entry of cache.json."""
        return {
            "path": str(self.root),
            "kind": self.kind,
            "num_pictures": len(self.items),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "captions": self.captioned,
            "fingerprint": self.fingerprint(),
        }

    def check_output(self, folder: Path) -> None:
        """Raise UserError for a folder in which latents would be mistaken for a class."""
        if self.kind == "folders" and self.root.resolve() in folder.resolve().parents:
            raise UserError(
                f"{folder} is one of the class folders of {self.root}; choose another output"
            )

    def fingerprint(self) -> str:
        """A hash of names, sizes, labels and captions, independent of the location."""
        digest = hashlib.sha256(json.dumps([self.kind, self.class_names]).encode())
        for item in self.items:
            digest.update(json.dumps(item if self.captioned else item[:-1]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ImagePart:
    """Images that are read one by one."""

    root: Path
    items: list[Item]
    captioned: bool

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> list[int]:
        return [item.label for item in self.items]

    @property
    def captions(self) -> list[Captions] | None:
        return [item.captions for item in self.items] if self.captioned else None

    def name(self, number: int) -> str:
        return self.items[number].name

    def read(self, number: int, size: Size) -> np.ndarray:
        """uint8 [h, w, 3]. Raises Unusable or OSError."""
        if self.items[number].num_bytes > MAX_PICTURE_BYTES:
            raise Unusable("too large")
        return decode_picture(read_item(self.root, self.items[number]), size)


def missing_classes(
    labels: Collection[int], num_classes: int, names: list[str] | None = None
) -> str | None:
    """A line naming the classes without images; None if there are none.

    Args:
        labels: labels that occur.
        num_classes: labels are 0 to `num_classes` - 1.
        names: class names, if any.
    """
    missing = sorted(set(range(num_classes)) - set(labels))
    if not missing:
        return None
    words = [names[label] if names else str(label) for label in missing]
    return (
        f"{len(missing)} of {num_classes} classes have no usable image and will not be trained: "
        f"{_few(words)}"
    )


def _few(words: list[str]) -> str:
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return printable(", ".join(words[:NAMED]) + more)


def read_item(root: Path, item: Item) -> bytes:
    """The bytes of an image's file. Raises OSError."""
    return _read(root / item.file, item.offset, item.num_bytes)


def _read(path: Path, offset: int, num_bytes: int) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for a writer
        raise OSError(f"{path} is not a regular file")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(num_bytes)


def list_images(source: str | Path, captioned: bool = False) -> ImageList:
    """The images at `source`, with labels or `captioned`; see the module's docstring.

    Raises UserError if there are none, if the layout is ambiguous, if a tar is damaged, or if no
    image has a caption.
    """
    images = _list(Path(os.path.expanduser(source)), captioned)
    if captioned and not images.items:
        raise UserError(
            f"no image at {source} has captions ({images.skips.text()}); expected NAME.txt, with a "
            "caption per line, or NAME.json, a list of captions, next to NAME.jpg"
        )
    return images


def _list(path: Path, captioned: bool) -> ImageList:
    if path.is_dir():
        return _list_folder(path, captioned)
    if path.is_file():
        if path.name.endswith(COMPRESSED):
            raise _compressed(path)
        if path.suffix != ".tar":
            raise UserError(f"{path} is neither a folder nor a .tar file")
        return _list_tars([path], captioned)
    tars = sorted(Path(name) for name in glob.glob(str(path)) if name.endswith(".tar"))
    if not tars:
        raise UserError(f"{path} does not exist; pass a folder of images or .tar files")
    return _list_tars(tars, captioned)


def _list_folder(root: Path, captioned: bool) -> ImageList:
    try:
        entries = sorted(entry.name for entry in root.iterdir() if entry.name[0] != ".")
    except OSError as error:
        raise _unreadable(error) from error
    folders = [name for name in entries if (root / name).is_dir()]
    tars = [root / name for name in entries if name.endswith(".tar")]
    loose = [name for name in entries if _is_picture(name) and name not in folders]
    if compressed := [name for name in entries if name.endswith(COMPRESSED)]:
        raise _compressed(root / compressed[0])
    files = {name: sorted(_pictures_below(root, name)) for name in folders}
    classes = [name for name in folders if files[name]]
    below = [(file, label) for label, name in enumerate(classes) for file in files[name]]
    found = {"tars": tars, "loose images": loose, "folders of images": below}
    if captioned:
        found = {"tars": tars, "images": [*loose, *below]}
    kinds = [name for name, things in found.items() if things]
    if len(kinds) > 1:
        raise UserError(f"{root} mixes {' and '.join(kinds)}; keep only one of these there")
    if tars:
        return _list_tars(tars, captioned)
    if not (loose or below):
        raise UserError(f"no images in {root}; expected *.jpg, *.png, *.webp or *.tar files")
    if captioned:
        return _list_captioned(root, [*loose, *(file for file, _ in below)])
    if loose:
        return ImageList(root, "flat", [_file_item(root, name, 0) for name in loose], 1)
    items = [_file_item(root, file, label) for file, label in below]
    empty = [name for name in folders if not files[name]]
    return ImageList(root, "folders", items, len(classes), classes, empty=empty)


def _list_captioned(root: Path, files: list[str]) -> ImageList:
    """The images in these files that have captions next to them."""
    items, skips = [], Skips()
    for file in files:
        try:
            captions = captions_of(root / file)
        except Unusable as cause:
            skips.add(str(cause), file)
        else:
            items.append(_file_item(root, file, 0)._replace(captions=captions))
    return ImageList(root, "flat", items, 1, skips=skips, captioned=True)


def captions_of(file: Path) -> Captions:
    """The captions in the text file next to `file`. Raises Unusable if there are none."""
    for suffix in SUFFIXES:
        try:
            return parse_captions(suffix, _read(file.with_suffix(suffix), 0, MOST_BYTES + 1))
        except FileNotFoundError:
            continue
        except OSError:
            raise Unusable("unreadable caption file") from None
    raise Unusable("no caption")


def _file_item(root: Path, file: str, label: int) -> Item:
    try:
        num_bytes = (root / file).stat().st_size
    except OSError:  # a dangling link: counted as unreadable when it is read
        num_bytes = 0
    return Item(file, "", 0, num_bytes, label)


def _pictures_below(root: Path, folder: str) -> Iterator[str]:
    """Names relative to `root`, unordered; links to folders are followed at the first level."""

    def stop(error: OSError) -> None:  # by default os.walk ignores unreadable folders
        raise _unreadable(error) from error

    for where, folders, files in os.walk(root / folder, onerror=stop):
        folders[:] = [name for name in folders if name[0] != "."]
        below = os.path.relpath(where, root)
        yield from (f"{below}/{name}" for name in files if name[0] != "." and _is_picture(name))


def _unreadable(error: OSError) -> UserError:
    return UserError(f"cannot read {error.filename} ({error.strerror}); check its permissions")


def _compressed(path: Path) -> UserError:
    return UserError(
        f"{path} is compressed; decompress it to a plain .tar, which allows random access"
    )


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)


def _list_tars(tars: list[Path], captioned: bool) -> ImageList:
    root = Path(os.path.commonpath([tar.parent for tar in tars]))
    items, skips, others = [], Skips(), Counter[str]()
    for tar in tars:
        file = os.path.relpath(tar, root)
        found = tar_items(tar, PICTURES, skips, others, captioned)
        items += [Item(file, *item) for item in found]
    if not items and not skips.total:
        beside = "KEY.txt or KEY.json" if captioned else "KEY.cls"
        raise UserError(f"no images in the tar files at {root}; expected KEY.jpg and {beside}")
    num_classes = 1 + max((item.label for item in items), default=0)
    return ImageList(
        root, "tars", items, num_classes, skips=skips, others=others, captioned=captioned
    )
