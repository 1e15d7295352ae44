"""The TFRecord container: a file of records, each framed by its length and two checksums.

One record is: length (uint64, little endian), masked CRC-32C of those eight bytes (uint32), the
data, masked CRC-32C of the data (uint32). Source: tensorflow/core/lib/io/record_writer.h.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from selfflow_robotics.errors import UserError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAMING_BYTES = _HEADER.size + _FOOTER.size


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset so that a checksum may itself be checksummed."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(file: BinaryIO, data: bytes) -> None:
    """Append one record."""
    length = struct.pack("<Q", len(data))
    file.write(length + _FOOTER.pack(masked_crc(length)))
    file.write(data)
    file.write(_FOOTER.pack(masked_crc(data)))


def read_records(path: Path, check_data: bool = True) -> Iterator[tuple[int, bytes]]:
    """Yield (position of the data in the file, data) of every record of `path`.

    The length's checksum and the end of the file are always checked, the data's if `check_data`.
    A file cut exactly between two records looks whole: compare the number of records.
    Raises UserError naming the file, the record and its position.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy it again") from error
    with file:
        position, number = 0, 0
        while header := file.read(_HEADER.size):
            where = f"{path}: record {number} (counted from 0) at byte {position}"
            if len(header) < _HEADER.size:
                raise UserError(f"{where} is cut short; copy the file again")
            length, length_crc = _HEADER.unpack(header)
            if masked_crc(header[:8]) != length_crc:
                raise UserError(f"{where} has a damaged length; copy the file again")
            data, footer = file.read(length), file.read(_FOOTER.size)
            if len(footer) < _FOOTER.size:
                raise UserError(f"{where} is cut short; copy the file again")
            if check_data and masked_crc(data) != _FOOTER.unpack(footer)[0]:
                raise UserError(f"{where} is damaged (checksum differs); copy the file again")
            yield position + _HEADER.size, data
            position += length + FRAMING_BYTES
            number += 1
