"""Encode images, clips or sounds into shards of a latent cache, in this process
or in parallel ones."""

import json
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from selfflow_robotics.autoencoders.latent import LatentAutoencoder
from selfflow_robotics.autoencoders.load import AutoencoderConfig, load_autoencoder
from selfflow_robotics.data.captions import Captions
from selfflow_robotics.data.latents import captions_path, sha256_of
from selfflow_robotics.data.latents_record import Size, row_dtype, sides
from selfflow_robotics.data.processes import end_with_parent
from selfflow_robotics.data.skips import Skips, Unusable
from selfflow_robotics.errors import UserError, check_least
from selfflow_robotics.whole_file import whole_file

POLL_S = 0.5  # polling interval for the progress of other processes

Tick = Callable[[int], object]  # called with the number of newly processed images


@dataclass(frozen=True)
class Encoding:
    """How to encode images. `mirror` adds a mirrored copy of each."""

    image_size: Size  # px
    batch_size: int = 16
    mirror: bool = False

    def __post_init__(self) -> None:
        if min(sides(self.image_size)) < 1:
            raise UserError(f"image_size must be at least 1, got {self.image_size}")
        check_least(self, 1, "batch_size")

    @property
    def copies(self) -> int:
        """Rows per image."""
        return 1 + self.mirror

    def latent_size(self, autoencoder: LatentAutoencoder) -> Size:
        """Size of the latents; one number if both sides are equal by definition.

        Raises UserError for sizes that do not divide.
        """
        down = autoencoder.downsample
        if any(side % down for side in sides(self.image_size)):
            raise UserError(
                f"image_size must be a multiple of {down} for this autoencoder, got "
                f"{self.image_size}"
            )
        if isinstance(self.image_size, int):
            return self.image_size // down
        return [side // down for side in self.image_size]

    def dtype(self, autoencoder: LatentAutoencoder, labelled: bool) -> np.dtype:
        return row_dtype(autoencoder.channels, self.latent_size(autoencoder), labelled)

    def rows(
        self, items: Sequence[np.ndarray], autoencoder: LatentAutoencoder
    ) -> dict[str, np.ndarray]:
        """Means and standard deviations float16 [B * copies, C, h, w] of images."""
        seen = torch.from_numpy(np.stack(items))
        copies = [seen, seen.flip(2)] if self.mirror else [seen]
        means, stds = zip(*(autoencoder.encode(copy) for copy in copies), strict=True)
        mean, std = (torch.stack(parts, dim=1).flatten(0, 1) for parts in (means, stds))
        return {"mean": mean.half().cpu().numpy(), "std": std.half().cpu().numpy()}

    def record(self, config: AutoencoderConfig, autoencoder: LatentAutoencoder) -> dict[str, Any]:
        """What cache.json says of the autoencoder and of the latents."""
        return {
            "autoencoder": {
                "kind": config.kind,
                "weights": config.source,
                "fingerprint": autoencoder.fingerprint,
            },
            "image_size": _plain(self.image_size),
            "latents": {
                "channels": autoencoder.channels,
                "size": _plain(self.latent_size(autoencoder)),
            },
            "mirror": self.mirror,
        }


def _plain(size: Size) -> Size:
    """As it comes back from JSON."""
    return size if isinstance(size, int) else list(size)


class RowEncoding(Protocol):
    """How items become rows: `Encoding` for images, `data.media_latents.MediaEncoding`."""

    @property
    def image_size(self) -> Size | None: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def copies(self) -> int:
        """Rows per item."""
        ...

    def dtype(self, autoencoder: Any, labelled: bool) -> np.dtype:
        """Of a row. Raises UserError for sizes that do not fit the autoencoder."""
        ...

    def rows(self, items: Sequence[Any], autoencoder: Any) -> dict[str, np.ndarray]:
        """Columns of the rows of B items, [B * copies, ...]."""
        ...

    def record(self, config: Any, autoencoder: Any) -> dict[str, Any]:
        """What cache.json says of the autoencoder and of the latents."""
        ...


class CoderConfig(Protocol):
    """What `Workers` load if it is not an `AutoencoderConfig`."""

    def load(self, device: str) -> Any: ...


@dataclass(frozen=True)
class Workers:
    """The encoding processes, and what each of them loads."""

    autoencoder: AutoencoderConfig | CoderConfig
    processes: int = 1
    device: str = "cpu"  # "cuda": processes are distributed over the GPUs
    threads: int = 1  # torch threads per process

    def device_of(self, number: int) -> str:
        """The device of this process."""
        if self.device != "cuda":
            return self.device
        return f"cuda:{number % torch.cuda.device_count()}"

    def load(self, device: str) -> Any:
        """The autoencoder, which the parent process has downloaded."""
        if isinstance(self.autoencoder, AutoencoderConfig):
            return load_autoencoder(replace(self.autoencoder, download=False), device)
        return self.autoencoder.load(device)


class Pictures(Protocol):
    """A sequence of images (or videos, or sounds), with what another process needs to read
    them."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Sequence[int] | None:
        """One per image; None for frames, for which only means are stored."""
        ...

    @property
    def captions(self) -> Sequence[Captions] | None:
        """Of each image; None if there are none."""
        ...

    def name(self, number: int) -> str:
        """A readable name of an image."""
        ...

    def read(self, number: int, size: Any) -> Any:
        """uint8 [h, w, 3] of an image; the parts of a clip or sound, by name. Raises Unusable or
        OSError for an item to skip and count, UserError for one that must not be missing."""
        ...


class ShardJob(NamedTuple):
    """A shard to encode: its number, file and images."""

    number: int
    path: Path
    pictures: Pictures


class Shard(NamedTuple):
    """A finished shard: `entry` is its record, as in `data.latents_journal`."""

    number: int
    entry: dict[str, Any]


def encode_shard(job: ShardJob, autoencoder: Any, encoding: RowEncoding, tick: Tick) -> Shard:
    """Encode one shard. Raises UserError if latents are not finite in float16 or the device runs
    out of memory; OSError if the file cannot be written."""
    pictures, labels, captions = job.pictures, job.pictures.labels, job.pictures.captions
    kind = encoding.dtype(autoencoder, labels is not None)
    rows = np.empty(len(pictures) * encoding.copies, kind)
    filled, skips, lines = 0, Skips(), []
    for items, numbers in _batches(pictures, encoding, skips, tick):
        stop = filled + len(items) * encoding.copies
        columns = _encode(items, autoencoder, encoding)
        for name in columns.keys() & set(kind.names or ()):
            rows[name][filled:stop] = columns[name]
        if labels is not None:
            of_batch = [labels[number] for number in numbers]
            rows["label"][filled:stop] = np.repeat(of_batch, encoding.copies)
        if captions is not None:
            told = [json.dumps(captions[number]) + "\n" for number in numbers]
            lines += [line for line in told for _ in range(encoding.copies)]
        filled = stop
    if not all(np.isfinite(rows[name][:filled]).all() for name in kind.names or ()):
        raise UserError(
            f"the autoencoder's latents are not finite in float16, from {pictures.name(0)} on; "
            "check its weights"
        )
    with whole_file(job.path) as file:
        np.save(file, rows[:filled], allow_pickle=False)
    entry: dict[str, Any] = {"rows": filled, **_written(job.path), "skipped": skips.record()}
    if captions is not None:
        path = captions_path(job.path)
        with whole_file(path) as file:
            file.write("".join(lines).encode())
        entry["captions"] = _written(path)
    return Shard(job.number, entry)


def _written(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _batches(
    pictures: Pictures, encoding: RowEncoding, skips: Skips, tick: Tick
) -> Iterator[tuple[list[Any], list[int]]]:
    """Items and their numbers; unusable ones go into `skips`."""
    items, numbers, looked_at = [], [], 0
    for number in range(len(pictures)):
        looked_at += 1
        try:
            items.append(pictures.read(number, encoding.image_size))
            numbers.append(number)
        except Unusable as bad:
            skips.add(str(bad), pictures.name(number))
        except OSError:
            skips.add("unreadable file", pictures.name(number))
        if len(items) == encoding.batch_size:
            yield items, numbers
            tick(looked_at)
            items, numbers, looked_at = [], [], 0
    if items:
        yield items, numbers
    tick(looked_at)


def _encode(items: list[Any], autoencoder: Any, encoding: RowEncoding) -> dict[str, np.ndarray]:
    try:
        return encoding.rows(items, autoencoder)
    except torch.OutOfMemoryError as error:
        raise UserError("the device is out of memory; lower batch_size or processes") from error


def encode_jobs(
    jobs: Sequence[ShardJob],
    autoencoder: Any,
    workers: Workers,
    encoding: RowEncoding,
    tick: Tick,
) -> Generator[Shard, None, None]:
    """Yield the shards of all jobs as they finish, encoded by this process with `autoencoder` or by
    others that load their own. Close the generator to stop early."""
    processes = min(workers.processes, len(jobs))
    if processes <= 1:
        yield from (encode_shard(job, autoencoder, encoding, tick) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    looked_at, stop, started = context.Value("q", 0), context.Event(), context.Value("q", 0)
    told, seen = (workers, looked_at, stop, started), 0
    with ProcessPoolExecutor(processes, context, _start_worker, told) as pool:
        try:
            waiting = {pool.submit(_work, job, encoding) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
                now = looked_at.value
                if now > seen:
                    tick(now - seen)
                seen = now
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "an encoding process was killed, perhaps because memory ran out; lower processes "
                "or batch_size and repeat the command to resume"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


class _Stopped(Exception):
    """Raised in a worker when the parent process stops."""


class _Worker:
    """State of a worker process. Its autoencoder is loaded with the first job, so that loading
    errors reach the parent like any other."""

    workers: Workers
    device: str
    autoencoder: Any = None
    looked_at: Any
    stop: Any


def _start_worker(workers: Workers, looked_at: Any, stop: Any, started: Any) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # from the terminal: the parent stops the workers
        signal.signal(number, signal.SIG_IGN)
    _Worker.workers, _Worker.looked_at, _Worker.stop = workers, looked_at, stop
    with started.get_lock():
        _Worker.device = workers.device_of(started.value)
        started.value += 1
    torch.set_num_threads(workers.threads)
    end_with_parent()


def _work(job: ShardJob, encoding: RowEncoding) -> Shard:
    if _Worker.autoencoder is None:
        _Worker.autoencoder = _Worker.workers.load(_Worker.device)
    return encode_shard(job, _Worker.autoencoder, encoding, _tick)


def _tick(count: int) -> None:
    with _Worker.looked_at.get_lock():
        _Worker.looked_at.value += count
    if _Worker.stop.is_set():
        raise _Stopped
