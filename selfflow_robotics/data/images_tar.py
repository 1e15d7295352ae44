"""The images of a tar shard in WebDataset's layout: KEY.jpg next to KEY.cls, or next to its
captions, KEY.txt or KEY.json.

A file's key is its name up to the last dot, including the folder. An image without its own label
next to a sample, such as `a.seg.png` next to `a.jpg`, is an additional field of that sample. Files
with the same key need not be adjacent, and a hard link stands for its target. Nothing is ignored
silently: images, labels and captions that do not form a sample are counted in `skips`, other files
in `others`, and a tar with content after its end is refused.
"""

import io
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from selfflow_robotics.data.captions import MOST_BYTES, SUFFIXES, Captions, parse_captions
from selfflow_robotics.data.skips import Skips, Unusable, printable
from selfflow_robotics.errors import UserError

MAX_LABEL = 99_999  # larger labels are a mistake and would need gigabytes of embeddings
LABEL = ".cls"
# Limit for headers that give their own length, which tarfile reads at once; real ones are shorter.
_MOST_HEADER = 1 << 18
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_END_BLOCK = 1 << 20


class TarPicture(NamedTuple):
    """An image's name in its tar, the offset and number of its bytes, its label and captions."""

    name: str
    offset: int
    num_bytes: int
    label: int  # 0 with captions
    captions: Captions = ()


def tar_items(
    path: Path,
    pictures: tuple[str, ...],
    skips: Skips,
    others: Counter[str],
    captioned: bool = False,
) -> list[TarPicture]:
    """The images of a tar, in the order in which their keys appear.

    Samples without a valid label (0 to `MAX_LABEL`) or, if `captioned`, without captions, or
    without exactly one image go into `skips`; other files are counted by kind in `others`. Raises
    UserError, naming the tar, if it is damaged, truncated, compressed or a concatenation.
    """
    told = SUFFIXES if captioned else (LABEL,)
    try:
        with _TarFile(path) as file:
            if kind := file.compression():
                raise UserError(
                    f"{path} is compressed ({kind}); decompress it to a plain .tar first"
                )
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = _files(tar, (*told, *pictures), skips, others, path.name)
                found = list(_samples(tar, members, told, pictures, skips, others, path.name))
            _check_end(file, tar.offset, path)
    except UserError:
        raise
    except Exception as error:  # damaged headers make tarfile raise many kinds of exceptions
        reason = printable(str(error))[:200] or type(error).__name__
        raise UserError(f"{path} is not a complete tar file ({reason}); copy it again") from error
    return found


