"""Read an npz of samples in batches, and read and write ADM's reference files.

    arr_0          uint8 [N, H, W, 3] images, or what else a feature network reads
    mu, sigma      mean [D] and covariance [D, D] of InceptionV3's pooled features
    mu_s, sigma_s  the same for its spatial features (sFID)

ADM's sample files have only `arr_0`; its reference files have all five, where the statistics are of
the whole data set and `arr_0` has 10 000 of its images, for precision and recall. Reference files
that this module writes have two entries more, which ADM's reader ignores: `features`, the identity
of the feature network, and `count`, the number of images behind the statistics.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from selfflow_robotics.errors import UserError
from selfflow_robotics.evaluation.metrics.frechet import Gaussian
from selfflow_robotics.whole_file import whole_file

ARRAY = "arr_0"
INCEPTION = "inception"  # identity of the network behind statistics without a name
# Output of a feature network -> entries of a reference file.
STATISTICS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
MAX_WIDTH = 16_384  # features; a covariance of so many takes 2 GB
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class NpzArray:
    """The array `key` of an npz, read from the file in order."""

    def __init__(self, path: Path, key: str = ARRAY) -> None:
        """Raises UserError if the file is damaged or has no such array."""
        self.path, self.key = path, key
        with _reading(path), zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if key not in names:
                raise UserError(f"{path} has no {key}, only: {', '.join(names)[:80] or 'nothing'}")
            self.crc = archive.getinfo(f"{key}.npy").CRC  # of the content
            with archive.open(f"{key}.npy") as file:
                self.shape, self.dtype = _header(file, path)

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Arrays [<= size, ...]. Raises UserError if the file is damaged; its checksum is compared
        when the last batch has been read."""
        row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        with (
            _reading(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{self.key}.npy") as file,
        ):
            _header(file, self.path)
            for start in range(0, len(self), size):
                rows = min(size, len(self) - start)
                data = file.read(rows * row_bytes)
                if len(data) != rows * row_bytes:
                    raise ValueError(f"{self.key} ends early")
                batch = np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])
                if start + rows == len(self) and file.read(1):  # which checks the CRC
                    raise ValueError(f"{self.key} is longer than it says")
                yield batch


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an npz. Raises UserError if it is none."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_statistics(path: Path) -> tuple[dict[str, Gaussian], str]:
    """The Gaussians of a reference file by output (`STATISTICS`), and the identity of the network
    whose features they describe. Raises UserError if an entry is missing or unfit."""
    names = array_names(path)
    gaussians: dict[str, Gaussian] = {}
    with _reading(path), np.load(path, allow_pickle=False) as archive:
        identity = str(archive["features"]) if "features" in names else INCEPTION
        count = int(archive["count"]) if "count" in names else None
        for output, (mu, sigma) in STATISTICS.items():
            if mu in names or sigma in names:
                mean, covariance = archive[mu], archive[sigma]
                _check_statistics(path, mean, covariance, mu, sigma)
                gaussians[output] = Gaussian(
                    mean.astype(np.float64), covariance.astype(np.float64), count
                )
    return gaussians, identity


def write_reference(
    path: Path,
    pictures: Iterable[np.ndarray],
    shape: tuple[int, ...],
    gaussians: Iterable[tuple[str, Gaussian]],
    identity: str,
) -> None:
    """Write a reference file.

    Args:
        pictures: batches of the array `arr_0`, uint8, which may be consumed while it is written.
        shape: of that array.
        gaussians: (output, Gaussian), asked for after all pictures were written.
        identity: of the feature network; files of `INCEPTION` are ADM's.

    Raises OSError.
    """
    header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo has a fixed date, so equal content gives equal files.
        with archive.open(zipfile.ZipInfo(f"{ARRAY}.npy"), "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)  # the version that ADM reads
            for batch in pictures:
                entry.write(np.ascontiguousarray(batch, np.uint8).data)
        arrays: dict[str, np.ndarray] = {"features": np.array(identity)}
        for output, gaussian in gaussians:
            mu, sigma = STATISTICS[output]
            arrays |= {mu: gaussian.mean, sigma: gaussian.covariance}
            arrays["count"] = np.array(gaussian.count or 0)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)


def _header(file: Any, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a stored array, with the file behind its header."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"npy version {version}")
    shape, fortran, dtype = readers[version](file)
    if fortran or dtype.hasobject or not shape:
        raise UserError(
            f"{path}: the array must be in C order, of numbers; write it with "
            "np.savez(path, arr_0=np.ascontiguousarray(images))"
        )
    return shape, dtype


def _check_statistics(
    path: Path, mean: np.ndarray, covariance: np.ndarray, mu: str, sigma: str
) -> None:
    is_fit = (
        all(np.issubdtype(x.dtype, np.floating) for x in (mean, covariance))
        and mean.ndim == 1
        and 0 < len(mean) <= MAX_WIDTH
        and covariance.shape == (len(mean), len(mean))
        and bool(np.isfinite(mean).all() and np.isfinite(covariance).all())
    )
    if not is_fit:
        raise UserError(
            f"{path}: {mu} {mean.shape} and {sigma} {covariance.shape} are not a mean [D] and a "
            "covariance [D, D] of finite numbers; get the file again"
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the exceptions of damaged files into one line."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; pass an .npz file or a folder of images")
    try:
        yield
    except UserError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is damaged or no npz ({reason}); copy it again") from error
