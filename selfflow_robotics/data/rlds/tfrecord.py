"""The TFRecord container: records framed by their length and two checksums.

One record is: length (uint64, little endian), masked CRC-32C of those eight bytes (uint32), the
data, masked CRC-32C of the data (uint32). Source: tensorflow/core/lib/io/record_writer.h.
"""

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from selfflow_robotics.errors import UserError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAMING_BYTES = _HEADER.size + _FOOTER.size
# An episode of an hour; protobuf's limit is 2 GiB.
MAX_RECORD_BYTES = 2**30


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset so that checksums can be checksummed."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(file: BinaryIO, data: bytes) -> None:
    """Append one record."""
    length = struct.pack("<Q", len(data))
    file.write(length + _FOOTER.pack(masked_crc(length)))
    file.write(data)
    file.write(_FOOTER.pack(masked_crc(data)))


def read_framing(path: Path) -> np.ndarray:
    """int64 [R, 3] for the R records of `path`: offset, length and checksum of the data.

    Reads 16 bytes per record, not the data. Raises UserError naming the file, the record and its
    position if a length is damaged, exceeds the file or is above `MAX_RECORD_BYTES`. A file
    truncated exactly between two records looks complete, so compare the number of records.
    """
    framing, damage = readable_framing(path)
    if damage is not None:
        raise damage
    return framing


def readable_framing(path: Path) -> tuple[np.ndarray, UserError | None]:
    """(the framing of the records up to the first damaged length, what `read_framing` raises).

    The records after a damaged length cannot be found. Raises UserError if `path` cannot be read.
    """
    frames: list[tuple[int, int, int]] = []
    damage = ""
    with _open(path) as file:
        handle = file.fileno()
        end = os.fstat(handle).st_size
        position, header = 0, os.pread(handle, _HEADER.size, 0)
        while position < end and not damage:
            if len(header) < _HEADER.size:
                damage = "is cut short; copy the file again"
                continue
            length, length_crc = _HEADER.unpack(header)
            start = position + _HEADER.size
            if masked_crc(header[:8]) != length_crc:
                damage = "has a damaged length; copy the file again"
            elif length > MAX_RECORD_BYTES:
                damage = f"claims {length} bytes, more than {MAX_RECORD_BYTES}"
            else:
                # One call for the end of this record and the header of the next one.
                between = os.pread(handle, FRAMING_BYTES, start + length)
                if len(between) < _FOOTER.size:
                    damage = "is cut short; copy the file again"
                else:
                    frames.append((start, length, _FOOTER.unpack_from(between)[0]))
                    position = start + length + _FOOTER.size
                    header = between[_FOOTER.size :]
    error = UserError(f"{_where(path, len(frames), position)} {damage}") if damage else None
    return np.array(frames, np.int64).reshape(-1, 3), error


def read_records(
    path: Path, check_data: bool = True, chosen: slice = slice(None)
) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, data) of the chosen records of `path`.

    Checks the framing of the whole file, and the checksums of the data if `check_data`. Raises
    UserError as `read_framing`.
    """
    framing = read_framing(path)
    with _open(path) as file:
        for number in range(len(framing))[chosen]:
            start, length, crc = framing[number].tolist()
            file.seek(start)
            data = file.read(length)
            if check_data and masked_crc(data) != crc:
                where = _where(path, number, start - _HEADER.size)
                raise UserError(f"{where} is damaged (checksum differs); copy the file again")
            yield start, data


def _open(path: Path) -> BinaryIO:
    try:
        if path.is_fifo():  # opening it would block
            raise OSError(errno.EINVAL, "no regular file")
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy it again") from error


def _where(path: Path, number: int, position: int) -> str:
    return f"{path}: record {number} (counted from 0) at byte {position}"