class _TarFile(io.BufferedReader):
    """A file that refuses to read headers of absurd size."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)

    def compression(self) -> str | None:
        start = self.peek(8)
        return next((kind for mark, kind in _COMPRESSED.items() if start.startswith(mark)), None)


def _check_end(file: io.BufferedReader, end: int, path: Path) -> None:
    """tarfile silently stops at an unreadable header and at the end of the first of several tars; a
    complete tar is followed only by zeros."""
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise UserError(f"{path} is damaged or truncated at byte {end}; copy it again")
    buffer = bytearray(_END_BLOCK)
    while num_bytes := file.readinto(buffer):
        if buffer.count(0, 0, num_bytes) != num_bytes:
            raise UserError(
                f"{path} continues after its end at byte {end}: several tars in one file; keep "
                "them separate ('some/*.tar' reads them all), or join them with tar --concatenate"
            )


def _files(
    tar: tarfile.TarFile,
    extensions: tuple[str, ...],
    skips: Skips,
    others: Counter[str],
    shard: str,
) -> dict[str, tarfile.TarInfo]:
    """The regular files by name; those with one of the `extensions` are counted if they are not.
    The last file of a name counts, as in tar; a link is its target."""
    files: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        if member.size < 0 or tar.offset <= member.offset:  # would loop forever
            raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
        if member.isdir():
            continue
        file, cause = member, ""
        if member.islnk():
            file = files.get(member.linkname)
            cause = "link to nothing"
        elif member.issparse():
            file, cause = None, "sparse file"
        elif not member.isreg():
            file, cause = None, "symbolic link" if member.issym() else "no regular file"
        name = member.name
        wanted = _extension(name) in extensions and not _is_hidden(name)
        if file is None:
            if wanted:
                skips.add(cause, f"{shard}/{name}")
            else:
                others[cause] += 1
            continue
        if name in files:
            if wanted:
                skips.add("replaced by a later file with the same name", f"{shard}/{name}")
            else:
                others["replaced"] += 1
        files[name] = file
    return files


def _samples(
    tar: tarfile.TarFile,
    files: dict[str, tarfile.TarInfo],
    told: tuple[str, ...],
    pictures: tuple[str, ...],
    skips: Skips,
    others: Counter[str],
    shard: str,
) -> Iterator[TarPicture]:
    """`told`: extensions of the files with an image's label or captions."""
    for key, names in _by_key(files, told, pictures, others).items():
        found = [name for name in names if _extension(name) not in told]
        beside = [name for suffix in told for name in names if _extension(name) == suffix]
        try:
            if len(found) != 1:
                raise Unusable("no single image")
            label, captions = _told(tar, files, told, beside)
        except Unusable as cause:
            skips.add(str(cause), f"{shard}/{key}")
        else:
            file = files[found[0]]
            yield TarPicture(found[0], file.offset_data, file.size, label, captions)


def _told(
    tar: tarfile.TarFile,
    files: dict[str, tarfile.TarInfo],
    told: tuple[str, ...],
    names: list[str],
) -> tuple[int, Captions]:
    """The label and captions in the files of these names, in the order of their extensions `told`.

    Raises Unusable.
    """
    if told == SUFFIXES:
        if not names:
            raise Unusable("no caption")
        return 0, parse_captions(_extension(names[0]), _content(tar, files[names[0]]))
    if not names:
        raise Unusable("no label")
    label = _label(_content(tar, files[names[0]])) if len(names) == 1 else None
    if label is None:
        raise Unusable("bad label")
    return label, ()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """A file's first bytes: more than captions may have."""
    file = tar.extractfile(member)
    assert file is not None  # a regular file
    return file.read(MOST_BYTES + 1)


def _by_key(
    files: dict[str, tarfile.TarInfo],
    told: tuple[str, ...],
    pictures: tuple[str, ...],
    others: Counter[str],
) -> dict[str, list[str]]:
    """The names of images, and of their labels or captions, by their samples' keys."""
    wanted: list[str] = []
    for name in files:
        if _is_hidden(name):
            others["hidden"] += 1
        elif _extension(name) in (*told, *pictures):
            wanted.append(name)
        else:
            others[_extension(name) or "without extension"] += 1
    plain = {_first_key(name) for name in wanted if _is_plain(name)}
    described = {_last_key(name) for name in wanted if _extension(name) in told}
    samples: dict[str, list[str]] = {}
    for name in wanted:
        if _is_plain(name) or _first_key(name) not in plain or _last_key(name) in described:
            samples.setdefault(_last_key(name), []).append(name)
        else:  # an additional field of a sample, such as a.seg.png next to a.jpg
            others[f".{posixpath.basename(name).partition('.')[2]}"] += 1
    return samples


def _first_key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _last_key(name: str) -> str:
    return posixpath.splitext(name)[0]


def _extension(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _is_plain(name: str) -> bool:
    """Whether there is exactly one dot."""
    return _first_key(name) == _last_key(name)


def _is_hidden(name: str) -> bool:
    return posixpath.basename(name).startswith(".")


def _label(content: bytes) -> int | None:
    text = content[:32].decode("utf-8-sig", errors="replace").strip()
    number = re.fullmatch(r"\+?0*(\d{1,9})(\.0*)?", text, re.ASCII)
    return int(number[1]) if number and int(number[1]) <= MAX_LABEL else None
