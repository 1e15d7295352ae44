"""Write a rendered set: tar shards in WebDataset's layout or plain files, prompts, and what it was
made of.

    set.json                 its settings and the numbers of samples
    train/NAME-00000.tar     samples, 000000.png next to 000000.json and so on
    held_out/NAME-00000.tar
    train/000000.mp4         without shards: the files of the samples
    train.txt, held_out.txt  prompts, one per line

The folder gets its name once it is complete. Equal settings give equal files, with the same
versions of Pillow and of the fonts.
"""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from selfflow_robotics.errors import UserError
from selfflow_robotics.json_file import read_json

RECORD = "set.json"


class RenderedSet(Protocol):
    """Samples that are drawn when they are needed."""

    def sample(self, split: str, number: int) -> dict[str, bytes]:
        """The files of a sample by suffix (".png"), a function of the split and its number."""
        ...

    def prompts(self, split: str) -> list[str]:
        """Texts that ask for what is in a split."""
        ...

    def record(self) -> dict[str, Any]:
        """JSON-able: facts about the set."""
        ...


def write_set(
    drawn: RenderedSet,
    folder: Path,
    name: str,
    counts: Mapping[str, int],
    shard_size: int | None,
    settings: dict[str, Any],
) -> bool:
    """Write so many samples of each split into `folder`; returns whether it already was there.

    Args:
        name: of the set.
        shard_size: samples per tar; None: plain files.
        settings: JSON-able: everything that the samples depend on.

    Raises UserError if the folder has something else, or cannot be written.
    """
    record = {"set": name, "samples": dict(counts), "shard_size": shard_size} | settings
    record = json.loads(json.dumps(record))
    if folder.exists():
        _compare(folder, record)
        return True
    unfinished = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        unfinished.mkdir(parents=True)
        with tqdm(total=sum(counts.values()), unit="sample", desc="rendering") as bar:
            for split, count in counts.items():
                (unfinished / split).mkdir()
                step = shard_size or count
                for shard, first in enumerate(range(0, count, step)):
                    numbers = range(first, min(first + step, count))
                    samples = _drawn(drawn, split, numbers, bar)
                    if shard_size is None:
                        _write_files(unfinished / split, samples)
                    else:
                        _write_tar(unfinished / split / f"{name}-{shard:05d}.tar", samples)
                (unfinished / f"{split}.txt").write_text("\n".join(drawn.prompts(split)) + "\n")
        text = json.dumps(record | {"facts": drawn.record()}, indent=1)
        (unfinished / RECORD).write_text(text + "\n")
        unfinished.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror or error}); choose another output"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return False


def _compare(folder: Path, record: dict[str, Any]) -> None:
    try:
        found = read_json(folder / RECORD)
        changed = sorted(key for key in record if found.get(key) != record[key])
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{folder} exists and is no rendered set; choose another output") from None
    if changed:
        raise UserError(
            f"{folder} is a set with a different {' and '.join(changed)}; choose another output, "
            "or remove it"
        )


def _drawn(
    drawn: RenderedSet, split: str, numbers: range, bar: tqdm
) -> Iterator[tuple[int, dict[str, bytes]]]:
    for number in numbers:
        yield number, drawn.sample(split, number)
        bar.update()


def _write_files(folder: Path, samples: Iterable[tuple[int, dict[str, bytes]]]) -> None:
    for number, files in samples:
        for suffix, content in files.items():
            (folder / f"{number:06d}{suffix}").write_bytes(content)


def _write_tar(path: Path, samples: Iterable[tuple[int, dict[str, bytes]]]) -> None:
    """A tar without times and owners, so that equal samples give equal files."""
    with tarfile.open(path, "w") as tar:
        for number, files in samples:
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{number:06d}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
