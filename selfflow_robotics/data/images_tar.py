"""The pictures of a tar shard in WebDataset's layout: KEY.jpg beside KEY.cls."""

import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

from selfflow_robotics.data.skips import Skips
from selfflow_robotics.errors import UserError

MAX_LABEL = 99_999  # more is no class but a mistake, and would ask for gigabytes of embeddings


def tar_items(
    path: Path, pictures: tuple[str, ...], skips: Skips
) -> Iterator[tuple[str, int, int, int]]:
    """(name, offset of its bytes, number of them, label) of each picture, in the tar's order.

    A sample is a run of files with one key: everything up to the first dot of the file's name. What
    has no label, no valid one (0 to `MAX_LABEL`), or not exactly one picture goes into `skips`.
    Raises UserError, naming the tar, where it is damaged, cut short or compressed.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            files = (member for member in tar if member.isreg() and _key(member))
            for key, run in itertools.groupby(files, key=_key):
                sample = {_extension(member): member for member in run}
                found = [m for extension, m in sample.items() if f".{extension}" in pictures]
                name = f"{path.name}/{key}"
                if "cls" not in sample and not found:
                    continue
                if len(found) != 1:
                    skips.add("no single picture", name)
                elif "cls" not in sample:
                    skips.add("no label", name)
                elif (label := _label(tar, sample["cls"])) is None:
                    skips.add("bad label", name)
                else:
                    yield found[0].name, found[0].offset_data, found[0].size, label
            end = tar.offset
        with path.open("rb") as file:
            file.seek(end)
            # tarfile's walk ends in silence at a header it cannot read; a whole tar ends in zeros.
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is no whole tar file ({error}); copy it again") from error
    if not whole:
        raise UserError(f"{path} is damaged or cut short at byte {end}; copy it again")


def _key(member: tarfile.TarInfo) -> str:
    """The sample that a file belongs to, with its folder; "" for hidden files."""
    folder, slash, base = member.name.rpartition("/")
    key = base.partition(".")[0]
    return folder + slash + key if key else ""


def _extension(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> int | None:
    file = tar.extractfile(member)
    assert file is not None  # a regular file
    text = file.read(32).decode("ascii", errors="replace").strip()
    valid = text.isascii() and text.isdigit() and int(text) <= MAX_LABEL
    return int(text) if valid else None
