"""Write a latent cache (`data.latents`) of a list of images (or clips, or sounds); resumable, with
several processes.

The k-th shard depends only on the k-th `shard_size` items of the list, so the number of processes
and interruptions do not change any bit. A shard gets its final name once it is complete and on
disk. The same command on a finished cache restores missing shards.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from selfflow_robotics.data.latents import shard_path
from selfflow_robotics.data.latents_encode import (
    Pictures,
    RowEncoding,
    ShardJob,
    Workers,
    encode_jobs,
)
from selfflow_robotics.data.latents_journal import Journal
from selfflow_robotics.data.latents_record import FORMAT
from selfflow_robotics.data.skips import Skips, check_budget
from selfflow_robotics.errors import UserError
from selfflow_robotics.locks import hold


@dataclass(frozen=True)
class CacheSummary:
    """Result of `write_latents`."""

    num_pictures: int
    num_new: int  # processed by this call
    num_bytes: int  # of all shards
    skips: Skips
    labels: list[int]  # labels that occur; none for frames


class Source(Protocol):
    """The source of a cache (`data.images.ImageList`, `data.rlds.latents.RldsFrames`,
    `data.captioned_files.MediaFiles`)."""

    noun: str  # what there is to skip: "images"

    @property
    def skips(self) -> Skips:
        """What was already left out."""
        ...

    @property
    def num_found(self) -> int:
        """Images, including those left out."""
        ...

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Pictures:
        """The images in this range, or as many as there are."""
        ...

    def record(self) -> dict[str, Any]:
        """ "source" of cache.json: JSON-able, identified by its fingerprint."""
        ...

    def check_output(self, folder: Path) -> None:
        """Raise UserError for a folder in which latents would be mistaken for images."""
        ...


def write_latents(
    source: Source,
    folder: Path,
    autoencoder: Any,
    workers: Workers,
    encoding: RowEncoding,
    *,
    max_skipped: float = 0.001,
    shard_size: int = 1024,
) -> CacheSummary:
    """Encode `source` into `folder`, or resume.

    Args:
        autoencoder: what `workers.autoencoder` describes, loaded.
        max_skipped: share of the images that may be unusable; see `check_budget`.
        shard_size: images per shard.

    Raises UserError if the folder contains something else (including latents of a different
    autoencoder, size or source), is in use or cannot be written, if a shard is damaged, or if too
    many images are unusable.
    """
    made_by = encoding.record(workers.autoencoder, autoencoder)  # raises for sizes
    source.check_output(folder)
    check_budget(source.skips, source.num_found, max_skipped, source.noun)
    identity = {
        "format": FORMAT,
        **made_by,
        "shard_size": shard_size,
        "source": source.record(),
    }
    jobs = [
        ShardJob(number, shard_path(folder, number), source.part(first, first + shard_size))
        for number, first in enumerate(range(0, len(source), shard_size))
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder)
        journal = Journal(folder, identity, len(jobs))
        missing = [job for job in jobs if job.number not in journal.entries]
        num_new = sum(len(job.pictures) for job in missing)
        skips = Skips()
        skips.merge(source.skips)
        for entry in journal.entries.values():
            skips.merge(Skips.from_record(entry["skipped"]))
        check_budget(skips, source.num_found, max_skipped, source.noun)
        with (
            tqdm(
                total=len(source),
                initial=len(source) - num_new,
                unit=source.noun.removesuffix("s"),
                desc="encoding",
                disable=not missing,
            ) as bar,
            closing(encode_jobs(missing, autoencoder, workers, encoding, bar.update)) as shards,
        ):
            for shard in shards:
                journal.add(shard)
                skips.merge(Skips.from_record(shard.entry["skipped"]))
                check_budget(skips, source.num_found, max_skipped, source.noun)
        record = journal.finish(source.skips)
    except OSError as error:
        raise UserError(
            f"cannot write latents to {folder} ({error.strerror or error}); free space or choose "
            "another output, then repeat the command"
        ) from error
    return CacheSummary(
        num_pictures=sum(entry["rows"] for entry in record["shards"]) // encoding.copies,
        num_new=num_new,
        num_bytes=sum(entry["bytes"] for entry in record["shards"]),
        skips=Skips.from_record(record["skipped"]),
        labels=record.get("labels", []),
    )
