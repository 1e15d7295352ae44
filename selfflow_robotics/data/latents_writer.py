"""Makes a latent cache (`data.latents`) of a list of images; resumable, by several processes.

The k-th shard is made of the k-th `shard_size` images of the list and of nothing else, so the
number of processes, interruptions and repetitions change no bit. A shard gets its name when it is
whole and on disk. The same command on a finished cache makes again what is missing.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from selfflow_robotics.autoencoders.latent import LatentAutoencoder
from selfflow_robotics.data.latents import FORMAT, Size, shard_path
from selfflow_robotics.data.latents_encode import (
    Encoding,
    Pictures,
    ShardJob,
    Workers,
    encode_jobs,
)
from selfflow_robotics.data.latents_journal import Journal
from selfflow_robotics.data.skips import Skips, check_budget
from selfflow_robotics.errors import UserError
from selfflow_robotics.locks import hold


@dataclass(frozen=True)
class CacheSummary:
    """What `write_latents` left behind."""

    num_pictures: int
    num_new: int  # looked at by this call
    num_bytes: int  # of all shards
    skips: Skips
    labels: list[int]  # that rows have; none of frames


class Source(Protocol):
    """What a cache is made of (`data.images.ImageList`, `data.rlds.latents.RldsFrames`)."""

    @property
    def skips(self) -> Skips:
        """What was left out already."""
        ...

    @property
    def num_found(self) -> int:
        """Images, with those left out."""
        ...

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Pictures:
        """The images of these numbers, or as many of them as there are."""
        ...

    def record(self) -> dict[str, Any]:
        """ "source" of cache.json: JSON-able; its fingerprint tells it from others."""
        ...

    def check_output(self, folder: Path) -> None:
        """Raise UserError for a folder in which latents would be mistaken for images."""
        ...


def write_latents(
    source: Source,
    folder: Path,
    autoencoder: LatentAutoencoder,
    workers: Workers,
    encoding: Encoding,
    *,
    max_skipped: float = 0.001,
    shard_size: int = 1024,
) -> CacheSummary:
    """Encode `source` into `folder`, or go on with it.

    Args:
        autoencoder: what `workers.autoencoder` describes, loaded.
        max_skipped: share of the images that may be unusable; see `check_budget`.
        shard_size: images of the list in a shard.

    Raises UserError where the folder holds something else (also latents of another autoencoder,
    size or source), is in use or cannot be written, for a damaged shard, and for more unusable
    images than allowed.
    """
    size = encoding.latent_size(autoencoder)
    source.check_output(folder)
    check_budget(source.skips, source.num_found, max_skipped)
    identity = {
        "format": FORMAT,
        "autoencoder": {
            "kind": workers.autoencoder.kind,
            "weights": workers.autoencoder.source,
            "fingerprint": autoencoder.fingerprint,
        },
        "image_size": _plain(encoding.image_size),
        "latents": {"channels": autoencoder.channels, "size": _plain(size)},
        "mirror": encoding.mirror,
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
        check_budget(skips, source.num_found, max_skipped)
        with (
            tqdm(
                total=len(source),
                initial=len(source) - num_new,
                unit="image",
                desc="encoding",
                disable=not missing,
            ) as bar,
            closing(encode_jobs(missing, autoencoder, workers, encoding, bar.update)) as shards,
        ):
            for shard in shards:
                journal.add(shard)
                skips.merge(Skips.from_record(shard.entry["skipped"]))
                check_budget(skips, source.num_found, max_skipped)
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


def _plain(size: Size) -> Size:
    """As JSON gives it back."""
    return size if isinstance(size, int) else list(size)
