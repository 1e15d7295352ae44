"""Generate images for FID batch by batch, with any number of processes, into one npz.

    settings.json                what the images are made of; another request is refused
    batches/batch_000012.npz     finished batches, until all are there
    samples.npz                  arr_0, uint8 [N, H, W, 3]: what ADM's evaluation suite reads
    samples.png                  the first of them
    samples.txt                  their prompts, if any (`evaluation.prompts`)

Batch k has the images from k * batch_size on, whichever process makes it. Files get their names
once they are complete and on disk, so processes need no other communication, and repeating an
interrupted command generates what is missing. Images are never all in memory at once.
"""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.metrics.npz_file import ARRAY, NpzArray
from selfflow_robotics.evaluation.processes import Process
from selfflow_robotics.evaluation.results import (
    check_settings,
    refuse_strangers,
    write_report,
    writing,
)
from selfflow_robotics.evaluation.video import write_grid
from selfflow_robotics.locks import hold
from selfflow_robotics.whole_file import whole_file

SHOWN, COLUMNS = 64, 8  # images in the grid
OURS = ("settings.*", "samples.*", "batches", ".lock", ".*.tmp")
POLL_S = 0.5  # polling interval of the first process for the batches of others

# B numbers -> images uint8 [B, H, W, 3].
Make = Callable[[Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class Generation:
    """N images in a folder, finished or not."""

    folder: Path
    settings: dict[str, Any]  # JSON-able: everything the images depend on
    num_images: int
    batch_size: int
    size: tuple[int, int]  # (height, width) px

    @property
    def result(self) -> Path:
        return self.folder / "samples.npz"

    @property
    def num_batches(self) -> int:
        return -(-self.num_images // self.batch_size)

    def batch_path(self, batch: int) -> Path:
        return self.folder / "batches" / f"batch_{batch:06d}.npz"

    def shape(self, batch: int) -> tuple[int, int, int, int]:
        """Shape of a stored batch; the last one may be smaller."""
        rows = min(self.batch_size, self.num_images - batch * self.batch_size)
        return (rows, *self.size, 3)

    def open(self, process: Process) -> bool:
        """Start in the folder or resume; returns whether the result already exists.

        Raises UserError if the folder contains something else, is in use or cannot be written.
        """
        path = self.folder / "settings.json"
        wanted = {
            **json.loads(json.dumps(self.settings)),
            "num_images": self.num_images,
            "batch_size": self.batch_size,
            "size": list(self.size),
        }
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if process.is_first:
                hold(self.folder)
            if path.exists():
                check_settings(path, wanted, "images")
            else:
                refuse_strangers(self.folder, OURS)
                if process.is_first:
                    write_report(path, wanted)
            if self.is_finished():
                if process.is_first:
                    self._remove_batches()
                return True
            (self.folder / "batches").mkdir(exist_ok=True)
        return False

    def is_finished(self) -> bool:
        """Whether the result exists and has the right size."""
        try:
            found = NpzArray(self.result)
        except UserError:
            return False
        return (found.shape, found.dtype) == ((self.num_images, *self.size, 3), np.uint8)

    def images(self) -> Iterator[np.ndarray]:
        """The images of the result one by one, uint8 [H, W, 3]. Raises UserError for damage."""
        return (image for (image,) in NpzArray(self.result).batches(1))

    def num_made(self) -> int:
        """Images in finished batches, of all processes."""
        names = {path.name for path in (self.folder / "batches").glob("batch_*.npz")}
        batches = range(self.num_batches)
        return sum(self.shape(b)[0] for b in batches if self.batch_path(b).name in names)

    def make_batches(self, make: Make, process: Process, on_batch: Callable[[], object]) -> int:
        """Generate this process's missing batches; returns the number of images.

        `make` always generates `batch_size` images; the surplus of the last batch is dropped.
        Damaged batches of an earlier call are generated again.
        """
        num_new = 0
        for batch in process.share(self.num_batches):
            # Batches are only removed after the result has its name: in this order none is missed.
            if self._is_whole(batch) or self.is_finished():
                continue
            first = batch * self.batch_size
            pictures = make(range(first, first + self.batch_size))[: self.shape(batch)[0]]
            with writing(self.folder), whole_file(self.batch_path(batch)) as file:
                np.savez(file, arr_0=pictures)
            num_new += len(pictures)
            on_batch()
        return num_new

    def wait(self, on_look: Callable[[], object]) -> None:
        """Wait for the batches of all processes."""
        while not all(self.batch_path(batch).exists() for batch in range(self.num_batches)):
            time.sleep(POLL_S)
            on_look()

    def collect(self) -> None:
        """Collect the batches in one npz and the first images in a grid, then remove the batches.

        Raises UserError for a damaged batch.
        """
        partial = self.result.with_suffix(".partial")
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.num_images, *self.size, 3)}
        first: list[np.ndarray] = []
        with writing(self.folder):
            with (
                zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
                # A ZipInfo has a fixed date, so equal images give equal files.
                archive.open(zipfile.ZipInfo(f"{ARRAY}.npy"), "w", force_zip64=True) as file,
            ):
                # ADM's reader only supports this version of the header.
                np.lib.format.write_array_header_1_0(file, header)
                for pictures in self._batches():
                    file.write(np.ascontiguousarray(pictures).data)
                    if sum(map(len, first)) < SHOWN:
                        first.append(pictures)
            _sync(partial)
            write_grid(self.folder / "samples.png", *_grid(np.concatenate(first)[:SHOWN]))
            partial.replace(self.result)
            self._remove_batches()

    def _remove_batches(self) -> None:
        shutil.rmtree(self.folder / "batches", ignore_errors=True)

    def _batches(self) -> Iterator[np.ndarray]:
        for batch in range(self.num_batches):
            pictures = self._load(batch)
            if pictures is None:
                path = self.batch_path(batch)
                raise UserError(f"{path} is damaged; repeat the command to generate it again")
            yield pictures

    def _is_whole(self, batch: int) -> bool:
        return self.batch_path(batch).exists() and self._load(batch) is not None

    def _load(self, batch: int) -> np.ndarray | None:
        """A finished batch; None if it is damaged (zip files have checksums)."""
        try:
            with np.load(self.batch_path(batch), allow_pickle=False) as archive:
                pictures = archive[ARRAY]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        is_right = pictures.shape == self.shape(batch) and pictures.dtype == np.uint8
        return pictures if is_right else None


def _grid(pictures: np.ndarray) -> tuple[np.ndarray, int]:
    """Images padded with black ones to full rows, and the number of columns."""
    columns = min(COLUMNS, len(pictures))
    missing = -len(pictures) % columns
    return np.pad(pictures, ((0, missing), (0, 0), (0, 0), (0, 0))), columns


def _sync(path: Path) -> None:
    """Force a file to disk, so that its name does not appear before its data."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
